"""The command that shows sjq at work: demo."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import click
import msgspec

from sjq import clock
from sjq.cli import render
from sjq.client import Client
from sjq.errors import UsageError
from sjq.states import State

STAGES = ("census", "measure", "chart")
_BEAT_S = 0.25


@click.command("demo", short_help="Run the sample pipeline from end to end.")
def demo_command() -> None:
    """Run the sample pipeline: a census of the Python standard library, which ends in a picture.

    Needs no server. Runs in a checkout of sjq, whose topics/ it uses.
    """
    with Client() as client:
        missing = [stage for stage in STAGES if not (client.config.topics_folder / f"{stage}.py").is_file()]
        if missing:
            raise UsageError(f"there is no topics/{missing[0]}.py here: run sjq demo in a checkout of sjq")
        sys.exit(_run(client))


def _run(client: Client) -> int:
    from sjq.worker.loop import Options, Worker  # noqa: PLC0415 - help does not pay for it

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    render.talk("A census of the Python standard library: census lists its modules, measure counts the lines of each,")
    render.talk("chart draws what was found. uv builds an environment for each stage; the first time takes a while.")
    client.refuse_held(STAGES)
    before = _totals(client)
    client.create("census", {})
    worker = Worker(client.config, client.broker, Options(topics=STAGES, burst=True))
    display = _Display(before)
    with ThreadPoolExecutor(1, "sjq-demo") as thread:
        working = thread.submit(worker.run)
        try:
            while wait([working], _BEAT_S).not_done:
                display.show(_totals(client))
        except KeyboardInterrupt:
            render.talk("\nstopping")
            worker.request_stop("Ctrl-C")
            worker.request_stop("Ctrl-C")
            return 130
        code = working.result()
    display.show(_totals(client), last=True)
    return code or _conclude(client, before)


def _totals(client: Client) -> Mapping[str, Mapping[str, int]]:
    return {count.topic: count.totals for count in client.broker.counts(STAGES)}


@dataclass(slots=True)
class _Display:
    """A line that says how far each stage is, drawn again in place on a terminal, and now and then elsewhere."""

    before: Mapping[str, Mapping[str, int]]
    started: float = field(default_factory=clock.monotonic)
    said: str = ""
    said_at: float = 0.0

    def show(self, totals: Mapping[str, Mapping[str, int]], *, last: bool = False) -> None:
        """Show where the stages are now."""
        text = "   ".join(self._stage(stage, totals) for stage in STAGES)
        if sys.stderr.isatty():
            elapsed = f"{clock.monotonic() - self.started:.0f} s"
            click.echo(f"\r\x1b[K{text}   {elapsed}", err=True, nl=last)
        elif text != self.said and (last or clock.monotonic() - self.said_at > 5):
            self.said, self.said_at = text, clock.monotonic()
            render.talk(text)

    def _stage(self, stage: str, totals: Mapping[str, Mapping[str, int]]) -> str:
        def since_start(event: str) -> int:
            return totals[stage].get(event, 0) - self.before[stage].get(event, 0)

        done, failed, created = since_start("succeeded"), since_start("failed"), since_start("created")
        mark = "done" if created and done == created else f"{done}/{created}" if created else "waiting"
        return f"{stage} {mark}" + (f" ({failed} failed)" if failed else "")


def _conclude(client: Client, before: Mapping[str, Mapping[str, int]]) -> int:
    """Say where the picture and the records are."""
    now = _totals(client)
    failed = [stage for stage in STAGES if now[stage].get("failed", 0) > before[stage].get("failed", 0)]
    if failed:
        render.talk(f"jobs of {', '.join(failed)} failed: sjq list --topic {failed[0]} --state failed says why")
        return 1
    chart = client.list("chart", State.SUCCEEDED, limit=1)[0]
    output = client.records.read(chart.job_id, "output.json") or b"{}"
    picture = msgspec.json.decode(output)["data"]["picture"]
    sjq = "uv run sjq" if "UV" in os.environ else "sjq"  # as it was called
    render.facts(
        {
            "picture": picture,
            "records": f"{client.config.job_data.name}/   one input, output and metadata file for each job",
            "look at": "; ".join(f"{sjq} {command}" for command in ("status", "list", f"show {chart.job_id}")),
        }
    )
    return 0
