"""A handler script's main: reads the input, calls the function, writes the output."""

from __future__ import annotations

import os
import sys

from . import Fail, Retry
from .loading import Loaded
from .output import encoded
from .wording import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Handler

_FAILED = 1
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_MOST_OF_WHY = 2000
_WRONG_USAGE = 2
_INTERRUPTED = 130
_OPTIONS = ("--input", "--output", "--attachment")
_USAGE = "--input FILE --output FILE [--attachment FILE]"
_INPUT_SUFFIX = "-input.json"


class UsageError(Exception):
    """The command line is not that of a handler."""


class Paths:
    """The files of the job, as the command line names them, and the folder of its records."""

    __slots__ = ("attachment", "folder", "input", "output")

    def __init__(self, *, input: str, output: str, attachment: str | None) -> None:  # noqa: A002 - the option's name
        self.input = input
        self.output = output
        self.attachment = attachment
        self.folder = os.path.dirname(input) or os.curdir

    def __repr__(self) -> str:
        return f"Paths(input={self.input!r}, output={self.output!r}, attachment={self.attachment!r})"


class Job:
    """The job that runs: what a handler's parameter `job` gets.

    Without a worker the facts are what the files' names tell: a run by hand is attempt 1 of a job without parent.
    """

    __slots__ = ("attempt", "id", "parent", "paths", "topic")

    def __init__(self, paths: Paths) -> None:
        attempt = os.environ.get("SJQ_ATTEMPT", "")
        self.paths = paths
        self.id = os.environ.get("SJQ_JOB_ID") or _stem(paths.input, _INPUT_SUFFIX)
        self.topic = os.environ.get("SJQ_TOPIC") or _stem(_script(), ".py")
        self.attempt = int(attempt) if attempt.isdecimal() else 1
        self.parent = os.environ.get("SJQ_PARENT_JOB_ID") or None

    def __getattr__(self, name: str) -> object:
        if name == "progress":
            raise AttributeError("job.progress() is not built yet: leave it out")
        raise AttributeError(f"a job has no attribute {name!r}; it has {', '.join(self.__slots__)}")

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, topic={self.topic!r}, attempt={self.attempt}, parent={self.parent!r})"


def main(handler: Handler) -> int:
    """Run the job that the command line names; the answer is the exit code.

    The handler's own `sys.exit` passes through, and then there is no output.
    """
    try:
        paths = _parsed(sys.argv[1:])
    except UsageError as error:
        _say(f"usage: {os.path.basename(_script())} {_USAGE}")
        _say(f"error: {error}")
        return _WRONG_USAGE
    # The handler may change the directory; the output belongs where the command line said.
    output = os.path.abspath(paths.output)
    root = os.getcwd()
    try:
        arguments, keywords = _prepared(handler, paths)
        result = handler.__wrapped__(*arguments, **keywords)
        _write(output, encoded(result, root=root))
    except SystemExit:
        raise
    except (Retry, Fail) as error:
        return _wish(error, output)
    except Refused as error:
        _say(f"error: {error}")
        return _FAILED
    except BaseException as error:  # noqa: BLE001 - the outermost: whatever the handler raised ends here
        _show(error)
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else _FAILED
    return 0


def _wish(error: Retry | Fail, output: str) -> int:
    # The exit code alone would not say when, nor that no other try can help.
    import json

    retry = isinstance(error, Retry)
    # A subclass may not have called our __init__, and a reason may hold what is no UTF-8, such as a file's name.
    why = str(getattr(error, "why", "") or (error.args[0] if error.args else ""))
    wish: dict[str, object] = {"why": why[:_MOST_OF_WHY].encode("utf-8", "backslashreplace").decode()}
    if retry and getattr(error, "after", None) is not None:
        wish["after"] = getattr(error, "after", None)
    try:
        _write(output, json.dumps({"retry" if retry else "fail": wish}).encode("ascii"))
    except Refused as unwritten:
        _say(f"error: {unwritten}")
    if error.__context__ is None:
        _say(f"{'retry' if retry else 'failed'}: {error}".encode("utf-8", "backslashreplace").decode())
    else:
        _show(error)
    return _TRY_AGAIN if retry else _FAILED


def _parsed(words: list[str]) -> Paths:
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in _OPTIONS:
            raise UsageError(f"unknown argument {word!r}")
        if not equals:
            value = next(rest, "")
        if not value or (not equals and value.startswith("--")):
            raise UsageError(f"{option} needs the name of a file")
        if option in found:
            raise UsageError(f"{option} is there twice")
        found[option] = value
    missing = [option for option in ("--input", "--output") if option not in found]
    if missing:
        raise UsageError(f"a handler runs one job, whose files it has to be told: {' and '.join(missing)} missing")
    return Paths(input=found["--input"], output=found["--output"], attachment=found.get("--attachment"))


def _prepared(handler: Handler, paths: Paths) -> tuple[list[object], dict[str, object]]:
    # Before the handler works for hours, not after.
    folder = os.path.dirname(paths.output) or os.curdir
    if not os.path.isdir(folder):
        raise Refused(f"the folder of the output {paths.output} does not exist")
    if paths.attachment is not None and not os.path.isfile(paths.attachment):
        raise Refused(f"the attachment {paths.attachment} does not exist")
    data = _read(paths.input)
    parameters = handler._parameters  # noqa: SLF001 - one package, and the name must not meet a function's own
    job = None
    for parameter in parameters:
        if parameter.gets == "data":
            data = _checked(handler, parameter.name, data)
        elif parameter.gets == "job":
            job = Job(paths)
    from .parameters import fill

    return fill(parameters, data=data, attachment=paths.attachment, job=job)


def _read(path: str) -> object:
    import json

    try:
        with open(path, "rb") as file:
            return json.loads(file.read().decode("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise Refused(f"the input {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise Refused(f"the input {path} is nested too deeply for Python") from None
    except ValueError as error:
        raise Refused(f"the input {path} is not JSON in UTF-8: {error}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"JSON has no {name}")


def _checked(handler: Handler, name: str, data: object) -> object:
    function: object = handler.__wrapped__
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    annotations = getattr(function, "__annotations__", {})
    if name not in annotations or not hasattr(function, "__globals__"):
        return data
    from .arguments import built

    return built(annotations[name], data, function.__globals__)


def _write(path: str, content: bytes) -> None:
    # Beside, then renamed: whoever looks sees a whole output or none.
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        raise Refused(f"the output {path} cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _show(error: BaseException) -> None:
    here = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == here:
        trace = trace.tb_next
    trace = trace or error.__traceback__
    link: BaseException | None = error
    while link is not None:
        if isinstance(link.__context__, Loaded):
            link.__context__ = None  # coverage calls from inside its `except`
        link = link.__context__
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _script() -> str:
    return str(getattr(sys.modules.get("__main__"), "__file__", None) or sys.argv[0])


def _stem(path: str, suffix: str) -> str:
    name = os.path.basename(path)
    return name[: -len(suffix)] if name.endswith(suffix) else os.path.splitext(name)[0]


def _say(sentence: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{sentence}\n")
