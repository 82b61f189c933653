"""Every example in the README is run, in the order in which it stands there, as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from end_to_end.project import Project
from servers import Server

import sjq

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FENCE = re.compile(r"(?:<!-- (?P<use>[^>]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
BLOCKS = [match.groupdict() for match in FENCE.finditer(README)]


@pytest.fixture
def written(serverless: Project) -> Project:
    """The project of the README: its files, with the embedded server."""
    (serverless.root / "config.json").unlink()
    for block in BLOCKS:
        if (use := block["use"] or "").startswith("file: topics/"):
            (serverless.root / use.removeprefix("file: ")).write_text(block["text"])
    return serverless


@pytest.fixture
def serverless(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def _shell(project: Project, text: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{project.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", text],
        cwd=project.root,
        env={**project.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout


def test_your_own_pipeline_works_as_printed(written: Project) -> None:
    [commands] = [block["text"] for block in BLOCKS if "sjq worker --burst" in block["text"]]
    printed = _shell(written, commands)
    outputs = [json.loads(path.read_text()) for path in sorted(written.job_data.glob("*-output.json"))]
    assert {"data": "HELLO ZOË"} in outputs
    assert re.search(r"shout .* 1 ", printed), "status"
    assert printed.count("succeeded") >= 2, "list"


def test_the_command_is_installed_as_printed(tmp_path: Path) -> None:
    [command] = [block["text"].strip() for block in BLOCKS if "tool install" in block["text"]]
    bin_folder = tmp_path / "bin"
    place = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(bin_folder)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env={**os.environ, **place, "PATH": path}, check=True, capture_output=True
    )
    told = subprocess.run([bin_folder / "sjq", "--version"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == f"sjq {sjq.__version__}\n"


def test_the_client_works_as_printed(written: Project) -> None:
    [program] = [block["text"] for block in BLOCKS if block["use"] == "run"]
    (written.root / "program.py").write_text(program)
    printed = _shell(written, f"{sys.executable} program.py")
    assert "incoming" in printed


def test_the_configuration_and_the_two_commands_of_other_producers_work(
    written: Project, valkey_server: Server
) -> None:
    [settings] = [block["text"] for block in BLOCKS if block["use"] == "file: config.json"]
    config = json.loads(settings)
    config["redis"]["port"] = int(valkey_server.url.rpartition(":")[2].partition("/")[0])
    config["prefix"] = prefix = f"{secrets.token_hex(4)}:"
    (written.root / "config.json").write_text(json.dumps(config))
    [producer] = [block["text"] for block in BLOCKS if block["text"].startswith("SET ")]
    client = valkey_server.client()
    for line in producer.replace("<id>", "an-id").splitlines():
        command, key, *rest = re.findall(r"\{.*\}|\S+", line)
        client.execute_command(command, f"{prefix}{key}", *rest)  # type: ignore[no-untyped-call]
    written.burst("--topics", "greet")
    assert written.metadata("an-id")["state"] == "succeeded"
    client.flushall()


def test_the_commands_for_a_fresh_machine_are_those_that_are_tested() -> None:
    commands = [
        block["text"].strip() for block in BLOCKS if block["language"] == "sh" and "pip install" in block["text"]
    ]
    assert [command.rpartition("uv run ")[2] for command in commands] == ["sjq demo", "pytest"]


@pytest.mark.timeout(300)
def test_the_demo_ends_with_a_picture(tmp_path: Path) -> None:
    """In a copy of what a clone holds, so that nothing of this checkout is touched."""
    root = Path(__file__).parent.parent
    project = Project(tmp_path / "clone")
    for path in (root / "topics").glob("*.py"):
        (project.root / "topics" / path.name).write_bytes(path.read_bytes())
    (project.root / "config.json").write_bytes((root / "config.json").read_bytes())
    done = project.sjq("demo", seconds=280)
    [picture] = re.findall(r"^picture +(\S+)$", done.stdout, re.MULTILINE)
    assert (project.root / picture).read_bytes().startswith(b"\x89PNG")
    assert "chart done" in done.stderr
