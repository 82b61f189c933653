"""What git says of the project: the commit, and whether tracked files differ from it."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from sjq import clock

KEPT_S = 5.0
"""How long an answer is kept; to ask takes some 10 ms, and more in a large project."""

_TIMEOUT_S = 10.0


class Git:
    """Asks git, and not for every job."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._asking = threading.Lock()
        self._asked_at: float | None = None
        self._state: dict[str, object] | None = None

    def state(self) -> dict[str, object] | None:
        """Return `commit` and `dirty` as they are now or were a moment ago; None outside of a checkout."""
        with self._asking:
            if self._asked_at is None or clock.monotonic() > self._asked_at + KEPT_S:
                self._state = self._ask()
                self._asked_at = clock.monotonic()
            return self._state

    def _ask(self) -> dict[str, object] | None:
        environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        answers = []
        for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
            try:
                done = subprocess.run(
                    ["git", "-C", str(self._root), *arguments],  # noqa: S607 - the git that the user has
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environ,
                    timeout=_TIMEOUT_S,
                )
            except (OSError, subprocess.TimeoutExpired):
                return None
            if done.returncode:
                return None
            answers.append(done.stdout.strip())
        return {"commit": answers[0], "dirty": bool(answers[1])}
