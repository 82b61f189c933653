"""Durations in seconds, as people write them."""

from __future__ import annotations

import contextlib
import math
import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
LONGEST_S = 1e9
"""Some thirty years: what is longer is a slip, and is no time that a calendar has."""

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: object) -> float:
    """Return seconds for a number of seconds, or for `500ms`, `30s`, `10m`, `2h`, `1d`; else ValueError."""
    seconds = math.nan
    with contextlib.suppress(OverflowError):
        if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
            seconds = float(match[1]) * _UNIT_S[match[2] or "s"]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
    if 0 <= seconds <= LONGEST_S:
        return seconds
    if LONGEST_S < seconds < math.inf:
        raise ValueError(f"no more than {LONGEST_S:.0f} seconds")
    raise ValueError("seconds as a number, or a text such as 500ms, 30s, 10m, 2h, 1d")
