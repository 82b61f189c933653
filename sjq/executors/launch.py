"""Task -> command line and environment: the handler protocol, in one place."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from sjq.executors.base import Runtime, Task

HANDLER_FOLDER = Path(".sjq") / "lib"

_OF_AN_ATTEMPT = ("SJQ_ATTEMPT", "SJQ_JOB_ID", "SJQ_TOPIC")
_OF_ONE_JOB = (*_OF_AN_ATTEMPT, "SJQ_PARENT_JOB_ID")
_NOT_FOR_HANDLERS = ("PYTHONDONTWRITEBYTECODE", "SJQ_BROKER", *_OF_ONE_JOB)
"""Without bytecode every import costs twice as much; the broker's credentials are none of a handler's business; and
what the job is told that started a worker does not concern the worker's jobs."""


def keep_handler_package(root: Path) -> None:
    """Make `.sjq/lib/sjq` what `import sjq` finds in a script: the handler package of this version, alone."""
    target = root / HANDLER_FOLDER / "sjq"
    source = {entry.name: entry.read_bytes() for entry in files("sjq.handler").iterdir() if entry.name.endswith(".py")}
    try:
        present = {path.name: path.read_bytes() for path in target.glob("*.py")}
    except OSError:
        present = {}
    if present == source:
        return
    target.mkdir(parents=True, exist_ok=True)
    (root / ".sjq" / ".gitignore").write_text("*\n")
    for name, content in source.items():
        beside = target / f"{name}.{os.getpid()}"
        beside.write_bytes(content)
        beside.replace(target / name)
    for name in present.keys() - source.keys():
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(target / "__pycache__", ignore_errors=True)


def base_environ(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what every handler's environment starts from: ours, with the handler package first on the path."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_HANDLERS}
    ours = str(root / HANDLER_FOLDER)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [ours, environ.get("PYTHONPATH", "")]))
    return kept


def command_line(task: Task, root: Path) -> list[str]:
    """Return the arguments of the process that runs the attempt, the interpreter first."""
    script = shown(task.runtime.topic.script, root)
    return [str(task.runtime.interpreter), script, *script_arguments(task, task.output, root)]


def script_arguments(task: Task, output: Path, root: Path) -> list[str]:
    """Return the script's arguments; records show the output's final name, a process gets its attempt's own."""
    line = ["--input", shown(task.input, root), "--output", shown(output, root)]
    if task.attachment is not None:
        line += ["--attachment", shown(task.attachment, root)]
    return line


def environment(task: Task) -> dict[str, str]:
    """Return the environment of the process that runs the attempt."""
    # What cannot stand in an environment (a NUL in no valid id, a lone surrogate in none either) never comes here.
    special = {"SJQ_JOB_ID": task.job_id, "SJQ_TOPIC": task.runtime.topic.name, "SJQ_ATTEMPT": str(task.attempt)}
    if task.parent_job_id is not None:
        special["SJQ_PARENT_JOB_ID"] = task.parent_job_id
    return {**task.runtime.environ, **special}


def marks(environ: Mapping[str, str]) -> frozenset[bytes]:
    """Return what tells an attempt's processes from others, as it stands in the environment of each."""
    return frozenset(os.fsencode(f"{name}={environ[name]}") for name in _OF_AN_ATTEMPT)


def recorded_command(runtime: Runtime, root: Path) -> str:
    """Return what a person types to run the script as the worker did, without the script's arguments."""
    return f"PYTHONPATH={HANDLER_FOLDER} uv run {shlex.quote(shown(runtime.topic.script, root))}"


def shown(path: Path, root: Path) -> str:
    """Return a path as it is typed in the project's folder."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
