"""Projects for end-to-end tests: on a server, and without one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server

from end_to_end.project import Project


@pytest.fixture
def project(tmp_path: Path, valkey_server: Server) -> Iterator[Project]:
    """A project whose broker is a server, under a prefix of its own."""
    yield Project(tmp_path / "project", redis=valkey_server.url, prefix=f"{secrets.token_hex(4)}:")
    valkey_server.client().flushall()


@pytest.fixture
def serverless(tmp_path: Path) -> Project:
    """A project without a broker: it has the embedded one."""
    return Project(tmp_path / "project")
