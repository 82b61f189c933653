"""Commands for workers: worker, unlock."""

from __future__ import annotations

import logging
import signal
import sys

import click

from sjq.cli import render
from sjq.cli.values import Seconds
from sjq.jobs import shown

LEAST_ANSWER_S = 2.0
"""What a busy server may take for an answer, however short the lease."""


@click.command("worker", short_help="Run the jobs that wait.")
@click.option(
    "--topics",
    "first",
    metavar="TOPIC...",
    multiple=True,
    help="Only these topics; all of them or none. Default: all that are free.",
)
@click.argument("more", metavar="", nargs=-1)
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Slots per topic, over the config.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after N attempts.")
@click.option("--burst", is_flag=True, help="End when nothing waits or runs any more.")
@click.option("--grace", type=Seconds(), metavar="S", help="How long running jobs may go on after a signal to end.")
def worker_command(
    first: tuple[str, ...],
    more: tuple[str, ...],
    concurrency: int | None,
    limit: int | None,
    burst: bool,
    grace: float | None,
) -> None:
    """Run the jobs that wait, each in a process of its own, until stopped (Ctrl-C; a second time: at once)."""
    from sjq.brokers import open_broker  # noqa: PLC0415 - help does not pay for it
    from sjq.config import load  # noqa: PLC0415
    from sjq.worker.loop import Options, Worker  # noqa: PLC0415

    if more and not first:
        raise click.UsageError(f"unexpected {more[0]!r}: topics are named as in --topics {' '.join(more)}")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = load()
    topics = tuple(dict.fromkeys([*first, *more]))
    # A worker that waits much longer for an answer does not renew what it has.
    broker = open_broker(config, answer_s=max(LEAST_ANSWER_S, config.worker.lease / 3))
    options = Options(topics=topics, concurrency=concurrency, limit=limit, burst=burst, grace=grace)
    worker = Worker(config, broker, options)
    stopping = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants a worker to outlive its terminal
        stopping.append(signal.SIGHUP)
    for number in stopping:
        signal.signal(number, lambda number, _: worker.request_stop(signal.Signals(number).name))
    try:
        code = worker.run()
    finally:
        broker.close()
    for number in stopping:
        signal.signal(number, signal.SIG_IGN)  # it has done what they ask for, and ends well
    sys.exit(code)


@click.command("unlock", short_help="Free topics that a worker holds.")
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option("--force", is_flag=True, help="Even from a worker that lives; it goes on with what it runs.")
def unlock_command(topics: tuple[str, ...], force: bool) -> None:
    """Free topics, by default all, and say who held them and since when. Refuses a live holder."""
    from sjq.client import Client  # noqa: PLC0415 - help does not pay for it

    with Client() as client:
        freed = client.unlock(topics, force=force)
    for holder in freed:
        since = f", since {shown(holder.since)}" if holder.since else ""
        render.line(f"{shown(holder.topic)} was held by {shown(holder.worker)}{since}")
    if not freed:
        render.talk("nothing was locked")
