"""Jobs that would survive a power cut: on the disk of each kind of server, or refused where nobody can promise it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from servers import Server, missing, until

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import ConfigError

from .jobs import create


@contextmanager
def broker_on(server: Server, folder: Path) -> Iterator[Broker]:
    with closing(open_broker(Config(root=folder, job_data=folder, broker=server.url))) as broker:
        yield broker


@pytest.mark.parametrize("name", ["redis", "valkey"])
@pytest.mark.parametrize("policy", ["everysec", "always"])
def test_it_is_on_the_disk_when_the_call_returns(name: str, policy: str, tmp_path: Path) -> None:
    """As the system calls of the server tell: its file is written and synced behind the create."""
    with Server(name, "--appendonly", "yes", "--appendfsync", policy) as server, broker_on(server, tmp_path) as broker:
        create(broker, "first")  # the scripts are known, and the first fsync is over
        with closing(server.client()) as there:
            until(lambda: not there.info("persistence")["aof_pending_bio_fsync"])
        with _traced(server, tmp_path / "calls") as calls:
            create(broker, "a")
            broker.await_disk()
        lines = calls.read_text().splitlines()
    written = next(number for number, line in enumerate(lines) if "job_data:a" in line and "write(" in line)
    assert any("fdatasync" in line or "fsync" in line for line in lines[written:]), lines


@contextmanager
def _traced(server: Server, file: Path) -> Iterator[Path]:
    try:
        command = ["strace", "-f", "-s", "4096", "-e", "trace=write,fdatasync,fsync", "-o", str(file), "-p"]
        tracer = subprocess.Popen([*command, str(server.pid)], stderr=subprocess.PIPE)
    except FileNotFoundError:
        missing("strace")
    assert tracer.stderr is not None
    if b"attached" not in (said := tracer.stderr.readline()):
        tracer.wait(10)
        pytest.skip(f"nobody may trace system calls here: {said.decode().strip()}")
    try:
        yield file
    finally:
        tracer.terminate()
        tracer.wait(10)
        tracer.stderr.close()


def test_a_server_that_writes_to_no_disk_is_refused(tmp_path: Path) -> None:
    with Server("valkey") as server, broker_on(server, tmp_path) as broker:
        create(broker, "a")
        with pytest.raises(ConfigError, match=r"writes to no disk .* and has no replica"):
            broker.await_disk()


def test_a_server_that_never_syncs_is_refused(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "no")
    refused = pytest.raises(ConfigError, match="set appendfsync to everysec or always")
    with Server("valkey", *options) as server, broker_on(server, tmp_path) as broker, refused:
        broker.await_disk()


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_replica_will_do(name: str, tmp_path: Path) -> None:
    with (
        Server(name, "--repl-diskless-sync-delay", "0") as server,
        Server(name, "--replicaof", "127.0.0.1", str(server.port)) as replica,
        broker_on(server, tmp_path) as broker,
        closing(server.client()) as here,
        closing(replica.client()) as there,
    ):
        until(lambda: here.info("replication").get("slave0", {}).get("state") == "online", 20, "the replica follows")
        create(broker, "a")
        broker.await_disk()
        assert there.exists("job_data:a")


@pytest.mark.parametrize("backend", ["embedded"], indirect=True)
def test_the_embedded_server_s_files_are_synced_by_us(broker: Broker) -> None:
    create(broker, "a")
    broker.await_disk()


@pytest.mark.parametrize("backend", ["memory"], indirect=True)
def test_memory_is_refused(broker: Broker) -> None:
    with pytest.raises(ConfigError, match="keeps nothing on a disk"):
        broker.await_disk()
