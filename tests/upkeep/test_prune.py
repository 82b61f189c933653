"""What is old goes, from the broker and from `job_data/`, and nothing else does."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from conformance.jobs import TOPIC, Hand, create, ids_of, state_of, waiting
from unit.test_trees import deep

from sjq import clock, trees
from sjq.clock import rfc3339
from sjq.config import TopicPolicy
from sjq.errors import LockHeld
from sjq.outcomes import released
from sjq.prune import Pace, Pruning, Rules, Stopped, turn_to_prune
from sjq.records import KINDS
from sjq.states import State

from .house import DAY_S, House

Found = dict[tuple[str, State], tuple[int, int]]


def prune(house: House, **rules: Any) -> Found:
    """Prune, after a look that changes nothing and sees the same coming."""
    before = house.everything()
    seen = _run(house, look=True, **rules)
    assert house.everything() == before
    found = _run(house, look=False, **rules)
    assert found == seen
    return found


def _run(house: House, *, look: bool, **rules: Any) -> Found:
    pace = Pace(threading.Event())
    with turn_to_prune(house.config.root) as turn:
        pruned = Pruning(house.broker, house.folder, Rules(**rules), pace, None if look else turn).run()
    return {key: (found.jobs, found.bytes) for key, found in pruned.items()}


# By age.


def test_what_is_older_goes_and_what_is_younger_stays(house: House) -> None:
    for state in (State.SUCCEEDED, State.FAILED, State.TIMEDOUT, State.CANCELLED):
        house.ended(f"old {state}", state, 40 * DAY_S)
        house.ended(f"young {state}", state, 20 * DAY_S)
    size = sum(house.job_data.size())
    found = prune(house, older_than=30 * DAY_S)
    assert found.keys() == {(TOPIC, s) for s in (State.SUCCEEDED, State.FAILED, State.TIMEDOUT, State.CANCELLED)}
    assert {jobs for jobs, _ in found.values()} == {1}
    assert sum(freed for _, freed in found.values()) == size - sum(house.job_data.size())
    assert {name.partition("%20")[0] for name in house.recorded()} == {"young"}
    assert all(name.startswith("young") for name in house.files())
    assert {job.job_id.split()[0] for job in house.broker.ended(TOPIC)} == {"young"}
    assert prune(house, older_than=30 * DAY_S) == {}


def test_all_files_of_a_record_go(house: House) -> None:
    house.ended("a", State.FAILED, DAY_S)
    for kind in KINDS:
        (house.folder / f"a-{kind}").touch()
    (house.folder / "a-files" / "deep").mkdir(parents=True)
    (house.folder / "a-files" / "deep" / "file").write_bytes(b"x" * 5000)
    os.utime(house.folder / "a-input.json", (1, 1))
    house.ended("b", State.FAILED, 0)
    assert prune(house, older_than=DAY_S / 2)[TOPIC, State.FAILED][1] > 105_000
    assert {name[0] for name in house.files()} == {"b"}


def test_states_and_topics_can_be_chosen(house: House) -> None:
    for topic in ("one", "two"):
        house.ended(f"{topic}-failed", State.FAILED, DAY_S, topic)
        house.ended(f"{topic}-succeeded", State.SUCCEEDED, DAY_S, topic)
    assert prune(house, older_than=0.0, states=frozenset({State.FAILED}), topic="one").keys() == {("one", State.FAILED)}
    assert house.recorded() == {"one-succeeded", "two-failed", "two-succeeded"}
    assert prune(house, older_than=0.0, states=frozenset({State.SUCCEEDED})).keys() == {
        ("one", State.SUCCEEDED),
        ("two", State.SUCCEEDED),
    }
    assert house.recorded() == {"two-failed"}


def test_the_configuration_says_by_topic_and_state(house: House) -> None:
    config = replace(
        house.config,
        defaults=TopicPolicy(retention={State.SUCCEEDED: 10 * DAY_S}),
        topics={"kept": TopicPolicy(), "short": TopicPolicy(retention={State.SUCCEEDED: DAY_S, State.FAILED: DAY_S})},
    )
    for topic in ("kept", "short", "other"):
        for state in (State.SUCCEEDED, State.FAILED):
            house.ended(f"{topic}-{state}-5", state, 5 * DAY_S, topic)
            house.ended(f"{topic}-{state}-15", state, 15 * DAY_S, topic)
    prune(house, configured=config)
    assert house.recorded() == {
        "kept-failed-15",
        "kept-failed-5",
        "kept-succeeded-15",
        "kept-succeeded-5",
        "other-failed-15",
        "other-failed-5",
        "other-succeeded-5",
    }


def test_without_any_rule_there_is_nothing_to_do(house: House) -> None:
    assert not Rules(configured=house.config)
    assert Rules(configured=replace(house.config, topics={"t": TopicPolicy(retention={State.FAILED: 0.0})}))
    assert Rules(size=0)
    assert Rules(older_than=0.0)


# What stays, however old.


def test_what_waits_or_runs_stays_with_its_record(house: House) -> None:
    for job_id in ("waits", "runs", "released"):
        house.ended(job_id, State.FAILED, DAY_S)
    assert house.broker.requeue(TOPIC, [State.FAILED]) == ["waits", "runs", "released"]
    hand = Hand(house.broker)
    first, second, third = (hand.lease() for _ in range(3))
    assert house.broker.settle(third, released("a stop"))
    assert house.broker.settle(first, released("a stop"))
    files = house.files()
    assert prune(house, older_than=0.0) == {}
    assert house.files() == files
    assert sorted(waiting(house.broker)) == ["released", "waits"]
    assert state_of(house.broker, second.job_id) is State.PROCESSING


def test_a_job_that_waits_by_a_foreign_message_stays(house: House) -> None:
    house.ended("a", State.SUCCEEDED, DAY_S)
    house.wire.push(TOPIC, "a", '{"data": 1}')
    assert prune(house, older_than=0.0) == {}
    assert house.recorded() == {"a"}


def test_what_is_not_published_yet_stays(house: House) -> None:
    lease = house.lease("a")
    house.seal(lease, State.FAILED, DAY_S)
    house.settle(lease, State.FAILED, DAY_S)
    files = house.files()
    assert prune(house, older_than=0.0) == {}
    assert house.files() == files
    assert ids_of(house.broker.ended(TOPIC)) == ["a"]


def test_a_job_that_failed_again_lately_stays(house: House) -> None:
    """Its record here is of an attempt of long ago; the last one ran elsewhere."""
    house.ended("a", State.FAILED, 40 * DAY_S)
    house.broker.requeue(TOPIC, [State.FAILED])
    house.settle(Hand(house.broker).lease(), State.FAILED, 20 * DAY_S)
    assert prune(house, older_than=30 * DAY_S) == {}
    assert prune(house, older_than=10 * DAY_S)[TOPIC, State.FAILED][0] == 1
    assert house.files() == set()


def test_a_record_that_cannot_be_read_stays(house: House) -> None:
    house.ended("a", State.SUCCEEDED, DAY_S)
    (house.folder / "a-metadata.json").write_text("{")
    assert prune(house, older_than=0.0) == {}
    assert "a-input.json" in house.files()


def test_an_attempts_own_files_and_other_peoples_stay(house: House) -> None:
    create(house.broker, "waits")
    house.folder.mkdir()
    for name in ("README", "x-input.json.aaaaaaaaaaaaaaaa", "input.json"):
        (house.folder / name).touch()
    assert prune(house, older_than=0.0, size=0) == {}
    assert len(house.files()) == 3


def test_a_copy_of_a_record_is_no_job(house: House) -> None:
    house.ended("a", State.SUCCEEDED, DAY_S)
    shutil.copy2(house.folder / "a-metadata.json", house.folder / "b-metadata.json")
    assert prune(house, older_than=0.0)[TOPIC, State.SUCCEEDED][0] == 1
    assert house.files() == {"b-metadata.json"}


# Jobs whose record is not here.


def test_a_job_whose_record_is_elsewhere_is_forgotten(house: House) -> None:
    lease = house.lease("a")
    house.settle(lease, State.FAILED, DAY_S)
    (house.folder / "a-input.json").unlink()
    assert prune(house, older_than=DAY_S / 2) == {(TOPIC, State.FAILED): (1, 0)}
    assert house.broker.get("a") is None


def test_a_job_that_was_lost_leaves_no_input_behind(house: House) -> None:
    lease = house.lease("a")
    os.utime(house.folder / "a-input.json", (1, 1))
    house.settle(lease, State.FAILED, DAY_S)
    assert prune(house, older_than=DAY_S / 2)[TOPIC, State.FAILED][0] == 1
    assert house.files() == set()


def test_a_job_that_was_cancelled_after_it_had_failed_goes_with_its_record(house: House) -> None:
    house.ended("a", State.FAILED, DAY_S)
    house.wire("HSET", "job_state:a", "state", "cancelled")
    assert prune(house, older_than=DAY_S / 2).keys() == {(TOPIC, State.CANCELLED)}
    assert house.files() == set()


def test_a_success_that_nobody_will_confirm_is_forgotten(house: House) -> None:
    for job_id in ("a", "b"):
        house.settle(house.lease(job_id), age_s=DAY_S)
    beside = Hand(house.broker)
    beside.beat()
    create(house.broker, "alive")
    assert house.broker.settle(beside.lease(), released("a stop"))
    house.settle(beside.lease(), age_s=DAY_S)
    for path in house.folder.iterdir():
        path.unlink()
    assert prune(house, older_than=DAY_S / 2) == {(TOPIC, State.SUCCEEDED): (2, 0)}
    assert {job.job_id for job in house.broker.unconfirmed()} == {"alive"}


# By size.


def test_the_oldest_go_until_there_is_room(house: House) -> None:
    for days in (1, 5, 3, 4, 2):
        house.ended(f"day-{days}", State.CANCELLED if days % 2 else State.SUCCEEDED, days * DAY_S)
    one = house.job_data.size_of("day-1")
    prune(house, size=3 * one + one // 2)
    assert house.recorded() == {"day-1", "day-2", "day-3"}
    assert prune(house, size=3 * one + one // 2) == {}
    prune(house, size=0)
    assert house.files() == set()
    assert list(house.broker.ended(TOPIC)) == []


def test_what_awaits_a_person_goes_last(house: House) -> None:
    for days, state in enumerate((State.SUCCEEDED, State.CANCELLED, State.FAILED, State.TIMEDOUT, State.FAILED), 1):
        house.ended(f"day-{days}", state, days * DAY_S)
    one = house.job_data.size_of("day-1")
    assert prune(house, size=3 * one + one // 2).keys() == {(TOPIC, State.SUCCEEDED), (TOPIC, State.CANCELLED)}
    assert set(house.broker.requeue(TOPIC, [State.FAILED, State.TIMEDOUT], ["day-4"])) == {"day-4"}
    assert prune(house, size=2 * one + one // 2)[TOPIC, State.FAILED][0] == 1
    assert house.recorded() == {"day-3", "day-4"}


def test_of_jobs_that_ended_in_the_same_second_no_more_go_than_have_to(house: House) -> None:
    for number in range(60):
        _ended_in_one_second(house, f"{number:02}", State.SUCCEEDED, number)
    house.ended("day-2", State.SUCCEEDED, 2 * DAY_S)
    one = house.job_data.size_of("00")
    prune(house, size=50 * one + one // 2)
    assert house.recorded() == {f"{number:02}" for number in range(10, 60)}


def _ended_in_one_second(house: House, job_id: str, state: State, hundredth: int) -> None:
    house.ended(job_id, state, DAY_S)
    path = house.folder / f"{job_id}-metadata.json"
    end = rfc3339(int(time.time() / DAY_S) * DAY_S - DAY_S + hundredth / 100)
    path.write_text(re.sub(r'"end_time": "[^"]*"', f'"end_time": "{end}"', path.read_text()))
    os.utime(path, (1, 1))


def test_jobs_of_one_second_that_have_to_stay_make_others_go(house: House) -> None:
    for number in range(6):
        _ended_in_one_second(house, f"{number}", State.FAILED, number)
    house.broker.requeue(TOPIC, [State.FAILED], ["0", "2"])
    one = house.job_data.size_of("1")
    prune(house, size=4 * one + one // 2)
    assert house.recorded() == {"0", "2", "4", "5"}


def test_what_has_to_stay_makes_others_go(house: House) -> None:
    house.ended("waits", State.FAILED, 9 * DAY_S)
    for days in (1, 2, 3):
        house.ended(f"day-{days}", State.FAILED, days * DAY_S)
    house.broker.requeue(TOPIC, [State.FAILED], ["waits"])
    one = house.job_data.size_of("day-1")
    prune(house, size=2 * one + one // 2)
    assert house.recorded() == {"waits", "day-1"}


def test_age_and_size_together_free_no_more_than_needed(house: House) -> None:
    for days in (1, 2, 3, 40):
        house.ended(f"day-{days}", State.SUCCEEDED, days * DAY_S)
    one = house.job_data.size_of("day-1")
    found = prune(house, older_than=30 * DAY_S, size=2 * one + one // 2)
    assert found[TOPIC, State.SUCCEEDED][0] == 2
    assert house.recorded() == {"day-1", "day-2"}


def test_by_size_too_only_what_was_chosen_goes(house: House) -> None:
    house.ended("a", State.SUCCEEDED, 2 * DAY_S, "one")
    house.ended("b", State.SUCCEEDED, DAY_S, "two")
    house.ended("c", State.FAILED, 3 * DAY_S, "two")
    prune(house, size=0, topic="two", states=frozenset({State.SUCCEEDED}))
    assert house.recorded() == {"a", "c"}


def test_a_folder_deeper_than_paths_go_is_in_nobodys_way(house: House) -> None:
    for days in (1, 2):
        house.ended(f"day-{days}", State.SUCCEEDED, days * DAY_S)
    one = house.job_data.size_of("day-1")
    deep(house.folder / "day-2-files")
    deep(house.folder / "somebody's")
    prune(house, size=one + one // 2)
    assert house.recorded() == {"day-1"}
    assert "day-2-files" not in house.files()
    trees.remove(house.folder / "somebody's")


# One at a time, and in portions.


def test_two_do_not_prune_at_once(house: House) -> None:
    with turn_to_prune(house.config.root), pytest.raises(LockHeld, match="another process prunes here"):
        _run(house, look=True, older_than=0.0)


def test_hundreds_go_in_portions_and_a_stop_is_heard_between_them(house: House) -> None:
    ids = [house.ended(f"{number:03}", State.FAILED, DAY_S) for number in range(150)]
    stopping = threading.Event()
    pace = Pace(stopping)
    rests = 0
    rest = pace.rest

    def count() -> None:
        nonlocal rests
        rests += 1
        if rests == 3:
            stopping.set()
        rest()

    pace.rest = count  # type: ignore[method-assign]
    with turn_to_prune(house.config.root) as turn, pytest.raises(Stopped):
        Pruning(house.broker, house.folder, Rules(older_than=0.0), pace, turn).run()
    left = house.recorded()
    assert 0 < len(left) < len(ids)
    assert set(ids_of(house.broker.ended(TOPIC))) == left
    prune(house, older_than=0.0)
    assert house.files() == set()


def test_a_clock_that_is_a_day_ahead_prunes_nothing_before_its_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.ended("young", State.FAILED, 60)
    monkeypatch.setattr(clock, "now", lambda: time.time() + DAY_S)
    assert prune(house, older_than=DAY_S / 2) == {}
    assert state_of(house.broker, "young") is State.FAILED
