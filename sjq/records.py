"""Records: the files of one job in `job_data/`. The only writer there.

    <name>-input.json  -attachment.bin                    written when an attempt begins
    <name>-output.json.<digest>  -stdout.log.<digest> ...  an attempt's own, while it runs
    <name>-metadata.json.<digest>                         the attempt is sealed
    <name>-output.json  -metadata.json  -stdout.log ...   published, after the broker accepted the attempt's end

`<digest>` stands for the attempt's fence: whoever lost the lease can never overwrite a successor's record. Names
appear by renaming, so that a file under its final name is whole.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sjq import clock, logs
from sjq.jobs import Lease, id_from_bytes, id_to_bytes
from sjq.large import Content
from sjq.logs import SHOWN_BYTES
from sjq.plain_file import copy_plain, open_plain, read_plain
from sjq.states import Reason, State
from sjq.trees import remove

LONGEST_NAME_BYTES = 120
KEPT_OF_LONG_NAME = 80
KINDS = ("input.json", "attachment.bin", "output.json", "metadata.json", "stdout.log", "stderr.log")
_OF_ATTEMPT = ("output.json", "stdout.log", "stderr.log", "metadata.json")
"""What an attempt seals, in the order in which it is published: the metadata last, which says that all is there."""

_MOST_METADATA_BYTES = 64 << 20
"""Far more than any has; what is larger is nobody's, and must not fill the memory of who looks."""

_SAFE = re.compile(rb"[A-Za-z0-9._-]")
_PLAIN = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{LONGEST_NAME_BYTES - 1}}}")
_LONG = re.compile(rf"[A-Za-z0-9._%-]{{{KEPT_OF_LONG_NAME}}}~[a-z2-7]{{52}}")
_ANY_DIGEST = "[a-z2-7]" * 16
_FILE = re.compile(
    rf"(?P<name>.+)-(?P<kind>{'|'.join(map(re.escape, KINDS))})(?:\.(?P<digest>[a-z2-7]{{16}})(?:\.part)?)?", re.DOTALL
)


def file_name(job_id: str) -> str:
    """Return the name under which a job's files stand: no two ids share one, and none leaves the folder."""
    if _PLAIN.fullmatch(job_id):
        return job_id
    raw = id_to_bytes(job_id)
    escaped = "".join(chr(byte) if _SAFE.match(bytes([byte])) else f"%{byte:02X}" for byte in raw)
    if escaped.startswith("."):
        escaped = f"%2E{escaped[1:]}"
    if len(escaped) <= LONGEST_NAME_BYTES:
        return escaped
    digest = base64.b32encode(hashlib.sha256(raw).digest()).decode().lower().rstrip("=")
    return f"{escaped[:KEPT_OF_LONG_NAME]}~{digest}"


def id_of(name: str) -> str | None:
    """Undo `file_name`, where that can be undone: None for the name of a long id, and for what is the name of none."""
    if _PLAIN.fullmatch(name):
        return name
    job_id = id_from_bytes(re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), id_to_bytes(name)))
    return job_id if job_id and "\0" not in job_id and file_name(job_id) == name else None


def is_name(name: str) -> bool:
    """Tell whether the files of some job can have this name. Handlers leave files of all names in `job_data/`."""
    return id_of(name) is not None or _LONG.fullmatch(name) is not None


def name_in(file: str) -> str | None:
    """Return the part of a file's name that should be a job's; None for a file that is none of a record."""
    found = _FILE.fullmatch(file)
    return found["name"] if found else None


def digest_of(fence: str) -> str:
    """Return what stands for a fence in file names."""
    return base64.b32encode(hashlib.sha256(id_to_bytes(fence)).digest()[:10]).decode().lower()


