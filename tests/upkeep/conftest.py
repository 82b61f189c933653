from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.config import Config

from .house import House


@pytest.fixture
def house(broker_config: Config, broker: Broker, wire: Wire, tmp_path: Path) -> House:
    # The embedded server is one for all tests, so that its `.sjq/` is not this test's alone.
    root = tmp_path / "project"
    root.mkdir()
    return House(replace(broker_config, root=root, job_data=root / "job_data"), broker, wire)
