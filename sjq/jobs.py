"""Plain values: a job's message, its lease, and a job as people see it. No I/O here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from sjq import clock
from sjq.errors import MessageError, UsageError
from sjq.large import Content, check_utf8, is_large
from sjq.states import Reason, State

MOST_NEXT_JOBS = 10_000
MOST_RETRIES = 10**9
MOST_HOPS = 1000
"""How long a chain of jobs may be, each of which created the next: a loop ends here."""
LONGEST_ID_BYTES = 512

_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def check_topic(topic: str) -> str:
    """Return `topic` when it obeys the rule for names of topics; raise UsageError otherwise."""
    if not _TOPIC.fullmatch(topic):
        shown = topic if len(topic) <= 80 else f"{topic[:77]}..."
        raise UsageError(
            f"{shown!r} cannot be the name of a topic: it takes 1 to 128 letters, digits, '_', '.' and '-', "
            "and the first must be a letter or a digit"
        )
    return topic


def make_id(topic: str) -> str:
    """Return a new id, for example `20261121T231501.123456Z-resize-7f3k2q`: sorts by time, safe as a name."""
    at = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{at}-{topic}-{random_part()}"


def random_part() -> str:
    """Return 6 random characters, 30 bits."""
    bits = int.from_bytes(os.urandom(4), "big")
    return "".join(_BASE32[bits >> shift & 31] for shift in range(0, 30, 5))


def id_from_bytes(raw: bytes) -> str:
    """Return the id that a queue holds as `raw`; bytes that are no UTF-8 survive the way there and back."""
    return raw.decode("utf-8", "surrogateescape")


def id_to_bytes(job_id: str) -> bytes:
    """Undo `id_from_bytes`."""
    return job_id.encode("utf-8", "surrogateescape")


def shown(job_id: str) -> str:
    """Return an id as a terminal may show it: what is no plain text in it stands there escaped."""
    try:
        text = id_to_bytes(job_id).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which no bytes of a queue decode to
        text = job_id
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def check_id(job_id: str) -> str:
    """Return `job_id` when it may name a job; raise MessageError otherwise."""
    if not job_id:
        raise MessageError("the id is empty: an id is any non-empty text of up to 512 bytes without NUL")
    try:
        size = len(job_id.encode("utf-8"))
    except UnicodeEncodeError:
        raise MessageError(f"the id {shown(job_id)} is not UTF-8: push it as UTF-8") from None
    if size > LONGEST_ID_BYTES:
        raise MessageError(f"the id {job_id[:40]!r}... has {size} bytes: {LONGEST_ID_BYTES} are the most")
    if "\0" in job_id:
        raise MessageError(f"the id {job_id!r} holds a NUL: leave it out")
    return job_id


def make_fence(worker: str, number: int) -> str:
    """Return the fence of a worker's `number`th lease."""
    return f"{worker}.{number}"


def worker_of(fence: str) -> str:
    """Return the worker that made a fence."""
    return fence.rpartition(".")[0]


