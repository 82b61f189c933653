"""The command for developing handlers: dev."""

from __future__ import annotations

import sys

import click

from sjq.cli import render
from sjq.client import Client
from sjq.errors import NoSuchJob, UsageError
from sjq.jobs import Job, Message, shown
from sjq.states import State
from sjq.topics import find_topic


@click.command("dev", short_help="Run a handler for one job here, in this terminal.")
@click.argument("topic")
@click.option("--index", type=click.IntRange(0), metavar="N", help="The N-th waiting job; 0, the next one, by default.")
@click.option("--job", "job_id", metavar="ID", help="This job, waiting or ended; an ended one runs from its record.")
def dev_command(topic: str, index: int | None, job_id: str | None) -> None:
    """Run the handler of TOPIC for one job in this terminal, so that breakpoint() works.

    Changes no queue, takes no lock, creates nothing: it prints what would have followed.
    """
    from sjq.worker.rehearsal import rehearse  # noqa: PLC0415 - help does not pay for it

    if index is not None and job_id is not None:
        raise click.UsageError("give --index or --job, not both")
    with Client() as client:
        handled = find_topic(topic, client.config)
        job = _waiting(client, topic, index or 0) if job_id is None else client.get(client.resolve(job_id))
        if job.topic not in (None, topic):
            render.talk(f"warning: {shown(job.job_id)} is a job of {shown(job.topic or '')}, not of {topic}")
        message = _message(client, topic, job)
        render.talk(f"{shown(job.job_id)} ({job.state}) with topics/{handled.script.name}")
        done = rehearse(client.config, handled, message, attempt=max(1, job.attempt))
    render.talk(
        f"{done.outcome.state} after {done.elapsed_s:.2f} s" + (f": {why}" if (why := done.outcome.why) else "")
    )
    if done.output is not None:
        render.raw(done.output.rstrip() + b"\n")
    for following in done.outcome.next_jobs:
        begin = bytes(following.data[:200]).decode("utf-8", "replace")
        render.talk(f"would create on {following.topic}: {render.brief(begin, 100)}")
    sys.exit(0 if done.outcome.state is State.SUCCEEDED else 1)


def _waiting(client: Client, topic: str, index: int) -> Job:
    jobs = client.broker.list(topic, State.INCOMING, after=index, limit=1)
    if not jobs:
        raise NoSuchJob(f"topic {topic!r} has no waiting job {index}: create one, or name an ended one with --job")
    return client.get(jobs[0].job_id)


def _message(client: Client, topic: str, job: Job) -> Message:
    if job.data is None:
        if job.state is State.INCOMING:
            raise UsageError(f"the message of {shown(job.job_id)} is malformed: a worker fails it, and says why")
        raise NoSuchJob(f"the input of {shown(job.job_id)} is not here: its record is on another host, or removed")
    attachment = client.broker.attachment(job.job_id)
    if attachment is None:
        attachment = client.records.read(job.job_id, "attachment.bin")
    return Message(
        job_id=job.job_id, topic=topic, data=job.data, parent_job_id=job.parent_job_id, attachment=attachment
    )
