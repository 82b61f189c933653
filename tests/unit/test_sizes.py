"""Sizes as they are written in a configuration, and as they are shown."""

from __future__ import annotations

import pytest

from sjq.sizes import shown_size, size


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        (0, 0),
        (512, 512),
        ("512", 512),
        ("512B", 512),
        ("64KB", 64_000),
        ("512MB", 512_000_000),
        ("2GB", 2_000_000_000),
        ("1.5GB", 1_500_000_000),
        ("64KiB", 65_536),
        ("1MiB", 1_048_576),
        (" 2GiB ", 2_147_483_648),
    ],
)
def test_a_size_is_bytes(given_value: object, expected: int) -> None:
    assert size(given_value) == expected


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "", "MB", "-1MB", "1 MB", "1mb", "1Mb", "1PB", "1M", "1e3", "9" * 400 + "GB", [], {}]
)
def test_anything_else_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="bytes as a whole number, or a text such as 64KB, 512MB"):
        size(value)


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (64_000, "64 KB"),
        (512_000_000, "512 MB"),
        (812_400_000, "812.4 MB"),
        (1 << 30, "1.1 GB"),
        (2 * 10**12, "2 TB"),
    ],
)
def test_a_size_is_shown_in_powers_of_1000(size_bytes: int, expected: str) -> None:
    assert shown_size(size_bytes) == expected
