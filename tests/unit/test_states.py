"""The table of states, in full: every state with every event."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import pytest

from sjq.states import ENDED, TRANSITIONS, Event, Reason, State

BUILT = """
    -           created     incoming
    scheduled   due         incoming
    scheduled   cancelled   cancelled
    incoming    taken       processing
    incoming    failed      failed
    incoming    cancelled   cancelled
    processing  succeeded   succeeded
    processing  failed      failed
    processing  timedout    timedout
    processing  cancelled   cancelled
    processing  retried     scheduled
    processing  released    incoming
    processing  recovered   incoming
    processing  lost        failed
    failed      requeued    incoming
    timedout    requeued    incoming
    cancelled   requeued    incoming
    succeeded   deleted     -
    failed      deleted     -
    timedout    deleted     -
    cancelled   deleted     -
    rejected    deleted     -
"""
"""The table of states of the design, written out again, as far as it is built."""

UNREACHED = {State.INBOX, State.REJECTED}
"""States of a feature to come: review."""


def _state(word: str) -> State | None:
    return None if word == "-" else State(word)


def _built() -> dict[tuple[State | None, Event], State | None]:
    rows = [line.split() for line in BUILT.splitlines() if line.strip()]
    return {(_state(before), Event(event)): _state(after) for before, event, after in rows}


@pytest.mark.parametrize(("before", "event"), list(itertools.product([None, *State], Event)), ids=str)
def test_each_event_moves_each_state_as_the_design_says_or_not_at_all(before: State | None, event: Event) -> None:
    built = _built()
    assert ((before, event) in TRANSITIONS) == ((before, event) in built)
    assert TRANSITIONS.get((before, event)) == built.get((before, event))


def test_which_states_a_job_can_reach() -> None:
    reached: set[State | None] = {None}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert set(State) - reached == UNREACHED


def test_an_ended_job_moves_only_by_a_person() -> None:
    for (before, event), after in TRANSITIONS.items():
        if before in ENDED:
            assert event in (Event.REQUEUED, Event.DELETED)
            assert after not in ENDED


def test_a_job_that_has_not_ended_can_go_on() -> None:
    alive = {before for before, _ in TRANSITIONS if before}
    assert set(State) - ENDED - UNREACHED <= alive
    assert {event for before, event in TRANSITIONS if before is State.SUCCEEDED} == {Event.DELETED}


def test_a_new_job_is_the_only_one_that_comes_from_nothing() -> None:
    assert [event for before, event in TRANSITIONS if before is None] == [Event.CREATED]


def test_which_events_move_nothing() -> None:
    """A drop is of an id that does not wait."""
    assert set(Event) - {event for _, event in TRANSITIONS} == {Event.DROPPED}


def test_the_scripts_note_events_of_the_table_alone() -> None:
    noted: set[str] = set()
    for script in files("sjq.brokers.redis").iterdir():
        if script.name.endswith(".lua"):
            noted |= set(re.findall(r"note\('(\w+)'", script.read_text()))
    assert noted
    assert noted <= {str(event) for event in Event}


def test_the_reasons_are_those_of_the_design() -> None:
    expected = ["exit", "signal", "timeout", "memory", "limit", "lost", "output", "message", "cancelled"]
    assert [str(reason) for reason in Reason] == expected
