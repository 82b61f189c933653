from __future__ import annotations

import pytest
from servers import Wire

from sjq.brokers.base import Broker
from sjq.config import Config

from .house import House


@pytest.fixture
def house(broker_config: Config, broker: Broker, wire: Wire) -> House:
    return House(broker_config, broker, wire)
