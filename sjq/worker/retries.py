"""Whether a job that failed is tried again, and after how long. Decides, does nothing."""

from __future__ import annotations

import random

from msgspec.structs import replace

from sjq.config import TopicPolicy
from sjq.jobs import Lease
from sjq.outcomes import Outcome, failed, lost, retried
from sjq.states import Reason, State

LONGEST_BACKOFF_S = 3600.0
"""Pauses stop growing here, unless the backoff itself is longer."""


def next_step(ended: Outcome, lease: Lease, policy: TopicPolicy) -> Outcome:
    """Return what becomes of a job after its attempt `ended`: the same, another try, or another worker's turn."""
    if ended.reason is Reason.LOST:
        if lease.losses + 1 < policy.losses:
            return lost(ended.why or "")
        times = f"{lease.losses + 1} times" if lease.losses else "once"
        return failed(Reason.LOST, f"{ended.why}; it was lost {times}: sjq retry runs it again")
    if ended.state not in (State.FAILED, State.TIMEDOUT):
        return ended
    retries = policy.retries if lease.message.retries is None else lease.message.retries
    if not ended.final and lease.tries < retries:
        return retried(ended, pause_s(ended, lease, policy))
    if ended.delay_s is not None or (retries and not ended.final):
        return replace(ended, why=f"{ended.why}; no try is left ({_counted(retries)})")
    return ended


def pause_s(ended: Outcome, lease: Lease, policy: TopicPolicy) -> float:
    """Return the seconds until the next try: what the handler asks for, or twice as many from try to try.

    At random between a half and the whole of that, so that jobs that failed together do not come back together
    ("equal jitter", M. Brooker, Exponential Backoff And Jitter, 2015).
    """
    if ended.delay_s is not None:
        return ended.delay_s
    backoff_s = policy.backoff if lease.message.backoff is None else lease.message.backoff
    doubled = backoff_s * 2.0 ** min(lease.tries, 64)
    return min(doubled, max(backoff_s, LONGEST_BACKOFF_S)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _counted(retries: int) -> str:
    return f"{retries} retries" if retries != 1 else "1 retry"
