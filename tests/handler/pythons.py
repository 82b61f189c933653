"""The Pythons that handlers are promised to run on, as far as this machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

PROMISED = tuple(f"3.{minor}" for minor in range(9, 14))
_TELL = "import sys; print('%d.%d' % sys.version_info[:2])"


@cache
def found() -> dict[str, str]:
    """Minor version to executable: one of each promised version, and always the one that runs the tests."""
    chosen = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for candidate in _candidates():
        if (minor := _told(candidate)) in PROMISED:
            chosen.setdefault(minor, candidate)
    return chosen


def _candidates() -> list[str]:
    named = [name for name in os.environ.get("SJQ_TEST_PYTHONS", "").split(":") if name]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    built = sorted(map(str, pyenv.glob("versions/3.*/bin/python")))
    on_path = [shutil.which(f"python{minor}") for minor in PROMISED]
    return [*named, *built, *(path for path in on_path if path and "shims" not in path)]


def _told(python: str) -> str | None:
    try:
        run = subprocess.run([python, "-E", "-c", _TELL], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
