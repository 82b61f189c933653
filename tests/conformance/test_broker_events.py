"""The event stream: every state change of every job, once, in order, for as long as it is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import Error
from sjq.jobs import JobEvent
from sjq.outcomes import released, succeeded
from sjq.states import TRANSITIONS, Event, State

from .jobs import TOPIC, Hand, broke, create, job, several

SLACK = 200
"""Servers cut a stream by whole nodes of a hundred entries."""


def test_no_events_is_an_empty_list(broker: Broker) -> None:
    assert broker.events() == []
    assert broker.events("0") == []
    assert broker.events("5-0") == []


def test_events_are_in_order_and_can_be_read_on_from_anywhere(broker: Broker) -> None:
    create(broker, *several(25))
    every = broker.events()
    assert [event.job_id for event in every] == several(25)
    assert {event.topic for event in every} == {TOPIC}
    read: list[JobEvent] = []
    after = "0"
    while page := broker.events(after, limit=7):
        assert len(page) <= 7
        read += page
        after = page[-1].id
    assert read == every
    assert broker.events(every[9].id) == every[10:]
    create(broker, "later")
    assert [event.job_id for event in broker.events(after)] == ["later"]


def test_every_step_of_a_life_is_an_event_that_the_table_allows(broker: Broker) -> None:
    hand = Hand(broker)
    create(broker, "a")
    assert broker.settle(hand.lease(), released("a stop"))
    hand.lease()
    broker.recover(TOPIC, dead=[hand.id], expired=[], losses=9)
    assert broker.settle(hand.lease(), broke)
    broker.requeue(TOPIC, [State.FAILED])
    hand.lease()
    broker.recover(TOPIC, dead=[hand.id], expired=[], losses=1)
    broker.delete(["a"])
    create(broker, "a")
    assert broker.settle(hand.lease(), succeeded())
    events = [Event(event.event) for event in broker.events()]
    before, during, after = events[:6], events[6:11], events[11:]
    assert before == [
        Event.CREATED, Event.TAKEN, Event.RELEASED, Event.TAKEN, Event.RECOVERED, Event.TAKEN,
    ]  # fmt: skip
    assert during == [Event.FAILED, Event.REQUEUED, Event.TAKEN, Event.LOST, Event.DELETED]
    assert after == [Event.CREATED, Event.TAKEN, Event.SUCCEEDED]
    state: State | None = None
    for event in events:
        state = TRANSITIONS[state, event]
    assert state is State.SUCCEEDED


def test_details_are_texts_whatever_the_job_is_called(broker: Broker) -> None:
    parent = changed(job("grün\n"), parent_job_id="Ü")
    broker.create([parent])
    (created,) = broker.events()
    assert created.job_id == "grün\n"
    assert created.details == {"parent": "Ü"}


def test_events_are_capped_at_about_the_configured_length(broker_config: Config, broker: Broker, wire: Wire) -> None:
    capped = open_broker(replace(broker_config, events_length=100))
    create(capped, *several(900))
    capped.close()
    assert 100 <= wire("XLEN", "events") <= 100 + SLACK
    assert broker.events(limit=10**6)[-1].job_id == several(900)[-1]
    (counts,) = broker.counts([TOPIC])
    assert counts.totals["created"] == 900


def test_events_without_a_limit_are_all_kept(broker_config: Config, broker: Broker, wire: Wire) -> None:
    endless = open_broker(replace(broker_config, events_length=None))
    create(endless, *several(900))
    assert Hand(endless).lease()
    endless.close()
    assert wire("XLEN", "events") == 901
    assert len(broker.events(limit=1000)) == 901


@pytest.mark.litters("a stream that is no stream")
@pytest.mark.parametrize("key", ["events", f"stats:{TOPIC}"])
def test_a_key_of_another_program_in_the_place_of_ours_stops_a_step_before_it_began(
    broker: Broker, wire: Wire, key: str
) -> None:
    """With no prefix, `events` may well be somebody else's: a step that cannot be noted must not be half done."""
    wire.push(TOPIC, "a", '{"data": 1}')
    wire("SET", key, "somebody else's")
    with pytest.raises(Error, match=key):
        create(broker, "b")
    assert not wire("EXISTS", "job_data:b")
    with pytest.raises(Error, match=key):
        Hand(broker).take()
    assert wire.ids(f"incoming:{TOPIC}") == [b"a"]
    assert not wire("EXISTS", "job_state:a")
