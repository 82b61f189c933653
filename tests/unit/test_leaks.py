"""The check that runs after every test finds what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import leaks
import pytest
from leaks import Leaks

from unit.waiting import until

pytestmark = pytest.mark.skipif(not leaks.can_be_found(), reason="only Linux lets us look")

LEAVES_AN_ORPHAN = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=int(sys.argv[1]), env={},
    pass_fds=[int(sys.argv[1])], start_new_session=True)
"""


@pytest.fixture
def looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leaks]:
    monkeypatch.setattr(leaks, "_PATIENCE_S", 0.3)
    with closing(Leaks(tmp_path)) as looking:
        yield looking


def test_what_has_ended_or_is_closed_is_no_leak(looking: Leaks) -> None:
    with looking.looked_for() as found:
        subprocess.run(["true"], check=True)
        with tempfile.TemporaryFile():
            pass
        thread = threading.Thread(target=lambda: None)
        thread.start()
    assert found == []


def test_a_child_is_found_and_so_is_one_that_nobody_collected(looking: Leaks) -> None:
    with looking.looked_for() as found:
        runs = subprocess.Popen(["sleep", "60"])
        ended = subprocess.Popen(["true"])
    runs.kill()
    runs.wait()
    ended.wait()
    assert len(found) == 2
    assert f"process {runs.pid}: in state S: sleep 60 " in found
    assert f"process {ended.pid}: in state Z: " in found


def test_an_orphan_in_a_folder_of_a_test_is_found(looking: Leaks, tmp_path: Path) -> None:
    woken, wake = os.pipe()
    with looking.looked_for() as found:
        subprocess.run([sys.executable, "-c", LEAVES_AN_ORPHAN, str(woken)], cwd=tmp_path, pass_fds=[woken], check=True)
    assert len(found) == 1
    orphan = int(found[0].split()[1].rstrip(":"))
    os.close(wake)
    os.close(woken)
    until(lambda: not Path(f"/proc/{orphan}/cwd").is_symlink() or not Path(f"/proc/{orphan}/cwd").exists(), "it ends")


def test_descriptors_threads_and_temporary_files_are_found(looking: Leaks) -> None:
    go = threading.Event()
    with looking.looked_for() as found:
        number = os.open("/dev/null", os.O_RDONLY)
        thread = threading.Thread(target=go.wait, name="stays")
        thread.start()
        tempfile.mkdtemp(prefix="ours-")
    os.close(number)
    go.set()
    thread.join()
    assert found[:2] == ["thread stays", f"descriptor {number}: /dev/null"]
    assert found[2].startswith("temporary file ours-")
    assert len(found) == 3


def test_what_fixtures_of_a_wider_scope_make_stays(looking: Leaks) -> None:
    usual = tempfile.gettempdir()
    with looking.looked_for() as found, looking.shared():
        assert tempfile.gettempdir() == usual
        number = os.open("/dev/null", os.O_RDONLY)
        child = subprocess.Popen(["sleep", "60"])
    os.close(number)
    child.kill()
    child.wait()
    assert found == []
