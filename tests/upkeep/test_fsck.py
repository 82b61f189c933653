"""Every finding is made for real, reported without a change, mended, and gone at the next look."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.jobs import TOPIC, Hand, broke, create, fail, ids_of, state_of, waiting
from servers import until

from sjq.brokers.base import Broker
from sjq.config import TopicPolicy, WorkerPolicy
from sjq.fsck import Fsck
from sjq.identity import WorkerIdentity
from sjq.outcomes import released
from sjq.records import digest_of
from sjq.states import State
from sjq.worker.repairs import Finding, Repairs

from .house import GONE, House

LEASE_S = 0.3


def look(
    house: House, *, repair: bool = False, said: list[str] | None = None, losses: int = 3, on_failure: str = "continue"
) -> list[Finding]:
    policy = TopicPolicy(losses=losses, on_failure=on_failure)
    config = replace(house.config, worker=WorkerPolicy(lease=LEASE_S), defaults=policy)
    say = (lambda _: None) if said is None else said.append
    return list(Fsck(config, house.broker, repair=repair, say=say).findings())


def mended(house: House, *codes: str) -> list[Finding]:
    """See findings reported and nothing changed, then mended, then no more."""
    before = house.everything()
    assert sorted(finding.code for finding in look(house)) == sorted(codes)
    assert house.everything() == before, "a look changes nothing"
    found = look(house, repair=True)
    assert all(finding.mended for finding in found), found
    assert set(codes) <= {finding.code for finding in found}
    assert look(house) == []
    return found


def kept(house: House, code: str) -> Finding:
    """See a finding that is for people: it is reported, and stays as it is."""
    before = house.everything()
    for repair in (False, True):
        (finding,) = look(house, repair=repair)
        assert (finding.code, finding.repair, finding.mended) == (code, None, False)
        assert house.everything() == before
    return finding


def dead_worker(broker: Broker, lease_s: float = 60) -> Hand:
    """Return a worker that the broker knows, and whose process has ended."""
    pid = int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))
    facts = {**WorkerIdentity.of_this_process().fields(), "pid": str(pid), "start": "1"}
    hand = Hand(broker)
    broker.heartbeat(hand.id, facts, lease_s=lease_s)
    return hand


# Workers that are no more.


def test_jobs_and_locks_of_a_dead_worker(house: House) -> None:
    create(house.broker, "a", "b")
    dead = dead_worker(house.broker)
    house.broker.lock([TOPIC, "other"], dead.id, 60)
    dead.lease()
    dead.lease()
    mended(house, "lost", "lost", "lock", "lock", "worker")
    assert waiting(house.broker) == ["a", "b"]
    assert house.broker.holders([TOPIC, "other"]) == []
    assert house.broker.workers() == {}


def test_a_job_that_was_lost_too_often_is_failed(house: House) -> None:
    create(house.broker, "a")
    dead_worker(house.broker).lease()
    before = house.everything()
    for repair in (False, True):
        assert house.everything() == before
        (lost, _) = look(house, repair=repair, losses=1)
        assert (lost.mended, lost.repair) == (repair, "it was lost too often and is failed")
    assert state_of(house.broker, "a") is State.FAILED


def test_what_fails_by_a_repair_halts_its_topic_where_that_is_wanted(house: House) -> None:
    create(house.broker, "a")
    dead_worker(house.broker).lease()
    look(house, repair=True, losses=1, on_failure="halt")
    assert halted_by(house) == "a"
    house.broker.resume([TOPIC])
    house.wire("RPUSH", f"incoming:{TOPIC}", "b")
    look(house, repair=True, on_failure="halt")
    assert halted_by(house) == "b", "it has no message"


def halted_by(house: House) -> str | None:
    (counts,) = house.broker.counts([TOPIC])
    return counts.pause.halted_by if counts.pause else None


def test_a_cancelled_job_of_a_dead_worker_is_said_to_be_cancelled(house: House) -> None:
    create(house.broker, "a")
    dead_worker(house.broker).lease()
    house.broker.cancel("a", "a change of mind")
    for repair in (False, True):
        (lost, _) = look(house, repair=repair)
        assert (lost.mended, lost.repair) == (repair, "it is cancelled, as somebody had asked")
    assert state_of(house.broker, "a") is State.CANCELLED


def test_a_worker_that_is_silent_is_watched_for_a_lease(house: House) -> None:
    create(house.broker, "a")
    house.worker.lease()
    said: list[str] = []
    (finding,) = look(house, said=said)
    assert (finding.code, finding.mended, said) == ("silent", False, [])
    assert "stays silent for a lease" in (finding.repair or "")
    (finding,) = look(house, repair=True, said=said)
    assert (finding.code, finding.mended, finding.repair) == ("silent", True, "it waits again")
    assert finding.what == f"is in processing:{TOPIC}, and worker {GONE} was silent for a lease"
    assert said == [f"waiting 0.3 s: worker {GONE} is silent"]
    assert waiting(house.broker) == ["a"]


def test_a_silent_worker_that_comes_back_keeps_its_jobs(house: House) -> None:
    create(house.broker, "a")
    lease = house.worker.lease()
    config = replace(house.config, worker=WorkerPolicy(lease=LEASE_S))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        house.worker.beat()

    assert list(Fsck(config, house.broker, repair=True, say=say).findings()) == []
    assert len(said) == 1
    assert house.broker.settle(lease, broke)


def test_ids_of_an_older_sjq_wait_again_unless_its_lock_is_there(house: House) -> None:
    house.wire("SET", "job_data:a", '{"data": 1}')
    house.wire("RPUSH", f"processing:{TOPIC}", "a")
    house.wire("SET", f"lock:{TOPIC}", "4711")
    assert "sjq unlock resize" in kept(house, "lock").what
    house.wire("DEL", f"lock:{TOPIC}")
    mended(house, "lost")
    assert waiting(house.broker) == ["a"]


def test_a_worker_without_an_expiry(house: House) -> None:
    hand = Hand(house.broker)
    hand.beat()
    house.wire("PERSIST", f"worker:{hand.id}")
    mended(house, "immortal")
    until(lambda: not hand.alive(), what="its end")


def test_what_a_live_worker_has_is_left_alone(house: House) -> None:
    create(house.broker, "runs", "sealed", "settled")
    house.worker.beat(topics=[TOPIC])
    house.broker.lock([TOPIC], GONE, 60)
    leases = [house.worker.lease() for _ in range(3)]
    for lease in leases:
        house.records.begin(house.records.of(lease), lease)
    for lease in leases[1:]:
        house.seal(lease)
    house.settle(leases[2])
    before = house.everything()
    assert look(house, repair=True) == []
    assert house.everything() == before


# The broker, as tests/conformance/test_broker_upkeep.py has it in full.

Make = Callable[[House], object]
BROKER: dict[str, tuple[Make, str]] = {
    "twice": (lambda house: (create(house.broker, "a"), house.wire("RPUSH", f"incoming:{TOPIC}", "a")), "twice"),
    "in two lists": (lambda house: (fail(house.broker, "a"), house.wire("RPUSH", f"processing:{TOPIC}", "a")), "stray"),
    "in no list": (lambda house: (fail(house.broker, "a"), house.wire("DEL", f"failed:{TOPIC}")), "homeless"),
    "without a message": (lambda house: house.wire.push(TOPIC, "a"), "messageless"),
    "without a state": (lambda house: (fail(house.broker, "a"), house.wire("DEL", "job_state:a")), "stateless"),
    "nothing but fields of a state": (lambda house: house.wire("HSET", "job_state:a", "attempt", 3), "hollow"),
    "never pushed": (lambda house: house.wire("SET", "job_data:a", '{"data": 1, "topic": "t"}'), "unpushed"),
}


@pytest.mark.parametrize("make", BROKER)
def test_what_no_step_leaves_so(house: House, make: str) -> None:
    act, code = BROKER[make]
    act(house)
    mended(house, code)


def test_a_message_is_pushed_only_a_lease_later(house: House) -> None:
    house.wire("SET", "job_data:a", '{"data": 1, "topic": "t"}')
    config = replace(house.config, worker=WorkerPolicy(lease=LEASE_S))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        house.wire("RPUSH", "incoming:t", "a")

    assert list(Fsck(config, house.broker, repair=True, say=say).findings()) == []
    assert said == ["waiting 0.3 s: a producer may be about to push a job"]
    assert waiting(house.broker, "t") == ["a"]


@pytest.mark.litters("a message that nobody pushes")
def test_a_message_of_a_job_that_ran_here_is_not_pushed(house: House) -> None:
    house.ended("a")
    house.wire("SET", "job_data:a", '{"data": 1, "topic": "t"}')
    kept(house, "unpushed")


@pytest.mark.litters("keys of another program")
def test_what_is_in_the_way_is_for_people(house: House) -> None:
    house.wire("SET", f"processing:{TOPIC}", "x")
    kept(house, "type")


# The disk.


def test_a_record_that_was_settled_and_not_published(house: House) -> None:
    lease = house.lease("a")
    house.seal(lease)
    house.settle(lease)
    mended(house, "unpublished")
    assert house.recorded() == {"a"}
    assert list(house.broker.unconfirmed()) == []


def test_files_of_attempts_that_came_to_nothing(house: House) -> None:
    lease = house.lease("outrun")
    house.seal(lease)
    assert house.broker.settle(lease, released("a stop"))
    lease = house.worker.lease()
    house.settle(lease, State.FAILED)
    lease = house.lease("unfinished")
    record = house.records.of(lease)
    for path in (record.output, record.own("input.json"), record.output.with_name(f"{record.output.name}.part")):
        path.write_text("half")
    house.settle(lease, State.FAILED)
    mended(house, "outrun", "unfinished")
    assert house.files() == {"outrun-input.json", "unfinished-input.json"}


def test_a_try_is_its_workers_to_publish_though_the_next_has_begun(house: House) -> None:
    lease = house.lease("a")
    house.seal(lease)
    assert house.broker.settle(lease, released("a stop"))
    house.worker.lease()
    house.worker.beat()
    assert look(house, repair=True) == []
    house.records.of(lease).publish()
    assert house.recorded() == {"a"}


def test_files_of_a_recovered_attempt_go_with_the_recovery(house: House) -> None:
    house.seal(house.lease("a"))
    found = look(house, repair=True)
    assert [(finding.code, finding.mended) for finding in found] == [("silent", True), ("outrun", True)]
    assert look(house) == []


def test_files_of_an_attempt_that_nobody_knows_are_kept(house: House) -> None:
    house.folder.mkdir()
    (house.folder / f"a-metadata.json.{digest_of('w.1')}").write_text("{")
    (house.folder / "a-input.json").write_text("1")
    kept(house, "unknown")


STRANGE = ("\udcff", "a\nb", "\x1b[2J", "%41", ".a", "x" * 150)


@pytest.mark.parametrize(
    "kind", ["input.json", "metadata.json", f"output.json.{'a' * 16}", f"metadata.json.{'a' * 16}"]
)
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_files_with_names_that_no_job_has_are_told_and_left(
    house: House, kind: str, make: Callable[[Path], object]
) -> None:
    house.folder.mkdir()
    for name in STRANGE:
        make(house.folder / f"{name}-{kind}")
    before = house.everything()
    assert Repairs(house.broker, house.records, house.config.state_folder / "workers").repair(), "a worker that starts"
    found = look(house, repair=True)
    assert [(finding.code, finding.mended) for finding in found] == [("foreign", False)] * len(STRANGE)
    assert all(finding.where.isprintable() for finding in found)
    assert house.everything() == before


def test_a_state_whose_fence_is_no_text_ends_no_repair(house: House) -> None:
    lease = house.lease("a")
    house.records.of(lease).output.touch()
    house.settle(lease, State.FAILED)
    house.wire("HSET", "job_state:a", "fence", b"\xff")
    mended(house, "outrun")


def test_a_record_without_an_end_is_kept(house: House) -> None:
    for job_id in ("known", "long" * 40, "unknown", "unknown" * 40):
        lease = house.lease(job_id)
        house.settle(lease, State.FAILED)
    house.broker.delete(["unknown"])
    assert kept(house, "endless").job_id == "unknown"
    house.broker.delete(["unknown" * 40])
    assert [finding.code for finding in look(house)] == ["endless", "endless"]


def test_metadata_that_cannot_be_read_is_kept(house: House) -> None:
    house.ended("a")
    (house.folder / "a-metadata.json").write_text('{"job_id": "a"}')
    assert kept(house, "unreadable").where == "a-metadata.json"


def test_metadata_of_another_job_is_kept(house: House) -> None:
    house.ended("a")
    shutil.copy(house.folder / "a-metadata.json", house.folder / "b-metadata.json")
    assert kept(house, "unreadable").where == "b-metadata.json"


def test_a_success_that_was_published_and_not_confirmed(house: House) -> None:
    lease = house.lease("a")
    house.seal(lease).publish()
    house.settle(lease)
    create(house.broker, "elsewhere")
    other = Hand(house.broker, "other-host-boot-1-1-abcdef")
    assert house.broker.settle(other.lease(), broke)
    mended(house, "unconfirmed")
    assert list(house.broker.unconfirmed()) == []


def test_a_success_whose_record_is_gone_is_told(house: House) -> None:
    lease = house.lease("a")
    house.settle(lease)
    (house.folder / "a-input.json").unlink()
    assert "its record is gone" in kept(house, "unconfirmed").what


def test_abandoned_lock_files(house: House) -> None:
    folder = house.config.state_folder / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{GONE}.lock"
    path.touch()
    mended(house, "abandoned")
    assert not path.exists()


def test_a_pipe_in_the_place_of_a_lock_file_makes_nobody_wait(house: House) -> None:
    folder = house.config.state_folder / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "\udcff.lock")
    mended(house, "abandoned")


def test_environments_that_were_half_built(house: House) -> None:
    folder = house.config.state_folder / "environments"
    (folder / "key-0000" / "bin").mkdir(parents=True)
    (folder / "done-0000").mkdir()
    (folder / "done-0000" / "complete").touch()
    mended(house, "half_built")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"done-0000"}


def test_an_environment_that_is_being_built_is_left_alone(house: House) -> None:
    import fcntl

    folder = house.config.state_folder / "environments"
    (folder / "key-0000").mkdir(parents=True)
    with (folder / "key.lock").open("ab") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        assert look(house, repair=True) == []


def test_a_sound_project_has_no_findings(house: House) -> None:
    house.ended("a", State.SUCCEEDED)
    house.ended("b", State.FAILED)
    create(house.broker, "c")
    assert look(house) == look(house, repair=True) == []
    assert ids_of(house.broker.ended(TOPIC)) == ["b"]
