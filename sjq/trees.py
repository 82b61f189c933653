"""Folders as handlers leave them: of any depth, with paths that are longer than the system takes.

Neither recursion nor a descriptor for each level: one folder is open at a time, and the way back up is `..`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove what stands under a name, if anything does: a file, or a folder with all that is in it."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not path.is_dir():
            raise
        for parent, name, is_folder in walk(path):
            with suppress(FileNotFoundError):  # somebody else was faster
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=parent)
        path.rmdir()


def sizes(path: Path) -> Iterator[int]:
    """Yield the bytes of each file in a folder and below; nothing of what is no folder."""
    for parent, name, is_folder in walk(path):
        if not is_folder:
            yield size(name, parent)


def size(path: Path | str, parent: int | None = None) -> int:
    """Return how many bytes a plain file has, and 0 for anything else; with a relative path, in an open folder."""
    try:
        found = os.stat(path, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder on the way from the top to the one that is open."""

    name: str
    place: tuple[int, int]
    """Its device and number there, by which it is known again."""
    folders: list[str] = field(default_factory=list)
    """What is in it, and still to be looked into."""


def walk(top: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield all that is in a folder and below, and whether that is a folder itself: each behind what is in it.

    As a name, and the descriptor of the folder that has it, which is open until the next one is asked for. A folder
    that cannot be opened is yielded all the same. Raises OSError when one is moved elsewhere meanwhile.
    """
    try:
        here = os.open(top, _FOLDER)
    except OSError:
        return
    try:
        way = [_Level("", _place(here))]
        yield from _listed(here, way[-1].folders)
        while True:
            if way[-1].folders:
                name = way[-1].folders.pop()
                try:
                    below = os.open(name, _FOLDER, dir_fd=here)
                except OSError:
                    yield here, name, True
                    continue
                os.close(here)
                here = below
                way.append(_Level(name, _place(here)))
                yield from _listed(here, way[-1].folders)
            else:
                name = way.pop().name
                if not way:
                    return
                above = os.open("..", _FOLDER, dir_fd=here)
                os.close(here)
                here = above
                if _place(here) != way[-1].place:
                    raise OSError(errno.ESTALE, "a folder in it was moved elsewhere meanwhile", str(top))
                yield here, name, True
    finally:
        os.close(here)


def _listed(here: int, folders: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Yield what is in an open folder, but for folders, which are noted."""
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                yield here, entry.name, False


def _place(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
