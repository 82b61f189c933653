"""The worker: takes the topics it may have, keeps slots at work on them, and ends in good order."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

import sjq
from sjq import clock, identity
from sjq.brokers.base import Broker, Holder, Wakeup
from sjq.config import Config
from sjq.errors import BrokerDown, ConfigError, Error, LockHeld
from sjq.executors.local import LocalExecutor
from sjq.identity import WorkerIdentity
from sjq.jobs import shown
from sjq.records import Records
from sjq.states import State
from sjq.topics import Topic, find_topic, find_topics
from sjq.worker.attempt import Attempts
from sjq.worker.gate import Gate
from sjq.worker.heartbeat import Heartbeat
from sjq.worker.in_flight import InFlight
from sjq.worker.lock_file import LockFile
from sjq.worker.quota import Quota
from sjq.worker.recovery import LOCK_FILE, Recovery
from sjq.worker.slot import Slot

BEAT_S = 0.2
"""How often the main thread looks at what it cannot be woken for: signals, the topics folder."""

LOOK_S = 1.0
"""How often it looks for new topics."""

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
        self._gates: dict[str, Gate] = {}
        self._slots: list[Slot] = []
        self._unfit: dict[str, str] = {}
        self._topics_changed: int | None = -1
        self._locked_first: list[str] = []
        """Topics that are locked before they have a gate; the heartbeat renews them too."""
        self._awaited: dict[str, str] = {}
        """Topics that are not locked yet, and the silent or dying worker whose end or return is waited for."""
        self._wakeup: Wakeup | None = None
        self._changed = threading.Condition()
        self._said = ""
        """What the broker refused last; said once, and not at every look."""
        self._stop_requests = 0
        self._next_care = 0.0
        self._quota = Quota(options.limit)
        self._fence_numbers = itertools.count(1)

    def request_stop(self) -> None:
        """Ask for a stop; a second request skips the wait for running jobs. Safe in a signal handler."""
        self._stop_requests += 1

    def run(self) -> int:
        """Work until stopped, until `limit` or until `burst` is done; return the exit code."""
        named = [find_topic(name, self._config) for name in self._options.topics]
        self._lock_file = LockFile(self._config.state_folder / "workers", self.id)
        self._executor = LocalExecutor(self._config.root, lock=self._lock_file.descriptor)
        self._in_flight = InFlight(self._executor)
        self._heartbeat = Heartbeat(
            self._broker,
            self.id,
            lease_s=self._lease_s,
            facts=self._facts,
            topics=self._locked,
            in_flight=self._in_flight,
            on_lost_locks=self._lose_locks,
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
        )
        try:
            return self._work(named)
        finally:
            self._executor.close()
            self._lock_file.close()

    def _work(self, named: Collection[Topic]) -> int:
        self._heartbeat.start()
        try:
            self._wakeup = self._broker.wakeup([topic.name for topic in named] or None, self.id)
            self._open_gates(named)
            self._loop(named)
            return 1 if self._options.burst and any(gate.held for gate in self._gates.values()) else 0
        finally:
            self._end()

    # Taking topics.

    def _open_gates(self, named: Collection[Topic]) -> None:
        if named:
            if not self._lock_all(named):
                return
            self._recovery.recover(named)
        self._recovery.repair_records()
        for topic in named or find_topics(self._config)[0].values():
            self._add(topic, locked=bool(named))
        self._care()
        self._say_what_is_served()

    def _say_what_is_served(self) -> None:
        served = ", ".join(sorted(name for name, gate in self._gates.items() if gate.locked)) or "no topic yet"
        waiting = sorted(name for name, gate in self._gates.items() if not gate.locked and name not in self._awaited)
        further = f"; stands by for {', '.join(waiting)}, which other workers hold" if waiting else ""
        for name, worker in self._awaited.items():
            further += f"; waits up to {self._lease_s:g} s for {shown(worker)}, which is silent and has jobs of {name}"
        extra = {"event": "worker_started", "worker": self.id}
        _log.info("worker %s serves %s%s", self.id, served, further, extra=extra)

    def _lock_all(self, topics: Collection[Topic]) -> bool:
        """Lock all topics or none; what a dead worker left is waited for. False when a stop came first."""
        names = [topic.name for topic in topics]
        said = False
        while True:
            cut_off = self._recovery.cut_off(names)
            held = self._broker.holders(names) if cut_off else self._broker.lock(names, self.id, self._lease_s)
            left = self._recovery.free(held)
            if alive := [holder for holder in left if not _will_end(holder)]:
                raise LockHeld(_held_by(alive))
            if not held and not cut_off:
                self._locked_first = names
                return True
            if self._stop_requests:
                return False
            if waited_for := [*(holder.worker for holder in left), *cut_off.values()]:
                if not said:
                    said = True
                    _log.info("waiting for what worker %s left", shown(waited_for[0]), extra={"event": "waiting"})
                self._pause(BEAT_S)

    def _add(self, topic: Topic, *, locked: bool) -> None:
        assert self._wakeup is not None  # noqa: S101 - it listens before the first topic is taken
        if self._options.concurrency is not None:
            topic = replace(topic, policy=replace(topic.policy, concurrency=self._options.concurrency))
        gate = self._gates[topic.name] = Gate(topic, self._executor, self._heartbeat.beat_now)
        gate.locked = locked
        for _ in range(topic.policy.concurrency):
            slot = Slot(
                gate,
                self._attempts,
                number=len(self._slots),
                wakeup=self._wakeup,
                quota=self._quota,
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
            if name not in self._gates:
                self._add(topic, locked=False)
                self._next_care = 0.0
        for file, why in unfit.items():
            if self._unfit.get(file) != why:
                _log.warning("%s", why, extra={"event": "unfit", "file": file})
        self._unfit = unfit
        self._topics_changed = changed

    def _care(self) -> None:
        """Try to lock the topics we stand by for, and take back what dead workers left on ours."""
        self._recovery.recover([gate.topic for gate in self._gates.values() if gate.locked])
        if not self._heartbeat.may_take_expired_locks():
            return
        wanted = {name: gate for name, gate in self._gates.items() if not gate.locked}
        self._awaited = dict(self._recovery.cut_off(wanted))
        for name in wanted.keys() - self._awaited.keys():
            holders = self._lock(name)
            if holders and _will_end(holders[0]):
                self._awaited[name] = holders[0].worker
            if not holders:
                self._recovery.recover([wanted[name].topic])  # first: what was lost is taken before what waits
                wanted[name].locked = True
                if self._wakeup:
                    self._wakeup.poke()

    def _lock(self, topic: str) -> Sequence[Holder]:
        """Lock a topic, and return its holders if that cannot be."""
        held = self._broker.lock([topic], self.id, self._lease_s)
        if held and not self._recovery.free(held):
            held = self._broker.lock([topic], self.id, self._lease_s)
        return held

    def _lose_locks(self, topics: Collection[str]) -> None:
        for name in topics:
            if (gate := self._gates.get(name)) and gate.locked:
                gate.locked = False
                _log.warning(
                    "topic %s was unlocked, or taken over by another worker: standing by for it",
                    name,
                    extra={"event": "lock_lost", "topic": name},
                )

    def _locked(self) -> list[str]:
        gates = dict(list(self._gates.items()))
        first = [name for name in self._locked_first if name not in gates]
        return first + [name for name, gate in gates.items() if gate.locked]

    # Working.

    def _loop(self, named: Collection[Topic]) -> None:
        care_every_s = max(BEAT_S, self._lease_s / 3)
        self._next_care = next_look = clock.monotonic()
        while not self._stop_requests and not self._quota.used_up:
            try:
                now = clock.monotonic()
                if not named and now >= next_look:
                    next_look = now + LOOK_S
                    self._look_for_topics()
                if now >= self._next_care:
                    self._next_care = now + care_every_s
                    self._care()
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
        if self._awaited or not all(slot.idle for slot in self._slots):
            return False
        served = [name for name, gate in self._gates.items() if gate.locked and not gate.held]
        counts = self._broker.counts(served)
        open_jobs = sum(count.states[State.INCOMING] + count.states[State.PROCESSING] for count in counts)
        return open_jobs == 0 and all(slot.idle for slot in self._slots)

    def _say_what_is_left(self) -> None:
        """Say of a burst what it did not do because other workers have it."""
        for count in self._broker.counts([name for name, gate in self._gates.items() if not gate.locked]):
            if left := count.states[State.INCOMING] + count.states[State.PROCESSING]:
                _log.warning("%s: %d jobs are left to the worker that holds it", count.topic, left)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _facts(self) -> Mapping[str, str]:
        gates = list(self._gates.items())
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
            self._broker.leave(self.id, self._locked())
        except (BrokerDown, ConfigError) as error:
            _log.warning("the broker is away: the locks free themselves (%s)", error, extra={"event": "cut_off"})

    def _wait_for_slots(self) -> None:
        deadline = clock.monotonic() + self._grace_s
        said = False
        while running := self._running():
            if clock.monotonic() >= deadline or self._stop_requests > 1:
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


def _will_end(holder: Holder) -> bool:
    """Tell whether a lock is a dead worker's, which ends with its last process, or by its expiry."""
    return identity.is_dead(holder.facts) or (not holder.facts and holder.expires)


def _held_by(holders: Collection[Holder]) -> str:
    described = []
    for holder in holders:
        if holder.expires:
            described.append(f"{holder.described()}: stop it first")
        else:
            described.append(
                f"topic {holder.topic!r} is locked by {holder.worker!r} without expiry, as an older sjq did; if that "
                f"worker has ended: sjq unlock {holder.topic}"
            )
    return "; ".join(described)
