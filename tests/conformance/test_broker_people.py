"""What people ask for: get, list, find, counts, topics, attachment, describe."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from servers import Wire

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import Error
from sjq.outcomes import succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, forget, ids_of, job, several, waiting

UNHEARD = "unheard of"


def test_nobody_knows_an_unknown_job(broker: Broker) -> None:
    assert broker.get(UNHEARD) is None
    assert broker.get("") is None
    assert broker.attachment(UNHEARD) is None
    assert broker.find(UNHEARD, 5) == []


def test_get_and_list_say_the_same_of_a_job(broker: Broker, wire: Wire) -> None:
    hand = Hand(broker)
    fail(broker, "failed")
    create(broker, "processing", "waiting")
    wire.push(TOPIC, "foreign", '{"data": 1, "created_at": "2026-11-21T23:15:01Z", "parent_job_id": "p"}')
    hand.lease()
    for state in (State.FAILED, State.PROCESSING, State.INCOMING):
        for listed in broker.list(TOPIC, state):
            known = broker.get(listed.job_id)
            assert known is not None
            assert known.data is not None
            assert changed(known, data=None) == listed


def test_a_waiting_job_says_since_when_it_waits(broker: Broker) -> None:
    message = job("a")
    broker.create([message])
    known = broker.get("a")
    assert known is not None
    assert known.since == message.created_s


def test_list_pages_by_position(broker: Broker) -> None:
    ids = several(1234)
    create(broker, *ids)
    assert ids_of(broker.list(TOPIC, State.INCOMING)) == ids[:100]
    assert ids_of(broker.list(TOPIC, State.INCOMING, after=100)) == ids[100:200]
    assert ids_of(broker.list(TOPIC, State.INCOMING, after=450, limit=600)) == ids[450:1050]
    assert ids_of(broker.list(TOPIC, State.INCOMING, after=1200, limit=100)) == ids[1200:]
    assert broker.list(TOPIC, State.INCOMING, after=1234) == []
    assert broker.list(TOPIC, State.INCOMING, limit=0) == []
    assert waiting(broker) == ids


@pytest.mark.parametrize("state", list(State))
def test_a_topic_without_jobs_lists_none_in_any_state(broker: Broker, state: State) -> None:
    assert broker.list(TOPIC, state) == []


def test_states_that_share_a_list_are_told_apart(broker: Broker, wire: Wire) -> None:
    ids = fail(broker, *several(6))
    for job_id, state in zip(ids, ["failed", "timedout", "cancelled"] * 2, strict=True):
        wire("HSET", f"job_state:{job_id}", "state", state)
    assert ids_of(broker.list(TOPIC, State.FAILED)) == [ids[0], ids[3]]
    assert ids_of(broker.list(TOPIC, State.TIMEDOUT)) == [ids[1], ids[4]]
    assert ids_of(broker.list(TOPIC, State.CANCELLED, limit=1)) == [ids[2]]


def test_find_tells_ids_by_their_beginning(broker: Broker) -> None:
    create(broker, "job-1", "job-2", "other", "a job-1")
    assert broker.find("job-", 10) == ["job-1", "job-2"]
    assert broker.find("job-1", 10) == ["job-1"]
    assert broker.find("b-", 10) == []
    assert broker.find("", 10) == ["a job-1", "job-1", "job-2", "other"]


def test_find_keeps_to_its_limit(broker: Broker) -> None:
    ids = several(50)
    create(broker, *ids)
    found = broker.find("job-", 7)
    assert len(found) == 7
    assert set(found) < set(ids)
    assert len(broker.find("job-", 50)) == 50


def test_find_sees_jobs_in_every_state(broker: Broker) -> None:
    hand = Hand(broker)
    fail(broker, "job-failed")
    create(broker, "job-succeeded", "job-processing", "job-waiting")
    assert broker.settle(hand.lease(), succeeded())
    hand.lease()
    assert broker.find("job-", 10) == ["job-failed", "job-processing", "job-succeeded", "job-waiting"]


@pytest.mark.parametrize("begin", ["*", "?", "[a]", "[^a]", "\\", "\\*", "a*", "[", "]", "{a,b}", "^", "-"])
def test_find_takes_glob_characters_literally(broker: Broker, begin: str) -> None:
    create(broker, begin + "1", "a1", "b1", "x", "\\\\", begin + "2")
    expected = sorted({name for name in (begin + "1", "a1", "b1", "x", "\\\\", begin + "2") if name.startswith(begin)})
    assert broker.find(begin, 10) == expected


def test_topics_are_all_that_were_ever_heard_of(broker: Broker, wire: Wire) -> None:
    create(broker, "a", topic="b.second")
    create(broker, "b", topic="a-first")
    wire.push("foreign", "c", '{"data": 1}')
    assert broker.topics() == ["a-first", "b.second", "foreign"]
    Hand(broker).drain("a-first")
    Hand(broker).drain("foreign")
    assert broker.topics() == ["a-first", "b.second", "foreign"]


def test_a_topic_that_only_an_older_sjq_worked_on_is_heard_of(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", '{"data": 1}')
    wire("RPUSH", "processing:older", "a")
    assert broker.topics() == ["older"]


def test_counts_are_by_topic_and_state(broker: Broker) -> None:
    hand = Hand(broker)
    fail(broker, "f1", "f2", topic="two")
    create(broker, "a", "b", "c", topic="one")
    hand.lease("one")
    one, two, unheard = broker.counts(["two", UNHEARD, "one"])
    assert (one.topic, two.topic, unheard.topic) == ("one", "two", UNHEARD)
    assert one.states == {State.INCOMING: 2, State.PROCESSING: 1, State.FAILED: 0, State.SCHEDULED: 0}
    assert two.states == {State.INCOMING: 0, State.PROCESSING: 0, State.FAILED: 2, State.SCHEDULED: 0}
    assert two.totals == {"created": 2, "taken": 2, "failed": 2}
    assert unheard.states == {State.INCOMING: 0, State.PROCESSING: 0, State.FAILED: 0, State.SCHEDULED: 0}
    assert unheard.totals == {}
    assert broker.counts([]) == []


def test_the_attachment_can_be_looked_at_until_success(broker: Broker) -> None:
    broker.create([changed(job("a"), attachment=b"\0\xff"), job("none")])
    hand = Hand(broker)
    assert broker.attachment("a") == b"\0\xff"
    lease = hand.lease()
    assert broker.attachment("a") == b"\0\xff"
    assert broker.settle(lease, broke)
    assert broker.attachment("a") == b"\0\xff"
    broker.requeue(TOPIC, [State.FAILED])
    assert broker.settle(hand.lease(), succeeded())
    assert broker.attachment("a") is None
    assert broker.attachment("none") is None


def test_a_job_of_a_malformed_message_can_be_looked_at(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", "no JSON")
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.topic, known.data) == (State.INCOMING, TOPIC, None)
    Hand(broker).malformed()
    assert [one.data for one in broker.list(TOPIC, State.FAILED)] == [None]


def test_words_of_a_newer_sjq_are_no_crash_and_hide_no_other_jobs(broker: Broker, wire: Wire) -> None:
    fail(broker, "a", "b", "c")
    wire("HSET", "job_state:a", "state", "paused")
    wire("HSET", "job_state:b", "reason", "moonlight")
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["b", "c"]
    with suppress(Error):
        broker.get("a")
    with pytest.raises(Error, match="paused"):
        broker.delete(["a"])
    assert broker.get("b") is not None
    assert broker.requeue(TOPIC, [State.FAILED]) == ["b", "c"]


def test_a_broker_says_where_it_is(broker: Broker, backend: str, broker_config: Config) -> None:
    where = broker.describe()
    expected = {"memory": "memory", "embedded": str(broker_config.root)}
    assert expected.get(backend, broker_config.broker or "") in where


def test_closing_one_broker_leaves_others_at_work(broker: Broker, broker_config: Config) -> None:
    third = open_broker(broker_config)
    create(third, "a")
    third.close()
    third.close()
    assert Hand(broker).drain() == ["a"]


@pytest.mark.parametrize("prefix", ["", "{sjq}:", "a[b]*?\\", "grün ", "x:incoming:", "%s"])
def test_any_prefix_keeps_its_keys_to_itself(broker_config: Config, broker: Broker, prefix: str) -> None:
    strangers = fail(broker, "stranger")
    mine = open_broker(replace(broker_config, prefix=broker_config.prefix + prefix + "/"))
    try:
        hand = Hand(mine)
        hand.beat()
        assert set(mine.workers()) == {hand.id}
        assert broker.workers() == {}
        assert (mine.find("", 5), mine.topics()) == ([], [])
        create(mine, "a", "b")
        assert mine.find("", 5) == ["a", "b"]
        assert mine.topics() == [TOPIC]
        assert mine.lock([TOPIC], hand.id, 60) == []
        assert broker.holders([TOPIC]) == []
        assert hand.drain() == ["a", "b"]
        mine.leave(hand.id, [TOPIC])
        mine.confirm(["a", "b"])
        assert broker.find("", 5) == strangers
        assert [event.job_id for event in broker.events()] == ["stranger"] * 3
    finally:
        forget(mine)
