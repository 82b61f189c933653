"""Every error of sjq.

Error                     1   anything below
├── UsageError            2   the caller asked for something that cannot be
│   ├── ConfigError       2   config.json or the environment is wrong
│   └── MessageError      2   a job's message is malformed
├── NoSuchJob             3   no broker and no record knows the id
├── Conflict              5   somebody else holds it, or it is in another state
│   ├── CancelAsked       5   a person wants the job to end, and not to run again
│   ├── KeyTaken          5   another program's key stands in the place of one of ours
│   ├── LockHeld          5   a live worker holds the topic
│   ├── LeaseLost         5   the attempt belongs to another worker now
│   └── WrongState        5   the job's state does not allow the step
├── BrokerDown            6   the broker does not answer
└── EnvironmentFailed     1   uv could not build a script's environment

The number is the exit code of a command that ends with the error.
"""

from __future__ import annotations


class Error(Exception):
    """Anything that sjq raises on purpose; its text says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(Error):
    """The caller asked for something that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """`config.json` or an environment variable holds something that cannot be."""


class MessageError(UsageError):
    """A job's message, id or data is malformed."""


class NoSuchJob(Error):
    """Neither the broker nor a record on this host knows the job."""

    exit_code = 3


class Conflict(Error):
    """Somebody else holds the thing, or it is no longer in the state that the step needs."""

    exit_code = 5


class CancelAsked(Conflict):
    """A person has cancelled the job: its attempt may end in any way, but may not be followed by another.

    The text says who, or why.
    """


class KeyTaken(Conflict):
    """A key of another program stands in the broker in the place of one of ours."""


class LockHeld(Conflict):
    """A live worker holds the topic."""


class LeaseLost(Conflict):
    """Another worker owns this job now; the outcome of this attempt is dropped."""


class WrongState(Conflict):
    """The job is in a state from which this step does not lead anywhere."""


class BrokerDown(Error):
    """The broker does not answer, or answers that it cannot serve now."""

    exit_code = 6
    perhaps_done = False
    """Whether it may have heard us, so that what we asked for may be done, or may be done later."""


class EnvironmentFailed(Error):
    """uv could not build the environment of a script; the text is in uv's own words."""
