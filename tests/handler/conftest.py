from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from servers import missing

import sjq.handler

from .project import Project
from .pythons import PROMISED, found


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is first on a script's path, as `.sjq/lib` is in a project."""
    folder = tmp_path_factory.mktemp("lib")
    package = Path(sjq.handler.__file__).parent
    shutil.copytree(package, folder / "sjq", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(params=sorted({*PROMISED, *found()}))
def project(request: pytest.FixtureRequest, tmp_path: Path, library: Path) -> Project:
    """A project on each Python that is promised, and on the one that runs the tests: for what depends on it."""
    python = found().get(request.param) or missing(f"Python {request.param}")
    return Project(tmp_path, library, python)


@pytest.fixture
def here(tmp_path: Path, library: Path) -> Project:
    """A project on the Python that runs the tests: for what does not."""
    return Project(tmp_path, library, sys.executable)
