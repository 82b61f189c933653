"""How a topic does, as `sjq status` shows it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sjq import clock, identity
from sjq.brokers.base import Counts, Holder, Pause
from sjq.jobs import shown
from sjq.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatus:
    """A topic as `sjq status` shows it."""

    topic: str
    incoming: int
    scheduled: int
    processing: int
    failed: int
    succeeded: int
    worker: str | None
    """Who holds the topic."""
    dead: bool
    """Whether that worker is gone, and nobody has taken its place yet."""
    handled: bool
    """Whether the topic has a handler here."""
    held: str | None
    """Why its worker takes no job of it, in uv's words."""
    stopped: str | None
    """Why no worker takes a job of it: a person paused it, or it halted at a failed job."""


def topic_status(count: Counts, holder: Holder | None, *, handled: bool) -> TopicStatus:
    """Return how a topic does, from what the broker counted and who holds it."""
    facts = holder.facts if holder else {}
    try:
        held = msgspec.json.decode(facts.get("held", "{}"), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError):  # of another program
        held = {}
    return TopicStatus(
        topic=count.topic,
        incoming=count.states[State.INCOMING],
        scheduled=count.states[State.SCHEDULED],
        processing=count.states[State.PROCESSING],
        failed=count.states[State.FAILED],
        succeeded=count.totals.get("succeeded", 0),
        worker=holder.worker if holder else None,
        dead=bool(holder and identity.is_dead(holder.facts)),
        handled=handled,
        held=held.get(count.topic),
        stopped=None if count.pause is None else why_stopped(count.pause),
    )


def why_stopped(pause: Pause) -> str:
    """Return in words why nobody takes jobs of a topic: it may have halted, and be paused as well."""
    why = []
    if pause.halted_by is not None:
        why.append(f"it halted{_at(pause.halted_at)} because {shown(pause.halted_by)} failed")
    if pause.by is not None or pause.halted_by is None:
        why.append(f"{shown(pause.by or 'somebody')} paused it{_at(pause.since)}")
    return "; ".join(why)


def _at(since: float | None) -> str:
    return "" if since is None else f" at {clock.rfc3339(since)}"
