"""Runtimes: what a topic's jobs run with, computed once for each version of its script."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sjq import clock
from sjq.errors import EnvironmentFailed
from sjq.executors.base import Runtime
from sjq.executors.environments import Environment, Environments
from sjq.executors.git import Git
from sjq.plain_file import read_plain
from sjq.topics import Topic

LOOK_S = 1.0
"""How often all that an environment was made from is looked at; the script itself, before every job."""


@dataclass(frozen=True, slots=True)
class _Seen:
    stamp: tuple[object, ...]
    looked_at: float
    environment: Environment
    runtime: Runtime


class Runtimes:
    """Prepares runtimes, and knows when one is out of date."""

    def __init__(self, root: Path, environ: Mapping[str, str], stopping: threading.Event) -> None:
        """Build no more once `stopping` is set."""
        self._root = root
        self._environ = dict(environ)
        self._environments = Environments(root, root / ".sjq" / "environments", stopping)
        self._git = Git(root)
        self._seen: dict[str, _Seen] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._changing = threading.Lock()

    def prepare(self, topic: Topic) -> Runtime:
        """Return the topic's runtime; raise EnvironmentFailed when its environment cannot be built."""
        with self._changing:
            lock = self._locks.setdefault(topic.name, threading.Lock())
        with lock:  # the topic's other slots wait for the one that builds
            now, stamp = clock.monotonic(), (topic, _stat(topic.script))
            seen = self._seen.get(topic.name)
            if seen and seen.stamp == stamp and now < seen.looked_at + LOOK_S and seen.environment.python.exists():
                return seen.runtime
            environment, git = self._environments.prepare(topic.script), self._git.state()
            if seen and (seen.stamp, seen.environment, seen.runtime.git) == (stamp, environment, git):
                runtime = seen.runtime
            else:
                runtime = self._runtime(topic, environment, git)
            self._seen[topic.name] = _Seen(stamp, now, environment, runtime)
            return runtime

    def _runtime(self, topic: Topic, environment: Environment, git: dict[str, object] | None) -> Runtime:
        try:
            content = read_plain(topic.script, follow=True)
        except OSError as error:
            raise EnvironmentFailed(f"{topic.script.name} cannot be read: {error.strerror}") from error
        return Runtime(
            topic=topic,
            python=environment.python_version,
            interpreter=environment.python,
            environ=environment.environ(self._environ),
            packages=environment.packages,
            script_sha256=hashlib.sha256(content).hexdigest(),
            git=git,
            start_method="spawn",
        )


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
