"""The only place that prints: tables, one job, JSON. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import click
import msgspec

from sjq import clock
from sjq.jobs import Job, shown
from sjq.states import State

_COMMANDS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters; an escape that begins a colour, tabs and ends of lines are none."""

_ABOVE_ASCII = re.compile(rb"\x7f|\xc2[\x80-\x9f]")
"""The control characters, in UTF-8, that JSON leaves as they are."""

_COLOURS = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.TIMEDOUT: "red",
    State.PROCESSING: "cyan",
    State.SCHEDULED: "blue",
    State.CANCELLED: "yellow",
    State.REJECTED: "yellow",
}


def line(text: str = "") -> None:
    """Print a line of data."""
    click.echo(_harmless(text))


def talk(text: str) -> None:
    """Say something to the person, not to the program that reads stdout."""
    click.echo(_harmless(text), err=True)


def warn_of_unknown(topics: Iterable[str], known: Sequence[str]) -> None:
    """Say which topics nobody has heard of, and what may have been meant."""
    for topic in topics:
        if topic not in known:
            import difflib  # noqa: PLC0415 - for the mistaken alone

            near = difflib.get_close_matches(topic, known, n=1)
            talk(f"warning: no topic {topic!r} is known here" + (f"; did you mean {near[0]!r}?" if near else ""))


def raw(content: bytes) -> None:
    """Print bytes as they are; on a terminal, without what would command it."""
    _write(content, sys.stdout)


def _write(content: bytes, stream: TextIO) -> None:
    stream.buffer.write(_harmless(content.decode("utf-8", "backslashreplace")).encode() if stream.isatty() else content)
    stream.buffer.flush()


def _harmless(text: str) -> str:
    """Return text whose control characters stand there escaped, but for colours and the ends of lines."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def json(value: object) -> None:
    """Print a value as JSON, indented for people and fit for programs.

    What is no UTF-8, or could command a terminal, stands in it escaped.
    """
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = msgspec.json.encode(_encodable(value))
    click.echo(_ABOVE_ASCII.sub(lambda found: b"\\u00%02x" % found[0][-1], msgspec.json.format(text, indent=2)))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns; numbers stand right."""
    lines = [list(row) for row in rows]
    widths = [max(len(click.unstyle(row[index])) for row in [list(heads), *lines]) for index in range(len(heads))]
    right = [
        all(click.unstyle(row[index]).isdigit() or row[index] == "" for row in lines) for index in range(len(heads))
    ]
    for number, row in enumerate([list(heads), *lines]):
        cells = []
        for cell, width, flush_right in zip(row, widths, right, strict=True):
            padding = " " * (width - len(click.unstyle(cell)))
            cells.append(padding + cell if flush_right else cell + padding)
        text = "  ".join(cells).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def state(value: State) -> str:
    """Return a state in its colour."""
    return click.style(value, fg=_COLOURS.get(value))


def verdict(text: str, *, good: bool) -> str:
    """Return a word in the colour of good or of bad news."""
    return click.style(text, fg="green" if good else "yellow")


def age(since: float | None) -> str:
    """Return how long ago something was, in its largest fitting unit."""
    if since is None:
        return "-"
    seconds = max(0.0, clock.now() - since)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def job_as_json(job: Job) -> dict[str, object]:
    """Return a job as `--json` shows it."""
    return {
        "job_id": job.job_id,
        "topic": job.topic,
        "state": job.state,
        "parent_job_id": job.parent_job_id,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "since": None if job.since is None else clock.rfc3339(job.since),
        "due": None if job.due is None else clock.rfc3339(job.due),
        "worker": job.worker,
        "reason": None if job.reason is None else {"code": job.reason, "why": job.why},
    }


def jobs(found: Sequence[Job]) -> None:
    """Print a table of jobs; the last column takes what is left of the terminal's width."""
    rows = [
        [shown(job.job_id), shown(job.topic or "?"), state(job.state), age(job.since), str(job.attempt)]
        for job in found
    ]
    heads = ["JOB", "TOPIC", "STATE", "SINCE", "ATTEMPT", "WHY"]
    taken = sum(max(len(click.unstyle(row[index])) for row in [heads, *rows]) + 2 for index in range(5))
    left = max(20, shutil.get_terminal_size((140, 24)).columns - taken)
    table(heads, [[*row, brief(job.why, left)] for row, job in zip(rows, found, strict=True)])


def brief(text: str | None, limit: int = 60) -> str:
    """Return the beginning of a text, in one line that a terminal cannot take for a command."""
    flat = shown(" ".join((text or "").split()))
    return flat if len(flat) <= limit else f"{flat[: limit - 3]}..."


def facts(pairs: Mapping[str, str | None]) -> None:
    """Print names and values, one line each; what is None is left out."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        if value is not None:
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


def raw_talk(content: bytes) -> None:
    """Print bytes to stderr in the same way."""
    _write(content, sys.stderr)
