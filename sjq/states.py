"""The states of a job and what leads from one to another: the table of DESIGN, as code."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its life."""

    INBOX = "inbox"
    SCHEDULED = "scheduled"
    INCOMING = "incoming"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEDOUT = "timedout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Event(StrEnum):
    """One state change of one job, by the name under which the event stream has it."""

    CREATED = "created"
    TAKEN = "taken"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEDOUT = "timedout"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    DUE = "due"
    RELEASED = "released"
    RECOVERED = "recovered"
    LOST = "lost"
    REQUEUED = "requeued"
    DROPPED = "dropped"
    DELETED = "deleted"


class Reason(StrEnum):
    """Why an attempt ended as it did; beside it stands one sentence."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    LIMIT = "limit"
    LOST = "lost"
    OUTPUT = "output"
    MESSAGE = "message"
    CANCELLED = "cancelled"


TRANSITIONS: dict[tuple[State | None, Event], State | None] = {
    (None, Event.CREATED): State.INCOMING,
    (State.SCHEDULED, Event.DUE): State.INCOMING,
    (State.SCHEDULED, Event.CANCELLED): State.CANCELLED,
    (State.INCOMING, Event.TAKEN): State.PROCESSING,
    (State.INCOMING, Event.FAILED): State.FAILED,  # a malformed message
    (State.INCOMING, Event.CANCELLED): State.CANCELLED,
    (State.PROCESSING, Event.SUCCEEDED): State.SUCCEEDED,
    (State.PROCESSING, Event.FAILED): State.FAILED,
    (State.PROCESSING, Event.TIMEDOUT): State.TIMEDOUT,
    (State.PROCESSING, Event.CANCELLED): State.CANCELLED,
    (State.PROCESSING, Event.RETRIED): State.SCHEDULED,  # it failed, and has tries left
    (State.PROCESSING, Event.RELEASED): State.INCOMING,  # a stop or a deploy; nobody's fault
    (State.PROCESSING, Event.RECOVERED): State.INCOMING,  # its worker vanished
    (State.PROCESSING, Event.LOST): State.FAILED,  # its workers vanished too often
    (State.FAILED, Event.REQUEUED): State.INCOMING,
    (State.TIMEDOUT, Event.REQUEUED): State.INCOMING,
    (State.CANCELLED, Event.REQUEUED): State.INCOMING,
    (State.SUCCEEDED, Event.DELETED): None,  # the stub that is left of it
    (State.FAILED, Event.DELETED): None,
    (State.TIMEDOUT, Event.DELETED): None,
    (State.CANCELLED, Event.DELETED): None,
    (State.REJECTED, Event.DELETED): None,
}
"""What each event makes of each state. None is a job that the broker does not know."""

ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.TIMEDOUT, State.CANCELLED, State.REJECTED})
"""States in which nothing more happens by itself."""

RETRYABLE = frozenset({State.FAILED, State.TIMEDOUT})
"""States of jobs that wait for a person: `sjq retry` sends them back without naming them."""
