"""How uv is called: as the person would call it who started us."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from servers import until

from sjq.errors import EnvironmentFailed
from sjq.executors import uv
from sjq.executors.base import PreparationStopped


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def around(*path: str, **variables: str) -> dict[str, str]:
    return {"PATH": os.pathsep.join(path), **variables}


def test_persons_undoes_uv_run() -> None:
    ours = str(Path(sys.executable).parent)
    active = {"UV": "/uv", "VIRTUAL_ENV": str(Path(ours).parent)}
    assert uv.persons(around(ours, "/bin", **active, UV_RUN_RECURSION_DEPTH="1")) == around("/bin")
    twice = around(ours, "/bin", **active, UV_RUN_RECURSION_DEPTH="2")
    assert uv.persons(twice) == around("/bin", UV_RUN_RECURSION_DEPTH="1")


def test_persons_keeps_what_the_person_activated() -> None:
    ours = str(Path(sys.executable).parent)
    activated = around(ours, "/bin", VIRTUAL_ENV=str(Path(ours).parent))
    assert uv.persons(activated) == activated
    assert (
        uv.persons({**activated, "PATH": f"{ours}:{ours}:/bin", "UV": "/uv", "UV_RUN_RECURSION_DEPTH": "1"})
        == activated
    )
    other = around(ours, "/theirs/bin", UV="/uv", VIRTUAL_ENV="/theirs")
    assert uv.persons(other) == around("/theirs/bin", VIRTUAL_ENV="/theirs")


def test_persons_with_next_to_nothing() -> None:
    assert uv.persons({}) == {}
    assert uv.persons({"UV": "/uv"}) == {"PATH": ""}


def test_uv_gets_neither_passwords_nor_a_ban_on_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = executable(tmp_path / "uv", "#!/bin/sh\nenv\n")
    monkeypatch.setattr(uv, "find", lambda: stub)
    monkeypatch.setenv("SJQ_BROKER", "redis://:secret@host")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates")
    out = uv.call("sync", cwd=tmp_path, stopping=threading.Event())
    assert "secret" not in out
    assert "PYTHONDONTWRITEBYTECODE" not in out
    assert "SSL_CERT_FILE=/certificates" in out


def test_a_stuck_uv_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = executable(tmp_path / "uv", "#!/bin/sh\nread -r _ <pipe\n")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(uv, "find", lambda: stub)
    monkeypatch.setattr(uv, "PATIENCE_S", 0.1)
    with pytest.raises(EnvironmentFailed, match="was stopped"):
        uv.call("sync", cwd=tmp_path, stopping=threading.Event())


def test_a_uv_that_nobody_waits_for_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "uv"
    stub.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 600\n")
    stub.chmod(0o755)
    monkeypatch.setattr(uv, "find", lambda: stub)
    stopping = threading.Event()

    def stop() -> None:
        until((tmp_path / "pid").exists)
        stopping.set()

    threading.Thread(target=stop).start()
    with pytest.raises(PreparationStopped):
        uv.call("sync", cwd=tmp_path, stopping=stopping)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
