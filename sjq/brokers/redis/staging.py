"""Brings what is large into the server in portions, before the step that makes a job of it, and out of it again."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from tempfile import TemporaryFile

from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys
from sjq.jobs import Message
from sjq.large import LARGE_BYTES, Content, is_large, portions

STAGED_SECONDS = 3600
"""How long what was staged waits for its step; a broker that is away may have it wait."""


def stage(server: Server, keys: Keys, messages: Iterable[Message]) -> list[bytes]:
    """Stage what is large of these messages; return the names of the keys. Repeating it changes nothing."""
    staged = []
    for message in messages:
        if is_large(message.data):
            staged.append(_stage(server, keys.staged_data(message.job_id), message.pieces()))
        if message.attachment is not None and is_large(message.attachment):
            staged.append(_stage(server, keys.staged_attachment(message.job_id), [message.attachment]))
    return staged


def _stage(server: Server, name: bytes, pieces: Sequence[Content]) -> bytes:
    offset = 0
    for portion in portions(pieces):
        # By its place, not appended: a call whose answer was lost may be repeated.
        server.ask_all([("SETRANGE", name, offset, portion), ("EXPIRE", name, STAGED_SECONDS)])
        offset += len(portion)
    return name


def fetch(server: Server, name: bytes, size: int) -> memoryview:
    """Return what a key holds, as a view of a file that goes with it."""
    with TemporaryFile(prefix="sjq-") as file:
        for start in range(0, size, LARGE_BYTES):
            file.write(server.ask("GETRANGE", name, start, min(size, start + LARGE_BYTES) - 1))
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
