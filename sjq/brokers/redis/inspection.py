"""The Redis broker's part for people: look at jobs, send them back, forget them. O(n), in bounded steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from sjq.brokers.base import Broker, Counts, Pause
from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.keys import Keys
from sjq.brokers.redis.scripts import Argument
from sjq.errors import MessageError, WrongState
from sjq.jobs import Job, JobEvent, Message, decode_message, id_from_bytes, id_to_bytes
from sjq.states import ENDED, Reason, State

STEP = 500
"""How many jobs one command looks at, so that the server is never busy for long."""

ORDER_SECONDS = 60
"""How long an order wakes a worker that does not listen; what it is to do stands in the job's state for good."""

PORTION_BYTES = 4 << 20
"""How much of messages is read at once where many are looked at."""

_QUEUES = {
    State.SCHEDULED: "scheduled",
    State.INCOMING: "incoming",
    State.PROCESSING: "processing",
    State.FAILED: "failed",
    State.TIMEDOUT: "failed",
    State.CANCELLED: "failed",
}


class Inspection(Broker):
    """What people ask of jobs in a Redis or Valkey server."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self.server = server
        self.keys = keys

    def get(self, job_id: str, *, data: bool = True) -> Job | None:
        """Read the job's state and message; where a foreign job waits is searched for."""
        if not data:
            state, exists = self.server.ask_all(
                [("HGETALL", self.keys.job_state(job_id)), ("EXISTS", self.keys.job_data(job_id))], spoilt=True
            )
            return _job(job_id, state, None) if state or exists else None
        state, text = self.server.ask_all(self._look_at(job_id), spoilt=True)
        if not state and text is None:
            return None
        message = _message(job_id, text)
        job = _job(job_id, state, message)
        if job.topic is None:
            return self._located(job)
        return job

    def _located(self, job: Job) -> Job:
        """Return the job with the topic in whose queue it waits, if it waits in one."""
        topics = self.topics()
        raw_id = id_to_bytes(job.job_id)
        positions = self.server.ask_all(("LPOS", self.keys.incoming(topic), raw_id) for topic in topics)
        for topic, position in zip(topics, positions, strict=True):
            if position is not None:
                return replace(job, topic=topic)
        return job

    def attachment(self, job_id: str) -> bytes | None:
        """Read the attachment."""
        (answer,) = self.server.ask_all([("GET", self.keys.job_attachment(job_id))], spoilt=True)
        return answer if isinstance(answer, bytes) else None

    def find(self, prefix: str, limit: int) -> Sequence[str]:
        """Scan messages and states; a state without a message is the stub of a succeeded job."""
        found: set[str] = set()
        for kind in (self.keys.job_data(""), self.keys.job_state("")):
            for name in self.scan(literal(kind + id_to_bytes(prefix)) + b"*"):
                found.add(id_from_bytes(name[len(kind) :]))
                if len(found) >= limit:
                    return sorted(found)
        return sorted(found)

    def list(self, topic: str, state: State, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        """Read the state's list from position `after`; states that share a list are told apart by their hash."""
        if state not in _QUEUES:
            return []
        jobs: list[Job] = []
        step = min(limit, STEP)
        for ids in self._pages(f"{self.server.prefix}{_QUEUES[state]}:{topic}", after, step):
            jobs += [job for job in self._jobs(ids, topic, state) if job.state is state]
            if len(jobs) >= limit:
                break
        return jobs[:limit]

    def _pages(self, name: str, after: int, step: int) -> Iterator[Sequence[str]]:
        while True:
            look = "ZRANGE" if name.startswith(self.keys.scheduled("")) else "LRANGE"
            (raw_ids,) = self.server.ask_all([(look, name, after, after + step - 1)], spoilt=True)
            if not raw_ids or isinstance(raw_ids, Exception):
                return
            yield [id_from_bytes(raw_id) for raw_id in raw_ids]
            after += step

    def _jobs(self, ids: Sequence[str], topic: str, fallback: State) -> Sequence[Job]:
        """Return jobs without their data; of all messages together no more than a few megabytes are held at once."""
        keys = [self.keys.job_data(job_id) for job_id in ids]
        sizes = self.server.ask_all((("STRLEN", key) for key in keys), spoilt=True)
        jobs = []
        for start, end in _portions([size if isinstance(size, int) else 0 for size in sizes]):
            commands = (command for job_id in ids[start:end] for command in self._look_at(job_id))
            answers = self.server.ask_all(commands, spoilt=True)
            for job_id, state, text in zip(ids[start:end], answers[::2], answers[1::2], strict=True):
                with suppress(WrongState):  # of a newer sjq
                    jobs.append(replace(_job(job_id, state, _message(job_id, text), topic, fallback), data=None))
        return jobs

    def _look_at(self, job_id: str) -> tuple[tuple[str, bytes], ...]:
        return ("HGETALL", self.keys.job_state(job_id)), ("GET", self.keys.job_data(job_id))

    def topics(self) -> Sequence[str]:
        """Scan for queues and counters."""
        found = set()
        for kind in ("incoming:", "scheduled:", "processing:", "failed:", "stats:", "lock:", "pause:"):
            start = f"{self.server.prefix}{kind}".encode()
            found |= {id_from_bytes(name[len(start) :]) for name in self.scan(literal(start) + b"*")}
        return sorted(found)

    def counts(self, topics: Collection[str]) -> Sequence[Counts]:
        """Read lengths and counters. The jobs that ended badly share a list, and count as `failed` together."""
        ordered = sorted(topics)
        keys = self.keys
        commands: list[tuple[str, str]] = []
        for topic in ordered:
            lists = (keys.incoming(topic), keys.processing(topic), keys.failed(topic))
            commands += [*(("LLEN", name) for name in lists), ("ZCARD", keys.scheduled(topic))]
            commands += [("HGETALL", keys.stats(topic)), ("HGETALL", keys.pause(topic))]
        answers = iter(self.server.ask_all(commands, at_once=True, spoilt=True))
        return [
            Counts(
                topic=topic,
                states={
                    State.INCOMING: _length(incoming),
                    State.PROCESSING: _length(processing),
                    State.FAILED: _length(failed),
                    State.SCHEDULED: _length(scheduled),
                },
                totals=_totals(stats),
                pause=None if not pause or isinstance(pause, Exception) else _pause(pause),
            )
            for topic, incoming, processing, failed, scheduled, stats, pause in zip(
                ordered, *[answers] * 6, strict=True
            )
        ]

    def requeue(self, topic: str, states: Collection[State], job_ids: Collection[str] | None = None) -> Sequence[str]:
        """Send back from the end of the list to its beginning, so that the first to fail is the first to be taken."""
        allowed = f",{','.join(states)},"
        moved: list[str] = []
        for ids in self._from_the_end(topic) if job_ids is None else self._as_they_stand(topic, job_ids):
            raw_ids = [id_to_bytes(job_id) for job_id in ids]
            moved += map(id_from_bytes, self.server.run("requeue", raw_ids, topic=topic, states=allowed))
        return moved[::-1]

    def _as_they_stand(self, topic: str, job_ids: Collection[str]) -> Iterator[Sequence[str]]:
        """Yield ids of the topic's ended jobs in the order of their list, in steps from its end."""
        positions = self.server.ask_all(("LPOS", self.keys.failed(topic), id_to_bytes(job_id)) for job_id in job_ids)
        found = {job_id: position for job_id, position in zip(job_ids, positions, strict=True) if position is not None}
        ordered = sorted(found, key=found.__getitem__)
        for end in range(len(ordered), 0, -STEP):
            yield ordered[max(0, end - STEP) : end]

    def _from_the_end(self, topic: str) -> Iterator[Sequence[str]]:
        """Yield the ids of a topic's ended jobs in steps from the end; removing what was yielded is allowed."""
        name = self.keys.failed(topic)
        end = self.server.ask("LLEN", name)
        while end > 0:
            start = max(0, end - STEP)
            raw_ids = self.server.ask("LRANGE", name, start, end - 1)
            yield [id_from_bytes(raw_id) for raw_id in raw_ids]
            end = start

    def cancel(self, job_id: str, why: str) -> State | None:
        """Cancel in one script call; where a foreign job waits is searched for before."""
        known = self.get(job_id)
        if known is None:
            return None
        raw_why = why.encode("utf-8", "backslashreplace")
        topic = known.topic or ""
        found = self.server.run("cancel", topic=topic, id=id_to_bytes(job_id), why=raw_why, order_s=ORDER_SECONDS)
        return _state(job_id, found.decode()) if found else None

    def pause(self, topics: Collection[str], by: str) -> None:
        """Note it in one script call."""
        self.server.run("pause", topics, by=by)

    def resume(self, topics: Collection[str]) -> Mapping[str, Pause]:
        """Forget it in one script call."""
        answer = self.server.run("resume", topics)
        return {
            id_from_bytes(topic): _pause(dict(zip(was[::2], was[1::2], strict=True)))
            for topic, was in zip(answer[::2], answer[1::2], strict=True)
        }

    def delete(self, job_ids: Collection[str]) -> Sequence[str]:
        """Forget ended jobs, after a look that names one that has not ended."""
        ordered = list(job_ids)
        for start in range(0, len(ordered), STEP):
            self._refuse_unended(ordered[start : start + STEP])
        gone: list[str] = []
        for start in range(0, len(ordered), STEP):
            raw_ids = [id_to_bytes(job_id) for job_id in ordered[start : start + STEP]]
            gone += map(id_from_bytes, self.server.run("delete", raw_ids))
        return gone

    def _refuse_unended(self, ids: Sequence[str]) -> None:
        commands: list[tuple[Argument, ...]] = []
        for job_id in ids:
            commands += [("HGET", self.keys.job_state(job_id), "state"), ("EXISTS", self.keys.job_data(job_id))]
        answers = self.server.ask_all(commands, spoilt=True)
        for job_id, state, exists in zip(ids, answers[::2], answers[1::2], strict=True):
            if isinstance(state, Exception):
                continue
            now = _state(job_id, state.decode()) if state else State.INCOMING
            if (state or exists) and now not in ENDED:
                raise WrongState(f"job {job_id} is {now}: only jobs that have ended can be deleted")

    def events(self, after: str = "0", limit: int = 1000) -> Sequence[JobEvent]:
        """Read the stream behind `after`."""
        start = f"({after}" if after != "0" else "-"
        entries = self.server.ask("XRANGE", self.keys.events(), start, "+", "COUNT", limit)
        events = []
        for position, raw in entries:
            fields = {id_from_bytes(name): id_from_bytes(value) for name, value in raw.items()}
            if not fields.keys() >= {"event", "id", "topic"}:
                continue  # somebody else's
            event, job_id, topic = fields.pop("event"), fields.pop("id"), fields.pop("topic")
            events.append(JobEvent(id=position.decode(), event=event, job_id=job_id, topic=topic, details=fields))
        return events

    def describe(self) -> str:
        """Return where the server is."""
        return self.server.where

    def close(self) -> None:
        """Close the connections."""
        self.server.client.close()

    def scan(self, pattern: str | bytes) -> Iterator[bytes]:
        """Yield the names of keys that match, each once or more often."""
        cursor = 0
        while True:
            cursor, names = self.server.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 2000)
            yield from names
            if not int(cursor):
                return


