"""The only reader of time: wall time for what people see, monotonic time for durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> float:
    """Seconds since the epoch, by this machine's wall clock."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never jumps; for durations and deadlines."""
    return time.monotonic()


def rfc3339(seconds: float) -> str:
    """UTC time as in RFC 3339, with microseconds: `2026-11-21T23:15:01.123456Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_rfc3339(text: str) -> float:
    """Seconds since the epoch; raises ValueError when `text` is no such time, or does not say in which zone."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return at.timestamp()
