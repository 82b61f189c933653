"""Memory that runs out on the whole machine: jobs go before their worker, and what the kernel killed is told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import missing
from unit.waiting import until

from sjq.states import Reason

from .other_worker import worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .workshop import Workshop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel tells nothing of it")


def test_a_job_goes_before_its_worker_when_memory_runs_out(workshop: Workshop) -> None:
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    workshop.run("time.sleep(0.1); note('score', int(open('/proc/self/oom_score_adj').read()))")
    assert workshop.noted("score") == min(1000, ours + 500)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory cgroup of 150 MB."""
    made = _made_group()
    if made is None:
        missing("memory cgroup that a test may make (it takes root, or a delegation)")
    yield made
    until(lambda: _removed(made), "the group is empty")


def _made_group() -> Path | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        name = f"sjq-test-{os.getpid()}-{os.urandom(3).hex()}"
        if "memory" in controllers.split(","):
            group, limits = Path(f"/sys/fs/cgroup/memory{path}") / name, ["memory.limit_in_bytes"]
        elif not controllers:
            group, limits = Path(f"/sys/fs/cgroup{path}") / name, ["memory.max", "memory.swap.max"]
        else:
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for limit in limits:
                (group / limit).write_text("150000000" if "swap" not in limit else "0")
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_what_the_kernel_kills_for_want_of_memory_is_told(workshop: Workshop, small_group: Path) -> None:
    alone = workshop.task("block = bytearray(400_000_000)")
    running = worker(workshop, alone, group=small_group)
    with running:
        pass
    end = running.ends()[alone.job_id]
    assert (end.exit_code, end.signal) == (None, signal.SIGKILL)
    assert end.breach.reason is Reason.MEMORY
    assert "the kernel killed it for want of memory; the largest of its processes had used 1" in end.breach.why


def test_a_child_that_the_kernel_kills_is_told_where_the_job_ends_badly_by_it(
    workshop: Workshop, small_group: Path
) -> None:
    grow = "subprocess.run([sys.executable, '-c', 'block = bytearray(400_000_000)'])"
    badly, well = workshop.task(f"sys.exit(abs({grow}.returncode))"), workshop.task(grow)
    ends: dict[str, Any] = {}
    for task in (badly, well):
        running = worker(workshop, task, group=small_group)
        with running:
            pass
        ends |= running.ends()
    end = ends[badly.job_id]
    assert (end.exit_code, end.breach.reason) == (9, Reason.MEMORY)
    assert "killed a process here for want of memory while it ran, and it ended by exit code 9" in end.breach.why
    end = ends[well.job_id]
    assert (end.exit_code, end.breach) == (0, None)


def test_a_kill_by_somebody_else_is_none_by_the_kernel(workshop: Workshop) -> None:
    end = workshop.run("os.kill(os.getpid(), 9)")
    assert (end.signal, end.breach) == (signal.SIGKILL, None)
