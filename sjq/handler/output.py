"""From what a handler returned to the output: a JSON object with the data and the next topics."""

from __future__ import annotations

import json
import math
import os

from . import Next
from .wording import Refused, a, at, check_topic, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NEXT_KEYS = frozenset(("attachment", "data", "topic"))
_RAW_KEYS = (
    ("next_topic", (str,), "a topic"),
    ("next_topics", (list, tuple), "a list of topics"),
    ("next", (list, tuple), "a list of Next"),
)
_DEEPEST = 1000  # levels, about what json goes into
_HINTS = {
    "bytes": "decode it, or write it to a file and return the file's name",
    "coroutine": "an async function was called and not awaited; use asyncio.run",
    "frozenset": "JSON has lists only: list(...)",
    "generator": "JSON has lists only: list(...)",
    "ndarray": "use .tolist()",
    "set": "JSON has lists only: list(...)",
}


class NotAnOutput(Refused):
    """What the handler returned has none of the forms that an output can have."""


def encoded(result: object, *, root: str) -> bytes:
    """The content of the output file for the return value `result`; raises NotAnOutput.

    `root` is the directory in which the handler started: the paths of attachments are understood from there.
    """
    return _dumped(_shaped(result, root))


def _shaped(result: object, root: str) -> dict[str, object]:
    if isinstance(result, Next):
        result = [result]
    if isinstance(result, (list, tuple)) and any(isinstance(item, Next) for item in result):
        return {"data": None, "next": _next_jobs(result, root)}
    if isinstance(result, dict):
        return _raw(result, root) or {"data": result}
    if type(result) is tuple and len(result) == 2 and _are_topics(result[1]):
        return _with_topics(result[0], result[1], "the second value of the returned pair")
    if type(result) is tuple:
        # As data it would end the pipeline without a word, where a topic stands in the wrong place or misses brackets.
        raise NotAnOutput(
            f"{a(result)} of {len(result)} was returned: a pair is (data, topic) or (data, [topics]); "
            "return a list where JSON is to have one"
        )
    return {"data": result}


def _are_topics(value: object) -> bool:
    # None, because `return data, topic_or_none` is how a last step is written.
    if isinstance(value, (list, tuple)):
        return all(isinstance(topic, str) for topic in value)
    return value is None or isinstance(value, str)


def _raw(result: dict[Any, Any], root: str) -> dict[str, object] | None:
    if "data" not in result or len(result) > 2:
        return None
    data = result["data"]
    for key, kind, meant in _RAW_KEYS:
        if key not in result:
            continue
        value = result[key]
        # The keys decide: taken for data, a slip here would end the pipeline without a word.
        if value is not None and not isinstance(value, kind):
            raise NotAnOutput(
                f"{key} is {a(value)}, and beside `data` it is {meant}; if all of it is the job's data, "
                'return {"data": {...}}'
            )
        if key != "next":
            return _with_topics(data, value, key)
        jobs = _next_jobs(list(value or ()), root, raw=True)
        return {"data": data, "next": jobs} if jobs else {"data": data}
    return {"data": data} if len(result) == 1 else None


def _with_topics(data: object, topics: Any, place: str) -> dict[str, object]:  # noqa: ANN401 - None, one or several
    if isinstance(topics, str):
        return {"data": data, "next_topic": _topic(topics, place)}
    names = [_topic(topic, f"{place}, item {number}") for number, topic in enumerate(topics or (), 1)]
    return {"data": data, "next_topics": names} if names else {"data": data}


def _next_jobs(items: list[object] | tuple[object, ...], root: str, *, raw: bool = False) -> list[dict[str, object]]:
    jobs = []
    for number, item in enumerate(items):
        place = f"next[{number}]"
        if isinstance(item, Next):
            jobs.append(_next_job(item, place, root))
        elif raw and isinstance(item, dict):
            jobs.append(_raw_next_job(item, place, root))
        elif raw:
            raise NotAnOutput(f"{place} is {a(item)}, and not an object with `topic` and `data`")
        else:
            raise NotAnOutput(
                f"a list of Next holds nothing else, and item {number + 1} of the returned one is {a(item)}; "
                'data and next jobs together are {"data": ..., "next": [Next(...), ...]}'
            )
    return jobs


