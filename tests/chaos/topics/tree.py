"""Grows a tree of processes that do not want to end: its data is the kind of tree, or "quiet" for a good neighbour."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from _note import ATTEMPT, note

Step = Callable[[], object]

JOB_ID = os.environ["SJQ_JOB_ID"]
GROWN = Path(f"tree-{JOB_ID}")
GIVE_UP_AT = time.monotonic() + 60  # whatever becomes of them, no tree lives for ever
MOST_FORKS = 500
CROWD = 20
DEAF = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stay() -> NoReturn:
    while time.monotonic() < GIVE_UP_AT:
        time.sleep(0.1)
    os._exit(0)


def child(*steps: Step) -> None:
    """Fork one that takes the steps, and stays."""
    if not os.fork():
        for step in steps:
            step()
        stay()


def children(*steps: Step) -> None:
    for _ in range(3):
        child(*steps)


def deaf() -> None:
    for number in DEAF:
        signal.signal(number, signal.SIG_IGN)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def orphan(*steps: Step) -> None:
    if not (pid := os.fork()):
        child(os.setsid, *steps)
        os._exit(0)
    os.waitpid(pid, 0)


def another_program() -> NoReturn:
    program = [sys.executable, "-S", "-c", "import time; time.sleep(60)", JOB_ID]
    os.execve(program[0], program, {})


def restless(step: Step = lambda: None) -> NoReturn:
    """Fork, and exit, without end."""
    while time.monotonic() < GIVE_UP_AT:
        step()
        if os.fork():
            os._exit(0)
    stay()


def bomb(step: Step = lambda: None) -> NoReturn:
    """Fork without end, each of all; bounded in case that nobody stops them."""
    forks = os.open(GROWN, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while time.monotonic() < GIVE_UP_AT:
        if os.lseek(forks, 0, os.SEEK_END) >= MOST_FORKS:
            stay()
        os.write(forks, b".")
        if not os.fork():
            step()
    stay()


def crowd() -> None:
    for number in range(CROWD):
        child(*((deaf,) if number % 2 else ()), *((os.setsid,) if number % 3 else ()))


def quiet() -> NoReturn:
    """Keep an orphan, and end well as soon as there is a file `go`."""
    here = Path(f"orphan-{JOB_ID}")
    orphan(here.touch, lambda: os.execvp("sleep", ["sleep", "86400"]))
    while not here.exists():
        time.sleep(0.01)
    GROWN.touch()
    while not Path("go").exists():
        time.sleep(0.02)
    Path(sys.argv[4]).write_text(f'{{"data": {{"attempt": {ATTEMPT}}}}}')
    note("finish")
    sys.exit()


TREES: dict[str, tuple[Step, ...]] = {
    "quiet": (quiet,),
    "grandchildren": (partial(children, children),),
    "sessions": (partial(children, os.setsid),),
    "double forks": (orphan, partial(orphan, orphan)),
    "deaf": (deaf, children, orphan),
    "stopped": (partial(child, stop), partial(child, os.setsid, stop), partial(orphan, deaf, stop)),
    "stopped with all": (partial(children, stop), partial(orphan, stop)),
    "other programs": (partial(children, another_program), partial(orphan, another_program)),
    "restless": (partial(child, restless),),
    "restless sessions": (partial(child, partial(restless, os.setsid)),),
    "crowd": (crowd,),
    "bomb": (bomb,),
    "bomb of sessions": (partial(bomb, os.setsid),),
}

note("start")
kind = Path(sys.argv[2]).read_text().strip('"\n')
for step in TREES[kind]:
    step()
GROWN.touch()
if kind == "stopped with all":
    stop()
stay()
