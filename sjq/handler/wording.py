"""How topics, places in data, values and their types are named in messages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LETTERS_AND_DIGITS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_TOPIC = _LETTERS_AND_DIGITS | frozenset("_.-")
_TOPIC_LENGTH = 128
_SHOWN = 60
_LONGEST_S = 1e9


class Refused(Exception):
    """Ends a handler with one sentence, where a traceback would tell nothing more."""


def check_topic(topic: object) -> str:
    """`topic`, when it is a name that a topic can have; raises TypeError or ValueError otherwise."""
    if not isinstance(topic, str):
        raise TypeError(f"a topic's name is a str, not {a(topic)}: {shown(topic)}")
    # The exact type: str subclasses and enums may show themselves otherwise in JSON and in messages.
    name = str.__str__(topic)
    if not 0 < len(name) <= _TOPIC_LENGTH or name[0] not in _LETTERS_AND_DIGITS or not _TOPIC.issuperset(name):
        raise ValueError(
            f"{shown(name)} cannot be a topic's name: 1 to {_TOPIC_LENGTH} of A-Z a-z 0-9 _ . -, "
            "the first a letter or a digit"
        )
    return name


def seconds(duration: Any) -> float:  # noqa: ANN401 - a number, a text or a timedelta
    """A duration in seconds; raises TypeError or ValueError."""
    import re

    text = str(duration.total_seconds() if hasattr(duration, "total_seconds") else duration).strip()
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(ms|s|m|h|d)?", text)
    if match is None:
        raise ValueError(f"{shown(duration)} is no duration: seconds, or a text such as 500ms, 30s, 10m, 2h, 1d")
    found = float(match[1]) * {"ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0}.get(match[2], 1.0)
    if found > _LONGEST_S:
        raise ValueError(f"{shown(duration)} is longer than any job waits: {_LONGEST_S:.0f} s are the most")
    return found


def at(path: str, key: object) -> str:
    """The place `key` below `path`: `data.items[3]`, `data["two words"]`."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def a(value: object) -> str:
    """The type of `value` with its article: `a set`, `an ndarray`, `None`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeiou' or name == 'ndarray' else 'a'} {name}"


def shown(value: object) -> str:
    """`value` as JSON writes it where it can, cut to fit a message."""
    import json

    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        text = repr(value)
    # A lone surrogate cannot be printed.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
