"""What a script needs, and the key: the digest of all that decides which environment `uv run` would give it."""

from __future__ import annotations

import hashlib
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sjq.errors import EnvironmentFailed
from sjq.executors.installed import normal_name
from sjq.executors.pep723 import block
from sjq.executors.uv import persons
from sjq.plain_file import read_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Part of every key: with another number all environments are built anew.
_FORMAT = 1

_SETTINGS = ("pyproject.toml", "uv.toml", ".python-version", ".python-versions")

# The variables by which uv resolves or chooses otherwise. Timeouts, caches, credentials and `UV_OFFLINE` are
# none of them: they decide whether a build succeeds, not what it gives.
_CHOICES = (
    "PYENV_VERSION",
    "UV_BUILD_CONSTRAINT",
    "UV_CONFIG_FILE",
    "UV_CONSTRAINT",
    "UV_DEFAULT_INDEX",
    "UV_EXCLUDE",
    "UV_EXTRA_INDEX",
    "UV_FIND_LINKS",
    "UV_FORK_STRATEGY",
    "UV_FROZEN",
    "UV_INDEX",
    "UV_ISOLATED",
    "UV_LOCKED",
    "UV_MANAGED_PYTHON",
    "UV_NO_",
    "UV_ONLY_",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_RESOLUTION",
    "UV_SYSTEM_PYTHON",
    "UV_TORCH_BACKEND",
    "UV_WORKING_DIR",
)
_NO_CHOICES = (
    "UV_NO_CACHE",
    "UV_NO_PROGRESS",
    "UV_PYTHON_DOWNLOADS",
    "UV_PYTHON_INSTALL_DIR",
    "_PASSWORD",
    "_USERNAME",
)


class Needs(NamedTuple):
    """A script's needs as they are written now."""

    block: bytes | None
    """The TOML of its PEP 723 block; None for a script that takes the environment it finds."""
    key: str


def read_needs(script: Path, *, root: Path, name: str) -> Needs:
    """Read what `script` needs when it is run from `root`; raise EnvironmentFailed if it cannot be read."""
    try:
        source = read_plain(script, follow=True)
    except OSError as error:
        raise EnvironmentFailed(f"{name} cannot be read: {error.strerror}") from error
    needs = block(source)
    try:
        if needs is not None:  # uv does not mind the encoding of a script without a block
            source.decode()
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise EnvironmentFailed(
            f"{name} has a `# /// script` block, and uv reads such scripts in UTF-8 only; line {line} is in another "
            f"encoding ({source[error.start : error.end]!r}): save the script as UTF-8"
        ) from error
    digest = hashlib.sha256()
    for part in _parts(script, needs, root):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return Needs(needs, digest.hexdigest()[:24])


def local_sources(script: Path, needs: bytes | None) -> dict[str, Path]:
    """Return the packages that the script's block takes from a folder or file of this machine."""
    import tomllib  # noqa: PLC0415 - slow to import, and only needed for a build

    try:
        sources = tomllib.loads((needs or b"").decode())["tool"]["uv"]["sources"].items()
    except (tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError):
        return {}  # no sources, or a block that uv refuses, and says why
    found = {}
    for package, choices in sources:
        for source in choices if isinstance(choices, list) else [choices]:
            if isinstance(source, dict) and isinstance(source.get("path"), str):
                found[normal_name(package)] = (script.parent / source["path"]).resolve()
    return found


def folders_above(script: Path, root: Path) -> list[Path]:
    """Return the folders in which uv looks for projects and settings."""
    return list(dict.fromkeys(chain(script.parents, (root,), root.parents)))


def _parts(script: Path, needs: bytes | None, root: Path) -> Iterator[bytes | None]:
    variables = persons(os.environ)
    yield b"%d" % _FORMAT
    yield os.fsencode(script.parent)  # local sources are relative to it
    yield needs
    for name, value in sorted(variables.items()):
        if name.startswith(_CHOICES) and not (name.startswith(_NO_CHOICES) or name.endswith(_NO_CHOICES)):
            yield os.fsencode(f"{name}={value}")
    above = folders_above(script, root)
    for folder in above:
        for name in _SETTINGS:
            content = _content(folder / name)
            # To a script with a block, a project above it is nothing but settings of uv.
            settles = needs is None or name != "pyproject.toml" or b"tool.uv" in (content or b"")
            yield content if settles else None
    yield from map(_content, _settings_elsewhere(variables))
    if needs is not None:
        yield _content(script.with_name(f"{script.name}.lock"))
        return
    yield os.fsencode(root)
    for name in ("CONDA_PREFIX", "PATH", "VIRTUAL_ENV"):
        yield os.fsencode(variables.get(name, ""))
    for folder in above:
        yield b"%d" % (folder / ".venv" / "pyvenv.cfg").exists()


def _settings_elsewhere(variables: Mapping[str, str]) -> Iterator[Path]:
    home = variables.get("XDG_CONFIG_HOME") or f"{variables.get('HOME', '')}/.config"
    yield Path(home, "uv", "uv.toml")
    yield Path(home, "uv", ".python-version")
    for folder in (variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder, "uv", "uv.toml")
    yield Path("/etc/uv/uv.toml")
    if chosen := variables.get("UV_CONFIG_FILE"):
        yield Path(chosen)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
