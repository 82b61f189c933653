"""What keepers measured, in words."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from sjq.executors.base import Breach, Limits
from sjq.sizes import shown_size
from sjq.states import Reason


def breach_of(limits: Limits, report: Mapping[str, Any], ended: int, *, killed: bool) -> Breach | None:
    """Return the limit for which a job was ended: one of ours, or of the kernel's memory; None when there is none.

    `ended` is the exit code of its process, or the negative number of a signal.
    """
    if report["excess"]:
        name, measured = report["excess"]
        return _breach(limits, name, measured)
    if report["oom_kills"] and ended != 0 and not killed:
        return _by_the_kernel(ended, report["max_rss_bytes"])
    return None


def _breach(limits: Limits, name: str, measured: float) -> Breach:
    if name == "timeout":
        return Breach(
            reason=Reason.TIMEOUT,
            why=f"it still ran after {_time(measured)}, and its time is limited to {_time(limits.timeout_s)}",
        )
    if name == "memory":
        return Breach(
            reason=Reason.MEMORY,
            why=f"its processes used {shown_size(int(measured))} of memory together, and memory is limited to "
            f"{shown_size(limits.memory_bytes or 0)}",
        )
    if name == "cpu":
        why = f"its processes used {_time(measured)} of CPU time together, and CPU time is limited to "
        return Breach(reason=Reason.LIMIT, why=why + _time(limits.cpu_s))
    return Breach(
        reason=Reason.LIMIT, why=f"it had {measured} processes at once, and processes are limited to {limits.processes}"
    )


def _by_the_kernel(ended: int, max_rss_bytes: int) -> Breach:
    """Return the breach of a job for which, or beside which, the kernel ran out of memory.

    It says which process it killed to nobody but the machine's administrator. When that was a descendant, the job's
    own process saw it end, and ended badly because of it.
    """
    largest = f"; the largest of its processes had used {shown_size(max_rss_bytes)}"
    if ended == -signal.SIGKILL:
        return Breach(reason=Reason.MEMORY, why=f"the kernel killed it for want of memory{largest}")
    how = f"exit code {ended}" if ended > 0 else f"signal {-ended}"
    why = f"the kernel killed a process here for want of memory while it ran, and it ended by {how}{largest}"
    return Breach(reason=Reason.MEMORY, why=why)


def _time(seconds: float | None) -> str:
    return f"{seconds or 0.0:.3f}".rstrip("0").rstrip(".") + " s"
