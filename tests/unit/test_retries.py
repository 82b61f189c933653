"""Whether a job that failed is tried again, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from sjq.config import TopicPolicy
from sjq.jobs import Lease, new_message
from sjq.outcomes import Outcome, cancelled, failed, released, succeeded, timedout
from sjq.states import Reason, State
from sjq.worker.retries import LONGEST_BACKOFF_S, next_step, pause_s

BROKE = failed(Reason.EXIT, "exit code 1")
ASKED = failed(Reason.EXIT, "it asked for another try", delay_s=60.0)
GAVE_UP = failed(Reason.EXIT, "no such customer", final=True)
VANISHED = failed(Reason.LOST, "its keeper was killed")


def lease(tries: int = 0, losses: int = 0, retries: int | None = None, backoff: float | None = None) -> Lease:
    message = changed(new_message("t", 1), retries=retries, backoff=backoff)
    return Lease(message=message, fence="w.1", attempt=1, taken_at=0, queued_s=None, tries=tries, losses=losses)


@pytest.mark.parametrize("ended", [BROKE, ASKED, timedout("it took 3 s"), failed(Reason.OUTPUT, "not JSON")], ids=str)
def test_a_try_is_followed_by_another_while_there_are_retries(ended: Outcome) -> None:
    policy = TopicPolicy(retries=2)
    assert [next_step(ended, lease(tries), policy).state for tries in range(4)] == [
        State.SCHEDULED,
        State.SCHEDULED,
        ended.state,
        ended.state,
    ]


def test_the_reason_of_a_failed_try_is_kept() -> None:
    again = next_step(timedout("it took 3 s"), lease(), TopicPolicy(retries=1))
    assert (again.reason, again.why) == (Reason.TIMEOUT, "it took 3 s")


def test_the_job_knows_better_than_its_topic() -> None:
    assert next_step(BROKE, lease(retries=1), TopicPolicy()).state is State.SCHEDULED
    assert next_step(BROKE, lease(retries=0), TopicPolicy(retries=9)).state is State.FAILED


def test_who_asks_for_another_try_and_has_none_left_fails_and_is_told() -> None:
    end = next_step(ASKED, lease(), TopicPolicy())
    assert (end.state, end.why) == (State.FAILED, "it asked for another try; no try is left (0 retries)")


def test_what_gave_up_is_not_tried_again() -> None:
    assert next_step(GAVE_UP, lease(), TopicPolicy(retries=9)) == GAVE_UP


@pytest.mark.parametrize("ended", [succeeded(), cancelled("by kim"), released("a stop")], ids=str)
def test_what_is_no_failure_stays(ended: Outcome) -> None:
    assert next_step(ended, lease(), TopicPolicy(retries=9)) == ended


def test_a_loss_is_no_try_and_has_its_own_limit() -> None:
    policy = TopicPolicy(losses=2)
    again = next_step(VANISHED, lease(), policy)
    assert (again.state, again.reason) == (State.INCOMING, Reason.LOST)
    end = next_step(VANISHED, lease(losses=1), policy)
    assert (end.state, end.reason) == (State.FAILED, Reason.LOST)
    assert end.why == "its keeper was killed; it was lost 2 times: sjq retry runs it again"
    assert "once" in (next_step(VANISHED, lease(), TopicPolicy(losses=1)).why or "")


def test_pauses_double_and_stop_growing() -> None:
    policy = TopicPolicy(retries=99, backoff=8.0)
    most = [max(pause_s(BROKE, lease(tries), policy) for _ in range(300)) for tries in range(30)]
    assert all(later >= earlier * 1.5 for earlier, later in pairwise(most[:9]))
    assert LONGEST_BACKOFF_S * 0.9 < most[-1] <= LONGEST_BACKOFF_S


@given(tries=st.integers(0, 10**6), backoff=st.floats(0, 1e9))
def test_a_pause_is_between_half_and_all_of_what_it_may_be(tries: int, backoff: float) -> None:
    pause = pause_s(BROKE, lease(tries, backoff=backoff), TopicPolicy())
    assert 0 <= pause <= max(backoff, LONGEST_BACKOFF_S)
    assert pause >= min(backoff, LONGEST_BACKOFF_S) / 2


def test_the_handlers_wish_is_kept_to_the_second() -> None:
    assert pause_s(ASKED, lease(), TopicPolicy(backoff=1)) == 60.0
