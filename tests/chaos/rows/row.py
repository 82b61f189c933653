"""What a row consists of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chaos.field import Field, Plan


@dataclass(frozen=True, slots=True)
class Size:
    faults: int
    jobs: int

    def part(self, fraction: float) -> Size:
        """Return a part of it, and of what there is some, at least one."""
        return Size(math.ceil(self.faults * fraction), math.ceil(self.jobs * fraction))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table."""

    name: str
    run: Callable[[Field], None]
    ci: Size
    release: Size
    bounds: Callable[[Plan], Mapping[str, object]] = field(default=lambda _: {})
    """What figures may be at `most`, and must be at `least`; and `forgiven_s`: see `Book`."""
    fsync: str = "everysec"
    """How the server keeps what it is told."""
    seconds: int = 180
    """Within how many seconds a fifth of the CI size must be done in tests."""
