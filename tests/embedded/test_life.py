"""The embedded server under real processes and real signals: its start, its kills, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from sjq import server_keeper
from sjq.brokers.redis import embedded
from sjq.errors import BrokerDown

from .house import GONE_S, House, until

if TYPE_CHECKING:
    pass

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


def write_keeper(path: Path, changes: dict[str, str]) -> None:
    """Write a keeper with other habits."""
    text = embedded.KEEPER.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def _zombies(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.status() == psutil.STATUS_ZOMBIE]


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
