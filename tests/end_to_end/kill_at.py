"""A worker that is killed at a named step of an attempt: `python kill_at.py STEP TIME MARK worker ...`.

The kill is a real SIGKILL, sent from within, so that it hits exactly there, when the step is reached for the TIMEth
time (1 is the first). MARK is a file that is written just before.
The steps wrap what the worker calls; the package knows nothing of them.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sjq.brokers.redis.broker import RedisBroker
from sjq.cli import main
from sjq.executors.local import LocalExecutor
from sjq.jobs import Lease
from sjq.records import Record, Records

STEPS = {
    "before take": (RedisBroker, "take", "before"),
    "after take": (RedisBroker, "take", "after"),
    "before begin": (Records, "begin", "before"),
    "in begin": (Records, "_write", "before"),
    "after begin": (Records, "begin", "after"),
    "before run": (LocalExecutor, "run", "before"),
    "in run": (LocalExecutor, "run", "while"),
    "after run": (LocalExecutor, "run", "after"),
    "before seal": (Record, "seal", "before"),
    "after seal": (Record, "seal", "after"),
    "before settle": (RedisBroker, "settle", "before"),
    "after settle": (RedisBroker, "settle", "after"),
    "before publish": (Record, "publish", "before"),
    "in publish": (Record, "publish", "within"),
    "after publish": (Record, "publish", "after"),
}

DYING = threading.Lock()


def die() -> NoReturn:
    with DYING:  # never left: another slot that comes here too must not begin to write the mark anew
        Path(MARK).write_text(STEP)
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit("SIGKILL did not kill")


def wrap(owner: type, name: str, when: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)
    times = itertools.count(1)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if when != "after" and next(times) < TIME:
            return original(*arguments, **named)
        if when == "before":
            die()
        if when == "while":
            threading.Thread(target=die_when_the_handler_runs, daemon=True).start()
        if when == "within":
            die_at_the_first_rename_but_one()
        result = original(*arguments, **named)
        reached = when == "after" and (name != "take" or isinstance(result, Lease))
        if reached and next(times) >= TIME:
            die()
        return result

    setattr(owner, name, wrapped)


def die_when_the_handler_runs() -> None:
    while not Path("running").exists():
        time.sleep(0.001)
    die()


def die_at_the_first_rename_but_one() -> None:
    original = Path.replace

    def replace(self: Path, target: Path) -> NoReturn:
        original(self, target)
        die()

    Path.replace = replace  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    STEP, time_reached, MARK, *sys.argv[1:] = sys.argv[1:]
    TIME = int(time_reached)
    wrap(*STEPS[STEP])
    main()
