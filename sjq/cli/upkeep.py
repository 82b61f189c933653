"""Commands for upkeep: prune, fsck."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext

import click
import msgspec

from sjq.cli import render
from sjq.cli.values import Bytes, Seconds
from sjq.client import Client
from sjq.errors import UsageError
from sjq.fsck import Fsck
from sjq.jobs import check_topic, shown
from sjq.prune import Pace, Pruned, Pruning, Rules, turn_to_prune
from sjq.sizes import shown_size
from sjq.states import ENDED, State
from sjq.worker.repairs import Finding

_ENDED = click.Choice(sorted(map(str, ENDED)))


@click.command("prune", short_help="Remove old jobs and their records.")
@click.option("--older-than", type=Seconds(), metavar="AGE", help="Jobs that ended longer ago than, say, 30d.")
@click.option("--size", type=Bytes(), metavar="SIZE", help="The oldest, until job_data/ has no more than, say, 20GB.")
@click.option(
    "--state", "states", type=_ENDED, multiple=True, help="Only jobs that ended so. Default: however they did."
)
@click.option("--topic", help="Only this topic.")
@click.option("--yes", is_flag=True, help="Do it; without, only count.")
def prune_command(
    older_than: float | None, size: int | None, states: tuple[str, ...], topic: str | None, yes: bool
) -> None:
    """Remove the records of jobs that ended long ago, and make the broker forget them.

    By --older-than, --size or both, or else by the retention that is configured. What waits or runs stays, and what was
    sent back does; by size, failed and timedout jobs go last. It takes its time, so as not to be in the way of others.
    """
    with Client() as client:
        config = client.config
        chosen = frozenset(map(State, states)) or ENDED
        if topic is not None:
            check_topic(topic)
        rules = Rules(older_than=older_than, size=size, states=chosen, topic=topic)
        if not rules:
            rules = Rules(configured=config, size=config.records_size, states=chosen, topic=topic)
        if not rules:
            raise UsageError(
                'nothing says what is old: give --older-than or --size, or configure it, as in {"defaults": '
                '{"retention": {"succeeded": "30d"}}}'
            )
        with turn_to_prune(config.state_folder) if yes else nullcontext() as turn:
            pruned = Pruning(client.broker, config.job_data, rules, Pace(threading.Event()), turn).run()
    _say_pruned(pruned, yes=yes)


def _say_pruned(pruned: Mapping[tuple[str, State], Pruned], *, yes: bool) -> None:
    if pruned:
        rows = [
            [shown(topic or "?"), render.state(state), str(found.jobs), shown_size(found.bytes)]
            for (topic, state), found in sorted(pruned.items())
        ]
        render.table(["TOPIC", "STATE", "JOBS", "SIZE"], rows)
    jobs = sum(found.jobs for found in pruned.values())
    size = shown_size(sum(found.bytes for found in pruned.values()))
    what = f"{jobs} {'job' if jobs == 1 else 'jobs'} with {size}"
    render.talk(f"pruned: {what}" if yes else f"to be pruned: {what}" + ("; --yes does it" if jobs else ""))


@click.command("fsck", short_help="Find and mend what crashes left.")
@click.option("--repair", is_flag=True, help="Mend what leaves no doubt; without, only tell.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def fsck_command(repair: bool, as_json: bool) -> None:
    """Compare broker and job_data/, and tell what is not as sjq leaves it. Workers may be at work meanwhile.

    Ends with 1 when something is left. What a live worker has is never touched; one that is silent is watched for a
    whole lease before its jobs are taken back.
    """
    found: list[Finding] = []
    with Client() as client:
        for finding in Fsck(client.config, client.broker, repair=repair, say=render.talk).findings():
            found.append(finding)
            if not as_json:
                render.line(_line(finding))
    left = [finding for finding in found if not finding.mended]
    if as_json:
        render.json({"findings": msgspec.to_builtins(found), "left": len(left)})
    render.talk(_summary(found, left))
    sys.exit(1 if left else 0)


def _line(finding: Finding) -> str:
    word = "mended" if finding.mended else "found" if finding.repair else "kept"
    then = f" -> {finding.repair}" if finding.repair else ""
    return f"{render.verdict(word.ljust(6), good=finding.mended)}  {finding.where} {finding.what}{then}"


def _summary(found: list[Finding], left: list[Finding]) -> str:
    if not found:
        return "nothing is wrong"
    kept = sum(1 for finding in left if finding.repair is None)
    parts = [f"{len(found)} found"]
    if mended := len(found) - len(left):
        parts.append(f"{mended} mended")
    if mendable := len(left) - kept:
        parts.append(f"{mendable} that --repair mends")
    if kept:
        parts.append(f"{kept} for people to decide")
    return ", ".join(parts)
