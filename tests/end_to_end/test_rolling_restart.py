"""Workers that are replaced one after the other while jobs pour in: none is lost, and none runs twice."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from servers import until

from end_to_end.project import SJQ, Project

NOTES = """
    import json, os, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    with open("runs", "a") as file:
        file.write(os.environ["SJQ_JOB_ID"] + "\\n")
    time.sleep(0.05)
    following = {} if os.environ["SJQ_TOPIC"] == "last" else {"next_topic": "last"}
    with open(args["--output"], "w") as file:
        json.dump({"data": 1, **following}, file)
"""
JOBS = 60


@contextmanager
def running(project: Project, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is ended in good order, whoever ends it first."""
    with (project.root / "worker.log").open("ab") as log:
        worker = subprocess.Popen([SJQ, "worker", *arguments], cwd=project.root, env=project.environ, stderr=log)
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0


@pytest.mark.timeout(180)
def test_nothing_is_lost_or_repeated(project: Project) -> None:
    project.configure(defaults={"concurrency": 2})
    for topic in ("first", "last"):
        project.topic(topic, NOTES)
    with project.client() as client, ExitStack() as workers:
        before = workers.enter_context(running(project))
        ids: list[str] = []
        for generation in range(4):
            ids += client.create_many("first", range(JOBS // 4))
            until(lambda: len(_runs(project)) > 8 * generation, 60, "the workers work")  # noqa: B023 - called at once
            after = workers.enter_context(running(project))
            until(lambda: project.log.count(" serves ") == generation + 2, 60, "the next one is there")  # noqa: B023
            before.send_signal(signal.SIGTERM)
            assert before.wait(60) == 0
            before = after
        until(lambda: _succeeded(project) == 2 * JOBS, 90, "everything is done")
        events = client.events(limit=100_000)
    runs = Counter(_runs(project))
    assert len(runs) == 2 * JOBS
    assert set(runs.values()) == {1}, "no handler ran twice"
    assert set(ids) <= runs.keys()
    assert {event.event for event in events} == {"created", "taken", "succeeded"}, "nobody was interrupted"


def _runs(project: Project) -> list[str]:
    file = project.root / "runs"
    return file.read_text().split() if file.exists() else []


def _succeeded(project: Project) -> int:
    with project.client() as client:
        return sum(counts.totals.get("succeeded", 0) for counts in client.broker.counts(["first", "last"]))
