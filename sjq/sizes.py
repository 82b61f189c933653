"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import contextlib
import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?")
_UNIT_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNIT_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def size(value: object) -> int:
    """Return bytes for a whole number of bytes, or for `64KB`, `512MB`, `2GB`, `512MiB` and so on; else ValueError."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        with contextlib.suppress(OverflowError):
            return round(float(match[1]) * _UNIT_BYTES[match[2] or "B"])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("bytes as a whole number, or a text such as 64KB, 512MB, 2GB, 1TB, or KiB, MiB, GiB, TiB")


def shown_size(size_bytes: int) -> str:
    """Return a size as people read it, in powers of 1000."""
    for unit in ("TB", "GB", "MB", "KB"):
        if size_bytes >= _UNIT_BYTES[unit]:
            return f"{size_bytes / _UNIT_BYTES[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} bytes"
