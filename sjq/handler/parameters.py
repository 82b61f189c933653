"""Which parameter of a handler gets what: the data, the attachment's path, the job."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_COROUTINE_OR_ASYNC_GENERATOR = 0x80 | 0x200
_VARARGS = 0x04


class Parameter:
    """One parameter, and what it gets: `data`, `attachment`, `job` or nothing (its default stays)."""

    __slots__ = ("gets", "keyword_only", "name", "optional")

    def __init__(self, name: str, *, keyword_only: bool = False, optional: bool = False) -> None:
        self.name = name
        self.keyword_only = keyword_only
        self.optional = optional
        self.gets: str | None = None


def plan(function: Callable[..., object], name: str) -> list[Parameter]:
    """The parameters of `function` in their order, each knowing what it gets.

    One named `job` gets the job. Of the others the first gets the data, the second (or the one of that name) the
    attachment. Raises TypeError when a parameter without default cannot be filled, or the function is async.
    """
    _refuse_async(function, name)
    parameters = _listed(function)
    free = []
    for parameter in parameters:
        if parameter.name == "job":
            parameter.gets = "job"
        else:
            free.append(parameter)
    for what in ("data", "attachment"):
        open_ones = [parameter for parameter in free if parameter.gets is None and _is_open(parameter, what)]
        named = [parameter for parameter in open_ones if parameter.name == "attachment" == what]
        for parameter in (named or open_ones)[:1]:
            parameter.gets = what
    left = [parameter.name for parameter in free if parameter.gets is None and not parameter.optional]
    if left:
        raise TypeError(
            f"nothing can fill the parameter {', '.join(map(repr, left))} of the handler {name}(): a handler "
            "takes the data, the path of the attachment and `job`; give others a default"
        )
    return parameters


def fill(
    parameters: list[Parameter], *, data: object, attachment: str | None, job: object
) -> tuple[list[object], dict[str, object]]:
    """The arguments of the call, by position and by keyword."""
    values = {"data": data, "attachment": attachment, "job": job}
    positional: list[object] = []
    keywords: dict[str, object] = {}
    gap = False
    for parameter in parameters:
        if parameter.gets is None or (parameter.gets == "attachment" and attachment is None and parameter.optional):
            gap = True
        elif gap or parameter.keyword_only:
            keywords[parameter.name] = values[parameter.gets]
        else:
            positional.append(values[parameter.gets])
    return positional, keywords


def _is_open(parameter: Parameter, name: str) -> bool:
    # A keyword-only parameter with a default is an option of the function, unless its name says otherwise.
    return not (parameter.keyword_only and parameter.optional) or parameter.name == name


def _refuse_async(function: Callable[..., object], name: str) -> None:
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _COROUTINE_OR_ASYNC_GENERATOR:
        raise TypeError(
            f"the handler {name}() is async, which is not supported; use asyncio.run inside a plain function"
        )


def _listed(function: Callable[..., object]) -> list[Parameter]:
    # `inspect` takes longer to import than many a handler to run: it is for what is not a plain function.
    if type(function) is not type(_listed) or hasattr(function, "__wrapped__"):
        return _inspected(function)
    code = function.__code__
    names = code.co_varnames
    first_optional = code.co_argcount - len(function.__defaults__ or ())
    parameters = [
        Parameter(name, optional=position >= first_optional) for position, name in enumerate(names[: code.co_argcount])
    ]
    end = code.co_argcount + code.co_kwonlyargcount
    if code.co_flags & _VARARGS and not parameters:
        parameters.append(Parameter(names[end]))
    keyword_defaults = function.__kwdefaults__ or {}
    parameters.extend(
        Parameter(name, keyword_only=True, optional=name in keyword_defaults) for name in names[code.co_argcount : end]
    )
    return parameters


def _inspected(function: Callable[..., object]) -> list[Parameter]:
    import inspect

    try:
        signature = inspect.signature(function)
    except ValueError:
        return [Parameter("data")]  # written in C, and silent about its parameters
    parameters: list[Parameter] = []
    for name, found in signature.parameters.items():
        if found.kind is found.VAR_KEYWORD or (found.kind is found.VAR_POSITIONAL and parameters):
            continue
        parameters.append(
            Parameter(
                name,
                keyword_only=found.kind is found.KEYWORD_ONLY,
                optional=found.default is not found.empty,
            )
        )
    return parameters
