"""Opens what a job left: a plain file, and nothing that blocks, never ends, or points elsewhere."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO

from sjq.large import LARGE_BYTES, Content

_KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
}


class TooLarge(OSError):
    """The file has more bytes than were to be read."""

    def __init__(self, path: Path, *, size: int, most: int) -> None:
        super().__init__(errno.EFBIG, f"it has {size} bytes, and {most} are the most", str(path))
        self.size, self.most = size, most


def open_plain(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a plain file for reading; raise FileNotFoundError, or OSError for what is no plain file.

    A symbolic link is one only where it is to be followed.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, and no plain file", str(path)) from None
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, and no plain file", str(path))


def read_plain(path: Path, *, follow: bool = False, most: int | None = None) -> bytes:
    """Return what a plain file holds; raises as `open_plain`, and TooLarge for one of more than `most` bytes."""
    with open_plain(path, follow=follow) as file:
        _checked_size(file, path, most)
        return file.read()


def map_plain(path: Path, *, follow: bool = False, most: int | None = None) -> Content:
    """Return the same, and of a large file a view, whose pages the system reads and drops as it likes."""
    with open_plain(path, follow=follow) as file:
        if _checked_size(file, path, most) <= LARGE_BYTES:
            return file.read()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _checked_size(file: BinaryIO, path: Path, most: int | None) -> int:
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        raise TooLarge(path, size=size, most=most)
    return size
