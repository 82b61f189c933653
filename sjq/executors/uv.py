"""The one place that runs uv: with the environment of the person who started us, and quoting what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sjq import clock
from sjq.errors import EnvironmentFailed
from sjq.executors.base import PreparationStopped

if TYPE_CHECKING:
    from collections.abc import Mapping

# Compiling a large dependency from source takes minutes; nothing that is still alive takes an hour.
PATIENCE_S = 3600

_WORDS_LIMIT = 8000
_LOOK_S = 0.2  # how often a build looks whether it is still wanted
_finding = threading.Lock()
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPLAINT = re.compile(r"(?m)^\s*(?:error|\u00d7)")


def find() -> Path:
    """Return uv itself: the one installed with sjq, or else the first on the path."""
    with suppress(ImportError, FileNotFoundError):
        import uv  # noqa: PLC0415 - 4 ms that a warm start need not pay

        # It asks sysconfig, whose first answers to two threads at once can be half made.
        with _finding:
            return Path(uv.find_uv_bin())
    if found := shutil.which("uv"):
        return Path(found)
    raise EnvironmentFailed("uv builds the environments of scripts, and it is not here: install uv, or repair sjq")


def persons(base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` as it was before `uv run` or `uvx` started this process.

    A worker is mostly started as `uv run sjq worker`. What that put into our environment (our own
    virtual environment as the active one) is nothing that the handlers' `uv run`, typed by a person in
    the same shell, would see. An environment that the person had activated is on the path once more, and stays.
    A shell that was itself started by `uv run` cannot be told from a worker that was, and is treated alike.
    """
    variables = dict(base)
    # `python3 -m uv run sjq worker` names its own interpreter as the one to prefer, for whatever uv is called below it.
    variables.pop("UV_INTERNAL__PARENT_INTERPRETER", None)
    if variables.pop("UV", None) is None:
        return variables
    depth = int(variables.pop("UV_RUN_RECURSION_DEPTH", "0") or 0) - 1
    if depth > 0:
        variables["UV_RUN_RECURSION_DEPTH"] = str(depth)
    ours = {str(Path(sys.executable).parent)}
    # With `uv run --with`, uv stacks several environments, each with its entry.
    ours |= {str(Path(entry).parents[2] / "bin") for entry in sys.path if entry.endswith("/site-packages")}
    path = variables.get("PATH", "").split(os.pathsep)
    removed: set[str] = set()
    while path and path[0] in ours - removed:
        removed.add(path.pop(0))
    variables["PATH"] = os.pathsep.join(path)
    active = str(Path(variables.get("VIRTUAL_ENV", "")) / "bin")
    if active in removed and active not in path:
        del variables["VIRTUAL_ENV"]
    return variables


def call(*arguments: str, cwd: Path, stopping: threading.Event, extra: Mapping[str, str] | None = None) -> str:
    """Run uv to its end and return what it printed; raise EnvironmentFailed in its words where it refuses.

    Raises PreparationStopped, and ends uv, as soon as `stopping` is set.
    """
    command = [str(find()), "--color", "never", "--no-progress", *arguments]
    try:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=_environ() | dict(extra or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the worker, which ends its work in its own order
        )
    except OSError as error:
        raise EnvironmentFailed(f"uv cannot be run: {error}") from error
    try:
        out, err = _heard(child, stopping)
    except BaseException:
        _kill(child)
        raise
    if child.returncode:
        raise EnvironmentFailed(_words(err) or f"uv ended with {child.returncode} and said nothing")
    return out


def _heard(child: subprocess.Popen[str], stopping: threading.Event) -> tuple[str, str]:
    deadline = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < deadline:
        if stopping.is_set():
            raise PreparationStopped("uv was stopped: the worker ends")
        with suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=_LOOK_S)
    raise EnvironmentFailed(f"uv was not done after {PATIENCE_S // 60} minutes, and was stopped")


def _environ() -> dict[str, str]:
    variables = persons(os.environ)
    # Without bytecode every import of every job costs twice as much; and those who build a
    # dependency have no business with the broker's password.
    for name in ("PYTHONDONTWRITEBYTECODE", "SJQ_BROKER"):
        variables.pop(name, None)
    # Links into uv's cache would break the environment with the next `uv cache prune`.
    if variables.get("UV_LINK_MODE") == "symlink":
        del variables["UV_LINK_MODE"]
    return variables


def _kill(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _words(text: str) -> str:
    """Keep what uv complains of, without the progress and the warnings that came before."""
    text = _COLOUR.sub("", text)
    if complaint := _COMPLAINT.search(text):
        text = text[complaint.start() :]
    text = text.strip()
    if len(text) > _WORDS_LIMIT:  # a failed build quotes its whole log, and the reason is at its end
        text = f"{text[: _WORDS_LIMIT // 4]}\n[…]\n{text[-3 * _WORDS_LIMIT // 4 :]}"
    return text
