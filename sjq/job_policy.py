"""What one job may have of its own, over its topic's policy."""

from __future__ import annotations

from typing import TypedDict

from sjq.durations import duration
from sjq.errors import UsageError
from sjq.jobs import MOST_RETRIES


class JobPolicy(TypedDict, total=False):
    """What a job may have of its own, over its topic's policy; durations are seconds, or a text such as "10m"."""

    retries: int | None
    backoff: float | str | None
    timeout: float | str | None


class Checked(TypedDict):
    """The same, in seconds."""

    retries: int | None
    backoff: float | None
    timeout: float | None


def checked(
    *, retries: int | None = None, backoff: float | str | None = None, timeout: float | str | None = None
) -> Checked:
    """Return a job's own policy; raise UsageError for what cannot be."""
    if retries is not None:
        whole = isinstance(retries, int) and not isinstance(retries, bool)
        if not whole or not 0 <= retries <= MOST_RETRIES:
            raise UsageError(f"retries is {retries!r}; expected a whole number from 0 to {MOST_RETRIES}")
    return {
        "retries": retries,
        "backoff": _seconds("backoff", backoff),
        "timeout": _seconds("timeout", timeout, some=True),
    }


def _seconds(name: str, value: float | str | None, *, some: bool = False) -> float | None:
    try:
        seconds = None if value is None else duration(value)
    except ValueError as error:
        raise UsageError(f"{name} is {value!r}; expected {error}") from None
    if some and seconds == 0:
        raise UsageError(f"{name} is {value!r}; expected more than no time at all")
    return seconds
