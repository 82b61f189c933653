from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sjq.executors.local import LocalExecutor
from sjq.worker.lock_file import LockFile

from .workshop import Neighbour, Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sjq.executors.base import Executor


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture(params=["local"])
def executor(request: pytest.FixtureRequest, root: Path) -> Iterator[Executor]:
    """Each executor there is; a new one adds its name, and passes the same suite."""
    assert request.param == "local"
    lock = LockFile(root / ".sjq" / "workers", "w")
    opened = LocalExecutor(root, lock=lock.descriptor)
    yield opened
    opened.close()
    lock.close()


@pytest.fixture
def workshop(root: Path, executor: Executor) -> Workshop:
    return Workshop(root, executor)


@pytest.fixture
def neighbour(workshop: Workshop) -> Neighbour:
    return Neighbour(workshop)
