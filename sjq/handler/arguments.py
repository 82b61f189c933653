"""Validates the data against the annotation of its parameter, and builds what the annotation asks for."""

from __future__ import annotations

import collections.abc
import sys
import types
import typing

from .wording import Refused, at, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Hint = Any  # what `typing` makes of an annotation
    Json = Any  # whatever JSON can hold
    Built = Any  # whatever an annotation can ask for
    Builder = Callable[[Hint, Json, str], Built]

_LISTS = (
    list,
    collections.abc.Collection,
    collections.abc.Iterable,
    collections.abc.MutableSequence,
    collections.abc.Sequence,
)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SETS = {
    set: set,
    frozenset: frozenset,
    collections.abc.MutableSet: set,
    collections.abc.Set: frozenset,
}
_PLAIN = (bool, float, int, str, type(None))
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
_WRAPPERS = ("Annotated", "Final", "NotRequired", "ReadOnly", "Required")


class Mismatch(Refused):
    """The data is not what the annotation says; the text begins with the place."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


def built(annotation: object, data: object, names: dict[str, object]) -> object:
    """`data` as `annotation` wants it, which is written in the module with the globals `names`.

    What the annotation says nothing about, and annotations of unknown kinds, let the data through as it is.
    Raises Mismatch with the place in the data, and Refused when the annotation cannot be resolved.
    """
    holder = types.SimpleNamespace(__annotations__={"data": annotation})
    return _built(_resolved(holder, "data", names)["data"], data, "data")


def _resolved(holder: Hint, name: str, names: dict[str, object] | None = None) -> dict[str, Hint]:
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)
    except Exception as error:  # evaluating an annotation runs whatever the script wrote there  # noqa: BLE001
        old = sys.version_info < (3, 10) and isinstance(error, TypeError)
        advice = "; before Python 3.10, `X | None` is Optional[X]" if old else ""
        raise Refused(f"the annotation of {name} cannot be resolved: {error}{advice}") from None


def _built(hint: Hint, value: Json, path: str) -> Built:
    hint = _unwrapped(hint)
    build = _builder(_origin(hint))
    return value if build is None else build(hint, value, path)


def _unwrapped(hint: Hint) -> Hint:
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__  # NewType
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__  # Annotated
        elif _marker(hint) in _WRAPPERS and typing.get_args(hint):
            hint = typing.get_args(hint)[0]
        else:
            return type(None) if hint is None else hint


def _origin(hint: Hint) -> Hint:
    origin: Hint = typing.get_origin(hint)
    return hint if origin is None else origin


def _marker(hint: Hint) -> str:
    # By name: before Python 3.11 some of these come from typing_extensions alone.
    return str(getattr(typing.get_origin(hint), "_name", ""))


def _builder(origin: Hint) -> Builder | None:
    if origin in _UNIONS:
        return _as_union
    if origin is typing.Literal:
        return _as_literal
    if isinstance(origin, type):
        return next((build for fits, build in _KINDS if fits(origin)), None)
    return None


def _as_plain(cls: Hint, value: Json, path: str) -> Built:
    if cls is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Mismatch(path, f"{shown(value)} is too large for a float") from None
    # The exact type, because a bool is an int to Python and not to people.
    if type(value) is not cls:
        raise _expected(cls, value, path)
    return value


def _as_union(hint: Hint, value: Json, path: str) -> Built:
    members = [_unwrapped(member) for member in typing.get_args(hint)]
    if type(value) in members:
        return value  # before a member that would take it as well, such as float an int
    refusals = []
    for member in members:
        try:
            return _built(member, value, path)
        except Mismatch as error:
            if isinstance(value, (dict, list)) and member not in _PLAIN:
                refusals.append(error)
    # Where only one member can be meant, it knows better what is wrong.
    deeper = [error for error in refusals if error.path != path]
    for meant in (deeper, refusals):
        if len(meant) == 1:
            raise meant[0]
    raise _expected(hint, value, path)


def _as_literal(hint: Hint, value: Json, path: str) -> Built:
    for choice in typing.get_args(hint):
        if type(choice) is type(value) and choice == value:
            return value
    raise _expected(hint, value, path)


def _as_list(hint: Hint, value: Json, path: str) -> list[Any]:
    items = _list(hint, value, path)
    inner = typing.get_args(hint)
    return [_built(inner[0], item, at(path, number)) for number, item in enumerate(items)] if inner else items


def _as_set(hint: Hint, value: Json, path: str) -> Built:
    items = _as_list(hint, value, path)
    try:
        return _SETS[_origin(hint)](items)
    except TypeError as error:
        raise Mismatch(path, f"cannot be a {_name(hint)}: {error}") from None


def _as_tuple(hint: Hint, value: Json, path: str) -> tuple[Any, ...]:
    items = _list(hint, value, path)
    inner = typing.get_args(hint)
    if not inner:
        return tuple(items)
    if inner[-1] is Ellipsis:
        inner = (inner[0],) * len(items)
    if len(inner) != len(items):
        raise Mismatch(path, f"expected {_name(hint)}, which has {len(inner)} items, got {len(items)}")
    return tuple(_built(kind, item, at(path, number)) for number, (kind, item) in enumerate(zip(inner, items)))  # noqa: B905 - `strict` came with 3.10


def _as_dict(hint: Hint, value: Json, path: str) -> dict[Any, Any]:
    pairs = _dict(hint, value, path)
    inner = typing.get_args(hint)
    if not inner:
        return pairs
    return {_key(inner[0], key, path): _built(inner[1], item, at(path, key)) for key, item in pairs.items()}


def _key(hint: Hint, key: str, path: str) -> Built:
    # JSON's keys are strings; those that were numbers when they were written become numbers again.
    if hint in (int, float):
        try:
            return hint(key)
        except ValueError:
            raise Mismatch(path, f"expected {_name(hint)} as key, got {shown(key)}") from None
    return _built(hint, key, f"{path}, key {shown(key)}")


def _as_enum(cls: Hint, value: Json, path: str) -> Built:
    for member in cls:
        if type(member.value) is type(value) and member.value == value:
            return member
    choices = ", ".join(shown(member.value) for member in cls)
    raise Mismatch(path, f"expected {cls.__name__}, which is one of {choices}; got {shown(value)}")


def _as_pydantic(cls: Hint, value: Json, path: str) -> Built:
    validate = getattr(cls, "model_validate", None) or cls.__pydantic_validator__.validate_python
    try:
        return validate(value)
    except ValueError as error:
        found = error.errors() if hasattr(error, "errors") else ()
        if not found:
            raise Mismatch(path, str(error)) from None
        texts = []
        for one in found:
            place = path
            for step in one["loc"]:
                place = at(place, step)
            texts.append((place, f"{one['msg']}, got {shown(one['input'])}"))
        place, text = texts[0]
        more = "".join(f"; {other}: {rest}" for other, rest in texts[1:])
        raise Mismatch(place, text + more) from None


def _as_typed_dict(cls: Hint, value: Json, path: str) -> dict[str, Any]:
    given = _dict(cls, value, path)
    hints = _hints(cls)
    required = set(cls.__required_keys__)
    for name, hint in hints.items():
        # The class knows its markers only where the annotations are no strings.
        marker = _marker(hint)
        if marker == "Required":
            required.add(name)
        elif marker == "NotRequired":
            required.discard(name)
    _compare(given, list(hints), [name for name in hints if name in required], path)
    return {key: _built(hints[key], item, at(path, key)) for key, item in given.items()}


def _as_dataclass(hint: Hint, value: Json, path: str) -> Built:
    import dataclasses

    cls = _origin(hint)
    given = _dict(cls, value, path)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    _compare(given, [field.name for field in fields], required, path)
    hints = _hints(cls)
    values = {key: _built(hints[key], item, at(path, key)) for key, item in given.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise Mismatch(path, str(error)) from error  # from the class's own checks


_KNOWN_HINTS: dict[type, dict[str, Hint]] = {}


def _hints(cls: type) -> dict[str, Hint]:
    # Once per class: a list may hold a hundred thousand of them.
    if cls not in _KNOWN_HINTS:
        _KNOWN_HINTS[cls] = _resolved(cls, cls.__name__)
    return _KNOWN_HINTS[cls]


def _compare(given: dict[str, Any], known: list[str], required: list[str], path: str) -> None:
    for key in given:
        if key not in known:
            import difflib

            near = difflib.get_close_matches(key, known, n=1)
            names = ", ".join(map(shown, known)) or "none"
            advice = f"did you mean {shown(near[0])}?" if near else f"there are: {names}"
            raise Mismatch(path, f"unknown key {shown(key)}; {advice}")
    missing = [name for name in required if name not in given]
    if missing:
        word = "key" if len(missing) == 1 else "keys"
        raise Mismatch(path, f"missing {word} {', '.join(map(shown, missing))}")


def _as_written(cls: Hint, value: Json, path: str) -> Built:
    # As the output writes them: what one handler returns as a Path or a date, the next one can take.
    text = _as_plain(str, value, path)
    if not hasattr(cls, "fromisoformat"):
        return cls(text) if cls.__module__.startswith("pathlib") else text
    if sys.version_info < (3, 11) and text.endswith("Z"):
        text = f"{text[:-1]}+00:00"
    try:
        return cls.fromisoformat(text)
    except ValueError:
        raise _expected(cls, value, path) from None


def _list(hint: Hint, value: Json, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _expected(hint, value, path)
    return value


def _dict(hint: Hint, value: Json, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expected(hint, value, path)
    return value


def _expected(hint: Hint, value: Json, path: str) -> Mismatch:
    return Mismatch(path, f"expected {_name(hint)}, got {shown(value)}")


def _name(hint: Hint) -> str:
    hint = _unwrapped(hint)
    if hint is type(None):
        return "null"
    origin, inner = _origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(map(_name, inner))
    if origin is typing.Literal:
        return " or ".join(map(shown, inner))
    name = str(getattr(origin, "__name__", hint))
    listed = ", ".join("..." if one is Ellipsis else _name(one) for one in inner)
    return f"{name}[{listed}]" if listed else name


def _is_enum(cls: type) -> bool:
    import enum

    return issubclass(cls, enum.Enum)


# The first that fits: models of pydantic and TypedDicts are also what stands below them.
_KINDS: tuple[tuple[Callable[[type], bool], Builder], ...] = (
    (_PLAIN.__contains__, _as_plain),
    (_LISTS.__contains__, _as_list),
    (_DICTS.__contains__, _as_dict),
    (_SETS.__contains__, _as_set),
    ((tuple,).__contains__, _as_tuple),
    (_is_enum, _as_enum),
    (lambda cls: hasattr(cls, "__pydantic_validator__"), _as_pydantic),
    (lambda cls: issubclass(cls, dict) and hasattr(cls, "__required_keys__"), _as_typed_dict),
    (lambda cls: hasattr(cls, "__dataclass_fields__"), _as_dataclass),
    (lambda cls: cls.__module__.split(".")[0] in ("datetime", "pathlib"), _as_written),
)
