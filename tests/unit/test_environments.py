"""The environments of scripts, with the real uv: the meaning of `uv run`, without its place in the hot path."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sjq.errors import EnvironmentFailed
from sjq.executors import uv
from sjq.executors.environments import Environment, Environments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIX = 'dependencies = ["six"]'

REPORT = """
import importlib.metadata, json, os, sys
path = os.environ["PATH"].split(os.pathsep)
print(json.dumps({
    "python": sys.version.split()[0],
    "packages": {found.name.lower(): found.version for found in importlib.metadata.distributions()},
    "in_env": os.environ.get("VIRTUAL_ENV") == (sys.prefix if sys.prefix != sys.base_prefix else None),
    "first": os.path.samefile(path[0], os.path.dirname(sys.executable)),
    "rest": path[1:],
    "variables": sorted(name for name in os.environ if name.startswith("UV")),
    "depth": os.environ["UV_RUN_RECURSION_DEPTH"],
    "args": sys.argv[1:],
}))
"""

PREPARE = """
import sys, threading
from pathlib import Path
from sjq.executors import uv
from sjq.executors.environments import Environments
root, script, stub = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
if stub:
    uv.find = lambda: Path(stub[0])
print(Environments(root, root / ".sjq" / "environments", threading.Event()).prepare(script).python)
"""


class Project:
    """A folder with topics, as a person has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".sjq" / "environments"

    def write(self, path: str, text: str) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def script(self, needs: str | None, body: str = "", name: str = "x.py") -> Path:
        head = (
            "" if needs is None else "# /// script\n" + "".join(f"# {row}\n" for row in needs.splitlines()) + "# ///\n"
        )
        return self.write(f"topics/{name}", head + body)

    def library(self, value: int, dependencies: str = "[]") -> None:
        self.write(
            "mylib/pyproject.toml",
            f'[project]\nname = "mylib"\nversion = "0.1"\ndependencies = {dependencies}\n'
            '[project.scripts]\nmylib-tool = "mylib:tool"\n'
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
        )
        self.edit_library(value)

    def edit_library(self, value: int) -> None:
        self.write("mylib/src/mylib/__init__.py", f"VALUE = {value}\n\ndef tool():\n    print('the tool', VALUE)\n")

    def prepare(self, name: str = "x.py") -> Environment:
        """Prepare as a new process would: nothing is kept in memory."""
        return Environments(self.root, self.folder, threading.Event()).prepare(Path("topics") / name)

    def built(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def uv_run(self, *arguments: str) -> str:
        command = [str(uv.find()), "run", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=uv.persons(os.environ), check=True, capture_output=True, text=True
        ).stdout


def run(environment: Environment, *arguments: str, cwd: Path | None = None) -> str:
    command = [str(environment.python), *arguments]
    environ = environment.environ(os.environ)
    return subprocess.run(command, cwd=cwd, env=environ, check=True, capture_output=True, text=True).stdout.strip()


def imports(environment: Environment, module: str) -> bool:
    command = [str(environment.python), "-c", f"import {module}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "topics").mkdir()
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")


@pytest.fixture
def no_uv(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(uv, "call", lambda *arguments, **_: pytest.fail(f"uv was called: {arguments}"))
        monkeypatch.setattr(uv, "find", lambda: pytest.fail("uv was looked for"))

    return forbid


# What it gives


def test_a_block_gives_what_uv_run_gives(project: Project) -> None:
    project.script('requires-python = ">=3.11"\ndependencies = ["six", "idna<3.8"]', REPORT)
    environment = project.prepare()
    ours = json.loads(run(environment, "topics/x.py", "--input", "a", cwd=project.root))
    assert ours == json.loads(project.uv_run("topics/x.py", "--input", "a"))
    assert ours["packages"] == environment.packages
    assert ours["python"] == environment.python_version
    assert list(environment.packages) == ["idna", "six"]
    assert ours["in_env"]
    assert ours["first"]


def test_a_block_without_dependencies_gives_an_empty_environment(project: Project) -> None:
    project.script("", REPORT)
    environment = project.prepare()
    assert environment.packages == {}
    assert json.loads(run(environment, "topics/x.py", cwd=project.root)) == json.loads(project.uv_run("topics/x.py"))


def test_the_environment_has_bytecode(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    project.script('dependencies = ["six", "idna"]')
    place = project.prepare().python.parents[1]
    assert list(place.glob("lib/python*/site-packages/__pycache__/six.*.pyc"))
    assert list(place.glob("lib/python*/site-packages/idna/__pycache__/core.*.pyc"))


def test_the_lock_file_beside_the_script_rules(project: Project) -> None:
    project.script('dependencies = ["six==1.16.0"]')
    uv.call("lock", "--script", "topics/x.py", cwd=project.root, stopping=threading.Event())
    lock = project.root / "topics/x.py.lock"
    lock.write_text(lock.read_text().replace('specifier = "==1.16.0"', 'specifier = ">=1"'))
    project.script('dependencies = ["six>=1"]')
    locked = project.prepare()
    assert locked.packages == {"six": "1.16.0"}
    lock.unlink()
    assert project.prepare().packages != locked.packages


# When it is built


def test_the_body_costs_nothing(project: Project, no_uv: Callable[[], None]) -> None:
    project.script(SIX, "print(1)\n")
    first = project.prepare()
    project.script(SIX, "import six\nprint(2)\n")
    no_uv()
    assert project.prepare() == first


def test_scripts_with_equal_needs_share_one(project: Project, no_uv: Callable[[], None]) -> None:
    project.script(SIX, name="a.py")
    project.script(SIX, "print()\n", name="b.py")
    first = project.prepare("a.py")
    no_uv()
    assert project.prepare("b.py") == first


def test_other_dependencies_are_another_environment(project: Project) -> None:
    project.script('dependencies = ["six", "iniconfig"]')
    first = project.prepare()
    project.script(SIX)
    second = project.prepare()
    assert second.python != first.python
    assert imports(second, "six")
    assert not imports(second, "iniconfig")
    assert imports(first, "iniconfig"), "jobs that still run in the old one keep what they have"


@pytest.mark.parametrize("damage", ["interpreter", "folder", "answer"])
def test_what_is_gone_is_built_again(project: Project, damage: str) -> None:
    project.script(SIX)
    first = project.prepare()
    if damage == "interpreter":
        first.python.unlink()
    elif damage == "folder":
        shutil.rmtree(project.folder)
    else:
        next(project.folder.glob("*.json")).write_text('{"python": 1')
    second = project.prepare()
    assert second.python != first.python
    assert imports(second, "six")


def test_settings_of_uv_count(project: Project) -> None:
    project.script(SIX)
    first = project.prepare()
    project.write("uv.toml", 'constraint-dependencies = ["six<1.17"]\n')
    assert project.prepare().python != first.python


def test_edited_while_it_was_built(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script(SIX)
    real = uv.call

    def edit(*arguments: str, cwd: Path, stopping: threading.Event, extra: Mapping[str, str] | None = None) -> str:
        out = real(*arguments, cwd=cwd, stopping=stopping, extra=extra)
        if arguments[0] == "sync":
            project.script('dependencies = ["iniconfig"]')
        return out

    monkeypatch.setattr(uv, "call", edit)
    environment = project.prepare()
    assert list(environment.packages) == ["iniconfig"]
    assert project.built() == [environment.python.parents[1]], "the one that nobody asked for any more is removed"


def test_a_warm_start_is_quick(project: Project) -> None:
    project.script(SIX)
    project.prepare()
    took_s = []
    for _ in range(50):
        started = time.perf_counter()
        project.prepare()
        took_s.append(time.perf_counter() - started)
    assert min(took_s) < 0.005


# Single flight, and crashes


def test_eight_processes_build_once(project: Project) -> None:
    project.script('dependencies = ["six", "idna"]')
    command = [sys.executable, "-c", PREPARE, str(project.root), "topics/x.py"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    answers = [child.communicate()[0].strip() for child in children]
    (place,) = project.built()
    assert answers == [str(place / "bin" / "python")] * 8


def test_eight_threads_build_once(project: Project) -> None:
    project.script(SIX)
    environments = Environments(project.root, project.folder, threading.Event())
    barrier = threading.Barrier(8)

    def prepare(_: int) -> Environment:
        barrier.wait()
        return environments.prepare(Path("topics/x.py"))

    with ThreadPoolExecutor(8) as pool:
        assert len({found.python for found in pool.map(prepare, range(8))}) == 1
    assert len(project.built()) == 1


@pytest.mark.parametrize("orphan", ["stuck", "goes on"])
def test_killed_in_the_middle(project: Project, orphan: str) -> None:
    """The builder dies by SIGKILL; its uv may die with it, or finish while the next one builds."""
    project.script(SIX)
    pipe = project.root / "pipe"
    os.mkfifo(pipe)
    half = 'mkdir -p "$VIRTUAL_ENV/bin"; ln -s /bin/true "$VIRTUAL_ENV/bin/python"; echo $$ >pipe; read -r _ <pipe'
    goes_on = f'echo $$ >pipe; read -r _ <pipe; exec {uv.find()} "$@"'
    stub = project.write(
        "uv-stub",
        '#!/bin/sh\ncase "$*" in *" sync "*) '
        + (half if orphan == "stuck" else goes_on)
        + f';; esac\nexec {uv.find()} "$@"\n',
    )
    stub.chmod(0o755)
    builder = subprocess.Popen([sys.executable, "-c", PREPARE, str(project.root), "topics/x.py", str(stub)])
    uv_pid = int(pipe.read_text())
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    if orphan == "stuck":
        os.kill(uv_pid, signal.SIGKILL)
        assert len(project.built()) == 1
    else:
        pipe.write_text("go\n")
    environment = project.prepare()
    assert imports(environment, "six")
    project.script('dependencies = ["idna"]')
    other = project.prepare()
    assert set(project.built()) >= {environment.python.parents[1], other.python.parents[1]}
    if orphan == "stuck":
        assert len(project.built()) == 2, "what the dead one left is removed"


# Refusals


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ('dependencies = ["six==99"]', "there is no version of six==99"),
        ('requires-python = ">=3.99"', "Python >=3.99"),
        ("dependencies = [", "TOML parse error"),
        ('dependencies = ["a b c"]', "Expected one of"),
    ],
)
def test_uv_says_why(project: Project, needs: str, words: str) -> None:
    project.script(needs)
    with pytest.raises(EnvironmentFailed) as caught:
        project.prepare()
    text = str(caught.value)
    assert words in text
    assert text.startswith("topics/x.py: uv cannot build its environment: error: ")
    assert text.endswith("(`uv sync --script topics/x.py` says the same)")
    assert "\x1b" not in text
    project.script(SIX)
    assert imports(project.prepare(), "six"), "it is only that version of the script that has none"


def test_two_blocks(project: Project) -> None:
    project.script(SIX, "print(1)\n# /// script\n# dependencies = []\n# ///\n")
    with pytest.raises(EnvironmentFailed, match=r"topics/x\.py.*multiple PEP 723 metadata blocks"):
        project.prepare()


def test_an_unclosed_block(project: Project) -> None:
    project.write("topics/x.py", "# /// script\n# dependencies = []\nprint(1)\n")
    with pytest.raises(EnvironmentFailed, match="without a closing tag"):
        project.prepare()


def test_not_utf_8(project: Project) -> None:
    script = project.script(SIX, "# -*- coding: latin-1 -*-\n")
    script.write_bytes(script.read_bytes() + b'print("\xe9")\n')
    with pytest.raises(EnvironmentFailed, match=r"topics/x\.py .* line 5 .* UTF-8"):
        project.prepare()


def test_no_such_script(project: Project) -> None:
    with pytest.raises(EnvironmentFailed, match=r"topics/x\.py cannot be read: No such file"):
        project.prepare()


def test_no_uv(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script(SIX)
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EnvironmentFailed, match="install uv"):
        project.prepare()


def test_a_folder_that_cannot_be_written(project: Project) -> None:
    project.script(SIX)
    project.write(".sjq/environments", "a file")
    with pytest.raises(EnvironmentFailed, match="cannot be kept in"):
        project.prepare()


# Sources on this machine


def mylib(*, editable: bool) -> str:
    source = 'path = "../mylib"' + (", editable = true" if editable else "")
    return f'dependencies = ["mylib"]\n[tool.uv.sources]\nmylib = {{ {source} }}'


VALUE = "import mylib; print(mylib.VALUE)"


def test_a_local_package(project: Project, no_uv: Callable[[], None]) -> None:
    project.library(1)
    project.script(mylib(editable=False), "import subprocess\nsubprocess.run(['mylib-tool'], check=True)\n")
    first = project.prepare()
    assert first.packages == {"mylib": "0.1"}
    assert run(first, "topics/x.py", cwd=project.root) == project.uv_run("topics/x.py").strip() == "the tool 1"
    project.edit_library(22)
    second = project.prepare()
    assert (run(first, "-c", VALUE), run(second, "-c", VALUE)) == ("1", "22")
    no_uv()
    assert project.prepare() == second


def test_a_local_package_that_only_a_local_package_names(project: Project) -> None:
    project.library(1)
    project.write(
        "upper/pyproject.toml",
        '[project]\nname = "upper"\nversion = "1"\ndependencies = ["mylib"]\n'
        '[tool.uv.sources]\nmylib = { path = "../mylib" }\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
    )
    project.write("upper/upper/__init__.py", "")
    project.script('dependencies = ["upper"]\n[tool.uv.sources]\nupper = { path = "../upper" }')
    assert run(project.prepare(), "-c", VALUE) == "1"
    project.edit_library(22)
    assert run(project.prepare(), "-c", VALUE) == "22"


def test_an_editable_package(project: Project) -> None:
    project.library(1)
    project.script(mylib(editable=True))
    first = project.prepare()
    project.edit_library(22)
    assert project.prepare() == first
    assert run(first, "-c", VALUE) == "22"
    project.library(3, '["six"]')
    assert list(project.prepare().packages) == ["mylib", "six"]


def test_a_folder_of_wheels_as_index(project: Project) -> None:
    project.library(7)
    uv.call("build", "--wheel", "--out-dir", "wheels", "mylib", cwd=project.root, stopping=threading.Event())
    index = '[[tool.uv.index]]\nname = "here"\nurl = "../wheels"\nformat = "flat"\ndefault = true'
    project.script(f'dependencies = ["mylib"]\n{index}')
    assert run(project.prepare(), "-c", VALUE) == "7"


# Scripts without a block


def test_the_environment_of_the_project(
    project: Project, monkeypatch: pytest.MonkeyPatch, no_uv: Callable[[], None]
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(project.root / "elsewhere"))
    manifest = '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = {}\n'
    project.write("pyproject.toml", manifest.format('["six"]'))
    project.script(None, REPORT)
    first = project.prepare()
    assert first.python == project.root / ".venv/bin/python"
    assert list(first.packages) == ["six"]
    assert json.loads(run(first, "topics/x.py", cwd=project.root)) == json.loads(project.uv_run("topics/x.py"))
    project.write("pyproject.toml", manifest.format('["six", "iniconfig"]'))
    second = project.prepare()
    assert list(second.packages) == ["iniconfig", "six"]
    uv.call("pip", "uninstall", "--python", str(second.python), "six", cwd=project.root, stopping=threading.Event())
    assert project.prepare() == second, "uv run would have put it back"
    assert imports(second, "six")
    no_uv()
    project.script(None, "print('another body')\n")
    assert project.prepare() == second


def test_a_broken_project(project: Project) -> None:
    project.write("pyproject.toml", '[project]\nname = "p"\nversion = "0"\ndependencies = ["six==99"]\n')
    project.script(None)
    with pytest.raises(EnvironmentFailed, match="there is no version of six==99"):
        project.prepare()


def test_no_project_and_then_a_venv(project: Project) -> None:
    project.script(None, REPORT)
    default = project.prepare()
    ours = json.loads(run(default, "topics/x.py", cwd=project.root))
    assert ours == json.loads(project.uv_run("topics/x.py"))
    assert default.python_version == ours["python"]
    assert default.python.resolve() != Path(sys.executable).absolute(), "not sjq's own environment"
    uv.call("venv", cwd=project.root, stopping=threading.Event())
    found = project.prepare()
    assert found.python == project.root / ".venv/bin/python"
    assert found.packages == {}
    uv.call("pip", "install", "six", cwd=project.root, stopping=threading.Event())
    assert list(project.prepare().packages) == ["six"]


def test_an_active_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script(None, REPORT)
    uv.call("venv", "mine", cwd=project.root, stopping=threading.Event())
    monkeypatch.setenv("VIRTUAL_ENV", str(project.root / "mine"))
    assert project.prepare().python == project.root / "mine/bin/python"


def test_a_worker_that_python_m_uv_started_prefers_no_interpreter(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python3 -m uv run sjq worker` tells all uv below it to prefer its own; a person's shell does not."""
    project.script(None, REPORT)
    uv.call("venv", cwd=project.root, stopping=threading.Event())
    monkeypatch.setenv("UV_INTERNAL__PARENT_INTERPRETER", sys.executable)
    assert project.prepare().python == project.root / ".venv/bin/python"