def _message(job_id: str, text: bytes | Exception | None) -> Message | None:
    """Return the message as far as it can be read; people look at malformed ones too."""
    if isinstance(text, Exception):
        return None
    try:
        return decode_message(job_id, "", text, lambda: b"")
    except MessageError:
        return None


def _job(
    job_id: str,
    known: dict[bytes, bytes] | Exception,
    message: Message | None,
    topic: str | None = None,
    now: State = State.INCOMING,
) -> Job:
    raw = {} if isinstance(known, Exception) else known
    fields = {id_from_bytes(name): id_from_bytes(value) for name, value in raw.items()}
    since_ms = number(fields.get("end") or fields.get("taken" if fields.get("state") == "processing" else "since"))
    since = since_ms / 1000 if since_ms is not None else message.created_s if message else None
    state = _state(job_id, fields.get("state", now))
    if state not in (*ENDED, State.SCHEDULED):  # what an earlier attempt ended with
        fields = {name: value for name, value in fields.items() if name not in ("reason", "why")}
    due_ms = number(fields.get("due"))
    return Job(
        job_id=job_id,
        topic=fields.get("topic") or topic or (message.topic if message else None) or None,
        state=state,
        parent_job_id=message.parent_job_id if message else None,
        attempt=number(fields.get("attempt")) or 0,
        created_at=message.created_at if message else None,
        since=since,
        worker=fields.get("worker"),
        reason=Reason(reason) if (reason := fields.get("reason")) in list(Reason) else None,
        why=fields.get("why"),
        due=None if due_ms is None else due_ms / 1000,
        fence=fields.get("fence"),
        data=bytes(message.data) if message else None,
    )


