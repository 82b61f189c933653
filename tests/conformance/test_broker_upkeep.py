"""What no step leaves so is found and mended, each in one step that looks again; and what is old is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from msgspec.structs import replace as changed
from servers import Wire, until

from sjq.brokers.base import Broker, Fault, Outdated
from sjq.jobs import Lease
from sjq.outcomes import released, succeeded
from sjq.states import State

from .jobs import TOPIC, Hand, broke, create, fail, ids_of, job, several, state_of, story, waiting

SOUND = '{"data": 1, "topic": "resize"}'


def only(broker: Broker) -> Fault:
    """Return the one fault that there is."""
    (fault,) = broker.check()
    return fault


def mended(broker: Broker) -> Fault:
    """Mend the one fault that there is, so that none is left, and return it."""
    fault = only(broker)
    assert fault.repair
    assert broker.mend(fault, lease_s=60)
    assert list(broker.check()) == []
    assert not broker.mend(fault, lease_s=60), "what is mended is not mended again"
    return fault


def test_there_is_no_fault_in_what_the_steps_leave(broker: Broker, wire: Wire) -> None:
    hand = Hand(broker)
    fail(broker, "failed", "again")
    broker.requeue(TOPIC, [State.FAILED], ["again"])
    hand.beat(topics=[TOPIC])
    broker.lock([TOPIC], hand.id, 60)
    create(broker, "released", "leased", "succeeded", "confirmed", *several(600))
    assert broker.settle(hand.lease(), released("a stop"))
    hand.lease()
    for _ in range(3):
        assert broker.settle(hand.lease(), succeeded([job()]))
    broker.confirm(["leased"])
    wire.push(TOPIC, "foreign", '{"data": 1, "attachment": true}')
    wire("SET", "job_attachment:foreign", "x")
    assert list(broker.check()) == []


# A job in a place.


@pytest.mark.parametrize("queue", ["incoming", "processing", "failed"])
def test_an_id_that_is_there_twice_is_left_once(broker: Broker, wire: Wire, queue: str) -> None:
    _one_in(broker, queue)
    wire("RPUSH", f"{queue}:{TOPIC}", "a")
    fault = mended(broker)
    assert (fault.code, fault.job_id) == ("twice", "a")
    assert wire.ids(f"{queue}:{TOPIC}") == [b"a"]
    assert story(broker, "a")[-1] == "dropped"


def _one_in(broker: Broker, queue: str) -> None:
    create(broker, "a")
    if queue == "processing":
        Hand(broker).lease()
    elif queue == "failed":
        Hand(broker).drain(outcome=broke)


def test_a_copy_far_from_the_other_is_found(broker: Broker, wire: Wire) -> None:
    ids = create(broker, *several(1200))
    wire("RPUSH", f"incoming:{TOPIC}", ids[1])
    assert mended(broker).code == "twice"
    assert waiting(broker) == ids


@pytest.mark.parametrize("home", ["incoming", "processing", "failed"])
@pytest.mark.parametrize("other", ["incoming", "processing", "failed", "scheduled"])
def test_a_second_place_is_left(broker: Broker, wire: Wire, home: str, other: str) -> None:
    if home == other:
        return
    _one_in(broker, home)
    if home == "incoming":
        assert broker.settle(Hand(broker).lease(), released("a stop"))  # or it has no state yet
    _put(wire, other)
    fault = mended(broker)
    assert (fault.code, fault.place) == ("stray", other)
    assert wire.ids(f"{home}:{TOPIC}") == [b"a"]
    assert not wire("EXISTS", f"{other}:{TOPIC}")


@pytest.mark.parametrize("home", ["incoming", "processing", "failed"])
@pytest.mark.parametrize("other", ["incoming", "processing", "failed", "scheduled"])
def test_a_job_in_a_wrong_place_alone_goes_to_where_its_state_says(
    broker: Broker, wire: Wire, home: str, other: str
) -> None:
    if home == other:
        return
    _one_in(broker, home)
    if home == "incoming":
        assert broker.settle(Hand(broker).lease(), released("a stop"))
    wire("DEL", f"{home}:{TOPIC}")
    _put(wire, other)
    assert mended(broker).code == "stray"
    assert wire.ids(f"{home}:{TOPIC}") == [b"a"]
    assert not wire("EXISTS", f"{other}:{TOPIC}")


def _put(wire: Wire, place: str) -> None:
    if place == "scheduled":
        wire("ZADD", f"{place}:{TOPIC}", 1, "a")
    else:
        wire("RPUSH", f"{place}:{TOPIC}", "a")


@pytest.mark.parametrize("state", ["incoming", "processing", "failed", "timedout", "cancelled"])
def test_a_job_in_no_list_goes_to_where_its_state_says(broker: Broker, wire: Wire, state: str) -> None:
    wire("SET", "job_data:a", SOUND)
    wire("HSET", "job_state:a", "state", state, "topic", TOPIC, "fence", "w.1", "worker", "w")
    create(broker, "b")
    assert mended(broker).code == "homeless"
    place = state if state in ("incoming", "processing") else "failed"
    assert b"a" in wire.ids(f"{place}:{TOPIC}")
    if state == "incoming":
        assert waiting(broker) == ["a", "b"], "it is taken next"


def test_a_scheduled_job_in_no_list_is_due(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", SOUND)
    wire("HSET", "job_state:a", "state", "scheduled", "topic", TOPIC)
    wire("HSET", "stats:" + TOPIC, "created", 1)
    assert mended(broker).code == "homeless"
    assert wire("ZSCORE", f"scheduled:{TOPIC}", "a") > 1.6e12
    wire("DEL", f"scheduled:{TOPIC}", wire.key("job_state:a"), wire.key("job_data:a"))


def test_a_job_that_runs_is_settled_though_it_was_put_back(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    lease = Hand(broker).lease()
    wire("DEL", f"processing:{TOPIC}")
    assert mended(broker).code == "homeless"
    assert broker.settle(lease, succeeded())
    assert not wire("EXISTS", f"processing:{TOPIC}")


def test_a_state_without_a_topic_asks_the_message(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", SOUND)
    wire("SET", "job_data:b", '{"data": 1}')
    for job_id in "ab":
        wire("HSET", f"job_state:{job_id}", "state", "failed")
    faults = {fault.job_id: fault for fault in broker.check()}
    assert faults["b"].repair is None
    assert not broker.mend(faults["b"], lease_s=60)
    assert broker.mend(faults["a"], lease_s=60)
    assert only(broker).job_id == "b"
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    assert Hand(broker).drain() == ["a"]
    wire("DEL", "job_state:b", wire.key("job_data:b"))


def test_a_job_moved_to_another_topic_by_hand_is_where_it_is(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    assert broker.settle(Hand(broker).lease(), released("a stop"))
    wire("DEL", f"incoming:{TOPIC}")
    wire("RPUSH", "incoming:other", "a")
    assert list(broker.check()) == []
    wire("RPUSH", f"incoming:{TOPIC}", "a")
    assert mended(broker).place == "incoming"
    assert waiting(broker) == ["a"]
    assert waiting(broker, "other") == []


def test_a_job_that_was_pushed_to_two_topics_is_for_people(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", SOUND)
    wire("RPUSH", "incoming:other", "a")
    fault = only(broker)
    assert (fault.code, fault.repair) == ("torn", None)
    assert not broker.mend(fault, lease_s=60)
    assert Hand(broker).drain("other") == ["a"]
    assert Hand(broker).take() is None


# Messages.


def test_an_id_that_waits_without_a_message_fails_as_a_take_would_do(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a")
    assert mended(broker).code == "messageless"
    known = broker.get("a")
    assert known is not None
    assert (known.state, known.reason, known.topic) == (State.FAILED, "message", TOPIC)
    assert story(broker, "a") == ["failed"]
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    assert Hand(broker).malformed().job_id == "a"


def test_an_id_that_waits_on_a_topic_without_a_name_is_mended_too(broker: Broker, wire: Wire) -> None:
    wire.push("", "a")
    assert mended(broker).code == "messageless"


def test_a_message_that_names_its_topic_is_pushed_for_its_producer(broker: Broker, wire: Wire) -> None:
    create(broker, "b")
    wire("SET", "job_data:a", SOUND)
    assert only(broker).patient
    assert mended(broker).code == "unpushed"
    assert waiting(broker) == ["b", "a"]
    wire("RPUSH", f"incoming:{TOPIC}", "a")
    assert Hand(broker).drain() == ["b", "a"], "a push that comes after all is dropped"


def test_a_push_that_comes_meanwhile_is_not_repeated(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_data:a", SOUND)
    fault = only(broker)
    wire("RPUSH", "incoming:other", "a")
    assert not broker.mend(fault, lease_s=60)
    assert Hand(broker).drain("other") == ["a"]


@pytest.mark.litters("a message that nobody pushes")
@pytest.mark.parametrize("text", ['{"data": 1}', '{"data": 1, "topic": "../x"}', "spoilt", '{"topic": "resize"}'])
def test_a_message_without_a_sound_topic_is_kept(broker: Broker, wire: Wire, text: str) -> None:
    wire("SET", "job_data:a", text)
    fault = only(broker)
    assert (fault.code, fault.repair) == ("unpushed", None)
    assert not broker.mend(fault, lease_s=60)
    assert wire("GET", "job_data:a") == text.encode()


@pytest.mark.litters("an attachment that nobody pushes")
def test_an_attachment_alone_is_kept(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_attachment:a", "x")
    fault = only(broker)
    assert (fault.code, fault.repair) == ("attachment", None)
    assert wire("GET", "job_attachment:a") == b"x"


def test_a_message_that_was_set_anew_after_the_success_goes(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    Hand(broker).drain()
    wire("SET", "job_data:a", SOUND)
    wire("SET", "job_attachment:a", "x")
    faults = list(broker.check())
    assert {fault.code for fault in faults} == {"anew"}
    assert broker.mend(faults[0], lease_s=60)
    assert list(broker.check()) == []
    assert state_of(broker, "a") is State.SUCCEEDED


# States.


def test_a_failed_job_without_a_state_can_be_sent_back_again(broker: Broker, wire: Wire) -> None:
    fail(broker, "a", "b")
    wire("DEL", "job_state:a", wire.key("job_state:b"), wire.key("job_data:b"))
    faults = {fault.job_id: fault for fault in broker.check()}
    assert {job_id: fault.code for job_id, fault in faults.items()} == {"a": "stateless", "b": "nothing"}
    assert all(broker.mend(fault, lease_s=60) for fault in faults.values())
    assert list(broker.check()) == []
    assert broker.requeue(TOPIC, [State.FAILED]) == ["a"]
    assert Hand(broker).drain() == ["a"]


def test_what_is_left_of_a_state_and_of_nothing_else_goes(broker: Broker, wire: Wire) -> None:
    wire("HSET", "job_state:a", "topic", TOPIC, "attempt", 3)
    wire("HSET", "job_state:b", "losses", 1)
    faults = list(broker.check())
    assert {(fault.code, fault.job_id) for fault in faults} == {("hollow", "a"), ("hollow", "b")}
    assert all(broker.mend(fault, lease_s=60) for fault in faults)
    assert not broker.mend(faults[0], lease_s=60)
    assert list(broker.check()) == []
    assert not wire("EXISTS", "job_state:a", wire.key("job_state:b"))


def test_what_is_left_of_a_state_stays_where_its_job_waits(broker: Broker, wire: Wire) -> None:
    wire("HSET", "job_state:a", "topic", TOPIC, "attempt", 3)
    (fault,) = broker.check()
    wire.push(TOPIC, "a", SOUND)
    assert not broker.mend(fault, lease_s=60)
    assert list(broker.check()) == []
    assert Hand(broker).lease().attempt == 4


def test_a_message_that_was_set_anew_goes_though_nobody_knows_its_topic(broker: Broker, wire: Wire) -> None:
    wire("HSET", "job_state:a", "state", "succeeded")
    wire("SET", "job_data:a", '{"data": 1}')
    assert mended(broker).code == "anew"
    wire("DEL", "job_state:a")


@pytest.mark.litters("a state of a newer sjq")
def test_a_state_that_is_not_known_is_kept(broker: Broker, wire: Wire) -> None:
    create(broker, "a")
    wire("HSET", "job_state:a", "state", "dreaming")
    fault = only(broker)
    assert (fault.code, fault.repair) == ("unknown", None)
    assert "dreaming" in fault.what


@pytest.mark.litters("keys of another program")
@pytest.mark.parametrize(
    "name", ["incoming:t", "failed:t", "scheduled:t", "job_state:a", "job_data:a", "worker:w", "stats:t"]
)
def test_a_key_of_a_wrong_type_is_kept(broker: Broker, wire: Wire, name: str) -> None:
    wire("PFADD", name, "x") if "data" not in name else wire("RPUSH", name, "x")
    fault = only(broker)
    assert (fault.code, fault.repair) == ("type", None)
    assert fault.where.endswith(name)
    assert not broker.mend(fault, lease_s=60)
    assert wire("EXISTS", name)


def test_keys_of_other_programs_are_none_of_ours(broker: Broker, wire: Wire) -> None:
    for name in ("job", "worker", "mine:incoming:t", "incoming", "x" * 300, b"\xff:\xff"):
        wire("SET", name, "x")
    assert list(broker.check()) == []
    for name in ("job", "worker", "mine:incoming:t", "incoming", "x" * 300, b"\xff:\xff"):
        wire("DEL", name)


def test_ids_that_are_no_text_have_faults_too(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, b"\xff\n")
    fault = mended(broker)
    assert fault.where == "\\xff\\n"
    assert fault.job_id == "\udcff\n"


# Workers.


def test_a_worker_that_never_expires_gets_a_lease(broker: Broker, wire: Wire) -> None:
    hand = Hand(broker)
    hand.beat()
    wire("PERSIST", f"worker:{hand.id}")
    fault = mended(broker)
    assert fault.code == "immortal"
    assert 0 < wire("TTL", f"worker:{hand.id}") <= 60
    wire("PERSIST", f"worker:{hand.id}")
    assert broker.mend(fault, lease_s=0.05)
    until(lambda: not hand.alive(), what="the end of the lease")


def test_unconfirmed_successes_are_told(broker: Broker) -> None:
    create(broker, "a", "b")
    fail(broker, "c", topic="other")
    hand = Hand(broker)
    hand.drain()
    broker.confirm(["b"])
    (found,) = broker.unconfirmed()
    assert (found.job_id, found.topic, found.state) == ("a", TOPIC, State.SUCCEEDED)
    assert (found.fence or "").startswith(hand.id)
    assert found.since is not None


# While jobs come and go.


def test_jobs_that_come_and_go_have_no_faults(broker: Broker, other_broker: Broker) -> None:
    """Pages are read while jobs move; what only moved is not reported, and nothing is lost by mending."""
    ids = create(broker, *several(1500))
    ending = threading.Event()
    found: list[Fault] = []

    def check() -> None:
        while not ending.is_set():
            for fault in other_broker.check():
                found.append(fault)
                other_broker.mend(fault, lease_s=60)

    checking = threading.Thread(target=check)
    checking.start()
    try:
        hand, ends = Hand(broker), {"released": 0, "failed": 0, "succeeded": 0}
        for number in range(600):
            lease = hand.take()
            assert isinstance(lease, Lease)
            kind = ("released", "failed", "succeeded")[number % 3]
            ends[kind] += 1
            child = changed(lease.message.next(TOPIC, b"1"), job_id=f"child-{number:05}")
            outcome = {"released": released("a stop"), "failed": broke, "succeeded": succeeded([child])}[kind]
            assert broker.settle(lease, outcome)
            if number % 50 == 0:
                broker.requeue(TOPIC, [State.FAILED])
    finally:
        ending.set()
        checking.join()
    assert found == []
    there = set(ids_of(broker.list(TOPIC, State.INCOMING, limit=10**6)))
    there |= set(ids_of(broker.list(TOPIC, State.FAILED, limit=10**6)))
    done = {event.job_id for event in broker.events(limit=10**6) if event.event == "succeeded"}
    assert len(done) == ends["succeeded"]
    assert {job_id for job_id in ids if job_id not in done} == {job_id for job_id in there if "child" not in job_id}


# Forgetting.


def outdated(*ids: str, state: State = State.FAILED, before: float = 2**31) -> list[Outdated]:
    return [Outdated(job_id=job_id, state=state, before=before) for job_id in ids]


def test_old_jobs_are_forgotten_and_others_kept(broker: Broker, wire: Wire) -> None:
    fail(broker, "old", "young")
    create(broker, "waits", "leased")
    broker.requeue(TOPIC, [State.FAILED], [])
    for job_id, end in (("old", "1000"), ("young", "5000")):
        wire("HSET", f"job_state:{job_id}", "end", end)
    asked = outdated("old", "young", "waits", "unheard of", before=1.0)
    assert broker.forget(asked, look=True) == ["old", "unheard of"]
    assert state_of(broker, "old") is State.FAILED
    assert broker.forget(asked) == ["old", "unheard of"]
    assert broker.get("old") is None
    assert story(broker, "old")[-1] == "deleted"
    assert ids_of(broker.list(TOPIC, State.FAILED)) == ["young"]
    assert broker.forget(outdated("old", "young", "waits")) == ["old", "young"]
    assert waiting(broker) == ["waits", "leased"]


def test_the_stub_of_a_success_lasts_on_for_its_ten_minutes(broker: Broker, wire: Wire) -> None:
    create(broker, "a", "b")
    Hand(broker).drain()
    broker.confirm(["a"])
    wire("EXPIRE", "job_state:a", 100)
    assert broker.forget(outdated("a", "b", state=State.SUCCEEDED), look=True) == ["a", "b"]
    assert [job.job_id for job in broker.unconfirmed()] == ["b"]
    assert broker.forget(outdated("a", "b", state=State.SUCCEEDED)) == ["a", "b"]
    assert wire("TTL", "job_state:a") <= 100 < wire("TTL", "job_state:b") <= 600
    wire.push(TOPIC, "b", SOUND)
    assert Hand(broker).take() is None


Step = Callable[[Broker], object]
NEW_LIVES: dict[str, Step] = {
    "sent back": lambda broker: broker.requeue(TOPIC, [State.FAILED]),
    "taken": lambda broker: (broker.requeue(TOPIC, [State.FAILED]), Hand(broker).lease()),
    "succeeded": lambda broker: (broker.requeue(TOPIC, [State.FAILED]), Hand(broker).drain()),
}


@pytest.mark.parametrize("step", NEW_LIVES.values(), ids=NEW_LIVES)
def test_a_job_with_a_new_life_is_kept(broker: Broker, step: Step) -> None:
    fail(broker, "a")
    step(broker)
    assert broker.forget(outdated("a")) == []
    assert broker.get("a") is not None


def test_a_job_whose_foreign_message_waits_is_kept(broker: Broker, wire: Wire) -> None:
    wire.push(TOPIC, "a", SOUND)
    assert broker.forget(outdated("a", state=State.SUCCEEDED)) == []
    assert waiting(broker) == ["a"]


@pytest.mark.litters("a state of a wrong type")
def test_a_job_whose_state_is_spoilt_is_kept(broker: Broker, wire: Wire) -> None:
    wire("SET", "job_state:a", "spoilt")
    assert broker.forget(outdated("a")) == []


def test_those_that_ended_badly_can_be_forgotten_while_they_are_read(broker: Broker) -> None:
    ids = fail(broker, *several(1100))
    read = []
    for found in broker.ended(TOPIC):
        read.append(found.job_id)
        assert broker.forget(outdated(found.job_id)) == [found.job_id]
    assert read == ids[::-1]
    assert list(broker.ended(TOPIC)) == []
