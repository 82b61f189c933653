"""Loads the transitions, one `.lua` file each, and calls them by the names in their headers.

A header line `-- ARGV prefix topic jobs...` says what a script is called with; the loader gives each argument that
name in Lua, and makes a wrong or missing name a TypeError before the server is asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import redis

Argument = str | bytes | int | float
Execute = Callable[..., object]
"""A client's way to send one command."""

_FOLDER = Path(__file__).parent


def as_read(argument: Argument) -> Argument:
    """Return text as it was read: what is no UTF-8 goes back to the server unchanged."""
    return argument.encode("utf-8", "surrogateescape") if isinstance(argument, str) else argument


class Script:
    """One transition."""

    def __init__(self, name: str) -> None:
        body = (_FOLDER / f"{name}.lua").read_text("utf-8")
        header = re.search(r"^-- ARGV (.*?)(?:  \(.*)?$", body, re.MULTILINE)
        if header is None:
            raise LookupError(f"{name}.lua has no line '-- ARGV ...'")
        names = header[1].split()
        self.name = name
        self.rest = names.pop().removesuffix("...") if names[-1].endswith("...") else None
        self.names = tuple(names)
        text = _named(self.names, self.rest) + (_FOLDER / "lib.lua").read_text("utf-8") + body
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def arguments(self, named: dict[str, Argument], rest: Iterable[Argument]) -> list[Argument]:
        """Return what follows the digest in EVALSHA: one key for routing, and the arguments in their order."""
        if set(named) != set(self.names):
            raise TypeError(f"{self.name}.lua takes {', '.join(self.names)}; it was given {', '.join(named)}")
        ordered = (*(named[name] for name in self.names), *rest)
        return [1, str(named["prefix"]) + "events", *(as_read(argument) for argument in ordered)]

    def __call__(self, execute: Execute, rest: Iterable[Argument] = (), **named: Argument) -> object:
        """Run the transition; a server that lost its script cache is given the script again."""
        arguments = self.arguments(named, rest)
        try:
            return execute("EVALSHA", self.sha, *arguments)
        except redis.exceptions.NoScriptError:
            return execute("EVAL", self.text, *arguments)


def _named(names: tuple[str, ...], rest: str | None) -> str:
    """Return Lua that names the arguments, on one line."""
    line = "".join(f"local {name} = ARGV[{index}] " for index, name in enumerate(names, 1))
    if "length" not in names:
        line += "local length = '' "
    if rest:
        line += f"local {rest} = {{}} for i = {len(names) + 1}, #ARGV do {rest}[#{rest} + 1] = ARGV[i] end "
    return line + "\n"


@cache
def script(name: str) -> Script:
    """Return the transition `name`."""
    return Script(name)
