"""What a worker knows of its attempts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from sjq.executors.base import Executor, Task
from sjq.jobs import Lease, Message
from sjq.worker.in_flight import InFlight

NO_EXECUTOR = cast("Executor", None)  # nothing is killed here


def lease(job_id: str, fence: str) -> Lease:
    message = Message(job_id=job_id, topic="t", data=b"1")
    return Lease(message=message, fence=fence, attempt=1, taken_at=0.0, queued_s=None)


def test_what_is_being_taken_is_known_before_it_has_begun() -> None:
    """A job whose message takes long to arrive is leased to us, and must not be given back."""
    attempts = InFlight(NO_EXECUTOR)
    slow = lease("a", "w.1")
    assert not attempts.knows(slow)
    with attempts.taking("w.1"):
        assert attempts.knows(slow)
        attempts.begin(slow)
    assert attempts.knows(slow)
    attempts.end(slow)
    assert not attempts.knows(slow)


def test_who_takes_across_a_beat_hears_of_it() -> None:
    """The beat may have come for an order to this very attempt, and not have asked for it."""
    attempts = InFlight(NO_EXECUTOR)
    with attempts.taking("w.1"):
        assert attempts.begin(lease("a", "w.1")) is False
    with attempts.taking("w.2"), attempts.taking("w.3"):
        assert attempts.leases_to_prove() == [lease("a", "w.1")]
        assert attempts.begin(lease("b", "w.2")) is True
    with attempts.taking("w.4"):
        assert attempts.begin(lease("d", "w.4")) is False


def test_an_attempt_that_is_cancelled_before_it_runs_is_killed_as_soon_as_it_does() -> None:
    killed: list[Task] = []
    attempts = InFlight(cast("Executor", SimpleNamespace(kill=killed.append)))
    task = cast("Task", "task")
    attempts.begin(lease("a", "w.1"))
    attempts.cancel({"w.1": "asked for"})
    assert killed == []
    attempts.running(lease("a", "w.1"), task)
    assert killed == [task]


def test_another_job_under_the_fence_of_an_attempt_is_a_stray() -> None:
    """A take that arrives after its own repetition leases a second job."""
    attempts = InFlight(NO_EXECUTOR)
    attempts.begin(lease("a", "w.1"))
    assert not attempts.knows(lease("b", "w.1"))


def test_an_attempt_whose_lease_is_lost_is_killed_and_no_other() -> None:
    killed: list[Task] = []
    attempts = InFlight(cast("Executor", SimpleNamespace(kill=killed.append)))
    first, second, third = (cast("Task", name) for name in ("first", "second", "third"))
    for job_id, fence in (("a", "w.1"), ("b", "w.2"), ("c", "w.3")):
        attempts.begin(lease(job_id, fence))
    attempts.running(lease("a", "w.1"), first)
    attempts.running(lease("b", "w.2"), second)
    attempts.lose({"w.1", "w.3"})
    assert killed == [first]
    attempts.running(lease("c", "w.3"), third)
    assert killed == [first, third], "one that had not begun to run is killed as soon as it does"
