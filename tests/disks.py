"""Small disks that can be full: a tmpfs over a folder."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

_PORTION = 1 << 20


class SmallDisk:
    """What lies in the folder lies on this disk, as long as it is mounted. Skips the test where nobody may mount."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_mount():  # of a run that was broken off
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"nobody may mount a tmpfs here: {mounted.stderr.strip()}")

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes of it free at most."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while (free := self._free() - left) > 0:
                file.write(bytes(min(free, _PORTION)))

    def _free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Remove it, whoever still uses it."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()
