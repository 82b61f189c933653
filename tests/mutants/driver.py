"""Breaks sjq on purpose, one promise after the other, and says which of it the tests do not notice.

    uv run tests/mutants/driver.py [NAME...]

Works on a copy of this checkout, with an environment of its own. Ends with 1 when something survived.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutants.table import MUTATIONS, Mutation
from sjq.keepers.processes import become_subreaper, children, sweep

ROOT = Path(__file__).parents[2]
_WHERE = "import sjq; print(sjq.__file__)"


class Failed(Exception):
    """No verdict is possible."""


class Copy:
    """A copy of the checkout, whose commands and tests run the copy's code."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "sjq"
        shutil.copytree(ROOT, self._root, ignore=shutil.ignore_patterns(".*", "job_data", "__pycache__"))
        self._python = self._root / ".venv" / "bin" / "python"
        # A name that every Python prefers to that of the environment would have the checkout tested.
        dropped = ("PYTHONPATH", "VIRTUAL_ENV")
        self._environ = {name: value for name, value in os.environ.items() if name not in dropped}
        uv = [sys.executable, "-m", "uv", "sync", "--quiet", "--locked", "--python", sys.executable]
        subprocess.run(uv, cwd=self._root, env=self._environ, check=True)
        self._check()

    def _check(self) -> None:
        """Raise Failed unless what tests import and start is what is here."""
        command = [str(self._python), "-c", _WHERE]
        found = subprocess.run(command, cwd="/", env=self._environ, check=True, capture_output=True, text=True).stdout
        script = self._python.with_name("sjq").read_text("utf-8")
        if Path(found.strip()) != self._root / "sjq" / "__init__.py" or str(self._python) not in script:
            raise Failed(f"the copy in {self._root} does not run its own code: Python imports {found.strip()}")

    @contextmanager
    def broken(self, mutation: Mutation) -> Iterator[None]:
        """Have one thing broken."""
        path = self._root / "sjq" / mutation.file
        sound = path.read_text("utf-8")
        self._write(path, sound.replace(mutation.text, mutation.instead))
        try:
            yield
        finally:
            self._write(path, sound)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        # What was compiled of a text of the same length, written in the same second, would pass for up to date.
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)

    def green(self, tests: Collection[str]) -> bool:
        """Run tests; tell whether all passed. Raises Failed when one was not run, or is not there."""
        report = self._root / "report.xml"
        report.unlink(missing_ok=True)
        options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--junitxml={report}"]
        options.append(f"--basetemp={self._root.parent / 'tests'}")
        command = [str(self._python), "-m", "pytest", *options, *(f"tests/{test}" for test in tests)]
        done = subprocess.run(
            command, cwd=self._root, env=self._environ, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        _kill_what_is_left()
        suite = ET.parse(report).find("testsuite") if report.exists() else None
        if done.returncode not in (0, 1) or suite is None or suite.get("skipped") != "0":
            raise Failed(f"pytest cannot run {', '.join(tests)}:\n{done.stdout.decode('utf-8', 'replace')}")
        return done.returncode == 0


def _kill_what_is_left() -> None:
    """Kill the processes that tests of broken code leave, which have come to us."""

    def strays() -> list[int]:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        return children(os.getpid())

    sweep(strays, patience_s=0)


def judged(copy: Copy, mutation: Mutation) -> bool:
    """Break one thing, and say what came of it; tell whether it was caught."""
    began = time.monotonic()
    with copy.broken(mutation):
        caught = not copy.green([mutation.test])
    verdict = "caught" if caught else "SURVIVED"
    print(f"{verdict:8} {time.monotonic() - began:5.1f} s  {mutation.name}", flush=True)
    return caught


def main() -> int:
    mutations = _named() or MUTATIONS
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="sjq-mutants-") as folder:
        try:
            copy = Copy(Path(folder))
            if not copy.green(sorted({mutation.test for mutation in mutations})):
                raise Failed("the tests are red before anything is broken: run them, and mend that first")
            survived = [mutation for mutation in mutations if not judged(copy, mutation)]
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
    print(f"{len(mutations) - len(survived)} of {len(mutations)} were caught")
    return 1 if survived else 0


def _named() -> list[Mutation]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what the broken code does, as the table has it; all by default"
    )
    names = parser.parse_args().names
    if unknown := set(names) - {mutation.name for mutation in MUTATIONS}:
        parser.error(f"no mutation is called {min(unknown)!r}: the names are in {ROOT / 'tests/mutants/table.py'}")
    return [mutation for mutation in MUTATIONS if mutation.name in names]


if __name__ == "__main__":
    sys.exit(main())
