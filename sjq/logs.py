"""What people are shown of a job's log: its text, cut in the middle, and the line that says why the job failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sjq.plain_file import open_plain

SHOWN_BYTES = 64 * 1024
"""How much of stdout and of stderr stands in the metadata; what is longer stands whole in the log file."""

COMPLAINT_BYTES = 4096
"""How far from the end of stderr the last line is looked for; an eighth of it is shown."""

_REFUSED_FILES = f"OSError: [Errno {errno.EMFILE}]"
"""What follows are the system's words, perhaps in another language."""


def shortened(path: Path) -> str:
    """Return a log's text, with a note in place of its middle when it is longer than the metadata may hold."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= SHOWN_BYTES:
                return file.read().decode("utf-8", "replace")
            half = SHOWN_BYTES // 2
            head = file.read(half)
            file.seek(size - half)
            tail = file.read(half)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"[what it printed cannot be read: {error.strerror}]\n"
    left_out = size - len(head) - len(tail)
    final = path.name.rpartition(".")[0]
    note = f"\n[... {left_out} bytes left out here; the whole is in {final} ...]\n"
    return head.decode("utf-8", "replace") + note + tail.decode("utf-8", "replace")


def complaint(path: Path) -> str:
    """Return the line of a log that says why a job failed: an exception's, or the last, shortened."""
    return _complaint(_last_lines(path))[: COMPLAINT_BYTES // 8]


def was_refused_files(path: Path) -> bool:
    """Tell whether a log ends with an exception of Python for want of descriptors, or one that was caused by such."""
    return any(line.lstrip(" |").startswith(_REFUSED_FILES) for line in _last_lines(path))


def _last_lines(path: Path) -> list[str]:
    try:
        with open_plain(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - COMPLAINT_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _complaint(lines: list[str]) -> str:
    """Return the first line behind the last traceback, whose text may have several, or else the last line."""
    written = [line.rstrip() for line in lines if line.strip()]
    starts = [number for number, line in enumerate(written) if line.startswith("Traceback (most recent call last)")]
    if starts:
        behind = (line for line in written[starts[-1] + 1 :] if not line.startswith(" "))
        return next(behind, "")
    return written[-1].strip() if written else ""