_Hops = Annotated[int, msgspec.Meta(le=2**53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is stored in a queue."""

    job_id: str
    topic: str
    data: Content
    """The job's data as JSON text, to the byte as its producer wrote it; what is large may be a view of a file."""
    parent_job_id: str | None = None
    attachment: Content | None = None
    created_at: str | None = None
    retries: int | None = None
    """How often the job may be tried again; None is what its topic's policy says, as in the next two."""
    backoff: float | None = None
    """Seconds until the second try, about; each further pause is twice as long."""
    timeout: float | None = None
    """Seconds that one attempt may take."""
    inherited: Mapping[str, msgspec.Raw] = {}
    """`labels`, `requester`, `traceparent` and `hops`, which next jobs take over from their parent."""

    def encode(self) -> bytes:
        """Return the JSON text of the wire protocol, without the attachment."""
        return b"".join(self.pieces())

    def pieces(self) -> tuple[Content, ...]:
        """Return the same in pieces, of which the data is one as it is."""
        wire: dict[str, object] = {"job_id": self.job_id}
        if self.parent_job_id is not None:
            wire["parent_job_id"] = self.parent_job_id
        if self.attachment is not None:
            wire["attachment"] = True
        wire["topic"] = self.topic
        wire["created_at"] = self.created_at
        for name in ("retries", "backoff", "timeout"):
            if (value := getattr(self, name)) is not None:
                wire[name] = value
        wire.update(self.inherited)
        return b'{"data":', self.data, b"," + msgspec.json.encode(wire)[1:]

    def next(self, topic: str, data: Content, *, attachment: Content | None = None) -> Message:
        """Return a new message for the job that follows this one on `topic`."""
        inherited = dict(self.inherited)
        inherited["hops"] = msgspec.Raw(str(self.hops + 1).encode())
        return Message(
            job_id=make_id(topic),
            topic=topic,
            data=data,
            parent_job_id=self.job_id,
            attachment=attachment,
            created_at=clock.rfc3339(clock.now()),
            inherited=inherited,
        )

    @property
    def created_s(self) -> float | None:
        """When the job was made, in seconds since the epoch; None when its producer did not say."""
        try:
            return clock.from_rfc3339(self.created_at or "")
        except ValueError:
            return None

    @property
    def hops(self) -> int:
        """How many jobs came before this one in its chain."""
        try:
            return max(0, msgspec.json.decode(self.inherited.get("hops", b"0"), type=_Hops))
        except msgspec.DecodeError:
            return 0


def new_message(
    topic: str,
    data: object,
    *,
    parent_job_id: str | None = None,
    attachment: bytes | None = None,
    retries: int | None = None,
    backoff: float | None = None,
    timeout: float | None = None,
) -> Message:
    """Return the message of a new job; `data` is any JSON value, or JSON text as `msgspec.Raw`."""
    check_topic(topic)
    if parent_job_id is not None:
        check_id(parent_job_id)
    return Message(
        job_id=make_id(topic),
        topic=topic,
        data=encode_data(data),
        parent_job_id=parent_job_id,
        attachment=attachment,
        created_at=clock.rfc3339(clock.now()),
        retries=retries,
        backoff=backoff,
        timeout=timeout,
    )


def encode_data(data: object) -> bytes:
    """Return `data` as JSON text; raise MessageError when it is no JSON value."""
    if isinstance(data, msgspec.Raw):
        return check_json(bytes(data), "the data")
    try:
        _refuse_others(data, "data")
        return msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"the data is not a JSON value: {error}") from error


def _refuse_others(value: object, where: str) -> None:
    """Raise MessageError or TypeError at what is no JSON value; the encoder would make something of most of it."""
    if isinstance(value, float) and value - value != 0.0:
        raise MessageError(f"{where} is {value}, which JSON cannot hold: use null or a string")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{where} has a key of type {type(key).__name__}")
            _refuse_others(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_others(item, f"{where}[{index}]")
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{where} is of type {type(value).__name__}")


def check_json(text: bytes, what: str) -> bytes:
    """Return `text` stripped when it is one JSON value in UTF-8; raise MessageError otherwise."""
    try:
        text.decode("utf-8")
        return bytes(msgspec.json.decode(text, type=msgspec.Raw))
    except UnicodeDecodeError as error:
        raise MessageError(f"{what} is not UTF-8 (byte {error.start})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"{what} is not JSON: {json_fault(error)}") from None


def json_fault(error: Exception) -> str:
    """Return what is wrong with a text that the parser refused, in words that say what to do about it."""
    words = re.sub(r"^JSON is malformed: ", "", str(error))
    if "truncated" in words:
        return "it ends too early"
    if "hex escape" in words:
        return f"a \\u escape is half a surrogate pair, which is no character: {words}"
    return words


class _Wire(msgspec.Struct):
    """The fields of a message that sjq reads; all others stay in the broker, unread."""

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parent_job_id: str | None = None
    attachment: bool | None = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=MOST_RETRIES)] | None = None
    backoff: _Seconds | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    created_at: msgspec.Raw = msgspec.Raw(b"null")
    priority: msgspec.Raw = msgspec.Raw(b"null")
    run_at: msgspec.Raw = msgspec.Raw(b"null")
    labels: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    requester: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    traceparent: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    hops: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_wire = msgspec.json.Decoder(_Wire)


def decode_message(
    job_id: str, topic: str, text: Content | None, attachment: Callable[[], Content | None] = lambda: None
) -> Message:
    """Return the message that a queue holds under `job_id`; raise MessageError when it is malformed.

    `attachment` fetches the attachment; it is asked only for a message that says it has one.
    """
    check_id(job_id)
    if text is None:
        raise MessageError("the id waits in the queue, but has no message: SET job_data:<id> before the push")
    try:
        check_utf8(text)
        wire = _wire.decode(text)
    except UnicodeDecodeError as error:
        raise MessageError(f"the message is not UTF-8 (byte {error.start})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"the message is no JSON object of the right form: {json_fault(error)}") from None
    if wire.data is msgspec.UNSET:
        raise MessageError('the message has no "data": a message is {"job_id": ..., "data": ...}')
    if bytes(wire.priority) not in (b"null", b"0"):
        raise MessageError(f'"priority": {_shown(wire.priority)} is not supported yet: leave it out')
    if bytes(wire.run_at) != b"null":
        raise MessageError(f'"run_at": {_shown(wire.run_at)} is not supported yet: leave it out')
    if wire.parent_job_id is not None:
        try:
            check_id(wire.parent_job_id)
        except MessageError as error:
            raise MessageError(f'"parent_job_id": {error}') from None
    attached = attachment() if wire.attachment else None
    if wire.attachment and attached is None:
        raise MessageError("the message says that it has an attachment, but job_attachment:<id> is not there")
    return Message(
        job_id=job_id,
        topic=topic,
        data=view if is_large(view := memoryview(wire.data)) else bytes(view),
        parent_job_id=wire.parent_job_id,
        attachment=attached,
        created_at=_text_or_none(wire.created_at),
        retries=wire.retries,
        backoff=wire.backoff,
        timeout=wire.timeout,
        inherited={
            name: msgspec.Raw(bytes(value))
            for name in ("labels", "requester", "traceparent", "hops")
            if isinstance(value := getattr(wire, name), msgspec.Raw)
        },
    )


def _shown(raw: msgspec.Raw) -> str:
    return bytes(raw)[:40].decode("utf-8", "replace")


def _text_or_none(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str | None)
    except msgspec.DecodeError:
        return None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's right to settle one attempt of one job."""

    message: Message
    fence: str
    attempt: int
    taken_at: float
    """Seconds since the epoch, by the broker's clock."""
    queued_s: float | None
    """How long the job waited; None when its producer did not say since when."""
    earlier: tuple[Mapping[str, object], ...] = ()
    """One short entry for each earlier attempt."""
    tries: int = 0
    """How often the handler ran and failed before; begins again when a person sends the job back, as the next two."""
    losses: int = 0
    """How often the job was lost with its worker, or with the keeper of its processes."""
    interruptions: int = 0
    """How often it was interrupted through no fault of its own."""

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.message.job_id

    @property
    def topic(self) -> str:
        """The topic from which the job was taken."""
        return self.message.topic


class Malformed(msgspec.Struct, frozen=True, kw_only=True):
    """An id that was taken, could not be a job, and is `failed` already."""

    job_id: str
    topic: str
    why: str


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing waits now; the next job is scheduled."""

    in_s: float
    """Seconds until its time comes, by the broker's clock."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as a broker knows it, or as its record on this host tells."""

    job_id: str
    topic: str | None
    state: State
    parent_job_id: str | None = None
    attempt: int = 0
    created_at: str | None = None
    since: float | None = None
    """When the job came into its state, in seconds since the epoch; None when nobody noted it."""
    worker: str | None = None
    reason: Reason | None = None
    why: str | None = None
    due: float | None = None
    """When a scheduled job's time comes, in seconds since the epoch."""
    fence: str | None = None
    """The fence of the last lease; what seals and publishes records."""
    data: bytes | None = None
    """JSON text; None where it was not asked for or is no longer known."""


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One state change of one job, as the event stream has it."""

    id: str
    """The position in the stream, for `events(after=...)`."""
    event: str
    job_id: str
    topic: str
    details: Mapping[str, str]
    """`parent`, `fence`, `attempt`, `reason`, `why`, where they apply."""
