"""What is too large for memory, looked at in portions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sjq import large
from sjq.large import LARGE_BYTES, check_utf8, is_large, portions


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE_BYTES", 7)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_it_is_utf_8_or_not_as_the_decoder_says_of_the_whole(content: bytes) -> None:
    assert _fault(lambda: check_utf8(memoryview(content))) == _fault(lambda: content.decode("utf-8"))


def _fault(check: Callable[[], object]) -> int | None:
    """Return where the check found the first wrong byte, if it did."""
    try:
        check()
    except UnicodeDecodeError as error:
        return error.start
    return None


@given(st.lists(st.binary(max_size=30)))
def test_portions_are_the_whole(pieces: list[bytes]) -> None:
    found = list(portions(pieces))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(portion) <= 7 for portion in found)


def test_what_is_large() -> None:
    assert LARGE_BYTES == 1 << 20
    assert not is_large(None)
    assert not is_large(bytes(7))
    assert is_large(bytes(8))
