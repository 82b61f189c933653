"""Retention: a worker prunes by the configured rules in the background, one worker of a host at a time."""

from __future__ import annotations

import logging
import threading

from sjq import clock
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import Error, LockHeld
from sjq.prune import Pace, Pruning, Rules, Stopped, turn_file, turn_to_prune
from sjq.states import RETRYABLE

EVERY_S = 600.0
PATIENCE_S = 1.0

_log = logging.getLogger("sjq.worker")


class Retention:
    """Prunes now and then, in a thread of its own; never where no rule is configured."""

    def __init__(self, config: Config, broker: Broker) -> None:
        self._config, self._broker = config, broker
        self._rules = Rules(configured=config, size=config.records_size)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tend(self) -> None:
        """Begin to prune, if there are rules and nobody on this host did so lately. Returns at once."""
        if not self._rules or (self._thread and self._thread.is_alive()) or self._was_lately():
            return
        self._thread = threading.Thread(target=self._run, name="sjq-retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop pruning; what is broken off goes on at the next time."""
        self._stopping.set()
        if self._thread:
            self._thread.join(PATIENCE_S)

    def _was_lately(self) -> bool:
        try:
            last = turn_file(self._config.state_folder).stat().st_mtime
        except FileNotFoundError:
            return False
        return 0 <= clock.now() - last < EVERY_S

    def _run(self) -> None:
        try:
            with turn_to_prune(self._config.state_folder) as turn:
                pace = Pace(self._stopping)
                pruned = Pruning(self._broker, self._config.job_data, self._rules, pace, turn).run()
        except (LockHeld, Stopped):
            return
        except (Error, OSError) as error:
            _log.warning("the rules of retention wait for their next turn: %s", error, extra={"event": "not_pruned"})
        else:
            if jobs := sum(one.jobs for one in pruned.values()):
                # By size they go without having been named: whoever wanted to send them back has to hear of it.
                lost = sum(one.jobs for (_, state), one in pruned.items() if state in RETRYABLE)
                of_them = f", {lost} of them failed or timedout" if lost else ""
                _log.info("pruned %d old jobs%s, as configured", jobs, of_them, extra={"event": "pruned"})
