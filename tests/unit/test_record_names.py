"""The names of records: safe in any folder, shared by no two jobs, and told apart from those that no job has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sjq import records
from sjq.jobs import id_from_bytes
from sjq.records import KINDS, digest_of, file_name

raw_ids = st.binary(min_size=1, max_size=512).filter(lambda raw: b"\0" not in raw)
tricky_ids = st.lists(
    st.sampled_from(
        [b"a", b"b", b".", b"..", b"/", b"%", b"%2E", b"~", b"-", b"\\", b"\xff", b" ", "é".encode(), b"a" * 40]
        + [f"-{kind}".encode() for kind in KINDS]
        + [b"." + b"a" * 16, b"." + b"2" * 16, b"-stdout.log.x"]
    ),
    min_size=1,
    max_size=6,
).map(b"".join)
ids = (raw_ids | tricky_ids).map(id_from_bytes)
DIGEST = digest_of("w.1")


def files_of(job_id: str) -> set[str]:
    """Return every name that a file of the job may have."""
    name = file_name(job_id)
    return {f"{name}-{kind}{ending}" for kind in KINDS for ending in ("", f".{DIGEST}")}


@given(ids)
@example(".")
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example(".hidden")
@example("%2Ehidden")
@example("a" * 512)
@example("é" * 256)
@example("~" * 100)
def test_a_name_is_safe_and_stays_in_the_folder(job_id: str) -> None:
    name = file_name(job_id)
    assert re.fullmatch(r"[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*", name)
    assert len(name) <= 133
    for file in files_of(job_id):
        assert len(file) <= 255
        assert (Path("/folder") / file).resolve().parent == Path("/folder")


@given(ids, ids)
@example(".a", "%2Ea")
@example("a b", "a%20b")
@example("a" * 121, "a" * 122)
@example("a" * 120, "a" * 121)
@example("a", "a-output.json")
@example("a", f"a-output.json.{DIGEST}")
@example("a-input.json", "a")
def test_no_two_jobs_share_a_file(one: str, other: str) -> None:
    assume(one != other)
    assert file_name(one) != file_name(other)
    assert not files_of(one) & files_of(other)


@given(st.text("abcXYZ0189._-", min_size=1, max_size=120).filter(lambda text: not text.startswith(".")))
def test_a_plain_id_is_its_own_name(job_id: str) -> None:
    assert file_name(job_id) == job_id


@given(ids)
def test_an_id_can_be_told_from_its_name_unless_it_is_long(job_id: str) -> None:
    name = file_name(job_id)
    assert records.id_of(name) == (None if len(name) > 120 else job_id)


@given(ids)
@example("a" * 512)
@example("é" * 41)
def test_a_name_is_known_as_one(job_id: str) -> None:
    assert records.is_name(file_name(job_id))


HOSTILE_NAMES = [
    *("\udcff", "a\nb", "\x1b[2J", "a b", "é", ".hidden", "~", "a~b", "%", "%zz", "%41", "%ff", "%00", "a" * 121),
    *(f"{'a' * 80}~{'b' * 51}", f"{'a' * 80}~{'B' * 52}", "x" * 240),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_name_that_no_job_has_is_told_apart(name: str) -> None:
    assert not records.is_name(name)
    assert records.id_of(name) is None


@given(st.binary(min_size=1, max_size=200).map(id_from_bytes))
def test_what_counts_as_a_name_is_that_of_its_id(name: str) -> None:
    job_id = records.id_of(name)
    assert job_id is None or file_name(job_id) == name


@given(ids, st.sampled_from(KINDS))
def test_a_file_tells_whose_it_is(job_id: str, kind: str) -> None:
    match = records._FILE.fullmatch(f"{file_name(job_id)}-{kind}.{DIGEST}")
    assert match
    assert (match["name"], match["kind"], match["digest"]) == (file_name(job_id), kind, DIGEST)


@given(st.text(), st.text())
def test_a_fence_has_a_digest_of_its_own(one: str, other: str) -> None:
    assume(one != other)
    assert digest_of(one) != digest_of(other)
    assert re.fullmatch("[a-z2-7]{16}", digest_of(one))


def test_a_fence_that_is_no_text_has_a_digest_too() -> None:
    assert re.fullmatch("[a-z2-7]{16}", digest_of("\udcff"))
