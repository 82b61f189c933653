"""What single values of `config.json` may be: a check returns its value, or raises ValueError with what is expected."""

from __future__ import annotations

from collections.abc import Callable

from sjq.durations import duration
from sjq.sizes import size

Check = Callable[[object], object]


def typed(kind: type) -> Check:
    """Return a check for values of one kind."""
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}

    def check(value: object) -> object:
        accepted = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not accepted or (isinstance(value, bool) and kind is not bool):
            raise ValueError(names[kind])
        return value

    return check


def at_least_one(value: object) -> int:
    """Take a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("a whole number from 1")
    return value


def count(value: object) -> int:
    """Take a whole number from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number from 0")
    return value


def one_of(*words: str) -> Check:
    """Return a check for one of some words."""

    def check(value: object) -> object:
        if value not in words:
            raise ValueError(" or ".join(f'"{word}"' for word in words))
        return value

    return check


def some_time(value: object) -> float:
    """Take a duration of more than nothing, and return its seconds."""
    if (seconds := duration(value)) <= 0:
        raise ValueError("more than no time at all")
    return seconds


def some_size(value: object) -> int:
    """Take a size of more than nothing, and return its bytes."""
    if (size_bytes := size(value)) < 1:
        raise ValueError("more than no byte at all")
    return size_bytes


def or_none(check: Check) -> Check:
    """Return a check that takes null, for no limit, beside what `check` takes."""

    def checked(value: object) -> object:
        try:
            return None if value is None else check(value)
        except ValueError as error:
            raise ValueError(f"{error}, or null for no limit") from None

    return checked


def script(value: object) -> str:
    """Take the name of a file in `topics/`."""
    if not isinstance(value, str) or "/" in value or not value.endswith(".py"):
        raise ValueError("the name of a .py file in topics/")
    return value


def prefix(value: object) -> str:
    """Take what keys may start with."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("a text of printable characters")
    return value


def port(value: object) -> int:
    """Take a TCP port."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise ValueError("a port, a whole number from 1 to 65535")
    return value


def url_or_options(value: object) -> object:
    """Take what names a Redis server."""
    if not isinstance(value, str | dict):
        raise ValueError("a URL, or an object with the arguments of a Redis client")
    return value


def anything(value: object) -> object:
    """Take whatever it is: it is looked at later."""
    return value
