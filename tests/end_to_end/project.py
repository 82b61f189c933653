"""A project of its own for each test: its scripts, its settings, and the real commands in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import until

from sjq.client import Client
from sjq.config import load
from sjq.records import file_name

SJQ = str(Path(sys.executable).with_name("sjq"))
_ENDS = ("succeeded", "failed", "timedout", "cancelled", "lost", "dropped")
PLAIN = """
    import json, sys
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    data = json.load(open(args["--input"]))
    json.dump({"data": data}, open(args["--output"], "w"))
"""
"""A handler that knows only `--input` and `--output`."""


class Project:
    """A folder in which the commands are run as a user runs them."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.job_data = root / "job_data"
        self.settings = settings
        (root / "topics").mkdir(parents=True, exist_ok=True)
        self.configure()

    def configure(self, **settings: Any) -> None:
        self.settings.update(settings)
        (self.root / "config.json").write_text(json.dumps(self.settings))

    def topic(self, name: str, text: str) -> Path:
        path = self.root / "topics" / f"{name}.py"
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    @property
    def environ(self) -> dict[str, str]:
        dropped = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "SJQ_BROKER", "SJQ_JOB_DATA", "SJQ_CONFIG")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return {**kept, "UV_PYTHON_DOWNLOADS": "never"}

    def sjq(
        self, *arguments: str, stdin: str | bytes = b"", code: int = 0, seconds: float = 60, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and check its exit code."""
        done = self.run(*arguments, stdin=stdin, seconds=seconds, **environ)
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr or "handler" in done.stderr, done.stderr
        return done

    def run(
        self, *arguments: str, stdin: str | bytes = b"", seconds: float = 60, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            [SJQ, *arguments],
            cwd=self.root,
            env={**self.environ, **environ},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    def create(self, topic: str, data: object, *arguments: str) -> str:
        return self.sjq("create", topic, json.dumps(data), *arguments).stdout.strip()

    def burst(self, *arguments: str, code: int = 0, seconds: float = 60) -> str:
        """Run a worker until nothing is left to do; return what it said."""
        return self.sjq("worker", "--burst", *arguments, code=code, seconds=seconds).stderr

    @contextmanager
    def worker(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker in the background, and end it in good order."""
        log = (self.root / "worker.log").open("ab")
        command = [SJQ, "worker", *arguments]
        with (
            log,
            subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environ,
                stderr=log,
                preexec_fn=hear_hangups,  # noqa: PLW1509 - it calls nothing that could wait for another thread
            ) as process,
        ):
            try:
                until(lambda: " serves " in self.log or process.poll() is not None, 30, "the worker serves")
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(30)

    @property
    def log(self) -> str:
        """What background workers said."""
        return (self.root / "worker.log").read_text() if (self.root / "worker.log").exists() else ""

    def client(self) -> Client:
        return Client(config=load(self.root, {}))

    def metadata(self, job_id: str) -> dict[str, Any]:
        """Return the metadata of a job that has ended."""
        self._until_published(job_id)
        with self.client() as client:
            found = client.records.metadata(job_id)
        assert found is not None
        return found

    def output(self, job_id: str) -> Any:
        """Return the output of a job that has ended."""
        self._until_published(job_id)
        with self.client() as client:
            return json.loads(client.records.read(job_id, "output.json") or b"null")

    def _until_published(self, job_id: str) -> None:
        """Wait for the record of an end that counts already: it is published a moment after it was settled."""
        final = f"{file_name(job_id)}-metadata.json"

        def published() -> bool:
            names = [name for name in self.names() if name.startswith(final)]
            return names == [final]

        until(published, 10, f"the record of {job_id}")

    def show(self, job_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.sjq("show", job_id, "--json").stdout)
        return shown

    def names(self) -> set[str]:
        """The names of all files in `job_data/`."""
        return {path.name for path in self.job_data.iterdir()} if self.job_data.exists() else set()

    def ends(self, job_id: str) -> list[str]:
        """The ends of a job, as the event stream has them."""
        with self.client() as client:
            return [
                event.event for event in client.events(limit=100_000) if event.job_id == job_id and event.event in _ENDS
            ]


def hear_hangups() -> None:
    """As on a terminal; under nohup they are ignored, and so would a worker."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
