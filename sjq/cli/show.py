"""The page of one job, and its logs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sjq import clock, identity
from sjq.cli import render
from sjq.client import Client
from sjq.errors import NoSuchJob
from sjq.jobs import Job, shown, worker_of
from sjq.large import LARGE_BYTES
from sjq.plain_file import open_plain
from sjq.states import State

MOST_RELATIVES = 20
_BRIEF = 2000


def show(client: Client, job_id: str, *, as_json: bool) -> None:
    """Print what the broker and the record here know of a job."""
    job = client.get(job_id)
    metadata = client.records.metadata(job_id)
    parents, children = _parents(client, job), client.children(job_id)
    if as_json:
        page: dict[str, object] = render.job_as_json(job)
        page["data"] = None if job.data is None else msgspec.Raw(job.data)
        page["parents"], page["children"], page["record"] = parents, children, metadata
        render.json(page)
        return
    render.facts(_facts(client, job, metadata))
    _related("parents, nearest first", client, parents)
    _related("children", client, children)


def _facts(client: Client, job: Job, metadata: Mapping[str, Any] | None) -> dict[str, str | None]:
    facts: dict[str, str | None] = {
        "job": shown(job.job_id),
        "topic": shown(job.topic or "?"),
        "state": render.state(job.state),
        "why": shown(job.why) if job.why else _held(client, job),
        "since": f"{render.age(job.since)} ago" if job.since else None,
        "again": f"at {clock.rfc3339(job.due)}" if job.due else None,
        "attempt": str(job.attempt) if job.attempt else None,
        "worker": None if job.worker is None else shown(job.worker),
        "input": _short(job.data),
    }
    if metadata is None:
        if elsewhere := _host_elsewhere(job):
            facts["record"] = f"on {shown(elsewhere)}"
        return facts
    output = client.records.beginning(job.job_id, "output.json", _BRIEF)
    usage = metadata["usage"] or {}
    if (metadata["state"], metadata["attempt"]) != (job.state, job.attempt or metadata["attempt"]):
        facts["record"] = f"of attempt {metadata['attempt']}, {metadata['state']}"
    facts |= {
        "output": _short(*output) if output else None,
        "took": f"{metadata['elapsed_time']:.3f} s, after {_seconds(metadata['queued_time'])} in the queue",
        "exit": f"signal {metadata['signal']}" if metadata["signal"] else str(metadata["exit_code"]),
        "memory": f"{usage['max_rss_bytes'] / 2**20:.1f} MiB" if usage else None,
        "stdout": _short(metadata["stdout"].encode()) if metadata["stdout"] else None,
        "stderr": _short(metadata["stderr"].encode(), tail=True) if metadata["stderr"] else None,
        "by hand": f"{metadata['command']} {shlex.join(metadata['args'])}",
    }
    return facts


def _held(client: Client, job: Job) -> str | None:
    """Return why a waiting job's topic is stopped or held, if it is."""
    if job.state is not State.INCOMING:
        return None
    topic = next((topic for topic in client.status() if topic.topic == job.topic), None)
    if topic and topic.stopped:
        return f"its topic is stopped: {topic.stopped}"
    return f"its topic is held: {' '.join(topic.held.split())}" if topic and topic.held else None


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.3f} s"


def _short(text: bytes | None, size: int | None = None, *, tail: bool = False) -> str | None:
    """Return a text, of which this may be the beginning alone, as a few lines; it cannot command the terminal."""
    if text is None:
        return None
    cut = text[-_BRIEF:] if tail else text[:_BRIEF]
    lines = [shown(row) for row in cut.decode("utf-8", "replace").rstrip().split("\n")]
    if (left_out := (size or len(text)) - _BRIEF) > 0:
        note = f"[... {left_out} more bytes]"
        lines = [note, *lines] if tail else [*lines, note]
    return "\n        ".join(lines)


def _host_elsewhere(job: Job) -> str | None:
    """Return the other host that has the job's record, as the worker in its fence tells."""
    host = identity.host_of(worker_of(job.fence)) if job.fence else None
    return host if host and host != identity.host() else None


def _parents(client: Client, job: Job) -> list[str]:
    """Return the ids of a job's parent, its parent's parent, and so on, as far as anybody knows."""
    parents: list[str] = []
    parent = job.parent_job_id
    while parent is not None and parent not in parents and len(parents) < MOST_RELATIVES:
        parents.append(parent)
        try:
            parent = client.get(parent).parent_job_id
        except NoSuchJob:
            break
    return parents


def _related(title: str, client: Client, job_ids: Sequence[str]) -> None:
    if not job_ids:
        return
    render.line(f"\n{title}")
    for job_id in job_ids[:MOST_RELATIVES]:
        try:
            state = render.state(client.get(job_id).state)
        except NoSuchJob:
            state = "unknown here"
        render.line(f"  {shown(job_id)}  {state}")
    if len(job_ids) > MOST_RELATIVES:
        render.line(f"  ... and {len(job_ids) - MOST_RELATIVES} more")


def logs(client: Client, job_id: str) -> None:
    """Print a job's stdout and stderr, each to its own stream."""
    files = client.records.logs(job_id)
    metadata = client.records.metadata(job_id)
    if not files and metadata is None:
        job = client.get(job_id)
        if elsewhere := _host_elsewhere(job):
            raise NoSuchJob(f"the record of {shown(job_id)} is on {shown(elsewhere)}: run sjq logs there")
        if job.attempt and job.state is not State.PROCESSING:
            raise NoSuchJob(f"what the last attempt of {shown(job_id)} printed went with its worker; it is {job.state}")
        raise NoSuchJob(f"job {shown(job_id)} is {job.state} and has not printed anything here yet")
    for stream, echo in (("stdout", render.raw), ("stderr", render.raw_talk)):
        if (path := files.get(stream)) is None:
            echo(str((metadata or {}).get(stream, "")).encode())
            continue
        with open_plain(path, follow=True) as file:
            # Up to the end of a line, so that no character and no colour is torn.
            while portion := file.read(LARGE_BYTES) + file.readline(LARGE_BYTES):
                echo(portion)