@dataclass(frozen=True, slots=True)
class Record:
    """The files of one attempt, from its beginning to its publishing."""

    folder: Path
    name: str
    digest: str
    attached: bool

    @property
    def input(self) -> Path:
        """The job's data."""
        return self.published("input.json")

    @property
    def attachment(self) -> Path | None:
        """The job's attachment, if it has one."""
        return self.published("attachment.bin") if self.attached else None

    @property
    def output(self) -> Path:
        """Where the attempt writes what it returns."""
        return self.own("output.json")

    @property
    def stdout(self) -> Path:
        """Where the attempt prints."""
        return self.own("stdout.log")

    @property
    def stderr(self) -> Path:
        """Where the attempt complains."""
        return self.own("stderr.log")

    def published(self, kind: str) -> Path:
        """Return a file's final name."""
        return self.folder / f"{self.name}-{kind}"

    def own(self, kind: str) -> Path:
        """Return a file's name while it is this attempt's alone."""
        return self.folder / f"{self.name}-{kind}.{self.digest}"

    @property
    def _half_written(self) -> Path:
        """What a handler that is killed leaves of its output."""
        return self.output.with_name(f"{self.output.name}.part")

    def printed(self) -> tuple[str, str]:
        """Return what the attempt printed to stdout and stderr, cut in the middle where it is long."""
        return logs.shortened(self.stdout), logs.shortened(self.stderr)

    def returned(self, most: int) -> Content:
        """Return a copy of the output, as processes of other jobs can reach it; raise OSError as `copy_plain` does."""
        return copy_plain(self.output, self.folder, most=most)

    def complaint(self) -> str:
        """Return the line of stderr that says why the attempt failed."""
        return logs.complaint(self.stderr)

    def was_refused_files(self) -> bool:
        """Tell whether stderr says that the attempt failed since more open files were refused to it."""
        return logs.was_refused_files(self.stderr)

    def seal(self, metadata: Mapping[str, object]) -> None:
        """Complete the attempt's files: after this, only names change."""
        self.folder.mkdir(parents=True, exist_ok=True)  # a handler may have removed it
        remove(self._half_written)
        for path in (self.output, self.stdout, self.stderr):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if not stat.S_ISREG(found.st_mode) or (path != self.output and found.st_size <= SHOWN_BYTES):
                    remove(path)
        text = msgspec.json.format(msgspec.json.encode(metadata), indent=2)
        remove(self.own("metadata.json"))
        self.own("metadata.json").write_bytes(text + b"\n")

    def cut_logs(self) -> None:
        """Make room: keep of the logs no more than metadata shows of them."""
        for path in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                os.truncate(path, SHOWN_BYTES)

    def drop_output(self) -> None:
        """Make room: remove the output, and what there is of one."""
        remove(self.output)
        remove(self._half_written)

    def publish(self) -> None:
        """Give the attempt's files their final names, in place of those of an earlier attempt.

        Ends well however often it was begun and broken off: as long as the earlier attempt's metadata is there, none
        of ours has its final name, and what we lack is the earlier one's; afterwards there is only renaming.
        """
        if not self.own("metadata.json").exists():
            return
        if (earlier := self.published("metadata.json")).exists():
            if self._is_later(earlier):
                self.discard()
                return
            for kind in _OF_ATTEMPT:
                if not self.own(kind).exists():
                    remove(self.published(kind))
            remove(earlier)
        for kind in _OF_ATTEMPT:
            with contextlib.suppress(FileNotFoundError):
                _put(self.own(kind), self.published(kind))

    def _is_later(self, published: Path) -> bool:
        """Tell whether a published record is of a later attempt: ours ended long ago, and its worker was stopped.

        The numbers of attempts do not tell: they begin again for an id that was forgotten and pushed once more.
        """
        theirs = read_metadata(published, self.name) or {"attempts": []}
        return any(digest_of(str(earlier.get("fence"))) == self.digest for earlier in theirs["attempts"])

    def discard(self) -> None:
        """Remove what the attempt wrote."""
        for path in (*(self.own(kind) for kind in KINDS), self._half_written):
            remove(path)


@dataclass(frozen=True, slots=True)
class Unpublished:
    """Files of an attempt that are not published: it runs, or its worker died."""

    name: str
    digest: str
    job_id: str | None
    """None where a long id can no longer be told from its name."""
    sealed: bool
    """Whether the attempt was complete but for its settling."""
    worker: str = ""
    """Who sealed it, as its metadata has it."""


