"""The worker: takes the topics it may have, keeps slots at work on them, and ends in good order."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

import sjq
from sjq import clock
from sjq.brokers.base import Broker, Counts, Wakeup
from sjq.config import Config
from sjq.errors import BrokerDown, ConfigError, Error
from sjq.executors.local import LocalExecutor
from sjq.identity import WorkerIdentity
from sjq.records import Records
from sjq.states import State
from sjq.topics import Topic, find_topic, find_topics
from sjq.worker.attempt import Attempts
from sjq.worker.claims import Claims
from sjq.worker.disk import shortage
from sjq.worker.flood import Flood
from sjq.worker.gate import Gate
from sjq.worker.heap import Heap
from sjq.worker.heartbeat import Heartbeat
from sjq.worker.in_flight import InFlight
from sjq.worker.lock_file import LOCK_FILE, LockFile
from sjq.worker.quota import Quota
from sjq.worker.recovery import Recovery
from sjq.worker.retention import Retention
from sjq.worker.slot import Slot

BEAT_S = 0.2
"""How often the main thread looks at what it cannot be woken for: signals, the topics folder."""

LOOK_S = 1.0
"""How often it looks for new topics."""

ASK_S = 1.0
"""How often it asks for orders where it is not told of them."""

TICK_S = 2.0
"""What the clock of a file system may be coarse by."""

PATIENCE_S = 5.0
"""How long an end waits for what does not answer: a keeper, a broker."""

_log = logging.getLogger("sjq.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a worker is asked to do."""

    topics: tuple[str, ...] = ()
    """Empty: all in `topics/` that are free, new ones too."""
    concurrency: int | None = None
    limit: int | None = None
    burst: bool = False
    grace: float | None = None


