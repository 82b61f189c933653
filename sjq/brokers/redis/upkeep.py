"""The Redis broker's part for upkeep: what no transition leaves so is found and mended, and what is old forgotten.

A look at everything reads page by page while jobs move, so that what it sees is a suspicion. Each is looked at again by
`mend.lua`, in one step, before it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from sjq.brokers.base import Fault, Outdated
from sjq.brokers.redis.inspection import STEP, Inspection, literal
from sjq.brokers.redis.keys import STUB_SECONDS
from sjq.brokers.redis.scripts import Argument
from sjq.brokers.redis.staging import fetch
from sjq.errors import MessageError, UsageError
from sjq.jobs import Job, check_topic, decode_message, id_from_bytes, id_to_bytes, shown
from sjq.large import LARGE_BYTES
from sjq.states import State

_PLACES: dict[str, tuple[State, ...]] = {
    "incoming": (State.INCOMING,),
    "processing": (State.PROCESSING,),
    "scheduled": (State.SCHEDULED,),
    "inbox": (State.INBOX,),
    "failed": (State.FAILED, State.TIMEDOUT, State.CANCELLED),
    "rejected": (State.REJECTED,),
}
"""Where the ids of which states are."""

_HOME = {state: place for place, states in _PLACES.items() for state in states}
_WAITING = ("incoming", "scheduled", "inbox")

_TYPES = {
    **dict.fromkeys(_PLACES, b"list"),
    "scheduled": b"zset",
    "job_data": b"string",
    "job_attachment": b"string",
    "job_state": b"hash",
    "worker": b"hash",
    "control": b"list",
    "pause": b"hash",
    "staged_data": b"string",
    "staged_attachment": b"string",
    "stats": b"hash",
    "events": b"stream",
}
"""What each kind of key is."""

_FAULTS: dict[str, tuple[str, str | None]] = {
    "anew": ("succeeded, and its message was set once more", "the message goes"),
    "hollow": ("has a job_state without a state, no message and no place", "what is left of it goes"),
    "homeless": ("is {state}, but in no list", "it goes to where its state belongs"),
    "messageless": ("waits in {place}, but has no message", "it is failed, as the next take would do"),
    "nothing": ("is in {place}, and nothing else is left of it", "the id is taken out"),
    "stateless": ("is in {place}, but has no state", "it gets the state of that place"),
    "stray": ("is in {place}, but its state is {state}", "it is taken out, and is where its state says"),
    "torn": ("is in {place}, and waits on another topic too", None),
    "twice": ("is in {place} {count} times", "once is left"),
    "unpushed": ("has a message, but no state and no place", "it waits on the topic that its message names"),
}
"""By the word that `mend.lua` answers: what is wrong, and what is done about it."""

_ADVICE = {
    "homeless": "HSET its topic in job_state:<id>",
    "torn": "LREM it from one of them",
    "unpushed": "RPUSH it to incoming:<topic>, or DEL job_data:<id>",
}
"""What people do about faults that are not mended."""


class _Named(msgspec.Struct):
    topic: str = ""


class Upkeep(Inspection):
    """What keeps a Redis or Valkey server in order."""

    def check(self) -> Iterator[Fault]:
        """Look at every list, then at every key; of all ids in lists, only their hashes are held."""
        topics = self.topics()
        seen: dict[str, set[int]] = {place: set() for place in _PLACES}
        for topic in topics:
            for place in _PLACES:
                told: set[str] = set()
                for job_id in self._suspects_in(place, topic, seen[place]):
                    for fault in () if job_id in told else self._looked_at(job_id, topics, place=place, topic=topic):
                        told.add(job_id)
                        for ids in seen.values():  # one fault of a job is told once, though it has two sides
                            ids.add(hash(id_to_bytes(job_id)))
                        yield fault
        for names in _batches(self.scan(literal(self.server.prefix.encode()) + b"*")):
            yield from self._check_keys(names, topics, seen)

    def mend(self, fault: Fault, *, lease_s: float, halting: bool = False) -> bool:
        """Run the step that looked at the job once more, to its end."""
        if fault.code == "immortal":
            return bool(self.server.run("mortal", worker=fault.topic, lease_ms=round(lease_s * 1000)))
        if fault.repair is None or fault.job_id is None:
            return False
        mended = self._run(fault.job_id, self.topics(), place=fault.place, topic=fault.topic, repair=1, halting=halting)
        return mended is not None

    def _suspects_in(self, place: str, topic: str, seen: set[int]) -> Iterator[str]:
        """Yield ids that may have a fault, once or more often, and note all.

        Pages count from the end: while the head of a queue is taken, none is passed over.
        """
        name, end = f"{self.server.prefix}{place}:{topic}", -1
        command = "ZRANGE" if place == "scheduled" else "LRANGE"
        while True:
            (raw_ids,) = self.server.ask_all([(command, name, end - STEP + 1, end)], spoilt=True)
            if not raw_ids or isinstance(raw_ids, Exception):
                return
            end -= STEP
            looks: list[tuple[Argument, ...]] = []
            for job_id in map(id_from_bytes, raw_ids):
                looks += [
                    ("HMGET", self.keys.job_state(job_id), "state", "topic"),
                    ("EXISTS", self.keys.job_data(job_id)),
                ]
            answers = self.server.ask_all(looks, spoilt=True)
            for raw_id, found, exists in zip(raw_ids, answers[::2], answers[1::2], strict=True):
                if isinstance(found, Exception):
                    continue
                fits = _fits(place, topic, found[0], found[1])
                if not fits or hash(raw_id) in seen or (place in _WAITING and not exists):
                    yield id_from_bytes(raw_id)
                seen.add(hash(raw_id))

    def _check_keys(self, names: Sequence[bytes], topics: Sequence[str], seen: dict[str, set[int]]) -> Iterator[Fault]:
        parts = [name[len(self.server.prefix.encode()) :].partition(b":") for name in names]
        ours = [(name, id_from_bytes(kind), rest) for name, (kind, _, rest) in zip(names, parts, strict=True)]
        ours = [(name, kind, rest) for name, kind, rest in ours if kind in _TYPES and (rest or kind == "events")]
        looks: list[tuple[Argument, ...]] = []
        for name, _, rest in ours:
            job_id = id_from_bytes(rest)
            looks += [("TYPE", name), ("PTTL", name)]
            looks += [("HGET", self.keys.job_state(job_id), "state"), ("EXISTS", self.keys.job_data(job_id))]
        answers = self.server.ask_all(looks, spoilt=True)
        for (name, kind, rest), found, ttl_ms, state, message in zip(
            ours, answers[::4], answers[1::4], answers[2::4], answers[3::4], strict=True
        ):
            if found not in (_TYPES[kind], b"none"):
                yield _of_wrong_type(name, found.decode(), _TYPES[kind].decode())
            elif kind == "worker" and ttl_ms == -1:
                yield _immortal(id_from_bytes(rest))
            elif found != b"none" and not isinstance(state, Exception):
                yield from self._check_job(id_from_bytes(rest), kind, state, bool(message), topics, seen)

    def _check_job(
        self,
        job_id: str,
        kind: str,
        state: bytes | None,
        message: bool,
        topics: Sequence[str],
        seen: dict[str, set[int]],
    ) -> Iterator[Fault]:
        raw_id = hash(id_to_bytes(job_id))
        now = id_from_bytes(state or b"")
        nowhere = not now and all(raw_id not in ids for ids in seen.values())
        if kind == "job_state":
            if now and now not in list(State):
                yield Fault(
                    code="unknown",
                    where=shown(job_id),
                    what=f"is {shown(now)}, a state that this sjq does not know: update it",
                    repair=None,
                    job_id=job_id,
                )
            elif (now in _HOME and raw_id not in seen[_HOME[State(now)]]) or (nowhere and not message):
                yield from self._looked_at(job_id, topics)
        elif kind == "job_data" and (now == State.SUCCEEDED or nowhere):
            yield from self._looked_at(job_id, topics)
        elif kind == "job_attachment" and not message:
            if now == State.SUCCEEDED:
                yield from self._looked_at(job_id, topics)
            elif not now:
                yield Fault(
                    code="attachment",
                    where=shown(job_id),
                    what="has an attachment, but no message and no state: DEL job_attachment:<id>",
                    repair=None,
                    job_id=job_id,
                )

    def _looked_at(self, job_id: str, topics: Sequence[str], *, place: str = "", topic: str = "") -> Iterator[Fault]:
        """Yield the fault of a job, if it has one at this instant."""
        if not place:
            topic = self._named_topic(job_id)
        if (answer := self._run(job_id, topics, place=place, topic=topic, repair=0)) is None:
            return
        code, state, count = answer
        what, repair = _FAULTS[code]
        what = what.format(place=shown(f"{place}:{topic}"), state=state, count=count)
        if code in _ADVICE and (repair is None or not (place or topic)):
            what, repair = f"{what}: {_ADVICE[code]}", None
        yield Fault(
            code=code,
            where=shown(job_id),
            what=what,
            repair=repair,
            job_id=job_id,
            place=place,
            topic=topic,
            patient=code == "unpushed",
        )

    def _run(
        self, job_id: str, topics: Sequence[str], *, place: str, topic: str, repair: int, halting: bool = False
    ) -> tuple[str, str, int] | None:
        raw_id = id_to_bytes(job_id)
        halts = int(halting)
        answer = self.server.run("mend", topics, repair=repair, halting=halts, place=place, topic=topic, id=raw_id)
        return None if answer is None else (answer[0].decode(), id_from_bytes(answer[1]), answer[2])

    def _named_topic(self, job_id: str) -> str:
        """Return the topic that a job's state or sound message names, or nothing."""
        name = self.keys.job_data(job_id)
        topic, size, attached = self.server.ask_all(
            [
                ("HGET", self.keys.job_state(job_id), "topic"),
                ("STRLEN", name),
                ("EXISTS", self.keys.job_attachment(job_id)),
            ],
            spoilt=True,
        )
        try:
            if isinstance(topic, bytes):
                return check_topic(id_from_bytes(topic))
            if not isinstance(size, int):
                return ""
            text = fetch(self.server, name, size) if size > LARGE_BYTES else self.server.ask("GET", name)
            decode_message(job_id, "", text, lambda: b"" if attached else None)
            return check_topic(msgspec.json.decode(text, type=_Named).topic)
        except (MessageError, UsageError, ValueError, OSError):  # or it is gone by now, or no disk has room for it
            return ""

    def unconfirmed(self) -> Iterator[Job]:
        """Scan for the states of succeeded jobs that do not expire."""
        start = self.keys.job_state("")
        for names in _batches(self.scan(literal(start) + b"*")):
            looks: list[tuple[Argument, ...]] = []
            for name in names:
                looks += [("HMGET", name, "state", "fence", "topic", "end"), ("PTTL", name)]
            answers = self.server.ask_all(looks, spoilt=True)
            for name, found, ttl_ms in zip(names, answers[::2], answers[1::2], strict=True):
                if not isinstance(found, Exception) and found[0] == b"succeeded" and ttl_ms == -1:
                    fence, topic, end = (id_from_bytes(value or b"") for value in found[1:])
                    yield Job(
                        job_id=id_from_bytes(name[len(start) :]),
                        topic=topic,
                        state=State.SUCCEEDED,
                        since=int(end) / 1000 if end.isdigit() else None,
                        fence=fence,
                    )

    def ended(self, topic: str) -> Iterator[Job]:
        """Read the list of those that ended badly, from its end in steps."""
        for ids in self._from_the_end(topic):
            yield from reversed(self._jobs(ids, topic, State.FAILED))

    def now(self) -> float:
        """Ask the server for its time."""
        seconds, microseconds = self.server.ask("TIME")
        return int(seconds) + int(microseconds) / 1e6

    def forget(self, jobs: Sequence[Outdated], *, look: bool = False) -> Sequence[str]:
        """Forget in one script call."""
        flat: list[Argument] = []
        for job in jobs:
            flat += [id_to_bytes(job.job_id), str(job.state), int(job.before * 1000)]
        return [
            id_from_bytes(raw_id) for raw_id in self.server.run("forget", flat, look=int(look), stub_s=STUB_SECONDS)
        ]


def _fits(place: str, topic: str, state: bytes | None, at: bytes | None) -> bool:
    """Tell whether a job of this state and topic is to be expected in a place."""
    if state is None:
        return place == "incoming"
    return id_from_bytes(state) in _PLACES[place] and at == id_to_bytes(topic)


def _batches(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    found = iter(names)
    while batch := list(islice(found, STEP)):
        yield batch


def _of_wrong_type(name: bytes, found: str, expected: str) -> Fault:
    where = shown(id_from_bytes(name))
    return Fault(
        code="type",
        where=where,
        what=f"is a {found} of another program, and should be a {expected}: remove it, or set a prefix",
        repair=None,
    )


def _immortal(worker: str) -> Fault:
    return Fault(
        code="immortal",
        where=f"worker:{shown(worker)}",
        what="never expires",
        repair="it expires in one lease, unless that worker renews it",
        topic=worker,
    )
