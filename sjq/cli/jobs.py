"""Commands for jobs: create, list, show, logs, retry, cancel, delete, purge."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from sjq.cli import render
from sjq.client import Client
from sjq.errors import MessageError, NoSuchJob, UsageError, WrongState
from sjq.job_policy import JobPolicy
from sjq.jobs import Job, check_json, shown
from sjq.states import State

_STATES = click.Choice([str(state) for state in State])


@dataclass(frozen=True, slots=True)
class _Given:
    """What a person gave as a job's input."""

    data: bytes
    attachment: bytes | None = None


@click.command("create", short_help="Create jobs; their ids are printed.")
@click.argument("topic")
@click.argument("given", metavar="[INPUT]", required=False)
@click.argument("attachment", required=False, type=click.Path(path_type=Path))
@click.option("--jsonl", type=click.File("rb"), help="A file of JSON lines, - for stdin: each is the data of one job.")
@click.option("--parent-job-id", metavar="ID", help="The job that these follow, for the lineage.")
@click.option("--retries", type=click.IntRange(0), metavar="N", help="Tries after a failed one, over the config.")
@click.option("--backoff", metavar="S", help="The pause before the second try, about; then twice as long each time.")
@click.option("--durable", is_flag=True, help="Print an id only when its job would survive a power cut.")
@click.option("--timeout", metavar="S", help="How long one attempt may take, as in 90 or 10m; over the config.")
def create_command(
    topic: str,
    given: str | None,
    attachment: Path | None,
    jsonl: BinaryIO | None,
    parent_job_id: str | None,
    retries: int | None,
    backoff: str | None,
    timeout: str | None,
    durable: bool,
) -> None:
    """Create a job on TOPIC and print its id.

    \b
    INPUT is   JSON text      sjq create resize '{"w": 64}'
               a .json file   sjq create resize job.json
               another file   sjq create resize photo.jpg       (the attachment; the data is {})
               -              ... | sjq create resize -
    Without INPUT the data is {}. ATTACHMENT is a file that is handed to the handler.
    """  # noqa: D301 - \b keeps click from filling the lines
    if jsonl is not None and given is not None:
        raise click.UsageError("give INPUT or --jsonl, not both")
    policy: JobPolicy = {"retries": retries, "backoff": backoff, "timeout": timeout}
    with Client() as client:
        if (client.config.broker or "").startswith("memory://"):
            raise UsageError("memory:// lives in one process: the job would be gone when this command ends")
        parent_job_id = parent_job_id and _parent(client, parent_job_id)
        if jsonl is not None:
            for job_id in client.create_many(
                topic, _lines(jsonl), parent_job_id=parent_job_id, durable=durable, **policy
            ):
                render.line(job_id)
        else:
            job = _read(given, attachment)
            created = client.create(
                topic,
                msgspec.Raw(job.data),
                attachment=job.attachment,
                parent_job_id=parent_job_id,
                durable=durable,
                **policy,
            )
            render.line(created)
        _warn_without_handler(client, topic)


def _parent(client: Client, given: str) -> str:
    """Return the whole id of the parent; one that nobody here knows may live elsewhere."""
    try:
        return client.resolve(given)
    except NoSuchJob:
        render.talk(f"warning: nobody here knows a job {shown(given)}; it is taken as the parent all the same")
        return given


def _warn_without_handler(client: Client, topic: str) -> None:
    from sjq.topics import find_topic  # noqa: PLC0415 - what only a command needs

    try:
        find_topic(topic, client.config)
    except UsageError as error:
        render.talk(f"warning: {error}; what was created waits for a worker that has one")


def _read(given: str | None, attachment: Path | None) -> _Given:
    attached = None if attachment is None else _file(attachment)
    if given is None:
        return _Given(b"{}", attached)
    if given == "-":
        return _Given(check_json(sys.stdin.buffer.read(), "stdin"), attached)
    path = Path(given)
    if given.endswith(".json"):
        return _Given(check_json(_file(path), given), attached)
    if _is_file(path):
        if attached is not None:
            raise UsageError(f"{given} and {attachment} would both be the attachment: give the data as JSON")
        return _Given(b"{}", _file(path))
    try:
        return _Given(check_json(given.encode("utf-8", "surrogateescape"), "INPUT"), attached)
    except MessageError:
        if given.lstrip()[:1] in ("{", "[", '"'):
            raise
        raise UsageError(f"{render.brief(given)!r} is neither JSON nor a file that is there") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # JSON text can be longer than any name, or hold a NUL


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _lines(file: BinaryIO) -> Iterator[msgspec.Raw]:
    for number, text in enumerate(file, 1):
        if text.strip():
            yield msgspec.Raw(check_json(text, f"{file.name}, line {number}"))


