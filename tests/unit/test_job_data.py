"""The folder of records as a whole."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sjq.job_data import JobData, beginning_of_id
from sjq.jobs import id_from_bytes
from sjq.records import KINDS, file_name

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = 1_000_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> JobData:
    (tmp_path / "job_data").mkdir()
    return JobData(tmp_path / "job_data")


def put(folder: JobData, name: str, text: str = "x") -> Path:
    path = folder.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def names(folder: JobData) -> set[str]:
    return {path.name for path in folder.folder.iterdir()}


def test_published_files_of_a_kind_are_found_and_attempts_own_are_not(folder: JobData) -> None:
    for name in (
        "a-input.json",
        "b-input.json",
        "b-metadata.json",
        "c-input.json.aaaaaaaaaaaaaaaa",
        "input.json",
        "README",
    ):
        put(folder, name)
    put(folder, "x-input.json-input.json")
    assert set(folder.written("input.json")) == {(name, LONG_AGO) for name in ("a", "b", "x-input.json")}
    assert set(folder.written("metadata.json")) == {("b", LONG_AGO)}


def test_links_that_lead_nowhere_are_no_files(folder: JobData) -> None:
    (folder.folder / "a-input.json").symlink_to("a-input.json")
    (folder.folder / "b-input.json").symlink_to(put(folder, "file") / "beyond")
    assert list(folder.written("input.json")) == []


def test_files_with_names_that_no_job_has_are_told(folder: JobData) -> None:
    strange = ("\udcff-input.json", "a\nb-metadata.json", "%41-output.json.aaaaaaaaaaaaaaaa", "a b-stdout.log")
    for name in (*strange, "a-input.json", "README", "a b", "-input.json"):
        put(folder, name)
    assert set(folder.foreign()) == set(strange)
    assert set(folder.written("input.json")) == {("a", LONG_AGO)}


def test_no_folder_holds_nothing(tmp_path: Path) -> None:
    folder = JobData(tmp_path / "none")
    assert list(folder.written("input.json")) == []
    assert list(folder.foreign()) == []
    assert sum(folder.size()) == folder.size_of("a") == 0
    assert folder.take_away("a", since=time.time())


def test_sizes_are_those_of_all_files(folder: JobData) -> None:
    for kind in KINDS:
        put(folder, f"a-{kind}", "12345")
    put(folder, "a-files/deep", "x" * 100)
    put(folder, "b-input.json", "x" * 1000)
    (folder.folder / "a-link").symlink_to("/dev/zero")
    assert folder.size_of("a") == 5 * len(KINDS) + 100
    assert folder.size_of("b") == 1000
    assert sum(folder.size()) == 5 * len(KINDS) + 100 + 1000


def test_a_record_is_taken_away_whole_and_no_other(folder: JobData) -> None:
    for kind in KINDS:
        put(folder, f"a-{kind}")
        put(folder, f"a-a-{kind}")
        put(folder, f"b-{kind}")
    put(folder, "a-files/deep")
    (folder.folder / "b-attachment.bin").unlink()
    (folder.folder / "b-attachment.bin").symlink_to(put(folder, "archived"))
    assert folder.take_away("a", since=time.time())
    assert folder.take_away("b", since=time.time())
    assert names(folder) == {"archived", *(f"a-a-{kind}" for kind in KINDS)}


def test_the_metadata_is_the_last_to_go(folder: JobData, monkeypatch: pytest.MonkeyPatch) -> None:
    from sjq import job_data

    for kind in KINDS:
        put(folder, f"a-{kind}")
    gone = []
    monkeypatch.setattr(job_data, "remove", lambda path: gone.append(path.name))
    assert folder.take_away("a", since=time.time())
    assert gone[-1] == "a-metadata.json"
    assert len(gone) == len(set(gone)) == len(KINDS) + 1


def test_a_record_whose_job_began_anew_stays(folder: JobData) -> None:
    for kind in KINDS:
        put(folder, f"a-{kind}")
    asked_at = time.time()
    (folder.folder / "a-input.json").write_text("new")
    assert not folder.take_away("a", since=asked_at)
    assert len(names(folder)) == len(KINDS)


def test_metadata_is_readable_or_not(folder: JobData) -> None:
    put(folder, "a-metadata.json", "{")
    (folder.folder / "b-metadata.json").symlink_to("nowhere")
    assert [folder.has_metadata(name) for name in "abc"] == [True, True, False]
    assert not any(folder.is_readable(name) for name in "abc")


ids = st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw).map(id_from_bytes)


@given(ids | st.text("é/ab", min_size=1, max_size=200))
@example("a" * 78 + "é" * 50)
@example("a" * 79 + "/" * 50)
@example("é" * 100)
@example("\udcff" * 200)
@example("\udc80" + "a" * 150)
def test_a_name_tells_how_its_id_begins(job_id: str) -> None:
    name = file_name(job_id)
    beginning = beginning_of_id(name)
    assert job_id.startswith(beginning)
    if "~" not in name:
        assert beginning == job_id
