"""A worker whose wall clock jumps by a day, forwards and back."""

from __future__ import annotations

import subprocess
import sys

import pytest
from servers import until

from end_to_end import jumping
from end_to_end.project import PLAIN, Project

WAITS = """
    import json, pathlib, sys, time
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    with open("runs", "a") as file:
        file.write("run\\n")
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    json.dump({"data": 1}, open(args["--output"], "w"))
"""


@pytest.mark.parametrize("jump_s", [86400, -86400])
def test_a_worker_whose_clock_jumps_goes_on_and_measures_right(project: Project, jump_s: int) -> None:
    project.topic("waits", WAITS)
    project.topic("plain", PLAIN)
    (project.root / "wait").touch()
    job_id = project.create("waits", 1)
    runs, offset = project.root / "runs", project.root / "offset"
    offset.write_text("0")
    command = [sys.executable, jumping.__file__, str(offset), "worker"]
    with subprocess.Popen(command, cwd=project.root, env=project.environ) as worker:
        try:
            until(runs.exists, 20, "the handler runs")
            offset.write_text(str(jump_s))
            other = project.create("plain", 2)
            until(lambda: project.ends(other) == ["succeeded"], 20, "other jobs go on")
            (project.root / "wait").unlink()
            until(lambda: project.ends(job_id) == ["succeeded"], 20, "it ends")
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
    record = project.metadata(job_id)
    assert (record["attempt"], record["state"]) == (1, "succeeded")
    assert 0 < record["elapsed_time"] < 60
    assert runs.read_text() == "run\n"
