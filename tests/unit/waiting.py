"""Waiting for conditions, never for time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


T = TypeVar("T")


def until(what: Callable[[], T], words: str, *, seconds: float = 20.0) -> T:
    """Return the first true value of `what`, which is asked again and again; fail in words after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {words}")
        time.sleep(0.01)
    return found
