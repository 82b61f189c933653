"""Copies of files to which others may write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sjq.large import LARGE_BYTES
from sjq.plain_file import Copies, NoRoom, TooLarge, copy_plain

SMALL, LARGE = b"small", bytes(range(256)) * (2 * LARGE_BYTES // 256) + b"end"


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_copy_is_what_the_file_held(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    copy = copy_plain(path, tmp_path)
    path.write_bytes(b"other")  # a mapping of the file would be the end of this process
    assert copy == content
    assert list(tmp_path.iterdir()) == [path], "the copy has no name"


def test_copies_lie_one_after_the_other_and_each_once(tmp_path: Path) -> None:
    for name, content in (("a", LARGE), ("b", SMALL), ("c", b""), ("d", LARGE[7:])):
        (tmp_path / name).write_bytes(content)
    with Copies(tmp_path) as copies:
        places = [copies.add(tmp_path / name) for name in "abcda"]
        copied = copies.content()
    assert [copied[place] for place in places] == [LARGE, SMALL, b"", LARGE[7:], LARGE]
    assert len(copied) == len(LARGE + SMALL + LARGE[7:])


def test_many_copies_take_one_descriptor(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_bytes(LARGE[: LARGE_BYTES // 10])
    before = _descriptors()
    with Copies(tmp_path) as copies:
        for number in range(50):
            copies.add(tmp_path / str(number))
        content = copies.content()
    assert _descriptors() == before + 1
    assert len(content) == 50 * (LARGE_BYTES // 10)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_too_much_together_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(SMALL)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    with Copies(tmp_path, most=1 << 20) as copies:
        copies.add(tmp_path / "small")
        with pytest.raises(TooLarge) as caught:
            copies.add(tmp_path / "huge")
    assert (caught.value.size, caught.value.most) == ((1 << 40) + len(SMALL), 1 << 20)


def test_that_there_is_no_room_is_not_said_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    with pytest.raises(NoRoom, match=r"it cannot be copied into .*nowhere: No such file"):
        copy_plain(tmp_path / "large", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        copy_plain(tmp_path / "gone", tmp_path / "nowhere")
    assert not isinstance(caught.value, NoRoom)
