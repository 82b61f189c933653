"""The Redis broker: the life of a job, and the locks and heartbeats of workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from tempfile import gettempdir

import msgspec

from sjq.brokers.base import Holder, Pulse, Recovered, Wakeup
from sjq.brokers.redis.connection import Server
from sjq.brokers.redis.durability import await_disk, way_to_disk
from sjq.brokers.redis.inspection import as_text, literal, number
from sjq.brokers.redis.keys import STUB_SECONDS, Keys
from sjq.brokers.redis.scripts import Argument
from sjq.brokers.redis.staging import MOST_BYTES_PER_CALL, Load, fetch, stage
from sjq.brokers.redis.upkeep import Upkeep
from sjq.brokers.redis.wakeup import open_wakeup
from sjq.errors import BrokerDown, CancelAsked, LeaseLost, MessageError
from sjq.jobs import Due, Lease, Malformed, Message, decode_message, id_from_bytes, id_to_bytes
from sjq.large import LARGE_BYTES, Content
from sjq.outcomes import Outcome, failed, released
from sjq.states import Reason, State

_CANCEL_ASKED = -2
_NOT_STAGED = -3
MOST_JOBS_PER_CALL = 500


class RedisBroker(Upkeep):
    """Jobs in a Redis or Valkey server."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, Keys(server.prefix))

    # What programs and people create.

    def create(self, messages: Sequence[Message]) -> None:
        """Let the jobs wait; chunks bound how long the server is busy, each is whole."""
        for chunk in _chunks(messages):
            self._run_with_jobs("create", chunk)

    def promise_disk(self) -> None:
        """Look at the server's settings."""
        way_to_disk(self.server)

    def await_disk(self) -> None:
        """Wait as the server's settings allow."""
        await_disk(self.server)

    # The life of an attempt.

    def take(
        self,
        topic: str,
        worker: str,
        fence: str,
        *,
        published: Collection[str] = (),
        again: bool = False,
        anew: bool = True,
        halting: bool = False,
    ) -> Lease | Malformed | Due | None:
        """Lease the next job, and decode its message here, where a malformed one can be settled."""
        answer: object = "more"
        while answer in ("more", b"more"):
            answer = self._take(topic, worker, fence, published, again=again, anew=anew)
        if answer is None:
            return None
        if isinstance(answer, int):
            return Due(in_s=answer / 1000)
        assert isinstance(answer, list)  # noqa: S101 - the script's only other answer
        raw_id, text, attempt, taken_ms, since_ms, history, *counted = answer
        job_id = id_from_bytes(raw_id)
        try:
            if isinstance(text, int):
                text = fetch(self.server, self.keys.job_data(job_id), text)
            message = decode_message(job_id, topic, text, lambda: self._attachment(job_id))
        except MessageError as error:
            # Without an answer it is still ours, and nobody runs it: it is given back, and taken and refused again. To
            # repeat the take would lease another job under this fence.
            with suppress(BrokerDown):
                self._settle(job_id, topic, fence, failed(Reason.MESSAGE, str(error)), halting=halting)
            return Malformed(job_id=job_id, topic=topic, why=str(error))
        except OSError as error:
            # A large message goes to a temporary file. The job is leased by now, and deserves no loss for it.
            why = f"its message cannot be fetched into {gettempdir()}: {error.strerror}"
            self._settle(job_id, topic, fence, released(why), halting=False)
            raise OSError(error.errno, why) from error
        taken_at = int(taken_ms) / 1000
        tries, losses, interruptions = (number(count) or 0 for count in counted)
        return Lease(
            message=message,
            fence=fence,
            attempt=attempt,
            taken_at=taken_at,
            queued_s=_queued(message, taken_at, since_ms),
            earlier=_attempts(history),
            tries=tries,
            losses=losses,
            interruptions=interruptions,
        )

    def _take(
        self, topic: str, worker: str, fence: str, published: Collection[str], *, again: bool, anew: bool
    ) -> object:
        def run(again: int) -> object:
            named: dict[str, Argument] = {"topic": topic, "worker": worker, "fence": fence, "again": again}
            named |= {"anew": int(anew), "large": LARGE_BYTES}
            stubs = [id_to_bytes(job_id) for job_id in published]
            return self.server.run("take", stubs, repeat=False, stub_s=STUB_SECONDS, **named)

        try:
            return run(int(again))
        except BrokerDown:
            # Whether the job was taken is unknown: the fence in the repeated call finds it if it was.
            return run(1)

    def _attachment(self, job_id: str) -> Content | None:
        name = self.keys.job_attachment(job_id)
        (size,) = self.server.ask_all([("STRLEN", name)], spoilt=True)
        large = isinstance(size, int) and size > LARGE_BYTES
        return fetch(self.server, name, size) if large else self.attachment(job_id)

    def settle(self, lease: Lease, outcome: Outcome, *, halting: bool = False) -> bool:
        """End the attempt in one script call."""
        return self._settle(lease.job_id, lease.topic, lease.fence, outcome, halting=halting)

    def _settle(self, job_id: str, topic: str, fence: str, outcome: Outcome, *, halting: bool) -> bool:
        answer = self._run_with_jobs(
            "settle",
            outcome.next_jobs,
            topic=topic,
            id=id_to_bytes(job_id),
            fence=fence,
            outcome=str(outcome.state),
            reason=str(outcome.reason or ""),
            why=(outcome.why or "").encode("utf-8", "backslashreplace"),
            delay_ms=round((outcome.delay_s or 0.0) * 1000),
            halting=int(halting),
        )
        if answer == _CANCEL_ASKED:
            raise CancelAsked(self._why_cancelled(job_id))
        if answer < 0:
            raise LeaseLost(f"job {job_id} was given to another worker; what this attempt did is not counted")
        return bool(answer)

    def _run_with_jobs(self, name: str, messages: Sequence[Message], **named: Argument) -> int:
        """Run a step that makes jobs; what is too much for one call goes ahead, and again should it be gone."""
        load = Load(self.keys, messages)
        answer = _NOT_STAGED
        while answer == _NOT_STAGED:
            stage(self.server, load.ahead)
            answer = int(self.server.run(name, load.flat, repeat=True, **named))
        if load.ahead:  # what the step had no use for: it was refused, or the job was there already
            with suppress(BrokerDown):  # the step is done; what is left of it expires
                self.server.ask_all([("UNLINK", *(part.name for part in load.ahead))])
        return answer

    def _why_cancelled(self, job_id: str) -> str:
        return as_text(self.server.ask("HGET", self.keys.job_state(job_id), "cancel") or b"")

    def confirm(self, job_ids: Collection[str]) -> None:
        """Let the stubs of published jobs expire."""
        self.server.run("confirm", [id_to_bytes(job_id) for job_id in job_ids], stub_s=STUB_SECONDS)

    # Workers.

    def heartbeat(
        self,
        worker: str,
        facts: Mapping[str, str],
        *,
        lease_s: float,
        topics: Collection[str] = (),
        leases: Collection[Lease] = (),
        expired: bool = False,
    ) -> Pulse:
        """Renew everything in one script call."""
        flat: list[Argument] = [part for fact in facts.items() for part in fact]
        flat += topics
        for lease in leases:
            flat += [id_to_bytes(lease.job_id), lease.fence]
        lost_locks, lost_leases, cancelled, now_ms = self.server.run(
            "heartbeat",
            flat,
            worker=worker,
            lease_ms=_ms(lease_s),
            expired=int(expired),
            facts_n=2 * len(facts),
            topics_n=len(topics),
        )
        return Pulse(
            lost_locks=frozenset(map(id_from_bytes, lost_locks)),
            lost_leases=frozenset(map(id_from_bytes, lost_leases)),
            time=int(now_ms) / 1000,
            cancelled=dict(zip(map(id_from_bytes, cancelled[::2]), map(as_text, cancelled[1::2]), strict=True)),
        )

    def leave(self, worker: str, topics: Collection[str]) -> None:
        """Delete the worker's hash and the locks that are still its own."""
        self.server.run("leave", topics, worker=worker)

    def workers(self) -> dict[str, dict[str, str]]:
        """Return the hash of every worker."""
        prefix = self.keys.worker("")
        found = self.scan(literal(prefix.encode()) + b"*")
        names = [id_from_bytes(name).removeprefix(prefix) for name in found]
        return {worker: facts for worker, facts in self._facts(names).items() if facts}

    def lock(self, topics: Collection[str], worker: str, lease_s: float) -> Sequence[Holder]:
        """Set all locks in one script call, or none."""
        while held := self.server.run("lock", topics, worker=worker, lease_ms=_ms(lease_s)):
            if holders := self.holders([id_from_bytes(topic) for topic in held]):
                return holders
            # What was held went free before it could be named: an empty answer would mean that we have it.
        return []

    def unlock(self, holder: Holder) -> bool:
        """Delete the lock if its value is still the holder's id."""
        return bool(self.server.run("unlock", topic=holder.topic, holder=holder.worker))

    def holders(self, topics: Collection[str]) -> Sequence[Holder]:
        """Read the locks, and what is known of those who hold them."""
        ordered = list(topics)
        locks = [self.keys.lock(topic) for topic in ordered]
        commands = ((command, lock) for lock in locks for command in ("GET", "PTTL"))
        answers = self.server.ask_all(commands, spoilt=True)
        held = {
            topic: ("another program" if isinstance(value, Exception) else id_from_bytes(value), ttl != -1)
            for topic, value, ttl in zip(ordered, answers[::2], answers[1::2], strict=True)
            if value is not None and ttl != -2  # it may expire between the two commands
        }
        facts = self._facts({worker for worker, _ in held.values()})
        return [
            Holder(topic=topic, worker=worker, facts=facts[worker], expires=expires)
            for topic, (worker, expires) in held.items()
        ]

    def suspects(self, topics: Collection[str]) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        """Read whose jobs are in `processing`: three round trips, in time of the order of jobs in flight."""
        leased = self._processing(topics)
        if not leased:
            return {}
        states = (self.keys.job_state(job_id) for _, job_id in leased)
        answers = self.server.ask_all((("HGET", key, "worker") for key in states), spoilt=True)
        workers = ["" if isinstance(name, Exception) else id_from_bytes(name or b"") for name in answers]
        facts = self._facts(set(workers))
        found: dict[str, dict[str, Mapping[str, str]]] = {}
        for (topic, _), worker in zip(leased, workers, strict=True):
            found.setdefault(topic, {})[worker] = facts[worker]
        return found

    def _processing(self, topics: Collection[str]) -> list[tuple[str, str]]:
        """Return topic and id of all that is leased; a topic whose list is no list has nothing."""
        ordered = list(topics)
        lists = self.server.ask_all((("LRANGE", self.keys.processing(topic), 0, -1) for topic in ordered), spoilt=True)
        return [
            (topic, id_from_bytes(raw_id))
            for topic, found in zip(ordered, lists, strict=True)
            if not isinstance(found, Exception)
            for raw_id in found
        ]

    def leased(self, topics: Collection[str], worker: str) -> Sequence[Lease]:
        """Read `processing`, and whose each job is: two round trips."""
        ids = self._processing(topics)
        commands = (("HMGET", self.keys.job_state(job_id), "worker", "fence") for _, job_id in ids)
        answers = self.server.ask_all(commands, spoilt=True) if ids else []
        return [
            Lease(
                message=Message(job_id=job_id, topic=topic, data=b"null"),
                fence=id_from_bytes(answer[1]),
                attempt=0,
                taken_at=0.0,
                queued_s=None,
            )
            for (topic, job_id), answer in zip(ids, answers, strict=True)
            if not isinstance(answer, Exception) and answer[0] == id_to_bytes(worker) and answer[1]
        ]

    def recover(
        self,
        topic: str,
        *,
        dead: Collection[str],
        expired: Collection[str],
        losses: int,
        halting: bool = False,
        look: bool = False,
    ) -> Sequence[Recovered]:
        """Take back in one script call, which looks again at those that are only thought to have expired."""
        answer = self.server.run(
            "recover",
            [*dead, *expired],
            topic=topic,
            losses=losses,
            halting=int(halting),
            look=int(look),
            dead_n=len(dead),
        )
        return [
            Recovered(job_id=id_from_bytes(raw_id), worker=id_from_bytes(worker), state=State(state.decode()))
            for raw_id, worker, state in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        ]

    def wakeup(self, topics: Collection[str] | None, worker: str, on_order: Callable[[], None]) -> Wakeup:
        """Listen on a connection of its own."""
        return open_wakeup(self.server, self.keys, topics, worker, on_order)

    def _facts(self, workers: Collection[str]) -> dict[str, dict[str, str]]:
        ordered = sorted(workers)
        answers = self.server.ask_all((("HGETALL", self.keys.worker(worker)) for worker in ordered), spoilt=True)
        return {
            worker: {}
            if isinstance(facts, Exception)
            else {id_from_bytes(name): id_from_bytes(value) for name, value in facts.items()}
            for worker, facts in zip(ordered, answers, strict=True)
        }


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _chunks(messages: Sequence[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    size = 0
    for message in messages:
        more = len(message.data) + len(message.attachment or b"")
        if len(chunk) == MOST_JOBS_PER_CALL or (chunk and size + more > MOST_BYTES_PER_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += more
    if chunk:
        yield chunk


def _attempts(history: bytes | None) -> tuple[Mapping[str, object], ...]:
    """Return the entries of earlier attempts; none where the broker's note of them is spoilt."""
    try:
        return msgspec.json.decode(b"[%b]" % (history or b""), type=tuple[dict[str, object], ...])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _queued(message: Message, taken_at: float, since_ms: bytes | None) -> float | None:
    """Return how long a job waited: since it was sent back, or since its producer made it."""
    if (since := number(since_ms)) is not None:
        return max(0.0, taken_at - since / 1000)
    created_at = message.created_s
    return None if created_at is None else max(0.0, taken_at - created_at)
