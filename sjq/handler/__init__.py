"""What a handler script imports as `sjq`: the decorator `job`, `Next` for fan-out, `Retry` and `Fail`.

This folder is copied to where scripts of any Python from 3.9 on find it, so it uses relative imports and the
standard library alone. Every job imports it, so what costs time is imported where it is used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers know the name; importing `typing` for it would cost more than this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from os import PathLike
    from typing import Any

__all__ = ["Fail", "Next", "Retry", "job"]

_LATER = ("Batch",)


class Retry(Exception):
    """Raise it to have the job tried again, if it has tries left: `raise sjq.Retry("the disk is busy", after=60)`.

    `after` is seconds, a text such as "10m", or a timedelta; without it the topic's backoff counts.
    """

    def __init__(self, why: str = "", *, after: float | str | timedelta | None = None) -> None:
        super().__init__(why)
        self.why = why
        if after is None:
            self.after = None
        else:
            from .wording import seconds

            self.after = seconds(after)

    def __str__(self) -> str:
        after = getattr(self, "after", None)  # a subclass may not have called our __init__
        words = ("" if after is None else f"after {after:g} s", str(getattr(self, "why", super().__str__())))
        return ": ".join(filter(None, words))


class Fail(Exception):
    """Raise it to have the job fail for good, whatever tries it has left: `raise sjq.Fail("no such customer")`."""

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


class Next:
    """One next job: return it, or a list of them, from a handler."""

    __slots__ = ("attachment", "data", "topic")

    def __init__(
        self, topic: str, data: object = None, *, attachment: str | PathLike[str] | None = None, **later: object
    ) -> None:
        for word in later:
            if word in ("delay", "priority"):
                raise TypeError(f"Next({word}=...) is not built yet: leave it out")
            raise TypeError(f"Next() got an unexpected keyword argument {word!r}")
        from .wording import check_topic

        self.topic = check_topic(topic)
        self.data = data
        self.attachment = attachment

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Next):
            return NotImplemented
        return (self.topic, self.data, self.attachment) == (other.topic, other.data, other.attachment)

    __hash__ = None  # type: ignore[assignment]  # its data is mutable, like a list

    def __repr__(self) -> str:
        attachment = "" if self.attachment is None else f", attachment={self.attachment!r}"
        return f"Next({self.topic!r}, {self.data!r}{attachment})"


class Handler:
    """A decorated function: with arguments the function itself, without any the script's main."""

    __doc__: str | None
    __module__: str
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[..., object]) -> None:
        from .parameters import plan

        self.__dict__.update(getattr(function, "__dict__", {}))
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self._parameters = plan(function, self.__name__)

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - whatever the function returns
        """Call the function; or, without any argument, run the job that the command line names."""
        imported_without_parameters = not self._parameters and self.__module__ != "__main__"
        if args or kwargs or imported_without_parameters:
            return self.__wrapped__(*args, **kwargs)
        from .loading import disarm
        from .script import main

        disarm()
        code = main(self)
        if code:
            sys.exit(code)
        return None

    def __reduce__(self) -> str:
        # By name, as functions are pickled: a process pool of the handler may map it.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<sjq.job {self.__qualname__} of {self.__module__}>"


def job(function: Callable[..., object]) -> Handler:
    """Make `function` the handler of its script: it runs by itself once the whole script has been loaded.

    Raises TypeError when `function` is no plain callable, has parameters that no job can fill, or is the
    second one in its script.
    """
    if isinstance(function, Handler):
        return function
    if not callable(function):
        raise TypeError(f"@sjq.job goes on a function, not on {function!r}")
    from .loading import arm

    handler = Handler(function)
    arm(handler, sys._getframe(1))  # noqa: SLF001 - the script's own frame is what has to be found
    return handler


def __getattr__(name: str) -> object:
    if name in _LATER:
        # No AttributeError: `from sjq import` would put a sentence of its own in the place of ours.
        there = ", ".join(f"sjq.{known}" for known in __all__)
        raise ImportError(f"sjq.{name} is not built yet; this version has {there}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
