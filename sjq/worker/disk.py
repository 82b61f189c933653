"""Whether the disk of the records has room for another job."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sjq.sizes import shown_size

LEAST_BYTES = 16_000_000
LEAST_FILES = 100
LEAST_SHARE = 0.01
"""What has to be free: so much, or on a small disk this share of it."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a disk that is full, or of which somebody has used up his part."""


def shortage(folder: Path) -> str | None:
    """Return why no job should begin that writes its record into `folder`; None when there is room."""
    while True:
        try:
            disk = os.statvfs(folder)
            break
        except FileNotFoundError:
            folder = folder.parent  # it is made with the first record
    least = int(min(LEAST_BYTES, disk.f_blocks * disk.f_frsize * LEAST_SHARE))
    if disk.f_bavail * disk.f_frsize < least:
        return f"the disk of {folder} is full: less than {shown_size(least)} are free"
    # Some file systems make room for files as they come, and count none.
    if disk.f_files and disk.f_favail < min(LEAST_FILES, disk.f_files * LEAST_SHARE):
        return f"the disk of {folder} is full: it has room for {disk.f_favail} more files"
    return None
