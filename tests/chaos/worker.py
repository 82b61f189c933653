"""Workers as real processes, and what can be done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from end_to_end import kill_at
from end_to_end.project import SJQ, Project, hear_hangups

GRACE_S = 40.0


class Worker:
    """A worker in the background. `step` and `time` have it kill itself at a step, as `kill_at` does."""

    def __init__(
        self,
        project: Project,
        arguments: tuple[str, ...],
        environ: dict[str, str],
        *,
        step: str | None = None,
        time: int = 1,
    ) -> None:
        self.step = step
        self._at_work = True
        folder = project.root.parent / "workers"
        folder.mkdir(exist_ok=True)
        number = len(list(folder.glob("*.log")))  # those of a run that was broken off count too
        self._log, self._mark = folder / f"{number}.log", folder / f"{number}.mark"
        command = [SJQ]
        if step is not None:
            (project.root / "running").unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)
            command = [sys.executable, kill_at.__file__, step, str(time), str(self._mark)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "worker", *arguments],
                cwd=project.root,
                env=environ,
                stdin=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=hear_hangups,  # noqa: PLW1509 - it calls nothing that could wait for another thread
            )

    def __str__(self) -> str:
        return f"worker {self._log.stem}{f' (to die {self.step})' if self.step else ''}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def lives(self) -> bool:
        return self._process.poll() is None

    def serves(self) -> bool:
        """Tell whether it has come so far that it takes jobs, or stands by."""
        return " serves " in self.log

    def ended_by_itself(self) -> bool:
        return self._at_work and self.step is None and not self.lives()

    def died_there(self) -> bool:
        """Tell whether it died at the step where it was meant to."""
        died = self.code == -signal.SIGKILL and self._mark.exists()
        return died and self._mark.read_text() == self.step

    def kill(self) -> None:
        """Kill it, and wait for that."""
        self._at_work = False
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> bool:
        """End it in good order; tell whether it did."""
        self._at_work = False
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(GRACE_S) == 0
        except subprocess.TimeoutExpired:
            return False


def processes_in(folder: Path) -> dict[int, str]:
    """Return the processes that work in a folder, or below it, with their command lines; zombies do not."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            where = (entry / "cwd").readlink()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and where.is_relative_to(folder) and int(entry.name) != os.getpid():
            found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def processes_of(job_id: str) -> list[int]:
    """Return the processes with a job's id in their environment or command line; zombies have neither."""
    marks = {f"SJQ_JOB_ID={job_id}".encode(), job_id.encode()}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (entry / "environ").read_bytes() + b"\0" + (entry / "cmdline").read_bytes()
            if not marks.isdisjoint(told.split(b"\0")):
                found.append(int(entry.name))
    return sorted(found)
