"""Records: files that are whole after any crash."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace as changed

from sjq.jobs import Lease, Message
from sjq.logs import SHOWN_BYTES
from sjq.records import KINDS, Record, Records, Unpublished, digest_of, file_name

from .test_record_names import HOSTILE_NAMES
from .test_trees import deep
from .told import told

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = digest_of("w.1")


# One attempt.


def lease(job_id: str = "job", fence: str = "w.1", *, data: bytes = b"[1]", attachment: bytes | None = None) -> Lease:
    message = Message(job_id=job_id, topic="t", data=data, attachment=attachment)
    return Lease(message=message, fence=fence, attempt=1, taken_at=0.0, queued_s=None)


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_an_attempt_from_its_beginning_to_its_publishing(tmp_path: Path) -> None:
    kept = Records(tmp_path / "job_data")
    mine = lease(attachment=b"bytes", data=b'{"a": 1.0e5}')
    record = kept.of(mine)
    assert not (tmp_path / "job_data").exists()

    kept.begin(record, mine)
    assert listing(kept.folder) == {"job-input.json": b'{"a": 1.0e5}', "job-attachment.bin": b"bytes"}
    assert (record.input, record.attachment) == (kept.folder / "job-input.json", kept.folder / "job-attachment.bin")

    record.output.write_bytes(b"{}")
    record.stdout.write_text("out")
    record.stderr.write_text("err")
    assert record.printed() == ("out", "err")
    assert set(listing(kept.folder)) == {
        "job-input.json",
        "job-attachment.bin",
        *(f"job-{kind}.{DIGEST}" for kind in ("output.json", "stdout.log", "stderr.log")),
    }

    record.seal(told(stdout="out"))
    assert kept.metadata("job") is None
    assert kept.names() == []
    assert list(kept.unpublished()) == [Unpublished("job", DIGEST, "job", sealed=True, worker=told()["worker"])]

    record.publish()
    assert set(listing(kept.folder)) == {"job-input.json", "job-attachment.bin", "job-output.json", "job-metadata.json"}
    assert kept.metadata("job") == kept.by_name("job") == told(stdout="out")
    assert kept.names() == ["job"]
    assert kept.read("job", "output.json") == b"{}"
    assert kept.read("job", "stdout.log") is None
    assert list(kept.unpublished()) == []


def test_metadata_is_for_people_too(tmp_path: Path) -> None:
    record = Record(tmp_path, "job", DIGEST, attached=False)
    record.seal({"b": 1, "a": ["é"], "c": {}})
    text = record.own("metadata.json").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["b", "a", "c"]
    assert len(text.splitlines()) > 3


def test_without_an_attachment_there_is_none(tmp_path: Path) -> None:
    record = Records(tmp_path).of(lease())
    assert record.attachment is None


def test_an_empty_attachment_is_one(tmp_path: Path) -> None:
    kept, mine = Records(tmp_path), lease(attachment=b"")
    kept.begin(kept.of(mine), mine)
    assert kept.read("job", "attachment.bin") == b""


def test_beginning_again_replaces_the_input_whole(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    for data in (b"[1, 2, 3]", b"[]"):
        mine = lease(data=data)
        kept.begin(kept.of(mine), mine)
        assert listing(tmp_path) == {"job-input.json": data}


def test_who_still_reads_an_earlier_input_reads_it_to_its_end(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    earlier, later = lease(data=b"[1, 2, 3]"), lease(data=b"[]")
    kept.begin(kept.of(earlier), earlier)
    with kept.of(earlier).input.open("rb") as reading:
        kept.begin(kept.of(later), later)
        assert reading.read() == b"[1, 2, 3]"


def test_what_nobody_sealed_is_not_published(tmp_path: Path) -> None:
    record = Record(tmp_path, "job", DIGEST, attached=False)
    record.output.write_text("{}")
    record.publish()
    assert set(listing(tmp_path)) == {f"job-output.json.{DIGEST}"}


def test_a_deep_folder_in_the_place_of_an_output_goes(tmp_path: Path) -> None:
    record = Record(tmp_path, "job", DIGEST, attached=False)
    deep(record.output)
    record.seal(told())
    record.publish()
    assert set(listing(tmp_path)) == {"job-metadata.json"}


def test_a_deep_folder_in_the_place_of_an_input_goes(tmp_path: Path) -> None:
    kept, mine = Records(tmp_path), lease()
    deep(kept.of(mine).input)
    kept.begin(kept.of(mine), mine)
    assert listing(tmp_path) == {"job-input.json": b"[1]"}


def test_discarding_leaves_what_others_wrote(tmp_path: Path) -> None:
    for digest in (DIGEST, digest_of("w.2")):
        for kind in KINDS:
            (tmp_path / f"job-{kind}.{digest}").touch()
    published = {"job-input.json", "job-output.json", "job-metadata.json", "job-2-output.json"}
    for name in published:
        (tmp_path / name).touch()
    kept = Records(tmp_path)
    Record(tmp_path, "job", DIGEST, attached=False).discard()
    kept.discard(Unpublished("job", DIGEST, "job", sealed=False))
    assert set(listing(tmp_path)) == published | {f"job-{kind}.{digest_of('w.2')}" for kind in KINDS}
    kept.discard(Unpublished("job", DIGEST, "job", sealed=False))


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    kept = Records(tmp_path / "gone")
    assert kept.names() == []
    assert list(kept.unpublished()) == []
    assert kept.metadata("a") is None
    assert kept.read("a", "input.json") is None
    assert kept.logs("a") == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"job_id": "jo', b"[]", b"5", b"\xff", b"{}", b'{"job_id": "job"}'])
def test_metadata_that_is_not_whole_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job-metadata.json").write_bytes(content)
    (tmp_path / f"job-metadata.json.{DIGEST}").write_bytes(content)
    kept = Records(tmp_path)
    assert kept.metadata("job") is None
    assert list(kept.unpublished()) == [Unpublished("job", DIGEST, "job", sealed=False)]


def test_metadata_of_another_job_is_none(tmp_path: Path) -> None:
    """Somebody copied a record, or a handler wrote one."""
    (tmp_path / "copy-metadata.json").write_text(json.dumps(told("job")))
    (tmp_path / f"copy-metadata.json.{DIGEST}").write_text(json.dumps(told("job")))
    kept = Records(tmp_path)
    assert kept.by_name("copy") is None
    assert kept.metadata("copy") is None
    assert list(kept.unpublished()) == [Unpublished("copy", DIGEST, "copy", sealed=False)]


@pytest.mark.parametrize("end_time", ["2026-11-29T08:00:00", "2026-11-29", "soon"])
def test_metadata_whose_end_is_no_time_is_none(tmp_path: Path, end_time: str) -> None:
    (tmp_path / "job-metadata.json").write_text(json.dumps(told(end_time=end_time)))
    assert Records(tmp_path).metadata("job") is None


def test_metadata_that_is_too_deep_or_too_large_to_read_is_none(tmp_path: Path) -> None:
    text = json.dumps(told(attempts=[])).replace('"attempts": []', f'"attempts": [{{"a": {"[" * 10**5}{"]" * 10**5}}}]')
    (tmp_path / "job-metadata.json").write_text(text)
    (tmp_path / "big-metadata.json").touch()
    os.truncate(tmp_path / "big-metadata.json", 1 << 40)
    kept = Records(tmp_path)
    assert kept.metadata("job") is kept.metadata("big") is None


def test_files_with_names_that_no_job_has_are_nobodys(tmp_path: Path) -> None:
    for name in HOSTILE_NAMES:
        with contextlib.suppress(OSError):  # too long, for one of them
            (tmp_path / f"{name}-output.json.{DIGEST}").touch()
        (tmp_path / f"{name}-input.json").touch()
    assert list(Records(tmp_path).unpublished()) == []


def test_unpublished_attempts_are_told_apart(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    long = "x" * 200
    for job_id, fence in (("a", "w.1"), ("a", "w.2"), ("a-output.json", "w.1"), (".b é", "w.1"), (long, "w.1")):
        kept.of(lease(job_id, fence)).output.touch()
    sealed = kept.of(lease(long, "w.2"))
    sealed.seal(told(long))
    for other in ("a-output.json", "README", "a-output.json.x", f"a-files.{DIGEST}", f"a-output.json.{DIGEST}.tmp"):
        (tmp_path / other).touch()
    found = {(attempt.digest, attempt.job_id, attempt.sealed) for attempt in kept.unpublished()}
    one, two = digest_of("w.1"), digest_of("w.2")
    assert found == {
        (one, "a", False),
        (two, "a", False),
        (one, "a-output.json", False),
        (one, ".b é", False),
        (one, None, False),
        (two, long, True),
    }


def test_an_attempt_that_died_while_it_began_can_be_discarded(tmp_path: Path) -> None:
    for kind in ("input.json", "attachment.bin"):
        (tmp_path / f"job-{kind}.{DIGEST}").touch()
    kept = Records(tmp_path)
    for attempt in kept.unpublished():
        kept.discard(attempt)
    assert listing(tmp_path) == {}


def test_names_sort_by_time(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    for job_id in ("20261121T231501.2Z-b", "20261121T231501.1Z-c", "20261121T231502.0Z-a"):
        (tmp_path / f"{job_id}-metadata.json").write_text("{}")
    assert [name[-1] for name in kept.names()] == ["c", "b", "a"]


# Logs.


def test_logs_are_the_published_or_those_of_the_attempt_that_runs(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    assert kept.logs("job") == {}
    (tmp_path / "job-stdout.log").touch()
    assert kept.logs("job") == {"stdout": tmp_path / "job-stdout.log"}
    running = kept.of(lease())
    running.stdout.touch()
    running.stderr.touch()
    assert kept.logs("job") == {"stdout": running.stdout, "stderr": running.stderr}


@pytest.mark.parametrize("job_id", ["[a]", "*", "a?", "é", ".x", "y" * 300])
def test_logs_of_a_strange_id(tmp_path: Path, job_id: str) -> None:
    kept = Records(tmp_path)
    kept.of(lease("other")).stdout.touch()
    mine = kept.of(lease(job_id))
    mine.stdout.touch()
    assert kept.logs(job_id) == {"stdout": mine.stdout}


def test_logs_are_not_those_of_an_id_that_ends_like_a_log(tmp_path: Path) -> None:
    (tmp_path / f"{file_name('a-stdout.log.x')}-stdout.log").touch()
    assert Records(tmp_path).logs("a") == {}


def test_logs_that_are_published_meanwhile_are_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Records(tmp_path)
    record = kept.of(lease())
    record.stdout.touch()
    search = Path.glob

    def publish_behind(folder: Path, pattern: str) -> Iterator[Path]:
        found = list(search(folder, pattern))
        if record.stdout.exists():
            record.stdout.rename(record.published("stdout.log"))
        yield from found

    monkeypatch.setattr(Path, "glob", publish_behind)
    assert kept.logs("job") == {"stdout": record.published("stdout.log")}


# Long output.


def sealed_output(folder: Path, content: bytes) -> tuple[str, bool]:
    """Return what stands in the metadata for an output, and whether the log is kept."""
    record = Record(folder, "job", DIGEST, attached=False)
    record.stdout.write_bytes(content)
    shown, _ = record.printed()
    record.seal(told(stdout=shown))
    record.publish()
    kept = record.published("stdout.log")
    if kept.exists():
        assert kept.read_bytes() == content
    return json.loads(record.published("metadata.json").read_bytes())["stdout"], kept.exists()


@pytest.mark.parametrize("size", [0, 1, SHOWN_BYTES - 1, SHOWN_BYTES])
def test_output_up_to_the_limit_is_shown_whole_and_has_no_log(tmp_path: Path, size: int) -> None:
    assert sealed_output(tmp_path, b"x" * size) == ("x" * size, False)


@pytest.mark.parametrize("over", [1, 2, 1000, 10 * SHOWN_BYTES])
def test_output_over_the_limit_is_cut_in_the_middle_and_whole_in_the_log(tmp_path: Path, over: int) -> None:
    half = SHOWN_BYTES // 2
    content = b"a" * half + b"m" * over + b"z" * half
    note = f"\n[... {over} bytes left out here; the whole is in job-stdout.log ...]\n"
    assert sealed_output(tmp_path, content) == ("a" * half + note + "z" * half, True)


@pytest.mark.parametrize("shift", range(4))
def test_a_cut_through_a_character_harms_no_other(tmp_path: Path, shift: int) -> None:
    content = b"a" * shift + "😀".encode() * (SHOWN_BYTES // 2)
    shown, kept = sealed_output(tmp_path, content)
    assert kept
    head, note, tail = re.split(r"(\n\[\.\.\. .* \.\.\.\]\n)", shown)
    assert re.fullmatch(f"{'a' * shift}😀+\ufffd?", head)
    assert re.fullmatch("\ufffd{0,3}😀+", tail)
    assert f"{len(content) - SHOWN_BYTES} bytes" in note


def test_output_that_is_no_utf_8_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    assert sealed_output(tmp_path, b"a\xffb\xc3")[0] == "a\ufffdb\ufffd"


def test_an_attempt_that_printed_nothing_at_all(tmp_path: Path) -> None:
    assert Record(tmp_path, "job", DIGEST, attached=False).printed() == ("", "")


# Publishing, broken off anywhere.


class Crash(BaseException):
    """The machine stops here."""


@dataclass
class Fuse:
    """Lets `left` file operations happen, and crashes at the next one."""

    left: int

    def count(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """A fuse in every operation that changes a name."""
    burning = Fuse(10**6)
    for operation in ("unlink", "replace"):
        true: Any = getattr(Path, operation)

        def fused(path: Path, *args: Any, _true: Any = true, **kwargs: Any) -> Any:
            burning.count()
            return _true(path, *args, **kwargs)

        monkeypatch.setattr(Path, operation, fused)
    return burning


LEFT = list(itertools.product([True, False], repeat=3))
"""Whether an attempt left an output, a long stdout, a long stderr."""


def seal(folder: Path, number: int, left: tuple[bool, bool, bool]) -> Record:
    """Write and seal the files of an attempt; each holds the attempt's number."""
    record = Record(folder, "job", digest_of(f"w.{number}"), attached=False)
    for kind, there in zip(("output.json", "stdout.log", "stderr.log"), left, strict=True):
        if there:
            record.own(kind).write_bytes(b"%d" % number * (SHOWN_BYTES + 1))
    earlier = [{"attempt": before, "fence": f"w.{before}"} for before in range(1, number)]
    record.seal(told(attempt=number, attempts=earlier))
    return record