def _raw_next_job(item: dict[object, object], place: str, root: str) -> dict[str, object]:
    for key in item:
        if key in ("delay", "priority"):
            raise NotAnOutput(f"{place}: {key} is not built yet; leave it out")
        if key not in _NEXT_KEYS:
            raise NotAnOutput(f"{place}: unknown key {shown(key)}; there are `topic`, `data` and `attachment`")
    for key in ("topic", "data"):
        if key not in item:
            raise NotAnOutput(f"{place}: `{key}` is missing")
    return _job(item["topic"], item["data"], item.get("attachment"), place=place, root=root)


def _next_job(item: Next, place: str, root: str) -> dict[str, object]:
    return _job(item.topic, item.data, item.attachment, place=place, root=root)


def _job(topic: object, data: object, attachment: object, *, place: str, root: str) -> dict[str, object]:
    job = {"topic": _topic(topic, f"{place}.topic"), "data": data}
    if attachment is None:
        return job
    if not isinstance(attachment, (str, os.PathLike)):
        raise NotAnOutput(f"{place}.attachment is {a(attachment)}, and not the path of a file")
    path = os.fspath(attachment)
    if not isinstance(path, str) or not os.path.isfile(path):
        raise NotAnOutput(f"{place}.attachment: there is no file {shown(path)}")
    # The worker looks from the root, wherever the handler has gone.
    job["attachment"] = path if os.getcwd() == root else os.path.abspath(path)
    return job


def _topic(value: object, place: str) -> str:
    try:
        return check_topic(value)
    except (TypeError, ValueError) as error:
        raise NotAnOutput(f"{place}: {error}") from None


def _dumped(document: dict[str, object]) -> bytes:
    try:
        text = json.dumps(document, allow_nan=False, default=_converted, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError) as error:
        # The encoder does not say where; a second, slower walk does.
        raise NotAnOutput(f"the returned data is not JSON: {_located(document) or error}") from error
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8, but it has an escape.
        return json.dumps(document, allow_nan=False, default=_converted).encode("ascii")


def _converted(value: Any) -> object:  # noqa: ANN401 - json's own contract
    """What JSON has in place of `value`; raises TypeError when there is nothing."""
    import datetime as dt
    import enum

    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, type):
        pass  # the class has the methods below, but no values
    elif hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    elif hasattr(value, "__dataclass_fields__"):
        import dataclasses

        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, os.PathLike):
        return os.fspath(value)
    elif isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    raise TypeError(f"{a(value)} has no JSON")


def _located(document: object) -> str | None:
    # A loop, because what is nested too deeply would end a recursion here as well.
    waiting: list[tuple[str, object, int]] = [("", document, 0)]
    try:
        while waiting:
            path, value, depth = waiting.pop()
            if depth > _DEEPEST:
                return f"{path[:60]}... is nested too deeply, or holds itself"
            below = _below(path, value)
            waiting.extend((place, item, depth + 1) for place, item in reversed(below))
    except NotAnOutput as found:
        return str(found)
    return None


def _below(path: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int, float, type(None))):
                raise NotAnOutput(f"a key of {path} is {a(key)}, and JSON has only strings: {key!r}")
        return [(at(path, key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(at(path, number), item) for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise NotAnOutput(f"{path} is {value!r}, and JSON has no such number")
    if isinstance(value, (str, int, float, type(None))):
        return []
    try:
        return [(path, _converted(value))]
    except TypeError:
        raise NotAnOutput(f"{path} is {a(value)}{_hint(value)}") from None


def _hint(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, Next):
        return ": return a Next, or a list of nothing but Next"
    hint = _HINTS.get(name)
    if hint is None and hasattr(value, "tolist"):
        hint = "use .tolist()"
    return f" ({hint})" if hint else ""
