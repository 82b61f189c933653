"""Commands for topics: status, pause, resume."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from sjq.cli import render
from sjq.client import Client
from sjq.jobs import shown
from sjq.topic_status import TopicStatus


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
        if topic.stopped:
            render.line(f"\n{shown(topic.topic)} is stopped, its jobs wait: {topic.stopped}")
            render.line(f"  sjq resume {shown(topic.topic)}   lets them be taken again")


def _table(topics: Sequence[TopicStatus]) -> None:
    render.table(
        ["TOPIC", "INCOMING", "SCHEDULED", "PROCESSING", "FAILED", "SUCCEEDED", "WORKER"],
        [
            [
                render.brief(topic.topic),
                str(topic.incoming),
                str(topic.scheduled),
                str(topic.processing),
                str(topic.failed),
                str(topic.succeeded),
                _served(topic),
            ]
            for topic in topics
        ],
    )


def _served(topic: TopicStatus) -> str:
    marks = {"dead": topic.dead, "held": topic.held, "stopped": topic.stopped, "no handler here": not topic.handled}
    if topic.worker is not None:
        del marks["no handler here"]
    said = [mark for mark, applies in marks.items() if applies]
    return shown(topic.worker or "-") + (f" ({', '.join(said)})" if said else "")


@click.command("pause", short_help="Let no job of a topic be taken.")
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
def pause_command(topics: tuple[str, ...]) -> None:
    """Let no worker take jobs of TOPICs until they are resumed. What runs goes on, and jobs can be created."""
    with Client() as client:
        render.warn_of_unknown(topics, client.known_topics())
        client.pause(topics)
    for topic in topics:
        render.line(f"{topic} is paused: sjq resume {topic} goes on")


@click.command("resume", short_help="Let jobs of a topic be taken again.")
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
def resume_command(topics: tuple[str, ...]) -> None:
    """Let jobs of TOPICs be taken again that were paused, or halted at a failed job. What failed stays: sjq retry."""
    with Client() as client:
        render.warn_of_unknown(topics, client.known_topics())
        resumed = client.resume(topics)
    for topic in topics:
        render.line(f"{topic} goes on, after {resumed[topic]}" if topic in resumed else f"{topic} was not stopped")