def attempts_of(folder: Path) -> dict[str, int]:
    """Return of which attempt each published file is."""
    found = {}
    for kind in ("output.json", "stdout.log", "stderr.log"):
        if (file := folder / f"job-{kind}").exists():
            found[kind] = int(file.read_bytes()[:1])
    if metadata := Records(folder).metadata("job"):
        found["metadata.json"] = metadata["attempt"]
    return found


def whole(number: int, left: tuple[bool, bool, bool]) -> dict[str, int]:
    kinds = (*zip(("output.json", "stdout.log", "stderr.log"), left, strict=True), ("metadata.json", True))
    return {kind: number for kind, there in kinds if there}


@pytest.mark.parametrize(("earlier", "later"), list(itertools.product([None, *LEFT], LEFT)), ids=repr)
def test_publishing_ends_well_however_often_it_was_broken_off(
    tmp_path: Path, fuse: Fuse, earlier: tuple[bool, bool, bool] | None, later: tuple[bool, bool, bool]
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    if earlier:
        seal(start, 1, earlier).publish()
        assert attempts_of(start) == whole(1, earlier)
    seal(start, 2, later)
    for step in itertools.count():
        folder = tmp_path / str(step)
        shutil.copytree(start, folder)
        first_broke = _publish_until(folder, fuse, step)
        _check_broken(folder, earlier, later)
        for again in range(3):
            _publish_until(folder, fuse, again)
            _check_broken(folder, earlier, later)
        fuse.left = 10**6
        for attempt in list(Records(folder).unpublished()):
            assert attempt.sealed
            Records(folder).publish(attempt)
        assert attempts_of(folder) == whole(2, later)
        assert list(Records(folder).unpublished()) == []
        shutil.rmtree(folder)
        if not first_broke:
            break
    assert step <= 10


def _publish_until(folder: Path, fuse: Fuse, operations: int) -> bool:
    """Publish attempt 2 and crash after so many operations; tell whether it came to that."""
    fuse.left = operations
    try:
        Record(folder, "job", digest_of("w.2"), attached=False).publish()
    except Crash:
        return True
    else:
        return False
    finally:
        fuse.left = 10**6


def _check_broken(folder: Path, earlier: tuple[bool, bool, bool] | None, later: tuple[bool, bool, bool]) -> None:
    """Metadata stands among files of its own attempt alone, and is there last."""
    there = attempts_of(folder)
    if there.get("metadata.json") == 2:
        assert there == whole(2, later)
    elif there.get("metadata.json") == 1:
        assert earlier
        assert there.items() <= whole(1, earlier).items()
    else:
        assert there.keys() <= whole(2, later).keys(), "what the later attempt lacks is gone before the metadata is"


def test_an_attempt_that_is_published_late_leaves_its_successors_record_alone(tmp_path: Path) -> None:
    """Its worker was stopped between settling and publishing; meanwhile the job was sent back, and succeeded."""
    late = seal(tmp_path, 1, (False, True, False))
    seal(tmp_path, 2, (True, False, False)).publish()
    late.publish()
    assert attempts_of(tmp_path) == {"output.json": 2, "metadata.json": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"job-output.json", "job-metadata.json"}


def test_what_an_earlier_attempt_half_published_does_not_stay(tmp_path: Path, fuse: Fuse) -> None:
    """The first attempt's worker dies while it publishes; the job is sent back; the next attempt leaves no output."""
    kept = Records(tmp_path)
    first = seal(tmp_path, 1, (True, True, False))
    fuse.left = 1
    with pytest.raises(Crash):
        first.publish()
    fuse.left = 10**6
    assert attempts_of(tmp_path) == {"output.json": 1}

    mine = changed(lease(fence="w.2"), attempt=2)
    kept.begin(kept.of(mine), mine)
    seal(tmp_path, 2, (False, False, False)).publish()
    kept.discard(Unpublished("job", digest_of("w.1"), "job", sealed=True))
    assert attempts_of(tmp_path) == {"metadata.json": 2}


def test_an_attempt_without_output_leaves_none_of_an_earlier_one(tmp_path: Path) -> None:
    seal(tmp_path, 1, (True, True, True)).publish()
    seal(tmp_path, 2, (False, False, False)).publish()
    assert attempts_of(tmp_path) == {"metadata.json": 2}


def test_the_record_of_an_earlier_life_of_the_id_is_replaced(tmp_path: Path) -> None:
    """Its attempts were counted further: it was forgotten, and the id was pushed again."""
    seal(tmp_path, 3, (False, True, False)).publish()
    again = Record(tmp_path, "job", digest_of("w.9"), attached=False)
    again.output.write_bytes(b"9")
    again.seal(told(attempt=1))
    again.publish()
    metadata = Records(tmp_path).metadata("job")
    assert metadata
    assert (metadata["attempt"], listing(tmp_path)["job-output.json"]) == (1, b"9")
    assert {path.name for path in tmp_path.iterdir()} == {"job-output.json", "job-metadata.json"}


@pytest.mark.parametrize("kind", ["output.json", "stdout.log", "metadata.json"])
def test_a_folder_in_the_place_of_a_file_is_in_nobodys_way(tmp_path: Path, kind: str) -> None:
    record = Record(tmp_path, "job", DIGEST, attached=False)
    for name in (record.own(kind), record.published(kind)):
        (name / "more").mkdir(parents=True)
    record.seal(told())
    record.publish()
    assert Records(tmp_path).metadata("job") == told()
    (tmp_path / f"job-{kind}.{DIGEST}" / "more").mkdir(parents=True)
    for attempt in Records(tmp_path).unpublished():
        Records(tmp_path).discard(attempt)
    assert Records(tmp_path).metadata("job") == told()
    assert not record.own(kind).exists()


def test_a_record_that_was_moved_elsewhere_and_linked_is_read(tmp_path: Path) -> None:
    (tmp_path / "job_data").mkdir()
    seal(tmp_path / "job_data", 1, (True, False, False)).publish()
    (tmp_path / "archive").mkdir()
    for path in list((tmp_path / "job_data").iterdir()):
        path.symlink_to(path.replace(tmp_path / "archive" / path.name))
    kept = Records(tmp_path / "job_data")
    assert kept.metadata("job") == told(attempt=1)
    assert (kept.read("job", "output.json") or b"")[:1] == b"1"