class Worker:
    """A daemon of plain blocking code: one thread per slot, one for the heartbeat, one that listens."""

    def __init__(self, config: Config, broker: Broker, options: Options) -> None:
        self._config, self._broker, self._options = config, broker, options
        self._identity = WorkerIdentity.of_this_process()
        self.id = self._identity.id
        self._lease_s = config.worker.lease
        self._grace_s = config.worker.grace if options.grace is None else options.grace
        self._started = clock.rfc3339(clock.now())
        self._retention = Retention(config, broker)
        self._heap = Heap()
        self._claims = Claims(broker, self.id, self._lease_s)
        self._slots: list[Slot] = []
        self._unfit: Mapping[str, str] = {}
        self._topics_changed: int | None = -1
        self._wakeup: Wakeup | None = None
        self._changed = threading.Condition()
        self._said = ""
        """What the broker refused last; said once, and not at every look."""
        self._halted = False
        """Whether a burst left jobs of a topic that stopped at a failed one."""
        self._stop_requests: list[str] = []
        self._next_care = 0.0
        self._quota = Quota(options.limit)
        self._fence_numbers = itertools.count(1)

    def request_stop(self, by: str) -> None:
        """Ask for a stop; a second request skips the wait for running jobs. Safe in a signal handler.

        `by` is what the log gives as its cause, such as the name of a signal.
        """
        self._stop_requests.append(by)

    def run(self) -> int:
        """Work until stopped, until `limit` or until `burst` is done; return the exit code."""
        named = [find_topic(name, self._config) for name in self._options.topics]
        self._lock_file = LockFile(self._config.state_folder / "workers", self.id)
        self._executor = LocalExecutor(self._config.root, lock=self._lock_file.descriptor)
        self._in_flight = InFlight(self._executor)
        self._flood = Flood(self._in_flight)
        self._heartbeat = Heartbeat(
            self._broker,
            self.id,
            lease_s=self._lease_s,
            facts=self._facts,
            topics=self._claims.held,
            in_flight=self._in_flight,
            on_lost_locks=self._claims.lose,
        )
        records = Records(self._config.job_data)
        self._recovery = Recovery(
            self._broker,
            records,
            worker=self.id,
            lock_files=self._lock_file.path.parent,
            lease_s=self._lease_s,
            connected_for_s=self._heartbeat.connected_for_s,
            in_flight=self._in_flight,
        )
        self._attempts = Attempts(
            worker=self.id,
            root=self._config.root,
            broker=self._broker,
            executor=self._executor,
            records=records,
            heartbeat=self._heartbeat,
            in_flight=self._in_flight,
            lock_file=self._lock_file,
            policy_of=self._config.policy,
        )
        try:
            return self._work(named)
        finally:
            self._executor.close()
            self._lock_file.close()

    def _work(self, named: Collection[Topic]) -> int:
        self._heartbeat.start()
        try:
            named_topics = [topic.name for topic in named] or None
            self._wakeup = self._broker.wakeup(named_topics, self.id, self._heartbeat.beat_now)
            self._open_gates(named)
            self._loop(named)
            held = self._halted or any(gate.held for gate in self._claims.gates.values())
            return 1 if self._options.burst and held else 0
        finally:
            self._end()

    # Taking topics.

    def _open_gates(self, named: Collection[Topic]) -> None:
        if named:
            if not self._claims.lock_all(named, self._recovery, self._waited):
                return
            self._recovery.recover(named)
        self._recovery.repair_records()
        topics, unfit = find_topics(self._config)
        self._say_unfit(unfit)  # of topics that are not named too: a file may be in the way of all handlers
        for topic in named or topics.values():
            self._add(topic, locked=bool(named))
        self._care()
        extra = {"event": "worker_started", "worker": self.id}
        _log.info("worker %s %s", self.id, self._claims.described(), extra=extra)

    def _waited(self) -> bool:
        """Wait a beat; tell whether nobody has asked for a stop."""
        self._pause(BEAT_S)
        return not self._stop_requests

    def _add(self, topic: Topic, *, locked: bool) -> None:
        assert self._wakeup is not None  # noqa: S101 - it listens before the first topic is taken
        if self._options.concurrency is not None:
            topic = replace(topic, policy=replace(topic.policy, concurrency=self._options.concurrency))
        gate = self._claims.gates[topic.name] = Gate(
            topic,
            self._executor,
            on_change=self._heartbeat.beat_now,
            shortage=lambda: shortage(self._config.job_data),
        )
        gate.locked = locked
        for _ in range(topic.policy.concurrency):
            slot = Slot(
                gate,
                self._attempts,
                number=len(self._slots),
                wakeup=self._wakeup,
                quota=self._quota,
                flood=self._flood,
                fence_numbers=self._fence_numbers,
                on_change=self._notify,
            )
            self._slots.append(slot)
            slot.thread.start()

    def _look_for_topics(self) -> None:
        """Serve scripts that are new in `topics/`, and say once why a file cannot be a topic."""
        try:
            changed = self._config.topics_folder.stat().st_mtime_ns
        except FileNotFoundError:
            changed = None
        # A file that appears within the same tick of the file system's clock changes nothing more.
        if changed == self._topics_changed and clock.now() > (changed or 0) / 1e9 + TICK_S:
            return
        topics, unfit = find_topics(self._config)
        for name, topic in topics.items():
            if name not in self._claims.gates:
                self._add(topic, locked=False)
                self._next_care = 0.0
        self._say_unfit(unfit)
        self._topics_changed = changed

    def _say_unfit(self, unfit: Mapping[str, str]) -> None:
        for file, why in unfit.items():
            if self._unfit.get(file) != why:
                _log.warning("%s", why, extra={"event": "unfit", "file": file})
        self._unfit = unfit

    def _care(self) -> None:
        """Take back what dead workers left on our topics, and try to lock those we stand by for.

        What expired may be judged only by a clock that did not jump since the last beat.
        """
        every_s = max(BEAT_S, self._lease_s / 3)
        self._next_care = clock.monotonic() + every_s
        self._heartbeat.confirm()
        self._recovery.recover([gate.topic for gate in self._claims.gates.values() if gate.locked])
        if self._heartbeat.may_take_expired_locks() and self._claims.lock_free(self._recovery) and self._wakeup:
            self._wakeup.poke()
        if self._claims.awaited:  # workers that end at any moment, or with their leases
            self._next_care = clock.monotonic() + min(every_s, LOOK_S)
        self._retention.tend()
        self._heap.tend()

    # Working.

    def _loop(self, named: Collection[Topic]) -> None:
        self._next_care = next_look = next_ask = clock.monotonic()
        while not self._stop_requests and not self._quota.used_up:
            try:
                now = clock.monotonic()
                if not named and now >= next_look:
                    next_look = now + LOOK_S
                    self._look_for_topics()
                if now >= self._next_care:
                    self._care()
                if now >= next_ask and self._wakeup and not self._wakeup.hears_orders:
                    next_ask = now + ASK_S
                    self._heartbeat.beat_now()
                if self._options.burst and self._done():
                    self._say_what_is_left()
                    return
            except (BrokerDown, ConfigError):
                pass  # away, or refusing us: the heartbeat says so, and brings it back
            except Error as error:
                if str(error) != self._said:
                    self._said = str(error)
                    _log.warning("%s", error, extra={"event": "refused"})
            except Exception:  # noqa: BLE001 - running jobs are worth more than an early end; it is tried again
                _log.exception("a fault in sjq itself", extra={"event": "fault"})
            self._pause(BEAT_S)

    def _done(self) -> bool:
        """Tell whether nothing waits or runs on the topics that are served."""
        if self._claims.awaited or not all(slot.idle for slot in self._slots):
            return False
        served = [name for name, gate in self._claims.gates.items() if gate.locked and not gate.held]
        open_jobs = sum(_open(count) for count in self._broker.counts(served) if not count.pause)
        return open_jobs == 0 and all(slot.idle for slot in self._slots)

    def _say_what_is_left(self) -> None:
        """Say of a burst what it did not do, because other workers have it or nobody may."""
        for count in self._broker.counts(list(self._claims.gates)):
            left = _open(count)
            if count.pause and (left or count.pause.halted_by):
                self._halted = self._halted or count.pause.halted_by is not None
                how = "halted" if count.pause.halted_by else "paused"
                _log.warning("%s is %s, left: %d; sjq resume %s", count.topic, how, left, count.topic)
            elif left and not self._claims.gates[count.topic].locked:
                _log.warning("%s: left to the worker that holds it: %d", count.topic, left)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _facts(self) -> Mapping[str, str]:
        gates = list(self._claims.gates.items())
        held = {name: gate.held for name, gate in gates if gate.held}
        return {
            **self._identity.fields(),
            LOCK_FILE: str(self._lock_file.path),
            "topics": msgspec.json.encode({name: gate.locked_at for name, gate in gates if gate.locked}).decode(),
            "held": msgspec.json.encode(held).decode(),
            "in_flight": str(len(self._in_flight.leases())),
            "started": self._started,
            "version": sjq.__version__,
        }

    # Ending.

    def _end(self) -> None:
        """Take nothing more, give running jobs the grace, release the rest, and free the topics."""
        if self._stop_requests:
            _log.info("%s: taking nothing more", self._stop_requests[0], extra={"event": "stop_requested"})
        self._retention.close()
        self._executor.stop_preparing()
        for slot in self._slots:
            slot.stop()
        if self._wakeup:
            self._wakeup.poke()
        self._wait_for_slots()
        if self._running():
            self._in_flight.interrupt()
            self._heartbeat.give_up_waiting()
            longest_s = max(slot.gate.topic.policy.kill_after for slot in self._slots)
            self._join(longest_s + PATIENCE_S)
        if self._running():
            self._executor.close()  # keepers that do not answer are killed
            self._join(PATIENCE_S)
        self._heartbeat.close(PATIENCE_S)
        if self._wakeup:
            self._wakeup.close()
        leaving = threading.Thread(target=self._leave, name="sjq-leave", daemon=True)
        leaving.start()
        leaving.join(PATIENCE_S)  # a broker that does not answer sees our locks expire
        if self._slots:
            _log.info("worker %s ended", self.id, extra={"event": "worker_ended", "worker": self.id})

    def _running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.thread.is_alive()]

    def _join(self, seconds: float) -> None:
        deadline = clock.monotonic() + seconds
        for slot in self._running():
            slot.thread.join(max(0.0, deadline - clock.monotonic()))

    def _leave(self) -> None:
        try:
            self._broker.leave(self.id, self._claims.held())
        except (BrokerDown, ConfigError) as error:
            _log.warning("the broker is away: the locks free themselves (%s)", error, extra={"event": "cut_off"})

    def _wait_for_slots(self) -> None:
        deadline = clock.monotonic() + self._grace_s
        said = False
        while running := self._running():
            if clock.monotonic() >= deadline or len(self._stop_requests) > 1:
                return
            if not said and self._in_flight.leases():
                said = True
                _log.info(
                    "stopping: waiting up to %.0f s for what runs (%d); again to stop it now",
                    self._grace_s,
                    len(self._in_flight.leases()),
                    extra={"event": "stopping"},
                )
            running[0].thread.join(BEAT_S / 2)


def _open(count: Counts) -> int:
    return sum(count.states[state] for state in (State.INCOMING, State.SCHEDULED, State.PROCESSING))
