"""The contract of executors: where the processes of jobs run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from sjq.errors import EnvironmentFailed
from sjq.states import Reason
from sjq.topics import Topic


class PreparationStopped(EnvironmentFailed):
    """The worker ends, and what was being prepared is of no use any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a topic's jobs run with, prepared before its first take; the same for every job of a script version."""

    topic: Topic
    python: str
    """The version of the interpreter."""
    interpreter: Path
    environ: dict[str, str] = field(repr=False)
    """The environment of the job's process, but for what differs from job to job."""
    packages: dict[str, str]
    """Name to version: what uv resolved for the script."""
    script_sha256: str
    git: dict[str, object] | None
    """`commit` and `dirty` of the project; None outside of a git checkout."""
    start_method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the processes of an attempt may use together; None is as much as there is."""

    timeout_s: float | None = None
    """From the start of its first process."""
    memory_bytes: int | None = None
    """What is in memory; pages that several of them share count once."""
    cpu_s: float | None = None
    processes: int | None = None
    open_files: int | None = None
    """Of each process on its own: more are refused to it."""


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class Task:
    """One attempt, as an executor sees it."""

    runtime: Runtime
    job_id: str
    parent_job_id: str | None
    attempt: int
    input: Path
    output: Path
    attachment: Path | None
    stdout: Path
    stderr: Path
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes of an attempt used."""

    max_rss_bytes: int
    user_s: float
    system_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """How many files the processes of an attempt had open, where that is limited."""

    most: int
    """That one process was seen to have at once; one that ends quickly is seen by nobody."""
    limit: int
    """How many each may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A limit for which an attempt was ended."""

    reason: Reason
    """`timeout`, `memory`, or `limit` for the others."""
    why: str
    """One sentence that names the limit, and what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the process of an attempt ended."""

    exit_code: int | None
    """None when a signal ended it, or when nobody knows."""
    signal: int | None
    start_time: float
    end_time: float
    """Seconds since the epoch."""
    elapsed_s: float
    """By the monotonic clock."""
    usage: Usage | None
    killed: bool = False
    """`kill` was called for it, whatever the process made of that."""
    breach: Breach | None = None
    """Why it was ended before its time; None when it ended by itself, or `kill` was called before."""
    open_files: OpenFiles | None = None
    """None where they are not limited, or nobody knows. More of them are refused, and end nothing."""
    survivors: int = 0
    """How many processes of it live on, since they cannot be killed: another user started them, mostly."""
    error: str | None = None
    """Why the executor does not know how the process ended; then there is no exit code and no signal."""
    lost: bool = False
    """Whether that is so because what watched over it was killed; an end that is no fault of the job."""


class Executor(ABC):
    """Where the processes of jobs run. Thread-safe: each slot calls `run` from a thread of its own."""

    @abstractmethod
    def prepare(self, topic: Topic) -> Runtime:
        """Return what the topic's jobs run with, building its environment when needed.

        Cheap when nothing changed. Raises EnvironmentFailed with the reason in uv's words.
        """

    @abstractmethod
    def stop_preparing(self) -> None:
        """Have every `prepare` that is under way, or comes later and has to build, raise PreparationStopped."""

    @abstractmethod
    def run(self, task: Task) -> Exit:
        """Run the attempt to its end, and hold it to its limits; nothing of it lives when this returns.

        Raises EnvironmentFailed when its process could not be started.
        """

    @abstractmethod
    def kill(self, task: Task) -> None:
        """Stop the attempt that another thread runs: SIGTERM, and SIGKILL after `kill_after`. Twice is fine."""

    @abstractmethod
    def close(self) -> None:
        """Kill what still runs, and free what the executor holds."""
