from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .house import House

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / ".sjq" / "redis")
    yield house
    house.clear()
