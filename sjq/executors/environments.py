"""The environments of handler scripts: what `uv run` would give to each of them, prepared once and kept.

A script with a PEP 723 block gets an environment of its own, `<folder>/<key>-<random>`, made by `uv sync --script`.
uv itself keeps such environments by the script's *path*, and changes them in place under whoever runs in
them; ours are keyed by content, and never change once they are built. The key is the digest of the block, the lock file
beside the script, and the settings that uv would read; scripts of one folder with equal needs share
an environment, and an edit of the body costs nothing.

A script without a block runs in the environment that `uv run` chooses: with a `pyproject.toml` above the script,
that project's, synced, whatever `VIRTUAL_ENV` says; else the active environment; else a `.venv` above; else the
default interpreter. uv is asked, and its answer is kept until something changes that could change it. In all this,
the environment that `uv run sjq worker` put around ourselves counts for nothing (see `persons`).

`<folder>/<key>.json` is the answer. It is written last, so that a builder that dies leaves nothing that counts: only
a folder without the mark `complete`, which a later build removes. The answer also holds stamps of files: the
interpreter, local packages, the project's lock. When one differs, the environment is built anew, beside the old one,
in which jobs may be running.

Two limits. A package that is copied from a local folder (`path = "../mylib"`, not editable) is built anew when one of
its `.py` files or its build files changes, but not for other files. `uv run` looks at the build files alone, so that
after an edit of such a package the command typed by hand needs `--reinstall-package mylib` to agree. And
environments are never removed from the folder, since a process elsewhere may be running in one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import threading
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sjq import trees
from sjq.errors import EnvironmentFailed
from sjq.executors import uv
from sjq.executors.base import PreparationStopped
from sjq.executors.installed import installed, stamp, tree_stamp
from sjq.executors.needs import Needs, folders_above, local_sources, read_needs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sjq.executors.installed import Installed

_log = logging.getLogger("sjq.executor")
_MARK = "complete"
_LOOK_S = 0.05  # how often one that waits looks whether the other has built

_PROBE = """
import json, os, platform, sys
print(json.dumps({
    "python": sys.executable,
    "python_version": platform.python_version(),
    "path": sys.path,
    "scripts": os.environ["PATH"].split(os.pathsep)[0],
    "virtual_env": os.environ.get("VIRTUAL_ENV"),
}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a script runs with: exec `python` with `environ(os.environ)`, and it runs as under `uv run`."""

    python: Path
    python_version: str
    packages: dict[str, str]
    """Name to version, sorted: what is installed for the script."""
    variables: dict[str, str]
    """What `uv run` sets for its child, but for `PATH`."""
    scripts: Path
    """The folder of the environment's commands, which `uv run` puts first on the path."""

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that `uv run`, typed by the person who started us, would give to the script."""
        variables = uv.persons(base)
        depth = int(variables.get("UV_RUN_RECURSION_DEPTH", "0") or 0) + 1
        path = os.pathsep.join(filter(None, (str(self.scripts), variables.get("PATH"))))
        return variables | self.variables | {"PATH": path, "UV_RUN_RECURSION_DEPTH": str(depth)}


class _Answer(msgspec.Struct, frozen=True):
    """An environment as it is kept between processes, and the stamps of what it was made from."""

    python: str
    python_version: str
    packages: dict[str, str]
    variables: dict[str, str]
    scripts: str
    stamps: dict[str, str]
    trees: dict[str, str]

    def holds(self) -> bool:
        """Tell whether all that it was made from is still the same."""
        return all(stamp(Path(path)) == known for path, known in self.stamps.items()) and all(
            tree_stamp(Path(path)) == known for path, known in self.trees.items()
        )

    def environment(self) -> Environment:
        variables = self.variables
        if not Path(variables["UV"]).exists():  # sjq itself was installed anew, elsewhere
            variables = variables | {"UV": str(uv.find())}
        return Environment(
            python=Path(self.python),
            python_version=self.python_version,
            packages=self.packages,
            variables=variables,
            scripts=Path(self.scripts),
        )


class _Probed(msgspec.Struct, frozen=True):
    """What the interpreter that `uv run` chose says about itself."""

    python: str
    python_version: str
    path: list[str]
    scripts: str
    virtual_env: str | None


class Environments:
    """Prepares the environments of a project's scripts. Threads and processes may share its folder."""

    def __init__(self, root: Path, folder: Path, stopping: threading.Event) -> None:
        """Build no more once `stopping` is set."""
        self._stopping = stopping
        self._root = root.absolute()
        self._folder = folder.absolute()

    def prepare(self, script: Path) -> Environment:
        """Return the environment of `script`, building it first where there is none for its present needs.

        No uv is called when nothing changed. Of several callers one builds, and the others wait for it. Raises
        EnvironmentFailed, in uv's words, when there can be no environment now; the next call tries again.
        """
        script = self._root / script
        name = self._name(script)
        try:
            while True:
                needs = read_needs(script, root=self._root, name=name)
                answer = self._kept(needs.key)
                if answer is None:
                    with self._alone(needs.key):
                        answer = self._kept(needs.key)
                        if answer is None:
                            _log.info("%s: uv prepares its environment", name, extra={"event": "building"})
                            answer = self._make(script, needs)
                if answer is not None:
                    return answer.environment()
        except OSError as error:
            raise EnvironmentFailed(f"{name}: its environment cannot be kept in {self._folder}: {error}") from error

    def _name(self, script: Path) -> str:
        return str(script.relative_to(self._root) if script.is_relative_to(self._root) else script)

    def _kept(self, key: str) -> _Answer | None:
        try:
            answer = msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=_Answer)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return answer if answer.holds() else None

    def _keep(self, key: str, answer: _Answer) -> None:
        beside = self._folder / f"{key}.new"  # we hold the key, so nobody else writes it
        beside.write_bytes(msgspec.json.encode(answer))
        beside.rename(self._folder / f"{key}.json")

    @contextmanager
    def _alone(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the key among all threads and processes; raise BlockingIOError rather than wait, if so told."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{key}.lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not wait:
                        raise
                if self._stopping.wait(_LOOK_S):
                    raise PreparationStopped("nobody waits for this environment any more: the worker ends")
            yield

    def _make(self, script: Path, needs: Needs) -> _Answer | None:
        """Have uv do its work and keep what it gave; None if what decides was changed meanwhile."""
        answer = self._ask(script) if needs.block is None else self._build(script, needs)
        after = read_needs(script, root=self._root, name=self._name(script))
        # A person, or uv itself with the lock file beside the script, wrote something that decides.
        if after != needs:
            return None
        if needs.block is not None:
            (Path(answer.scripts).parent / _MARK).touch()
        self._keep(needs.key, answer)
        return answer

    def _ask(self, script: Path) -> _Answer:
        """Have `uv run` choose and sync the environment of a script that has no block."""
        project = [] if "UV_PROJECT" in os.environ else ["--project", str(script.parent)]
        again = ("uv", "run", *project, "python", "--version")
        out = self._uv(script, again, "run", "--compile-bytecode", *project, "python", "-I", "-c", _PROBE)
        # An environment's own start-up code may print too.
        said = [line for line in out.splitlines() if line.startswith('{"python":')]
        if not said:
            raise EnvironmentFailed(
                f"{self._name(script)}: its interpreter does not start as it should: {out[-1000:]!r}"
            )
        probed = msgspec.json.decode(said[-1], type=_Probed)
        found = installed(probed.path)
        watched = [Path(probed.python), *map(Path, probed.path), *found.files]
        watched += [folder / "uv.lock" for folder in folders_above(script, self._root)]
        variables = {"UV": str(uv.find())}
        if probed.virtual_env:
            variables["VIRTUAL_ENV"] = probed.virtual_env
        return _Answer(
            python=probed.python,
            python_version=probed.python_version,
            packages=found.packages,
            variables=variables,
            scripts=probed.scripts,
            stamps={str(path): stamp(path) for path in watched},
            trees={},
        )

    def _build(self, script: Path, needs: Needs) -> _Answer:
        """Have uv make the environment that the script's block describes."""
        for _ in self.leftovers(needs.key, remove=True):
            pass
        place = self._folder / f"{needs.key}-{os.urandom(4).hex()}"
        local = local_sources(script, needs.block)
        # Taken before the build, so that what is edited during it counts as changed.
        trees = {package: tree_stamp(folder) for package, folder in local.items()}
        self._sync(script, place, *_each("--refresh-package", local))
        found = _installed_in(place)
        # Packages that only another local package names: uv may have had old builds of them in its cache.
        further = {package: folder for package, folder in found.copied.items() if package not in local}
        if further:
            trees |= {package: tree_stamp(folder) for package, folder in further.items()}
            self._sync(script, place, *_each("--reinstall-package", further))
            found = _installed_in(place)
        python = place / "bin" / "python"
        return _Answer(
            python=str(python),
            python_version=_version(place),
            packages=found.packages,
            variables={"UV": str(uv.find()), "VIRTUAL_ENV": str(place)},
            scripts=str(python.parent),
            stamps={str(file): stamp(file) for file in (python, *found.files)},
            trees={str(local.get(package, folder)): trees[package] for package, folder in found.copied.items()},
        )

    def _sync(self, script: Path, place: Path, *options: str) -> None:
        name = self._name(script)
        again = ("uv", "sync", "--script", name)
        # Of the interpreters that fit, the one by which `uv run` runs this script on this machine now.
        find = ("python", "find", "--script", name)
        try:
            python = uv.call(*find, cwd=self._root, stopping=self._stopping)
        except PreparationStopped:
            raise
        except EnvironmentFailed:
            # uv may know where to download one: that is what it does first in an environment of its own.
            self._uv(script, again, *again[1:])
            python = self._uv(script, again, *find)
        command = ("sync", "--script", name, "--active", "--compile-bytecode", "--python", python.strip(), *options)
        self._uv(script, again, *command, extra={"VIRTUAL_ENV": str(place)})

    def _uv(self, script: Path, again: tuple[str, ...], *command: str, extra: Mapping[str, str] | None = None) -> str:
        try:
            return uv.call(*command, cwd=self._root, stopping=self._stopping, extra=extra)
        except PreparationStopped:
            raise
        except EnvironmentFailed as error:
            raise EnvironmentFailed(
                f"{self._name(script)}: uv cannot build its environment: {error}\n(`{shlex.join(again)}` says the same)"
            ) from error

    def leftovers(self, mine: str = "", *, remove: bool) -> Iterator[Path]:
        """Yield what builders left that died half-way, and `remove` it; `mine` is the key that the caller holds."""
        for place in sorted(self._folder.glob("*-*")):
            key = place.name.partition("-")[0]
            with suppress(BlockingIOError), nullcontext() if key == mine else self._alone(key, wait=False):
                if not (place / _MARK).exists():
                    if remove:
                        with suppress(OSError):
                            trees.remove(place)
                    yield place


def _each(option: str, packages: Iterable[str]) -> Iterator[str]:
    return chain.from_iterable((option, package) for package in packages)


def _installed_in(place: Path) -> Installed:
    return installed([str(folder) for folder in place.glob("lib/python*/site-packages")])


def _version(place: Path) -> str:
    lines = (place / "pyvenv.cfg").read_text().splitlines()
    return next(line.partition("=")[2].strip() for line in lines if line.startswith("version_info"))
