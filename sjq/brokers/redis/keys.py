"""The keyspace: one function per key, saying its type, its owner and when it goes away."""

from __future__ import annotations

from dataclasses import dataclass

from sjq.jobs import id_to_bytes

STUB_SECONDS = 600
"""How long the stub of a succeeded job stays after its record was published."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys of one prefix."""

    prefix: str

    def incoming(self, topic: str) -> str:
        """List of ids that wait, the next one left. Goes away when it is empty."""
        return f"{self.prefix}incoming:{topic}"

    def scheduled(self, topic: str) -> str:
        """Sorted set of ids that wait for their time, in ms of the server's clock. Goes away when it is empty."""
        return f"{self.prefix}scheduled:{topic}"

    def processing(self, topic: str) -> str:
        """List of ids that are leased, in the order in which they were taken. Goes away when it is empty."""
        return f"{self.prefix}processing:{topic}"

    def failed(self, topic: str) -> str:
        """List of ids in state `failed`, `timedout` or `cancelled`. Goes away when it is empty."""
        return f"{self.prefix}failed:{topic}"

    def job_data(self, job_id: str) -> bytes:
        """String, the message. Goes away with success or deletion."""
        return self.prefix.encode() + b"job_data:" + id_to_bytes(job_id)

    def job_attachment(self, job_id: str) -> bytes:
        """String, the attachment's bytes. Goes away with success or deletion."""
        return self.prefix.encode() + b"job_attachment:" + id_to_bytes(job_id)

    def job_state(self, job_id: str) -> bytes:
        """Hash of state, fence, worker, attempt, counters. After success a stub that expires, else until deletion."""
        return self.prefix.encode() + b"job_state:" + id_to_bytes(job_id)

    def pause(self, topic: str) -> str:
        """Hash of who or what stopped the topic, and since when. Goes away when the topic is resumed."""
        return f"{self.prefix}pause:{topic}"

    def lock(self, topic: str) -> str:
        """String, the id of the worker that holds the topic. Expires unless renewed."""
        return f"{self.prefix}lock:{topic}"

    def worker(self, worker: str) -> str:
        """Hash of what a live worker says of itself. Expires unless renewed."""
        return f"{self.prefix}worker:{worker}"

    def control(self, worker: str) -> str:
        """List of orders that wake a worker. Goes away with its next heartbeat, and expires."""
        return f"{self.prefix}control:{worker}"

    def stats(self, topic: str) -> str:
        """Hash of counters by event. Stays."""
        return f"{self.prefix}stats:{topic}"

    def events(self) -> str:
        """Stream of all state changes, capped at the configured length. Stays."""
        return f"{self.prefix}events"

    def durable(self) -> str:
        """String that is written when somebody waits for the disk. Expires at once."""
        return f"{self.prefix}durable"

    def staged_data(self, job_id: str) -> bytes:
        """String, a message that goes ahead of its step. Becomes `job_data` with its step, or expires."""
        return self.prefix.encode() + b"staged_data:" + id_to_bytes(job_id)

    def staged_attachment(self, job_id: str) -> bytes:
        """String, an attachment that goes ahead of its step. Becomes `job_attachment` with its step, or expires."""
        return self.prefix.encode() + b"staged_attachment:" + id_to_bytes(job_id)
