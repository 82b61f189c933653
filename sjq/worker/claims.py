"""A worker's claims: which topics it has, which it stands by for, and whose end or return it waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from sjq import identity
from sjq.brokers.base import Broker, Holder
from sjq.errors import LockHeld
from sjq.jobs import shown
from sjq.topics import Topic
from sjq.worker.gate import Gate
from sjq.worker.recovery import Recovery

_log = logging.getLogger("sjq.worker")


class Claims:
    """The gates of a worker's topics, and the locks that open them."""

    def __init__(self, broker: Broker, worker: str, lease_s: float) -> None:
        self._broker, self._worker, self._lease_s = broker, worker, lease_s
        self.gates: dict[str, Gate] = {}
        self.awaited: Mapping[str, str] = {}
        """Topics that are not locked yet, and the silent or dying worker whose end or return is waited for."""
        self._locked_first: list[str] = []

    def held(self) -> list[str]:
        """Return the topics that are locked for us; those that were locked before they had a gate, too."""
        gates = dict(list(self.gates.items()))  # the heartbeat asks while topics are added
        first = [name for name in self._locked_first if name not in gates]
        return first + [name for name, gate in gates.items() if gate.locked]

    def lock_all(self, topics: Collection[Topic], recovery: Recovery, go_on: Callable[[], bool]) -> bool:
        """Lock all topics or none; what a dead worker left is waited for, as long as `go_on` says so.

        False when it was told to stop. Raises LockHeld when a worker that lives has one of them.
        """
        names = [topic.name for topic in topics]
        said = False
        while True:
            cut_off = recovery.cut_off(names)
            held = self._broker.holders(names) if cut_off else self._broker.lock(names, self._worker, self._lease_s)
            left = recovery.free(held)
            if alive := [holder for holder in left if not _will_end(holder)]:
                raise LockHeld("; ".join(_described(holder) for holder in alive))
            if not held and not cut_off:
                self._locked_first = names
                return True
            waited_for = [*(holder.worker for holder in left), *cut_off.values()]
            if waited_for and not said:
                said = True
                within = f"up to {self._lease_s:g} s for what worker {shown(waited_for[0])} left"
                _log.info("waiting %s", within, extra={"event": "waiting"})
            if waited_for and not go_on():
                return False

    def lock_free(self, recovery: Recovery) -> bool:
        """Lock the topics we stand by for, as far as they are free; tell whether there was one.

        What dead workers left of a topic is taken back before it counts as ours, to be taken before what waits.
        """
        wanted = {name: gate for name, gate in self.gates.items() if not gate.locked}
        awaited = dict(recovery.cut_off(wanted))
        won = False
        for name in [name for name in wanted if name not in awaited]:
            holders = self._lock(name, recovery)
            if holders and _will_end(holders[0]):
                awaited[name] = holders[0].worker
            if not holders:
                recovery.recover([wanted[name].topic])
                wanted[name].locked = won = True
        self.awaited = awaited
        return won

    def _lock(self, topic: str, recovery: Recovery) -> Sequence[Holder]:
        """Lock a topic, and return its holders if that cannot be."""
        held = self._broker.lock([topic], self._worker, self._lease_s)
        if held and not recovery.free(held):
            held = self._broker.lock([topic], self._worker, self._lease_s)
        return held

    def lose(self, topics: Collection[str]) -> None:
        """Stand by for topics whose locks were lost."""
        for name in topics:
            if (gate := self.gates.get(name)) and gate.locked:
                gate.locked = False
                text = "topic %s was unlocked, or taken over by another worker: standing by for it"
                _log.warning(text, name, extra={"event": "lock_lost", "topic": name})

    def described(self) -> str:
        """Return what is served, what is stood by for, and who is waited for."""
        served = ", ".join(sorted(self.held())) or "no topic yet"
        others = sorted(name for name, gate in self.gates.items() if not gate.locked and name not in self.awaited)
        text = f"serves {served}"
        if others:
            text += f"; stands by for {', '.join(others)}, which other workers hold"
        for name, worker in self.awaited.items():
            text += f"; waits up to {self._lease_s:g} s for worker {shown(worker)}, which was last seen at {name}"
        return text


def _will_end(holder: Holder) -> bool:
    """Tell whether a lock is a dead worker's, which ends with its last process, or by its expiry."""
    return identity.is_dead(holder.facts) or (not holder.facts and holder.expires)


def _described(holder: Holder) -> str:
    if holder.expires:
        return f"{holder.described()}: stop it first"
    return (
        f"topic {holder.topic!r} is locked by {holder.worker!r} without expiry, as an older sjq did; if that worker "
        f"has ended: sjq unlock {holder.topic}"
    )
