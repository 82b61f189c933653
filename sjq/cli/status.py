"""The command for topics: status."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from sjq.cli import render
from sjq.client import Client, TopicStatus
from sjq.jobs import shown


@click.command("status", short_help="Show how each topic does.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status_command(as_json: bool) -> None:
    """Show how many jobs of each topic wait, run and failed, who serves it, and why a topic is held."""
    with Client() as client:
        topics = client.status()
        where = client.broker.describe()
    if as_json:
        render.json({"broker": where, "topics": msgspec.to_builtins(topics)})
        return
    render.talk(where)
    if not topics:
        render.talk("no topics yet: put a script into topics/, or create a job")
        return
    _table(topics)
    for topic in topics:
        if topic.held:
            why = "\n  ".join(shown(line) for line in topic.held.splitlines())
            render.line(f"\n{shown(topic.topic)} is held, its jobs wait:\n  {why}")


def _table(topics: Sequence[TopicStatus]) -> None:
    render.table(
        ["TOPIC", "INCOMING", "PROCESSING", "FAILED", "SUCCEEDED", "WORKER"],
        [
            [
                render.brief(topic.topic),
                str(topic.incoming),
                str(topic.processing),
                str(topic.failed),
                str(topic.succeeded),
                _served(topic),
            ]
            for topic in topics
        ],
    )


def _served(topic: TopicStatus) -> str:
    if topic.worker is None:
        return "-" if topic.handled else "- (no handler here)"
    return shown(topic.worker) + (" (dead)" if topic.dead else " (held)" if topic.held else "")
