"""A slot rests after a malformed message, in proportion to what it cost, and only where it kept jobs from running."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from sjq import clock
from sjq.executors.base import Executor
from sjq.jobs import Lease, Message
from sjq.worker.flood import LONGEST_REST_S, LULL_S, SHARE, Flood
from sjq.worker.in_flight import InFlight

JOB = Lease(message=Message(job_id="a", topic="t", data=b"1"), fence="w.1", attempt=1, taken_at=0.0, queued_s=None)


class Rest(threading.Event):
    """Notes how long is to be rested, instead of resting."""

    def __init__(self) -> None:
        super().__init__()
        self.rested_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.rested_s += timeout
        return False


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])
    return time


def rested_s(attempts: InFlight, cost_s: float) -> float:
    rest = Rest()
    Flood(attempts).rest(cost_s, rest)
    return rest.rested_s


def test_a_flood_has_its_share_while_jobs_run_and_a_little_longer(now: list[float]) -> None:
    attempts = InFlight(cast("Executor", None))
    assert rested_s(attempts, 0.001) == 0.0, "nothing has run yet"
    attempts.begin(JOB)
    rest_s = rested_s(attempts, 0.001)
    assert 0.001 / (0.001 + rest_s) == pytest.approx(SHARE)
    attempts.end(JOB)
    assert rested_s(attempts, 0.001) == rest_s, "the next job may be on its way"
    now[0] += LULL_S
    assert rested_s(attempts, 0.001) == 0.0, "nothing is kept from running"


@pytest.mark.usefixtures("now")
def test_an_answer_that_came_late_is_not_paid_for() -> None:
    attempts = InFlight(cast("Executor", None))
    attempts.begin(JOB)
    assert rested_s(attempts, 60.0) == LONGEST_REST_S


def test_a_stop_ends_the_rest() -> None:
    attempts = InFlight(cast("Executor", None))
    attempts.begin(JOB)
    stopping = threading.Event()
    stopping.set()
    began = clock.monotonic()
    for _ in range(100):
        Flood(attempts).rest(60.0, stopping)
    assert clock.monotonic() < began + 100 * LONGEST_REST_S / 2
