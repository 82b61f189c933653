"""The heartbeat: keeps the worker, its locks and its leases alive, and knows whether the broker answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from sjq import clock
from sjq.brokers.base import Broker, Pulse
from sjq.errors import BrokerDown, Error
from sjq.worker.in_flight import InFlight

FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 1.0
LONGEST_PAUSE_S = 30.0

_log = logging.getLogger("sjq.worker")


def longer(pause_s: float) -> float:
    """Return how many seconds to wait the next time, when a call that was refused is made again and again."""
    return min(2 * pause_s, LONGEST_PAUSE_S) or FIRST_RETRY_S


class Heartbeat:
    """Beats in a thread of its own at every third of a lease, and without pause while the broker is away."""

    def __init__(
        self,
        broker: Broker,
        worker: str,
        *,
        lease_s: float,
        facts: Callable[[], Mapping[str, str]],
        topics: Callable[[], Collection[str]],
        in_flight: InFlight,
        on_lost_locks: Callable[[Collection[str]], None],
    ) -> None:
        self._broker, self._worker, self._lease_s = broker, worker, lease_s
        self._facts, self._topics, self._in_flight = facts, topics, in_flight
        self._on_lost_locks = on_lost_locks
        self._changed = threading.Condition()
        self._connected_since: float | None = None
        self._last_beat = (clock.monotonic(), clock.now())
        self._offset_s: float | None = None
        """How far the broker's clock is ahead of our monotonic one."""
        self._begun = self._ended = 0
        """How many beats were begun, and how many of them answered."""
        self._due = False
        self._ending = False
        self._gave_up = False
        self._was_away = False
        self._said_away = False
        """Whether people were told so, and wait to hear that it is back."""
        self._thread = threading.Thread(target=self._run, name="sjq-heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, so that the worker is known before it locks anything, and go on in the background.

        Raises BrokerDown when the broker cannot be reached.
        """
        self._beat()
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Stop beating; wait at most `seconds` for a beat that is under way."""
        with self._changed:
            self._ending = self._due = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def give_up_waiting(self) -> None:
        """Let nobody wait for the broker any longer: the worker ends."""
        with self._changed:
            self._gave_up = True
            self._changed.notify_all()

    def connected_for_s(self) -> float:
        """How long the broker has answered without a break."""
        with self._changed:
            if self._connected_since is None or self._is_late():
                return 0.0
            return clock.monotonic() - self._connected_since

    def may_take_expired_locks(self) -> bool:
        """Whether an expired lock means that its holder is gone: after an outage everybody's has expired."""
        with self._changed:
            was_away = self._was_away or self._is_late()
        return not was_away or self.connected_for_s() >= self._lease_s

    def wait_for_broker(self, why: str, pause_s: float) -> None:
        """Report that the broker did not answer, or refuses us, and wait until the heartbeat is answered.

        Waits for `pause_s` in any case: it may answer the heartbeat, and no other call. Raises BrokerDown when the
        worker ends meanwhile.
        """
        with self._changed:
            self._lost(why)
            self._due = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._connected_since is not None or self._gave_up)
            self._changed.wait_for(lambda: self._gave_up, pause_s)
            if self._gave_up:
                raise BrokerDown("the broker did not come back before the worker ended")

    def beat_now(self) -> None:
        """Beat at once: something that the broker should know has changed."""
        with self._changed:
            self._due = True
            self._changed.notify_all()

    def confirm(self) -> None:
        """Return behind a beat that was sent after now, or when the broker is away."""
        with self._changed:
            begun = self._begun
            self._due = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended > begun or self._connected_since is None, self._lease_s)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            with self._changed:
                pause = self._lease_s / 3 if self._connected_since is not None else retry_s
                if self._connected_since is not None:
                    self._changed.wait_for(lambda: self._due, pause)
                else:
                    self._changed.wait_for(lambda: self._ending, pause)
                self._due = False
                if self._ending:
                    return
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - a heartbeat that ends would lose every lease
                if not isinstance(error, Error):
                    _log.exception("the heartbeat failed", extra={"event": "fault"})
                with self._changed:
                    self._lost(str(error))
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            else:
                retry_s = FIRST_RETRY_S

    def _beat(self) -> None:
        """Beat once. After an outage this comes first: before it, nobody else of this worker is let through."""
        with self._changed:
            self._begun += 1
        sent, expired, pulse = self._ask()
        if not expired and (self._is_late() or self._has_jumped(sent, pulse)):
            # The answer was so long on its way, or the broker's clock jumped so far, that it is of no use: our locks
            # may have expired already, and those of others.
            sent, _, pulse = self._ask()
        self._last_beat = sent
        self._offset_s = pulse.time - sent[0]
        if pulse.lost_leases:
            self._in_flight.lose(pulse.lost_leases)
        if pulse.cancelled:
            self._in_flight.cancel(pulse.cancelled)
        if pulse.lost_locks:
            self._on_lost_locks(pulse.lost_locks)
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()
            if self._connected_since is None:
                self._connected_since = clock.monotonic()
                if self._said_away:
                    self._said_away = False
                    _log.warning("the broker answers again", extra={"event": "connected"})

    def _ask(self) -> tuple[tuple[float, float], bool, Pulse]:
        """Return when a beat was sent, whether our locks may have expired by then, and its answer."""
        with self._changed:
            if self._is_late():
                self._connected_since = None
                self._was_away = True
            expired = self._connected_since is None
        sent = (clock.monotonic(), clock.now())
        pulse = self._broker.heartbeat(
            self._worker,
            self._facts(),
            lease_s=self._lease_s,
            topics=self._topics(),
            leases=self._in_flight.leases_to_prove(),
            expired=expired,
        )
        return sent, expired, pulse

    def _is_late(self) -> bool:
        """Tell whether so long has passed since the last beat that locks and leases may have expired.

        Those of others too: whoever had renewed his a third of a lease before the break has none after two thirds. Not
        the broker alone may have been away, or slow: a worker can be stopped, or sleep with the whole machine, for
        which one of the clocks stands still.
        """
        monotonic, wall = self._last_beat
        return max(clock.monotonic() - monotonic, clock.now() - wall) >= self._lease_s * 2 / 3

    def _has_jumped(self, sent: tuple[float, float], pulse: Pulse) -> bool:
        """Tell whether the broker's clock jumped since the last beat; after that, it is as if it had been away."""
        if self._offset_s is None:
            return False
        jump_s = pulse.time - sent[0] - self._offset_s
        if abs(jump_s) < self._lease_s / 3:
            return False
        with self._changed:
            self._connected_since = None
            self._was_away = True
        text = "the broker's clock jumped by %+.1f s: for one lease nobody is judged by what expired"
        _log.warning(text, jump_s, extra={"event": "clock_jumped"})
        return True

    def _lost(self, why: str) -> None:
        if self._connected_since is not None:
            self._connected_since = None
            self._was_away = True
        if not self._said_away:
            self._said_away = True
            _log.warning("the broker is away: %s; trying again", why, extra={"event": "disconnected"})
