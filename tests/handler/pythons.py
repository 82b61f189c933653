"""The Pythons on this machine that handlers are promised to run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

PROMISED = tuple((3, minor) for minor in range(9, 14))
_TELL = "import platform, sys; print(platform.python_version(), sys.executable)"


@cache
def found() -> dict[str, str]:
    """Version to executable: one of each promised minor version, and always the one that runs the tests."""
    chosen = {sys.version_info[:2]: (_version_here(), sys.executable)}
    for candidate in _candidates():
        told = _told(candidate)
        if told is not None:
            version, executable = told
            minor = tuple(map(int, version.rstrip("+").split(".")[:2]))
            if minor in PROMISED:
                chosen.setdefault(minor, (version, executable))
    return {version: executable for _, (version, executable) in sorted(chosen.items())}


def _candidates() -> list[str]:
    named = [name for name in os.environ.get("SJQ_TEST_PYTHONS", "").split(":") if name]
    pyenv = os.environ.get("PYENV_ROOT")
    built = sorted(map(str, Path(pyenv).glob("versions/3.*/bin/python"))) if pyenv else []
    on_path = [shutil.which(f"python{major}.{minor}") for major, minor in PROMISED]
    return [*named, *built, *(path for path in on_path if path and "shims" not in path)]


def _told(python: str) -> tuple[str, str] | None:
    try:
        run = subprocess.run([python, "-E", "-c", _TELL], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    version, executable = run.stdout.strip().split(" ", 1)
    return version, executable


def _version_here() -> str:
    return ".".join(map(str, sys.version_info[:3]))
