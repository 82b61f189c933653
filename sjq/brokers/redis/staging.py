"""Brings what is too much for one call into the server in portions, ahead of its step, and out of it again."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import NamedTuple

from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys
from sjq.brokers.redis.scripts import Argument
from sjq.errors import MessageError
from sjq.jobs import Message, id_to_bytes
from sjq.large import LARGE_BYTES, MOST_BYTES_OF_JOBS, Content, portions

STAGED_SECONDS = 3600
"""How long what was staged waits for its step; a broker that is away may have it wait."""


MOST_BYTES_PER_CALL = 4 << 20
"""What one step carries of messages and attachments: a server that reads more serves nobody else meanwhile, and both
sides hold it several times."""


class Part(NamedTuple):
    """A message or an attachment that goes ahead of the step, and the name of its key there."""

    name: bytes
    message: Message
    attachment: bool

    def pieces(self) -> Sequence[Content]:
        """Return what it holds, made anew at each call: of many, one at a time is in memory."""
        return (self.message.attachment or b"",) if self.attachment else self.message.pieces()


class Load:
    """New jobs as a step wants them: what goes with it, and what goes ahead as it is large or too much for one call."""

    def __init__(self, keys: Keys, messages: Sequence[Message]) -> None:
        """Raise MessageError for what is more than any step may make."""
        self.flat: list[Argument] = []
        """Topic, id, parent, message, attached, attachment of each; an empty message and attached 2 went ahead."""
        self.ahead: list[Part] = []
        self._with_step = self._total = 0
        for message in messages:
            self._add(keys, message)
        if self._total > MOST_BYTES_OF_JOBS:
            whose = "its" if len(messages) == 1 else f"{len(messages)} jobs with their"
            raise MessageError(
                f"{whose} data and attachments have {self._total:,} bytes, and {MOST_BYTES_OF_JOBS:,} are the most: "
                "put what is large into a file, and its path into the data"
            )

    def _add(self, keys: Keys, message: Message) -> None:
        text = self._carried(Part(keys.staged_data(message.job_id), message, attachment=False))
        attached, content = 0, None
        if message.attachment is not None:
            content = self._carried(Part(keys.staged_attachment(message.job_id), message, attachment=True))
            attached = 2 if content is None else 1
        parent = id_to_bytes(message.parent_job_id or "")
        self.flat += [message.topic, id_to_bytes(message.job_id), parent, text or b"", attached, content or b""]

    def _carried(self, part: Part) -> bytes | None:
        """Return what the step carries of this; None when it goes ahead."""
        pieces = part.pieces()
        size = sum(map(len, pieces))
        self._total += size
        if size > LARGE_BYTES or self._with_step + size > MOST_BYTES_PER_CALL:
            self.ahead.append(part)
            return None
        self._with_step += size
        return b"".join(pieces)


def stage(server: Server, parts: Iterable[Part]) -> None:
    """Bring these parts into the server, some of them in one round trip. Repeating it changes nothing."""
    batch: list[tuple[Argument, ...]] = []
    size = 0
    for part in parts:
        for commands, more in _commands(part.name, part.pieces()):
            if batch and size + more > LARGE_BYTES:
                server.ask_all(batch)
                batch, size = [], 0
            batch += commands
            size += more
    if batch:
        server.ask_all(batch)


def _commands(name: bytes, pieces: Sequence[Content]) -> Iterator[tuple[list[tuple[Argument, ...]], int]]:
    """Yield the commands that bring a part, and how many bytes they carry."""
    if (size := sum(map(len, pieces))) <= LARGE_BYTES:
        yield [("SET", name, b"".join(pieces), "EX", STAGED_SECONDS)], size
        return
    offset = 0
    for portion in portions(pieces):
        # By its place, not appended: a call whose answer was lost may be repeated.
        yield [("SETRANGE", name, offset, portion), ("EXPIRE", name, STAGED_SECONDS)], len(portion)
        offset += len(portion)


def fetch(server: Server, name: bytes, size: int) -> memoryview:
    """Return what a key holds, as a view of a file that goes with it."""
    with TemporaryFile(prefix="sjq-") as file:
        for start in range(0, size, LARGE_BYTES):
            file.write(server.ask("GETRANGE", name, start, min(size, start + LARGE_BYTES) - 1))
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
