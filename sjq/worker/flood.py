"""What keeps a flood of malformed messages from slowing down the jobs of other topics."""

from __future__ import annotations

import threading

from sjq import clock
from sjq.worker.in_flight import InFlight

SHARE = 0.05
"""How much of the time malformed messages may take, all slots together, while jobs run."""

LONGEST_REST_S = 0.1
"""A message whose answer came late, or from a broker that was away, tells nothing of what the next one costs."""

LULL_S = 0.5
"""How long after the last job's end another is still expected."""


class Flood:
    """Shared by the slots of a worker: those with malformed messages take turns, and rest after each."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._turn = threading.Lock()

    def rest(self, cost_s: float, stopping: threading.Event) -> None:
        """Rest in proportion to what a malformed message has cost, if there are jobs that it kept from running."""
        with self._turn:
            ended_at = self._in_flight.ended_at
            if self._in_flight.leases() or clock.monotonic() < ended_at + LULL_S:
                stopping.wait(min(cost_s * (1 / SHARE - 1), LONGEST_REST_S))
