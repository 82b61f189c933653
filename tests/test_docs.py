"""The reference says what there is, and there is what it says."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import sjq
from sjq import errors
from sjq.brokers.redis.keys import Keys
from sjq.brokers.redis.upkeep import _FAULTS
from sjq.cli import COMMANDS
from sjq.config import _TOP, TopicPolicy, WorkerPolicy
from sjq.states import Event, Reason, State
from sjq.worker import metadata

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs/reference.md").read_text("utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", REFERENCE.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_command_stands_in_the_reference_and_no_other() -> None:
    assert set(re.findall(r"^\| `sjq (\w+)", section("Commands"), re.MULTILINE)) == set(COMMANDS)


def test_every_option_of_every_command_stands_in_the_reference() -> None:
    from importlib import import_module

    import click

    rows = {row[0]: row[1] for row in re.findall(r"^\| `sjq (\w+)(.*)$", section("Commands"), re.MULTILINE)}
    for name, (module, _) in COMMANDS.items():
        command = getattr(import_module(f"sjq.cli.{module}"), f"{name}_command")
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in rows[name], f"{name} {option.opts[0]}"


def test_every_exit_code_stands_in_the_reference() -> None:
    codes = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)
    }
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Commands"), re.MULTILINE)}
    assert codes | {0, 130} == documented


def test_every_configuration_key_stands_in_the_reference_and_no_other() -> None:
    documented = set(
        re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", section("Configuration"), re.MULTILINE)))
    )
    documented -= {"SJQ_BROKER", "SJQ_JOB_DATA", "SJQ_CONFIG"}
    there = {key for key in _TOP if key not in ("defaults", "events", "records", "topics", "worker")}
    there |= {"events.length", "records.size"}
    there |= {f"worker.{field.name}" for field in fields(WorkerPolicy)}
    there |= {f"topics.T.{field.name}" for field in fields(TopicPolicy)}
    there |= {f"defaults.{field.name}" for field in fields(TopicPolicy) if field.name != "script"}
    assert documented == there


def test_every_state_reason_and_event_stands_in_the_reference() -> None:
    text = section("States")
    for name in (*State, *Reason, *Event):
        assert f"`{name}`" in text, name


def test_every_key_stands_in_the_reference_and_no_other() -> None:
    documented = {
        name.split(":")[0]
        for cell in re.findall(r"^\| (`.*?) \|", section("Keys in Redis"), re.MULTILINE)
        for name in re.findall(r"`([\w:<>]+)`", cell)
    }
    there = {name for name in vars(Keys) if not name.startswith("_") and name != "prefix"}
    assert documented == there


def test_every_finding_stands_in_the_reference_and_no_other() -> None:
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section("Upkeep"), re.MULTILINE))))
    sources = [ROOT / "sjq" / file for file in ("fsck.py", "worker/repairs.py", "brokers/redis/upkeep.py")]
    found = set(re.findall(r'code="(\w+)"|_files\(attempt, "(\w+)"', "".join(path.read_text() for path in sources)))
    there = {one or other for one, other in found} | set(_FAULTS) | {"lost", "silent"}
    assert documented == there


def test_the_metadata_is_documented_in_its_order() -> None:
    documented = re.findall(r"`(\w+)`", section("Records").split("in this order:")[1])
    source = Path(metadata.__file__).read_text("utf-8")
    assert documented == re.findall(r'^        "(\w+)":', source, re.MULTILINE)


def test_the_changelog_begins_with_this_version() -> None:
    [newest, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest == sjq.__version__


def test_links_between_the_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_command_that_shows_a_promise_is_there_to_be_run() -> None:
    from chaos.rows import ROWS

    text = (ROOT / "docs/explanation/guarantees.md").read_text("utf-8")
    rows = [row for line in re.findall(r"driver\.py ([^`]+)`", text) for row in line.split() if not row.startswith("-")]
    assert {row for row in rows if row != "ROW"} == set(ROWS)
    for path in re.findall(r"(?:tests|benchmarks)/[\w/.]+", text):
        assert (ROOT / path).exists(), path
