"""Reads what a job left: plain files, and nothing that blocks, never ends, or points elsewhere."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Self

from sjq.large import LARGE_BYTES

_LEAST_PORTION_BYTES = 4096
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
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise TooLarge(path, size=size, most=most)
        return file.read()


class NoRoom(OSError):
    """What a file holds cannot be copied here: a fault of this machine, and none of the file."""

    def __init__(self, path: Path, folder: Path, error: OSError) -> None:
        super().__init__(error.errno, f"it cannot be copied into {folder}: {error.strerror}", str(path))


class Copies:
    """Copies of plain files that others may write to meanwhile: each is what its file held when it was copied.

    The files themselves are never mapped: when one is cut off, whoever reads its mapping dies of SIGBUS. Small copies
    are in memory; together they lie in one file without a name, so that thousands of them take one descriptor.
    """

    def __init__(self, folder: Path, *, most: int | None = None) -> None:
        """Copy into `folder`, and `most` bytes together."""
        self._folder, self._most = folder, most
        self._spool = SpooledTemporaryFile(  # noqa: SIM115 - closed by __exit__
            max_size=LARGE_BYTES, prefix="sjq-", dir=str(folder)
        )
        self._places: dict[Path, slice] = {}
        self._size = 0

    def add(self, path: Path, *, follow: bool = False) -> slice:
        """Copy what a plain file holds, once; return which part of `content` it is.

        Raises as `open_plain`, and TooLarge for more than `most` bytes, NoRoom where there is none for the copy.
        """
        if path in self._places:
            return self._places[path]
        start = self._size
        with open_plain(path, follow=follow) as file:
            size = os.fstat(file.fileno()).st_size
            if self._most is not None and start + size > self._most:
                raise TooLarge(path, size=start + size, most=self._most)
            left = max(size, LARGE_BYTES)  # some files of the system say that they have nothing, and have
            # A megabyte asked for is a megabyte of the heap, however little comes.
            portion_bytes = min(LARGE_BYTES, max(size, _LEAST_PORTION_BYTES))
            while left and (portion := file.read(min(left, portion_bytes))):
                with self._room_for(path):
                    self._spool.write(portion)
                self._size += len(portion)
                left -= len(portion)
        with self._room_for(path):
            self._spool.flush()
        self._places[path] = slice(start, self._size)
        return self._places[path]

    def content(self) -> memoryview:
        """Return all that was copied; if that is much, a view, whose pages the system reads and drops as it likes."""
        if self._size <= LARGE_BYTES:
            self._spool.seek(0)
            return memoryview(self._spool.read())
        return memoryview(mmap.mmap(self._spool.fileno(), 0, access=mmap.ACCESS_READ))

    @contextmanager
    def _room_for(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NoRoom(path, self._folder, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk it tries once more to write what it could not
            self._spool.close()


def copy_plain(path: Path, folder: Path, *, most: int | None = None) -> memoryview:
    """Return a copy of what a plain file holds; raises as `Copies.add`."""
    with Copies(folder, most=most) as copies:
        copies.add(path)
        return copies.content()
