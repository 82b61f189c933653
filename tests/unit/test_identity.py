"""Who a worker is, and whether it lives: asked of real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sjq import identity
from sjq.identity import WorkerIdentity, host_of, is_dead, start_ticks

from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

STAY = "import sys; print('here', flush=True); sys.stdin.read()"
NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, {name!r})
print('here', flush=True); sys.stdin.read()
"""


@contextmanager
def child(code: str = STAY) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stays until its stdin ends, or until it is killed."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        try:
            yield process
        finally:
            process.kill()


def fields(pid: int) -> dict[str, str]:
    return {
        "host": identity.host(),
        "boot": identity.boot_id(),
        "pid": str(pid),
        "start": start_ticks(pid) or "",
        "pid_namespace": identity.pid_namespace(),
    }


def test_a_living_process_is_not_dead() -> None:
    with child() as process:
        assert not is_dead(fields(process.pid))
    assert not is_dead(WorkerIdentity.of_this_process().fields())


def test_a_process_that_ended_is_dead() -> None:
    with child() as process:
        facts = fields(process.pid)
        process.kill()
        process.wait()
        assert is_dead(facts)
        assert start_ticks(process.pid) is None


def test_a_zombie_is_dead() -> None:
    with child() as process:
        facts = fields(process.pid)
        process.kill()
        until(lambda: is_dead(facts), "the zombie counts as dead")
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        assert stat.rsplit(")", 1)[1].split()[0] == "Z"


def test_a_stopped_process_is_not_dead() -> None:
    with child() as process:
        facts = fields(process.pid)
        os.kill(process.pid, 19)
        until(lambda: " T " in Path(f"/proc/{process.pid}/stat").read_text(), "it is stopped")
        assert not is_dead(facts)


def test_a_pid_that_was_given_again_is_another_process() -> None:
    assert is_dead({**fields(os.getpid()), "start": "1"})


@pytest.mark.parametrize("field", ["boot", "pid_namespace"])
@pytest.mark.parametrize("value", ["", "elsewhere", None])
def test_who_lives_elsewhere_may_live(field: str, value: str | None) -> None:
    with child() as process:
        facts = fields(process.pid)
        process.kill()
        process.wait()
    assert is_dead(facts)
    if value is None:
        del facts[field]
    else:
        facts[field] = value
    assert not is_dead(facts)


@pytest.mark.parametrize("missing", ["boot_id", "pid_namespace"])
def test_where_the_system_does_not_say_nobody_is_dead(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(identity, missing, lambda: "")
    assert not is_dead({**fields(os.getpid()), "start": "1"})


@pytest.mark.parametrize("pid", ["", "-1", "x", "1.5", " 1"])
def test_what_is_no_pid_proves_nothing(pid: str) -> None:
    assert not is_dead({**fields(os.getpid()), "pid": pid})


def test_without_facts_nobody_is_dead() -> None:
    assert not is_dead({})


@pytest.mark.parametrize("name", [b"a) Z 0 (", b")", b"a b\nc", b"((("])
def test_a_process_may_have_a_strange_name(name: bytes) -> None:
    with child(NAMED.format(name=name)) as process:
        ticks = start_ticks(process.pid)
        assert ticks
        assert ticks.isdigit()
        assert not is_dead(fields(process.pid))


def test_a_process_may_have_a_name_that_is_no_utf_8() -> None:
    with child(NAMED.format(name=b"caf\xc3")) as process:
        assert start_ticks(process.pid)


def test_a_worker_is_named_by_host_boot_pid_start_and_chance() -> None:
    one, other = WorkerIdentity.of_this_process(), WorkerIdentity.of_this_process()
    assert one.id != other.id
    assert one.fields() == other.fields() == fields(os.getpid())
    expected = rf"{re.escape(identity.host())}-[0-9a-f]{{8}}-{os.getpid()}-\d+-[a-z2-7]{{6}}"
    assert re.fullmatch(expected, one.id)
    assert host_of(one.id) == identity.host()


@given(st.text("abc-._019", min_size=1))
def test_the_host_is_found_in_the_id_whatever_its_name(host: str) -> None:
    worker = WorkerIdentity(host=host, boot="", pid=1, start="2", pid_namespace="", random="abcdef")
    assert host_of(worker.id) == host


def test_a_host_with_a_strange_name_is_safe_in_a_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "my box/ü\n")
    assert identity.host() == "my_box___"
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert identity.host() == "host"