@click.command("list", short_help="List jobs.")
@click.option("--topic", help="Only this topic.")
@click.option("--state", type=_STATES, help="Only this state; without it: what runs, waits, failed and succeeded.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="So many of each topic and state."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(topic: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs: what the broker knows, and what succeeded by the records here."""
    with Client() as client:
        render.warn_of_unknown([topic] if topic else [], client.known_topics())
        found = client.list(topic, state, limit=limit)
    if as_json:
        render.json([render.job_as_json(job) for job in found])
    elif found:
        render.jobs(found)
        if limit in Counter((job.topic, job.state) for job in found).values():
            render.talk(f"at most {limit} of each topic and state are shown: --limit shows more")
    else:
        render.talk("no jobs")


@click.command("show", short_help="Show one job, with its parents and children.")
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show_command(job_id: str, as_json: bool) -> None:
    """Show the job ID (any beginning of it that is unique), with its parents and children."""
    from sjq.cli import show  # noqa: PLC0415 - a page of its own

    with Client() as client:
        show.show(client, client.resolve(job_id), as_json=as_json)


@click.command("logs", short_help="Print what a job printed.")
@click.argument("job_id", metavar="ID")
def logs_command(job_id: str) -> None:
    """Print what the job ID printed, its stdout to stdout and its stderr to stderr; of a running one, so far."""
    from sjq.cli import show  # noqa: PLC0415 - a page of its own

    with Client() as client:
        show.logs(client, client.resolve(job_id))


@click.command("retry", short_help="Send failed jobs back to wait.")
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option("--job", "first", metavar="ID...", multiple=True, help="These jobs.")
def retry_command(topics: tuple[str, ...], first: tuple[str, ...]) -> None:
    """Send failed and timedout jobs back to wait, to be taken next in their old order.

    Of the TOPICs, of all topics when none is named, or single jobs by --job, the only way back for cancelled ones.
    Prints the ids.
    """
    job_ids, topics = ((*first, *topics), ()) if first else ((), topics)
    with Client() as client:
        render.warn_of_unknown(topics, client.known_topics())
        sent = client.retry(topics, job_ids=[client.resolve(job_id) for job_id in job_ids])
        for job_id in sent:
            render.line(shown(job_id))
        render.talk(f"{len(sent)} sent back")
        _say_what_holds_them(client, topics, nothing_went=not sent)


def _say_what_holds_them(client: Client, topics: Collection[str], *, nothing_went: bool) -> None:
    """Say what keeps jobs that were sent back from being taken, or kept them from going back."""
    for topic in client.status():
        if topics and topic.topic not in topics:
            continue
        if topic.stopped and topic.incoming:
            name = shown(topic.topic)
            render.talk(f"{name} is stopped, its jobs wait: {topic.stopped}; sjq resume {name} lets them be taken")
        if topics and topic.failed and nothing_went:
            render.talk(f"{topic.failed} of {shown(topic.topic)} were cancelled: sjq retry --job ID sends one back")


@click.command("cancel", short_help="Stop jobs that wait or run.")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
def cancel_command(job_ids: tuple[str, ...]) -> None:
    """Stop the jobs ID, wherever they wait or run: they are cancelled, and only sjq retry --job sends them back."""
    ended = late = 0
    with Client() as client:
        for job_id in [client.resolve(job_id) for job_id in job_ids]:
            try:
                state = client.cancel(job_id)
            except WrongState as error:
                render.talk(str(error))
                ended += 1
                continue
            late += state is State.PROCESSING
            said = _not_yet(client, client.get(job_id)) if state is State.PROCESSING else state
            render.line(f"{shown(job_id)} {said}")
    if ended:
        raise WrongState(f"{ended} of {len(job_ids)} had ended")
    if late:
        raise WrongState(f"{late} of {len(job_ids)} may still run; sjq status tells what becomes of its worker")


def _not_yet(client: Client, job: Job) -> str:
    worker = shown(job.worker or "nobody")
    if client.is_abandoned(job):
        successor = f"the next worker of {shown(job.topic or '?')}"
        return f"will be cancelled; its worker {worker} is gone: {successor} stops what it left, or sjq fsck --repair"
    return f"will be cancelled; its worker {worker} has not stopped it yet"


@click.command("delete", short_help="Forget ended jobs.")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
def delete_command(job_ids: tuple[str, ...]) -> None:
    """Make the broker forget ended jobs. Their records in job_data/ stay."""
    with Client() as client:
        resolved = [client.resolve(job_id) for job_id in job_ids]
        gone = client.delete(resolved)
    for job_id in resolved:
        known = job_id in gone
        render.line(f"{shown(job_id)} {'forgotten; its record stays' if known else 'is known from its record alone'}")


@click.command("purge", short_help="Forget all failed jobs of a topic.")
@click.argument("topic")
@click.option("--state", "states", type=_STATES, multiple=True, help="Default: failed and timedout.")
@click.option("--yes", is_flag=True, help="Do it; without, only count.")
def purge_command(topic: str, states: tuple[str, ...], yes: bool) -> None:
    """Make the broker forget all failed and timedout jobs of TOPIC. Their records in job_data/ stay."""
    chosen = [State(state) for state in states] or [State.FAILED, State.TIMEDOUT]
    with Client() as client:
        render.warn_of_unknown([topic], client.known_topics())
        if yes:
            render.line(f"{client.purge(topic, chosen)} jobs of {topic} forgotten")
        else:
            count = client.count_purgeable(topic, chosen)
            render.line(f"{count} jobs of {topic} would be forgotten; --yes does it")
