# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Stage 1 of the census: list the modules of the standard library, and start one job for each.

Try it:  sjq create census '{}'
"""

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import _rows

import sjq

LIBRARY = Path(sysconfig.get_path("stdlib"))
# Tests, demonstrations, tables of text, and what is installed beside the library.
LEFT_OUT = {
    "dist-packages",
    "idle_test",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}


@dataclass
class Census:
    """What a job of this topic is given: its `data`, checked and built by sjq."""

    folder: str = "output/census"


@sjq.job
def census(data: Census, job) -> list[sjq.Next]:  # noqa: ANN001 - sjq fills in what is named `job`
    """Return the next jobs: a list of `Next` is a fan-out, and sjq creates all of them or none."""
    folder = f"{data.folder}/{job.id.replace('/', '_')}"  # relative to the project, where every handler runs
    _rows.clear(folder)  # a handler may run more than once: it starts clean

    modules = {name: files for name in sorted(sys.stdlib_module_names) if (files := sources(name))}
    total = sum(len(files) for files in modules.values())
    print(f"Python {sys.version.split()[0]}: {len(modules)} modules, {total} files to measure")

    return [
        sjq.Next("measure", {"module": name, "files": files, "folder": folder, "of": len(modules)})
        for name, files in modules.items()
    ]


def sources(module: str) -> list[str]:
    """Name the Python files of a module or package; none for what is private or written in C."""
    if module.startswith("_") or module in LEFT_OUT:
        return []
    found = [LIBRARY / f"{module}.py", *sorted((LIBRARY / module).rglob("*.py"))]
    names = [path.relative_to(LIBRARY) for path in found if path.is_file()]
    return [name.as_posix() for name in names if LEFT_OUT.isdisjoint(name.parts)]
