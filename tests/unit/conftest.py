from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from sjq.client import Client
from sjq.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A busy machine makes an example slow now and then; that is no fault of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    config = Config(root=tmp_path, job_data=tmp_path / "job_data", broker=f"memory://{uuid.uuid4()}")
    with Client(config=config) as opened:
        yield opened