class Records:
    """All records of this host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, lease: Lease) -> Record:
        """Return the record of an attempt; nothing is written yet."""
        attached = lease.message.attachment is not None
        return Record(self.folder, file_name(lease.job_id), digest_of(lease.fence), attached)

    def begin(self, record: Record, lease: Lease) -> None:
        """Write what the attempt reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if lease.attempt > 1 and not record.published("metadata.json").exists():
            # An earlier attempt's publishing was broken off, and our lease is the end of it: its record can no longer
            # be completed, and what it did publish would pass for ours.
            for kind in _OF_ATTEMPT:
                remove(record.published(kind))
        self._write(record.input, lease.message.data, record.digest)
        if lease.message.attachment is not None:
            self._write(record.published("attachment.bin"), lease.message.attachment, record.digest)
        else:
            remove(record.published("attachment.bin"))  # of an earlier life of the id

    def _write(self, path: Path, content: Content, digest: str) -> None:
        beside = path.with_name(f"{path.name}.{digest}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        _put(beside, path)

    def metadata(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's published metadata, or None when this host has none."""
        return self.by_name(file_name(job_id))

    def read(self, job_id: str, kind: str) -> bytes | None:
        """Return a published file of a job, or None when there is none."""
        try:
            return read_plain(self.folder / f"{file_name(job_id)}-{kind}", follow=True)  # archives leave links
        except FileNotFoundError:
            return None

    def beginning(self, job_id: str, kind: str, most: int) -> tuple[bytes, int] | None:
        """Return how a published file of a job begins, and its size, or None when there is none."""
        try:
            with open_plain(self.folder / f"{file_name(job_id)}-{kind}", follow=True) as file:
                return file.read(most), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return None

    def logs(self, job_id: str) -> Mapping[str, Path]:
        """Return the log files of a job, `stdout` and `stderr`: the published ones, or those of a running attempt."""
        name = file_name(job_id)
        found: dict[str, Path] = {}
        for stream in ("stdout", "stderr"):
            own = sorted(self.folder.glob(f"{_literal(name)}-{stream}.log.{_ANY_DIGEST}"), key=_modified)
            ended = _modified(self.folder / f"{name}-metadata.json")
            running = [path for path in own[-1:] if _modified(path) > ended]  # or it is what a dead worker left
            for path in (*running, self.folder / f"{name}-{stream}.log"):
                if path.exists():
                    found[stream] = path
                    break
        return found

    def names(self) -> list[str]:
        """Return the names of all jobs with published metadata; those that sjq made sort by time."""
        ending = "-metadata.json"
        try:
            with os.scandir(self.folder) as entries:
                return sorted(entry.name.removesuffix(ending) for entry in entries if entry.name.endswith(ending))
        except FileNotFoundError:
            return []

    def by_name(self, name: str) -> dict[str, Any] | None:
        """Return the metadata that stands under a file name."""
        return read_metadata(self.folder / f"{name}-metadata.json", name)

    def unpublished(self) -> Iterator[Unpublished]:
        """Yield every attempt that has files of its own, which none has once it is published."""
        attempts: set[tuple[str, str]] = set()
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    match = _FILE.fullmatch(entry.name)
                    if match and match["digest"] and is_name(match["name"]):
                        attempts.add((match["name"], match["digest"]))
        except FileNotFoundError:
            return
        for name, digest in sorted(attempts):
            metadata = read_metadata(self.folder / f"{name}-metadata.json.{digest}", name)
            known = metadata or self.by_name(name)  # a long id cannot be told from its name
            job_id = str(known["job_id"]) if known else id_of(name)
            worker = str((metadata or {}).get("worker", ""))
            yield Unpublished(name, digest, job_id, sealed=metadata is not None, worker=worker)

    def is_sealed(self, attempt: Unpublished) -> bool:
        """Tell whether an attempt is sealed now; it may have been since it was listed."""
        own = self.folder / f"{attempt.name}-metadata.json.{attempt.digest}"
        return read_metadata(own, attempt.name) is not None

    def publish(self, attempt: Unpublished) -> None:
        """Publish what a worker sealed, but did not live to publish."""
        Record(self.folder, attempt.name, attempt.digest, attached=False).publish()

    def discard(self, attempt: Unpublished) -> None:
        """Remove every file of an attempt that came to nothing."""
        Record(self.folder, attempt.name, attempt.digest, attached=False).discard()


def _put(path: Path, final: Path) -> None:
    """Rename a file to its final name, whatever a handler may have put there."""
    try:
        path.replace(final)
    except IsADirectoryError:
        remove(final)
        path.replace(final)


class _Why(msgspec.Struct):
    code: Reason
    why: str


class _Metadata(msgspec.Struct):
    """What is read of a metadata file: one that lacks any of it is nobody's record."""

    job_id: str
    parent_job_id: str | None
    topic: str
    state: State
    attempt: int
    end_time: str
    elapsed_time: float
    queued_time: float | None
    exit_code: int | None
    signal: int | None
    reason: _Why | None
    stdout: str
    stderr: str
    command: str
    args: list[str]
    next_job_ids: list[str]
    worker: str
    usage: dict[str, float] | None
    attempts: list[dict[str, Any]]


def read_metadata(path: Path, name: str) -> dict[str, Any] | None:
    """Return what a metadata file holds, or None when that is not of the job whose files have this name."""
    try:
        text = read_plain(path, follow=True, most=_MOST_METADATA_BYTES)
        found = msgspec.json.decode(text, type=_Metadata)
        clock.from_rfc3339(found.end_time)
        return msgspec.json.decode(text, type=dict[str, Any]) if file_name(found.job_id) == name else None
    except (OSError, ValueError, RecursionError):
        return None


def _modified(path: Path) -> float:
    """Return when a file was written last; one that was published meanwhile stands behind all others."""
    try:
        return path.stat().st_mtime
    except OSError:  # or it is a link that leads nowhere
        return 0.0


def _literal(name: str) -> str:
    """Return a glob pattern for a file name, which holds no wildcard but may hold what a glob reads as one."""
    return re.sub(r"([\[\]*?])", r"[\1]", name)
