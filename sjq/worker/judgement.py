"""What an attempt's exit and output mean: succeed, with which next jobs, or fail, and why. Decides, does nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from sjq.errors import MessageError, UsageError
from sjq.executors.base import Breach, Exit, OpenFiles
from sjq.jobs import MOST_HOPS, MOST_NEXT_JOBS, Message, check_topic, json_fault
from sjq.large import MOST_BYTES_OF_JOBS, Content, check_utf8
from sjq.outcomes import Outcome, failed, succeeded, timedout
from sjq.plain_file import Copies, NoRoom, TooLarge
from sjq.sizes import shown_size
from sjq.states import Reason

ReadOutput = Callable[[int], Content]
"""Reads what the attempt wrote, if that has at most so many bytes.

Raises FileNotFoundError when it wrote nothing, TooLarge when that is more, OSError when it cannot be read.
"""

EXIT_TEMPFAIL = 75
_FORM = 'an output is {"data": ...}, with "next_topic", "next_topics" or "next" beside it where jobs follow'


class _Next(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    attachment: str | None = None
    priority: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    delay: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw
    next_topic: str | msgspec.UnsetType = msgspec.UNSET
    next_topics: list[str] | msgspec.UnsetType = msgspec.UNSET
    next: list[_Next] | msgspec.UnsetType = msgspec.UNSET


_output = msgspec.json.Decoder(_Output)


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    why: str = ""
    after: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None


class _Wishes(msgspec.Struct, forbid_unknown_fields=True):
    """What a handler that did not succeed writes as its output, if it has a wish."""

    retry: _Wish | None = None
    fail: _Wish | None = None


_wishes = msgspec.json.Decoder(_Wishes)
MOST_BYTES_OF_WISH = 64 * 1024
MOST_OF_WHY = 2000
"""How many characters of a handler's reason go into the job's state and its events; stderr has the whole."""


class _BadOutput(Exception):
    """The output cannot be used; the text says why."""


def judge(
    message: Message,
    end: Exit,
    read_output: ReadOutput,
    root: Path,
    *,
    copies_in: Path,
    max_output: int,
    complaint: str = "",
    refused_files: bool = False,
) -> Outcome:
    """Return the outcome of an attempt whose process ended.

    Attachments of next jobs are read relative to `root`, and copied; what is large of them `copies_in` this folder.
    `complaint` is the line of stderr that says why, as far as can be told, and `refused_files` is whether an exception
    there is for want of descriptors. Raises NoRoom for what cannot be copied.
    """
    if bad_end := _bad_end(end, read_output, complaint, refused_files):
        return bad_end
    try:
        return succeeded(_next_jobs(message, _read(read_output, max_output), root, copies_in))
    except _BadOutput as error:
        return failed(Reason.OUTPUT, str(error))


def _bad_end(end: Exit, read_output: ReadOutput, complaint: str, refused_files: bool) -> Outcome | None:
    """Return the outcome of a process that did not end well; all that counts of its output is a wish."""
    if end.error is not None:
        return failed(Reason.LOST, end.error)
    if end.breach is not None:
        return _ended_by(end.breach)
    if end.signal is not None:
        return failed(Reason.SIGNAL, f"killed by {_signal_name(end.signal)}")
    if end.exit_code:
        files = _files_limit(end.open_files, refused_files) if end.exit_code != EXIT_TEMPFAIL else ""
        return _ended_badly(end.exit_code, _wish(read_output), complaint, files)
    return None


def _files_limit(files: OpenFiles | None, refused: bool) -> str:
    """Return the sentence of a limit of open files into which a process ran; an empty text when none did.

    One that dies of it at once was not seen by who counts them, but has said so: it had as many as it may.
    """
    if files is None or (files.most < files.limit and not refused):
        return ""
    most = max(files.most, files.limit)
    return (
        f"one of its processes had {most} files open, and open files are limited to {files.limit} for each (open_files)"
    )


def _ended_by(breach: Breach) -> Outcome:
    return timedout(breach.why) if breach.reason is Reason.TIMEOUT else failed(breach.reason, breach.why)


def _wish(read_output: ReadOutput) -> _Wishes:
    """Return what the handler wants to be done with its job; what it wrote may be anything."""
    try:
        return _wishes.decode(read_output(MOST_BYTES_OF_WISH))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Wishes()


def _ended_badly(code: int, wishes: _Wishes, complaint: str, limit: str) -> Outcome:
    if wishes.fail is not None:
        return failed(
            Reason.EXIT, wishes.fail.why[:MOST_OF_WHY] or f"exit code {code}: the handler gave up", final=True
        )
    if wishes.retry is not None and code == EXIT_TEMPFAIL:
        why = f"it asked for another try{wishes.retry.why and f': {wishes.retry.why[:MOST_OF_WHY]}'}"
        return failed(Reason.EXIT, why, delay_s=wishes.retry.after)
    asks = ", which asks for another try" if code == EXIT_TEMPFAIL else ""
    how = f"exit code {code}{asks}{complaint and f': {complaint}'}"
    return failed(Reason.LIMIT, f"{limit}; it ended by {how}") if limit else failed(Reason.EXIT, how)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def _read(read_output: ReadOutput, max_output: int) -> _Output:
    try:
        text = read_output(max_output)
    except FileNotFoundError:
        raise _BadOutput(
            "its process ended well, but wrote no output: let a function that is decorated with @sjq.job return it "
            "(and not end by sys.exit), or write JSON to the file that --output names"
        ) from None
    except TooLarge as error:
        raise _BadOutput(
            f"its output has {shown_size(error.size)}, and max_output is {shown_size(error.most)}: let it write what is"
            " large to files of its own, and return their names"
        ) from None
    except NoRoom:
        raise
    except OSError as error:
        raise _BadOutput(f"its output cannot be read: {error.strerror}") from error
    try:
        check_utf8(text)
        return _output.decode(text)
    except UnicodeDecodeError as error:
        raise _BadOutput(f"its output is not UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError as error:
        raise _BadOutput(f"its output is not of a form that sjq knows: {error}; {_FORM}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _BadOutput(f"its output is not whole JSON: {json_fault(error)}") from None


def _next_jobs(message: Message, output: _Output, root: Path, copies_in: Path) -> list[Message]:
    given = [name for name in ("next_topic", "next_topics", "next") if getattr(output, name) is not msgspec.UNSET]
    if len(given) > 1:
        raise _BadOutput(f"its output has {' and '.join(given)}; {_FORM}")
    following: list[_Next] = []
    if isinstance(output.next_topic, str):
        following = [_Next(output.next_topic, output.data)]
    elif isinstance(output.next_topics, list):
        following = [_Next(topic, output.data) for topic in output.next_topics]
    elif isinstance(output.next, list):
        following = output.next
    if len(following) > MOST_NEXT_JOBS:
        raise _BadOutput(f"its output names {len(following)} next jobs; {MOST_NEXT_JOBS} are the most")
    if following and message.hops >= MOST_HOPS:
        raise _BadOutput(
            f"its output names {following[0].topic!r} as the next topic, but {message.hops} jobs came before it in "
            f"this chain, and {MOST_HOPS} are the most: its topics lead in a circle"
        )
    with Copies(copies_in, most=MOST_BYTES_OF_JOBS) as copies:
        places = [_checked(item, index, root, copies) for index, item in enumerate(following)]
        attached = copies.content()
    # Views, not copies: of what goes to many topics, or is a large part of an output, there is one in all.
    return [
        message.next(item.topic, memoryview(item.data), attachment=None if place is None else attached[place])
        for item, place in zip(following, places, strict=True)
    ]


def _checked(item: _Next, index: int, root: Path, copies: Copies) -> slice | None:
    """Raise _BadOutput for what cannot be a next job; copy its attachment, and return where."""
    for name in ("priority", "delay"):
        if getattr(item, name) is not msgspec.UNSET:
            raise _BadOutput(f'its output asks for a "{name}" at next[{index}], which is not supported yet')
    try:
        check_topic(item.topic)
        return None if item.attachment is None else copies.add(root / item.attachment, follow=True)
    except (UsageError, MessageError) as error:
        raise _BadOutput(f"its output names a next topic that cannot be: {error}") from None
    except NoRoom:
        raise
    except TooLarge as error:
        raise _BadOutput(
            f"the attachments up to that of next[{index}] have {shown_size(error.size)}, and {shown_size(error.most)} "
            "are the most: let it put the paths of large files into the data"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise _BadOutput(f"the attachment {item.attachment!r} of next[{index}] cannot be read: {why}") from None
