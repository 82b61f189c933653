"""What is too large to be held in memory as a whole: a view of a file stands for it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

LARGE_BYTES = 1 << 20
MOST_BYTES_OF_JOBS = 512 << 20
"""What the jobs that are made in one step may hold together."""

Content = bytes | memoryview
"""The bytes themselves, or a view of a file that holds them, of which the system reads and drops pages as it likes."""


def is_large(content: Content | None) -> bool:
    """Tell whether this is more than memory should hold as a whole."""
    return content is not None and len(content) > LARGE_BYTES


def portions(pieces: Iterable[Content]) -> Iterator[bytes]:
    """Yield what these pieces hold, in portions that memory may hold."""
    for piece in pieces:
        for start in range(0, len(piece), LARGE_BYTES):
            yield bytes(piece[start : start + LARGE_BYTES])


def check_utf8(content: Content) -> None:
    """Raise UnicodeDecodeError, with the place in the whole, for what is no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    for portion in portions([content]):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(portion, final=done + len(portion) == len(content))
        except UnicodeDecodeError as error:
            error.start += done - kept
            raise
        done += len(portion)
