"""How an attempt ended: what `Broker.settle` makes of a job."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sjq.jobs import Message
from sjq.states import Reason, State


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: what `settle` makes of it."""

    state: State
    """An ended state, `scheduled` for another try, or `incoming` to wait again at once."""
    reason: Reason | None = None
    """`lost` with `incoming` counts as a loss, nothing with `incoming` as an interruption."""
    why: str | None = None
    """One sentence for people."""
    next_jobs: tuple[Message, ...] = ()
    delay_s: float | None = None
    """How long until the next try; in what failed, what the handler asks for."""
    final: bool = False
    """Whether it failed in a way that no other try can mend, as the handler says."""


def succeeded(next_jobs: Iterable[Message] = ()) -> Outcome:
    """The attempt did its work; `next_jobs` are born in the same step."""
    return Outcome(state=State.SUCCEEDED, next_jobs=tuple(next_jobs))


def failed(reason: Reason, why: str, *, delay_s: float | None = None, final: bool = False) -> Outcome:
    """The attempt failed, for one reason and in one sentence."""
    return Outcome(state=State.FAILED, reason=reason, why=why, delay_s=delay_s, final=final)


def timedout(why: str) -> Outcome:
    """The attempt took longer than it may."""
    return Outcome(state=State.TIMEDOUT, reason=Reason.TIMEOUT, why=why)


def retried(ended: Outcome, delay_s: float) -> Outcome:
    """The attempt ended badly, and the job is tried again after a while."""
    return Outcome(state=State.SCHEDULED, reason=ended.reason, why=ended.why, delay_s=delay_s)


def cancelled(why: str) -> Outcome:
    """A person stopped the attempt."""
    return Outcome(state=State.CANCELLED, reason=Reason.CANCELLED, why=why)


def lost(why: str) -> Outcome:
    """What ran the attempt vanished, and nobody knows how it ended; the job waits again."""
    return Outcome(state=State.INCOMING, reason=Reason.LOST, why=why)


def released(why: str) -> Outcome:
    """The attempt was interrupted through no fault of the job, which waits again."""
    return Outcome(state=State.INCOMING, why=why)
