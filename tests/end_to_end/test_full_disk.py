"""A disk that fills up under `job_data/`, and has room again: nothing is lost, and nobody has to do anything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from disks import SmallDisk
from servers import until

from end_to_end.project import PLAIN, Project

SIZE = 4 << 20
WAITS = """
    import json, os, pathlib, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    pathlib.Path("running").touch()
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    json.dump({"data": "x" * 2**15}, open(args["--output"], "w"))
"""
GREEDY = """
    open("job_data/heap", "wb").write(bytes(2**23))
"""
FULL = {
    "its log": """
        import sys
        while True:
            sys.stdout.write("x" * 2**16)
            sys.stdout.flush()
    """,
    "its output": """
        import sys
        args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        with open(args["--output"], "wb", buffering=0) as output:
            while True:
                output.write(bytes(2**12))
    """,
}
"""Handlers that go on until there is no room, and leave none for their records."""

ATTACHES = """
    import json, pathlib, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    pathlib.Path("running").touch()
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    pathlib.Path("attached").write_bytes(bytes(2**21))
    following = {"topic": "next", "data": 1, "attachment": "attached"}
    json.dump({"data": 1, "next": [following]}, open(args["--output"], "w"))
"""


@pytest.fixture
def disk(project: Project) -> Iterator[SmallDisk]:
    """The small disk of the project's records."""
    with SmallDisk(project.job_data, SIZE) as disk:
        yield disk


def test_nothing_is_taken_while_the_disk_is_full_and_it_goes_on_by_itself(project: Project, disk: SmallDisk) -> None:
    project.topic("plain", PLAIN)
    disk.fill()
    job_id = project.create("plain", 1)
    with project.worker():
        until(lambda: "plain is held" in project.log, 20, "the topic is held")
        assert "is full: less than" in project.log
        assert "is full: less than" in project.sjq("status").stdout
        assert project.show(job_id)["attempt"] == 0
        disk.free()
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "it goes on")
        assert project.log.count("plain is held") == 1, "said once, not at every look"
    assert project.output(job_id) == {"data": 1}


def test_a_job_that_could_not_write_its_output_is_not_to_blame(project: Project, disk: SmallDisk) -> None:
    project.topic("waits", WAITS)
    (project.root / "wait").touch()
    job_id = project.create("waits", 1)
    with project.worker():
        until((project.root / "running").exists, 20, "the handler runs")
        disk.fill()
        (project.root / "wait").unlink()
        until(lambda: "released" in project.log, 20, "it is given back")
        assert not list(project.job_data.glob(f"{job_id}-metadata*"))
        disk.free()
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "it goes on")
    record = project.metadata(job_id)
    assert (record["attempt"], record["state"]) == (2, "succeeded")
    assert len(project.output(job_id)["data"]) == 2**15


def test_a_job_whose_attachment_finds_no_room_is_not_to_blame(project: Project, disk: SmallDisk) -> None:
    project.topic("attaches", ATTACHES)
    (project.root / "wait").touch()
    job_id = project.create("attaches", 1)
    with project.worker():
        until((project.root / "running").exists, 20, "the handler runs")
        disk.fill(left=2**20)
        (project.root / "wait").unlink()
        until(lambda: "attaches is held" in project.log, 20, "it is given back, and others wait")
        assert "it cannot be copied into" in project.log
        disk.free()
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "it goes on")
    record = project.metadata(job_id)
    assert (record["attempt"], record["state"]) == (2, "succeeded")
    with project.client() as client:
        assert client.broker.attachment(record["next_job_ids"][0]) == bytes(2**21)


def test_an_attachment_that_never_finds_room_does_not_go_round_for_ever(project: Project, disk: SmallDisk) -> None:
    del disk
    project.topic("attaches", ATTACHES.replace("2**21", "2**23"))
    job_id = project.create("attaches", 1)
    with project.worker():
        until(lambda: project.ends(job_id) == ["failed"], 30, "it fails in the end")
    record = project.metadata(job_id)
    assert (record["attempt"], record["reason"]["code"]) == (4, "output"), "excused three times"
    assert "it cannot be copied into" in record["reason"]["why"]


def test_a_handler_that_fills_the_disk_itself_does_not_go_round_for_ever(project: Project, disk: SmallDisk) -> None:
    del disk
    project.topic("greedy", GREEDY)
    job_id = project.create("greedy", 1)
    with project.worker():
        heap = project.job_data / "heap"

        def ended() -> bool:
            heap.unlink(missing_ok=True)
            return project.ends(job_id) == ["failed"]

        until(ended, 30, "it fails in the end")
    with project.client() as client:
        story = [event.event for event in client.events() if event.job_id == job_id]
    assert 1 <= story.count("taken") <= 4, "excused three times"


@pytest.mark.parametrize("what", FULL)
def test_a_handler_that_leaves_no_room_for_its_record_does_not_block_its_topic(
    project: Project, disk: SmallDisk, what: str
) -> None:
    del disk
    project.topic("greedy", FULL[what])
    job_ids = [project.create("greedy", number) for number in range(2)]
    with project.worker():
        for job_id in job_ids:
            until(partial(project.ends, job_id), 40, "it fails in the end")
            assert project.ends(job_id) == ["failed"]
            record = project.metadata(job_id)
            assert record["attempt"] == 4, "excused three times"
            assert record["reason"]["why"]
