"""The command line: one file per noun; `render` alone prints. Commands are loaded when they are called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import click

from sjq import __version__
from sjq.errors import Error

COMMANDS = {
    "create": ("jobs", "Create jobs; their ids are printed."),
    "worker": ("worker", "Run the jobs that wait."),
    "status": ("status", "Show how each topic does."),
    "list": ("jobs", "List jobs."),
    "show": ("jobs", "Show one job, with its parents and children."),
    "logs": ("jobs", "Print what a job printed."),
    "retry": ("jobs", "Send failed jobs back to wait."),
    "cancel": ("jobs", "Stop jobs that wait or run."),
    "pause": ("status", "Let no job of a topic be taken."),
    "resume": ("status", "Let jobs of a topic be taken again."),
    "dev": ("dev", "Run a handler for one job here, in this terminal."),
    "delete": ("jobs", "Forget ended jobs."),
    "purge": ("jobs", "Forget all failed jobs of a topic."),
    "prune": ("upkeep", "Remove old jobs and their records."),
    "unlock": ("worker", "Free topics that a worker holds."),
    "fsck": ("upkeep", "Find and mend what crashes left."),
    "demo": ("demo", "Run the sample pipeline from end to end."),
}
"""Each command's file and what it does, in the order of a job's life."""


class _Commands(click.Group):
    """Lists commands from the table, so that help costs no imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"sjq.cli.{COMMANDS[cmd_name][0]}"), f"{cmd_name}_command")
        assert isinstance(found, click.Command)  # noqa: S101 - the table and the files agree
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what was meant, where a name is nearly right."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - for the mistaken alone

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "sjq --help lists the commands"
            raise click.UsageError(f"no such command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands, in the order of a job's life"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "--version", message="sjq %(version)s")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run a folder of Python scripts as a durable pipeline.

    The project is the current directory: handlers in topics/, records in job_data/, settings in config.json.
    """
    ctx.obj = debug
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name or a worker's may be no UTF-8


def main() -> NoReturn:
    """Run the command line and exit with the code of the error, if there is one."""
    debug = "--debug" in sys.argv[1:2]
    try:
        # What click decides by the terminal, a person may decide otherwise (no-color.org).
        colour = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
        code = cli.main(standalone_mode=False, color=colour)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except Error as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader has gone, as head does; Python would complain when it flushes.
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)


def _complain(why: str) -> None:
    from sjq.cli import render  # noqa: PLC0415 - help does not pay for it

    render.talk(f"error: {why}")