def number(text: str | bytes | None) -> int | None:
    """Return what the broker counted; None where nothing was, or somebody wrote something else there."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _portions(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where portions of at most PORTION_BYTES begin and end; what is larger is a portion of its own."""
    start = total = 0
    for index, size in enumerate(sizes):
        if total and total + size > PORTION_BYTES:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)


def as_text(raw: bytes) -> str:
    """Return what a person wrote, as far as it is text."""
    return raw.decode("utf-8", "replace")


def _pause(found: dict[bytes, bytes]) -> Pause:
    fields = {id_from_bytes(name): id_from_bytes(value) for name, value in found.items()}
    return Pause(
        by=fields.get("by"),
        since=_seconds(fields.get("since")),
        halted_by=fields.get("job"),
        halted_at=_seconds(fields.get("halted")),
    )


def _seconds(ms: str | None) -> float | None:
    found = number(ms)
    return None if found is None else found / 1000


def _length(answer: int | Exception) -> int:
    return 0 if isinstance(answer, Exception) else answer


def _totals(stats: dict[bytes, bytes] | Exception) -> dict[str, int]:
    raw = {} if isinstance(stats, Exception) else stats
    return {id_from_bytes(name): number(value) or 0 for name, value in raw.items()}


def _state(job_id: str, name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise WrongState(f"job {job_id} is {name!r}, a state that this sjq does not know: update it") from None


def literal(pattern: bytes) -> bytes:
    """Return a glob that matches only `pattern` itself."""
    for special in b"\\*?[]":
        pattern = pattern.replace(bytes([special]), b"\\" + bytes([special]))
    return pattern
