"""Whose jobs a worker takes back, and when it may."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import cast

import pytest
from conformance.jobs import TOPIC, Hand, create

from sjq.brokers.base import Broker
from sjq.config import TopicPolicy
from sjq.executors.base import Executor
from sjq.outcomes import released
from sjq.records import Record, Records
from sjq.states import State
from sjq.topics import Topic
from sjq.worker.in_flight import InFlight
from sjq.worker.recovery import Recovery

ME, SILENT = "here-boot-1-1-abcdef", "there-boot-2-2-abcdef"
LEASE_S = 15.0
SERVED = Topic(name=TOPIC, script=Path("topics/resize.py"), policy=TopicPolicy())

pytestmark = pytest.mark.parametrize("backend", ["memory"], indirect=True)


def recovery(broker: Broker, folder: Path, *, connected_for_s: float = 60.0) -> Recovery:
    return Recovery(
        broker,
        Records(folder / "job_data"),
        worker=ME,
        lock_files=folder / "workers",
        lease_s=LEASE_S,
        connected_for_s=lambda: connected_for_s,
        in_flight=InFlight(cast("Executor", None)),  # nothing runs here
    )


def state(broker: Broker) -> State:
    job = broker.get("a")
    assert job is not None
    return job.state


@pytest.mark.parametrize("connected_for_s", [0.0, LEASE_S - 0.1])
def test_after_an_outage_nobody_is_judged_by_expiry_for_one_lease(
    broker: Broker, tmp_path: Path, connected_for_s: float
) -> None:
    create(broker, "a")
    Hand(broker, SILENT).lease()
    after_an_outage = recovery(broker, tmp_path, connected_for_s=connected_for_s)
    assert after_an_outage.recover([SERVED]) == 0
    assert after_an_outage.cut_off([TOPIC]) == {TOPIC: SILENT}, "its lock is not free either"
    assert state(broker) is State.PROCESSING


def test_who_did_not_renew_for_a_lease_is_gone(broker: Broker, tmp_path: Path) -> None:
    create(broker, "a")
    Hand(broker, SILENT).lease()
    connected = recovery(broker, tmp_path, connected_for_s=LEASE_S)
    assert connected.cut_off([TOPIC]) == {}
    assert connected.recover([SERVED]) == 1
    assert state(broker) is State.INCOMING


def test_what_is_leased_to_us_and_runs_nowhere_is_released_at_the_second_look(broker: Broker, tmp_path: Path) -> None:
    create(broker, "a")
    Hand(broker, ME).lease()
    ours = recovery(broker, tmp_path)
    ours.recover([SERVED])
    assert state(broker) is State.PROCESSING, "its take may be under way"
    ours.recover([SERVED])
    assert state(broker) is State.INCOMING


def test_repairs_wait_while_another_process_is_at_them(broker: Broker, tmp_path: Path) -> None:
    """It may have been stopped in the middle; nobody's jobs wait for that."""
    one = recovery(broker, tmp_path)
    create(broker, "a")
    record = one_that_came_to_nothing(broker, Records(tmp_path / "job_data"))
    (tmp_path / "workers").mkdir(exist_ok=True)
    with (tmp_path / "workers" / "repairing").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        one.repair_records()
        one.recover([SERVED])
        assert record.output.exists()
    one.recover([SERVED])
    assert not record.output.exists(), "the next look makes good for it"


def one_that_came_to_nothing(broker: Broker, records: Records) -> Record:
    """Leave files of an attempt whose job waits again."""
    hand = Hand(broker, SILENT)
    lease = hand.lease()
    record = records.of(lease)
    records.begin(record, lease)
    record.output.write_bytes(b"{}")
    broker.settle(lease, released("a stop"))
    return record
