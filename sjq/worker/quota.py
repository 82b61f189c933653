"""How many attempts a worker may still begin: `--limit N` ends it after N, and never begins one more."""

from __future__ import annotations

import threading


class Quota:
    """Counts attempts that are begun and ended; without a limit there is no end to them."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._changing = threading.Lock()
        self._begun = 0
        self._ended = 0

    def begin(self) -> bool:
        """Reserve one attempt; False when all are begun."""
        with self._changing:
            if self._limit is not None and self._begun >= self._limit:
                return False
            self._begun += 1
            return True

    def give_back(self) -> None:
        """Return a reservation: there was no job to begin."""
        with self._changing:
            self._begun -= 1

    def end(self) -> None:
        """Note that an attempt has ended, however it did."""
        with self._changing:
            self._ended += 1

    @property
    def used_up(self) -> bool:
        """Whether as many attempts have ended as may."""
        with self._changing:
            return self._limit is not None and self._ended >= self._limit
