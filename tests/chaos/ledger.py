"""The ledger: what the driver and the handlers note, one JSON object a line, in a file that only grows.

Every line has a `note`, which says what it is, and `at`, seconds since the epoch:

    run       plan, bounds                       what was meant to be done; the first line
    resumed                                      the run was broken off before, and all its processes were killed
    create    ids, children, end                 these are about to be created, and what each should come to, such as
                                                 `succeeded` or `failed (message)`
    created   ids                                ... and the broker has said that it has them
    start     id, attempt, topic, pid            by the handler itself
    finish    id, attempt, topic, pid            the same, when its output is written
    fault     kind, down, times                  a fault is over, or so many; it began at `down`
    event     event, id, topic, ...              from sjq's event stream, `at` by the server's clock
    reread                                       the events before this line count no more: they follow once again
    record    id, state, attempt, output         what stands in `job_data/`; `output` is the attempt that wrote it
    left      id, state                          what the broker knows of a job that has no end, None for nothing
    measure   what, value                        a figure of the row's own
    complaint what                               what must not be
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Note = dict[str, Any]


class Ledger:
    """A file of notes. Several processes may write to it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def note(self, note: str, /, **fields: object) -> None:
        """Append a line, with one call, so that no other process's line falls into it."""
        fields.setdefault("at", time.time())
        # A line begins with an end of line too: a writer that is killed in the middle of its own spoils no other.
        line = f"\n{json.dumps({'note': note, **fields})}\n".encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def news(self) -> Iterator[Note]:
        """Yield the notes that came since the last call; what a killed writer did not finish is none."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            while (line := file.readline()).endswith(b"\n"):
                self._read += len(line)
                if note := _parsed(line):
                    yield note


def _parsed(line: bytes) -> Note | None:
    try:
        note: Note = json.loads(line)
    except ValueError:
        return None
    return note
