"""Starts the handler of a script by itself, once the whole script has been loaded.

Python has no hook for "the main script has been loaded": `atexit` and the end of `threading` come too late, for
threads and children can no longer be started there. So the end of the script is made to raise, at the moment
when its outermost frame returns. The exception reaches `sys.excepthook` on the main thread, with nothing shut
down and no tracing in the way, and there the handler runs, a debugger included.

What runs a script inside of itself decides what happens to the exception. `python -m` and most debuggers pass
it on, `coverage run` hands it to `sys.excepthook` itself. `python -m cProfile` and `-m trace` have closed their
books before the handler runs, IPython's %run and `-m pdb` keep the exception for themselves: with these, end
the script with a call of the handler, which needs none of this.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType, TracebackType
    from typing import Any, NoReturn

    from . import Handler

    Tracer = Callable[[Any, Any, Any], Any]

_RUNNERS_THAT_CATCH = ("bdb",)


# An Exception and no BaseException, because those are what `coverage run` hands to `sys.excepthook`.
class Loaded(Exception):
    """Raised where the script would have ended; its text is for runners that catch what a script raises."""


class _Start:
    """The handler that waits for its script to be loaded."""

    def __init__(self, handler: Handler, frame: FrameType) -> None:
        self.handler = handler
        self._frame = frame
        self._tracer: Any = None
        self._chained: Any = None
        self._undo: Callable[[], None] | None = None
        self._hook: Any = None

    def arm(self) -> None:
        """Have `fire` called when the script returns, but not when it raises or exits."""
        # With a tracer at work its own events would come twice, once for the return and once for the exception.
        if sys.gettrace() is not None or not self._monitor():
            self._trace()

    def disarm(self) -> None:
        """Forget about the script's end; doing it twice is fine."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def fire(self) -> NoReturn:
        """End the script here and hand over to `sys.excepthook`."""
        self.disarm()
        # Only now: the script may have set a hook of its own, which is to see what the handler raises.
        self._hook, sys.excepthook = sys.excepthook, self._run
        raise Loaded(
            f"what runs this script catches its exceptions, so the handler did not start by itself: "
            f"end the script with {self.handler.__name__}()"
        )

    def _run(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = self._hook
        if not isinstance(error, Loaded):
            self._hook(kind, error, trace)
            return
        if self._chained is not None:
            # Python drops the trace function whose callback raised; the debugger wants to see the handler.
            sys.settrace(self._chained)
        from .script import main

        code = main(self.handler)
        if not sys.flags.inspect:  # `python -i` has no exit before its prompt
            sys.exit(code)

    def _monitor(self) -> bool:
        armed = False
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            returns = monitoring.events.PY_RETURN
            code = self._frame.f_code
            # From the middle: 0, 1, 2 and 5 belong to debuggers, coverage, profilers and optimizers.
            for tool in (4, 3, 5, 2):
                if not armed and monitoring.get_tool(tool) is None:
                    monitoring.use_tool_id(tool, "sjq")
                    monitoring.register_callback(tool, returns, lambda *_: self.fire())
                    monitoring.set_local_events(tool, code, returns)
                    self._undo = lambda tool=tool: _unmonitored(tool, code)
                    armed = True
        return armed

    def _trace(self) -> None:
        frame = self._frame
        previous = self._chained = sys.gettrace()
        if previous is None:
            frame.f_trace_lines = False
            # A trace function that answers None to every call, without a Python frame for each: below the
            # decorator a script may import half the world.
            self._tracer = getattr
        else:
            self._tracer = _followed(previous)
        inner = frame.f_trace
        if inner is None and not hasattr(previous, "__code__"):
            inner = previous  # written in C, it sees all frames without a trace function on each

        def local(seen: FrameType, event: str, argument: object) -> object:
            nonlocal inner
            if inner is not None:
                inner = inner(seen, event, argument)
            if event == "return" and _returns(seen):
                self.fire()
            return local

        def undo() -> None:
            frame.f_trace = inner
            if sys.gettrace() is self._tracer:
                sys.settrace(previous)

        self._undo = undo
        frame.f_trace = local
        sys.settrace(self._tracer)
        import atexit

        atexit.register(self._explain)

    def _explain(self) -> None:
        # A debugger that was started in the script took the trace function and did not give it back.
        if self._undo is not None and sys.gettrace() is not self._tracer:
            _say(f"the handler did not start by itself, a debugger took its place: {_advice(self.handler)}")


_start: _Start | None = None


def arm(handler: Handler, caller: FrameType) -> None:
    """Let `handler` run when the script that called the decorator has been loaded.

    Nothing happens in a module that is imported, in a process of multiprocessing, at a prompt, or in a function that
    a test runner calls. Raises TypeError when the script has another handler already.
    """
    global _start  # noqa: PLW0603 - a process has one main script
    frame = _script(caller)
    if frame is None:
        return
    _follow_the_log()
    if not _is_run_for_a_job(frame, decorates=caller.f_globals is frame.f_globals):
        return
    if _start is not None:
        raise TypeError(
            f"a script has one handler, and this one decorates two, {_start.handler.__name__}() and "
            f"{handler.__name__}(): take @sjq.job off one of them"
        )
    _start = _Start(handler, frame)
    if _is_inside_of_a_runner_that_catches(caller):
        _say(f"under a debugger the handler does not start by itself: {_advice(handler)}")
    else:
        _start.arm()


def disarm() -> None:
    """The script has called its handler: nothing is left to start at its end."""
    if _start is not None:
        _start.disarm()


def _script(frame: FrameType | None) -> FrameType | None:
    # The innermost module decides: a `__main__` further out may be anything that imports this one.
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") != "__main__":
        return None
    # The script itself, when it got here through an exec() of its own.
    outer = frame.f_back
    while outer is not None:
        if outer.f_globals is frame.f_globals and outer.f_code.co_name == "<module>":
            frame = outer
        outer = outer.f_back
    return frame


def _is_run_for_a_job(frame: FrameType, *, decorates: bool) -> bool:
    given = {"--input", "--output"}.intersection(word.split("=", 1)[0] for word in sys.argv[1:])
    if not decorates:
        return len(given) == 2  # a module's function may decorate for a script, or for the tests that a script runs
    if given:
        return True
    if sys.flags.inspect or not sys.argv:
        return False  # `python -i script.py` is somebody who looks around
    import os

    script = frame.f_code.co_filename
    try:
        return script == sys.argv[0] or os.path.samefile(script, sys.argv[0])
    except OSError:
        return False


def _is_inside_of_a_runner_that_catches(frame: FrameType) -> bool:
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_globals.get("__name__") in _RUNNERS_THAT_CATCH:
            return True
        outer = outer.f_back
    return False


def _followed(previous: Tracer) -> Tracer:
    def follow(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ANN401 - the tracer's own
        local = previous(frame, event, argument)
        if sys.gettrace() is previous:
            # Tracers in C put themselves back at every call, and the end of the script would be missed.
            sys.settrace(follow)
        return local

    return follow


def _unmonitored(tool: int, code: CodeType) -> None:
    if sys.version_info >= (3, 12):
        sys.monitoring.set_local_events(tool, code, 0)
        sys.monitoring.register_callback(tool, sys.monitoring.events.PY_RETURN, None)
        sys.monitoring.free_tool_id(tool)


def _returns(frame: FrameType) -> bool:
    # A frame that an exception leaves has a "return" event as well.
    import opcode

    return opcode.opname[frame.f_code.co_code[frame.f_lasti]] in ("RETURN_CONST", "RETURN_VALUE")


def _follow_the_log() -> None:
    import os

    if "SJQ_JOB_ID" not in os.environ:
        return
    try:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return  # none, closed, or something of the script's own


def _advice(handler: Handler) -> str:
    name = handler.__name__
    return f"end the script with {name}(), or put breakpoint() into {name} and run the script as it is"


def _say(sentence: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"sjq: {sentence}\n")
