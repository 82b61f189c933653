"""What an environment holds, and the stamps of all that it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_NO_SOURCE = frozenset({"__pycache__", "build", "dist", "node_modules"})


class Installed(NamedTuple):
    """The packages of an environment, and which of them came from files of this machine."""

    packages: dict[str, str]
    """Name to version, sorted."""
    copied: dict[str, Path]
    """Packages that were built from a folder and copied: an edit there is not seen until they are built anew."""
    files: list[Path]
    """Local files whose change means that the environment must be made anew."""


def installed(path: Sequence[str]) -> Installed:
    """Read what is installed along `path`, the `sys.path` of an environment."""
    from importlib.metadata import distributions  # noqa: PLC0415 - slow to import, and only needed after a build

    packages: dict[str, str] = {}
    copied: dict[str, Path] = {}
    files: list[Path] = []
    for distribution in distributions(path=list(path)):
        name = normal_name(distribution.metadata["Name"] or "")
        if not name or name in packages:  # the first one on the path is the one that is imported
            continue
        packages[name] = distribution.version
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        url = urlsplit(origin.get("url", ""))
        if url.scheme != "file":
            continue
        place = Path(unquote(url.path))
        if "dir_info" not in origin:
            files.append(place)
            continue
        files.extend(place / name for name in _BUILD_FILES)
        if not origin["dir_info"].get("editable"):
            copied[name] = place
    return Installed(dict(sorted(packages.items())), copied, files)


def normal_name(package: str) -> str:
    """Return the name under which uv knows the package, however it was written."""
    return re.sub(r"[-_.]+", "-", package).lower()


def stamp(path: Path) -> str:
    """Return what changes when the file, or the list of the folder's entries, does."""
    try:
        found = path.stat()
    except OSError:
        return "absent"
    return f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}"


def tree_stamp(folder: Path) -> str:
    """Return what changes when a source file of the package in `folder` does.

    Of a folder in one of the usual layouts only the package is looked at: the folder may be the project itself, with
    all its topics and jobs.
    """
    usual = [place for place in (folder / "src", *_packages(folder)) if place.is_dir()]
    parts = chain(_sources(folder, deep=not usual), *(_sources(place, deep=True) for place in usual))
    digest = hashlib.sha256()
    for line in sorted(parts):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _packages(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from (Path(entry.path) for entry in entries if Path(entry.path, "__init__.py").exists())


def _sources(folder: Path | str, *, deep: bool) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if deep and not entry.name.startswith(".") and entry.name not in _NO_SOURCE:
                    yield from _sources(entry.path, deep=True)
            elif entry.name.endswith(".py") or entry.name in _BUILD_FILES:
                found = entry.stat()
                yield f"{entry.path}\0{found.st_mtime_ns}:{found.st_size}\0"
