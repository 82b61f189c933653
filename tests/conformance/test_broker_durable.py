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
from sjq.client import Client
from sjq.config import Config
from sjq.errors import ConfigError

from .jobs import TOPIC, create


@contextmanager
def client_of(server: Server, folder: Path) -> Iterator[Client]:
    with Client(config=Config(root=folder, job_data=folder, broker=server.url)) as client:
        yield client


@contextmanager
def broker_on(server: Server, folder: Path) -> Iterator[Broker]:
    with closing(open_broker(Config(root=folder, job_data=folder, broker=server.url))) as broker:
        yield broker


@pytest.mark.parametrize("name", ["redis", "valkey"])
@pytest.mark.parametrize("policy", ["everysec", "always"])
def test_it_is_on_the_disk_when_the_call_returns(name: str, policy: str, tmp_path: Path) -> None:
    """As the system calls of the server tell: its file is written and synced behind the create."""
    with Server(name, "--appendonly", "yes", "--appendfsync", policy) as server, client_of(server, tmp_path) as client:
        client.create(TOPIC)  # the scripts are known, and the first fsync is over
        with closing(server.client()) as there:
            until(lambda: not there.info("persistence")["aof_pending_bio_fsync"])
        with _traced(server, tmp_path / "calls") as calls:
            job_id = client.create(TOPIC, durable=True)
        lines = calls.read_text().splitlines()
    name_of_key = f"job_data:{job_id}"
    written = next(number for number, line in enumerate(lines) if name_of_key in line and "write(" in line)
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


NO_SYNC = ("--appendonly", "yes", "--appendfsync", "no")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), r"writes to no disk .* and has no replica"),
        (NO_SYNC, "set appendfsync to everysec or always"),
    ],
    ids=["no file", "no sync"],
)
def test_a_server_that_promises_nothing_is_refused_before_anything_is_created(
    options: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    """Whoever then does as the error says, and creates without durable, has the job once."""
    with Server("valkey", *options) as server, client_of(server, tmp_path) as client:
        with pytest.raises(ConfigError, match=why):
            client.create(TOPIC, durable=True)
        with pytest.raises(ConfigError, match=why):
            list(client.create_many(TOPIC, [1, 2], durable=True))
        assert client.counts() == {}
        client.create(TOPIC)
        with pytest.raises(ConfigError, match=why):
            client.broker.await_disk()


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
