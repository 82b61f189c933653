"""A project folder with one handler script, which is run as a worker or a person would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INPUT = "job_data/j1-input.json"
OUTPUT = "job_data/j1-output.json"
FILES = ("--input", INPUT, "--output", OUTPUT)


@dataclass(frozen=True)
class Run:
    """How one run of the script ended."""

    code: int
    stdout: str
    stderr: str
    output: Any

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def error(self) -> str:
        return self.stderr.strip().splitlines()[-1]


@dataclass
class Project:
    root: Path
    library: Path
    python: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "topics").mkdir()
        (self.root / "job_data").mkdir()

    @property
    def output_file(self) -> Path:
        return self.root / OUTPUT

    def write(self, script: str, name: str = "resize") -> Path:
        path = self.root / "topics" / f"{name}.py"
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        return path

    def run(self, script: str, data: object = None, *arguments: str) -> Run:
        """Run `script` as the handler of a job with `data`."""
        self.write(script)
        (self.root / INPUT).write_text(json.dumps(data), encoding="utf-8")
        return self.start("topics/resize.py", *FILES, *arguments)

    def start(self, *words: str, stdin: str = "") -> Run:
        """Run the interpreter with exactly these words."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SJQ_"))}
        ended = subprocess.run(
            [self.python, *words],
            cwd=self.root,
            env={**clean, "PYTHONPATH": str(self.library), **self.environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_hear_interrupts,
        )
        output = json.loads(self.output_file.read_text("utf-8")) if self.output_file.exists() else None
        return Run(ended.returncode, ended.stdout, ended.stderr, output)


def _hear_interrupts() -> None:
    """As on a terminal; what a shell starts in the background ignores them, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
