"""Watches folders by inotify: every file there that is made, changed, opened or removed, by whomever."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_ACCESS, _MODIFY, _ATTRIB, _OPEN = 0x1, 0x2, 0x4, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _OVERFLOW = 0x40, 0x80, 0x100, 0x200, 0x4000
_IS_FOLDER = 0x40000000
_WATCHED = _ACCESS | _MODIFY | _ATTRIB | _OPEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_HEADER = struct.Struct("iIII")


class Watch:
    """What happens to files right inside of some folders, from when it is entered."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._names: dict[int, Path] = {}

    def __enter__(self) -> Self:
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for folder in self._folders:
            number = library.inotify_add_watch(self._descriptor, os.fsencode(folder), _WATCHED)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._names[number] = folder
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def touched(self) -> Iterator[Path]:
        """Yield the paths of what happened since the last call; mere looks into folders are nothing."""
        while True:
            try:
                events = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            while events:
                number, what, _, length = _HEADER.unpack_from(events)
                name = events[_HEADER.size : _HEADER.size + length].rstrip(b"\0")
                events = events[_HEADER.size + length :]
                if what & _OVERFLOW:
                    raise OSError("more happened than inotify could keep")
                if not (what & _IS_FOLDER and not what & (_CREATE | _DELETE | _MOVED_FROM | _MOVED_TO)):
                    yield self._names[number] / os.fsdecode(name)
