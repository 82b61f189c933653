"""Runtimes: what a topic's jobs run with, computed once for each version of its script."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sjq.errors import EnvironmentFailed
from sjq.executors.base import Runtime
from sjq.executors.environments import Environments
from sjq.topics import Topic

_GIT_TIMEOUT_S = 10.0
_WATCHED = ("pyproject.toml", "uv.lock", ".python-version", ".git/HEAD", ".git/index")


@dataclass(frozen=True, slots=True)
class _Seen:
    stamp: tuple[object, ...]
    runtime: Runtime


class Runtimes:
    """Prepares runtimes, and knows when one is out of date by looking at a few files' times."""

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self._root = root
        self._environ = dict(environ)
        self._environments = Environments(root, root / ".sjq" / "environments")
        self._seen: dict[str, _Seen] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._changing = threading.Lock()

    def prepare(self, topic: Topic) -> Runtime:
        """Return the topic's runtime; raise EnvironmentFailed when its environment cannot be built."""
        stamp = self._stamp(topic)
        with self._changing:
            lock = self._locks.setdefault(topic.name, threading.Lock())
        with lock:  # the topic's other slots wait for the one that builds
            seen = self._seen.get(topic.name)
            if (
                seen is None
                or seen.stamp != stamp
                or seen.runtime.topic != topic
                or not seen.runtime.interpreter.exists()
            ):
                seen = self._seen[topic.name] = _Seen(stamp, self._build(topic))
            return seen.runtime

    def _stamp(self, topic: Topic) -> tuple[object, ...]:
        lock_file = topic.script.with_name(f"{topic.script.name}.lock")
        return tuple(_stat(path) for path in (topic.script, lock_file, *(self._root / name for name in _WATCHED)))

    def _build(self, topic: Topic) -> Runtime:
        try:
            content = topic.script.read_bytes()
        except OSError as error:
            raise EnvironmentFailed(f"{topic.script.name} cannot be read: {error.strerror}") from error
        environment = self._environments.prepare(topic.script)
        digest = hashlib.sha256(content).hexdigest()
        return Runtime(
            topic=topic,
            python=environment.python_version,
            interpreter=environment.python,
            environ=environment.environ(self._environ),
            packages=environment.packages,
            script_sha256=digest,
            git=_git(self._root),
            start_method="spawn",
        )


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _git(root: Path) -> dict[str, object] | None:
    """Return the commit of the project and whether tracked files differ from it; None outside of a checkout."""
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments],  # noqa: S607 - the git that the user has
                capture_output=True,
                text=True,
                check=False,
                env=environ,
                timeout=_GIT_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "dirty": bool(answers[1])}
