"""Every way to name a server: URLs and arguments, databases, sockets, passwords, users, TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from servers import Server, free_port, missing

from sjq.brokers import open_broker
from sjq.brokers.base import Broker
from sjq.config import Config
from sjq.errors import BrokerDown, ConfigError, Error
from sjq.outcomes import succeeded

from .jobs import TOPIC, Hand, create, real_servers, waiting

SECRET = "hunter2-hunter2"
Open = Callable[[str | Mapping[str, object]], Broker]


@pytest.fixture
def server(backend: str, request: pytest.FixtureRequest) -> Iterator[Server]:
    found: Server = request.getfixturevalue(f"{backend}_server")
    yield found
    with closing(found.client()) as client:
        client.flushall()


@pytest.fixture
def guarded(backend: str) -> Iterator[Server]:
    """A server that asks everybody for a password."""
    with Server(backend, "--requirepass", SECRET) as server:
        yield server


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Open]:
    """Opens brokers by URL or by arguments, and closes them."""
    opened: list[Broker] = []

    def open_at(where: str | Mapping[str, object]) -> Broker:
        url = where if isinstance(where, str) else None
        options = None if isinstance(where, str) else where
        opened.append(open_broker(Config(root=tmp_path, job_data=tmp_path, broker=url, redis=options)))
        return opened[-1]

    yield open_at
    for broker in opened:
        broker.close()


def works(broker: Broker) -> None:
    """Check a life, and that the wake-up reaches the same place."""
    with closing(broker.wakeup([TOPIC], "w", lambda: None)) as wakeup:
        mark = wakeup.mark(TOPIC)
        create(broker, "a")
        assert wakeup.wait(TOPIC, mark, 5)
    hand = Hand(broker)
    hand.beat(topics=[TOPIC])
    assert broker.settle(hand.lease(), succeeded()) is True
    broker.delete(["a"])
    broker.leave(hand.id, [TOPIC])


@real_servers
@pytest.mark.parametrize(
    "form", ["redis://127.0.0.1:{port}", "redis://127.0.0.1:{port}/3", "redis://localhost:{port}?db=3"]
)
def test_a_url_names_a_server(server: Server, at: Open, form: str) -> None:
    broker = at(form.format(port=server.port))
    works(broker)
    assert str(server.port) in broker.describe()


@real_servers
@pytest.mark.parametrize("form", ["unix://{socket}", "unix://{socket}?db=3"])
def test_a_url_names_a_unix_socket(server: Server, at: Open, form: str) -> None:
    works(at(form.format(socket=server.socket)))


@real_servers
def test_arguments_name_a_server(server: Server, at: Open) -> None:
    by_port = at({"host": "127.0.0.1", "port": server.port, "db": 3, "client_name": "sjq", "health_check_interval": 5})
    works(by_port)
    assert by_port.describe() == f"redis://127.0.0.1:{server.port}/3"
    by_socket = at({"unix_socket_path": str(server.socket), "db": 2})
    works(by_socket)
    assert by_socket.describe() == f"unix://{server.socket}"


@real_servers
def test_databases_do_not_meet(server: Server, at: Open) -> None:
    first, second = at(f"redis://127.0.0.1:{server.port}/1"), at(f"redis://127.0.0.1:{server.port}/2")
    create(first, "a")
    assert (waiting(first), waiting(second)) == (["a"], [])
    assert (second.topics(), second.events(), second.get("a")) == ([], [], None)


@real_servers
def test_a_database_that_the_server_does_not_have_is_an_error_of_ours(server: Server, at: Open) -> None:
    broker = at(f"redis://127.0.0.1:{server.port}/4711")
    with pytest.raises(Error):
        broker.topics()


def test_a_socket_that_is_not_there_is_named(at: Open, tmp_path: Path) -> None:
    broker = at(f"unix://{tmp_path}/nobody")
    with pytest.raises(BrokerDown, match=r"nobody.* cannot be reached"):
        create(broker, "a")


@real_servers
@pytest.mark.parametrize("form", ["redis://:{word}@127.0.0.1:{port}/0", "unix://:{word}@{socket}"])
def test_a_password_opens_and_a_wrong_one_is_said_without_showing_it(guarded: Server, at: Open, form: str) -> None:
    right, wrong = (
        at(form.format(word=word, port=guarded.port, socket=guarded.socket)) for word in (SECRET, "wrong-word")
    )
    works(right)
    assert SECRET not in right.describe()
    for call in (lambda: create(wrong, "a"), wrong.topics, lambda: wrong.wakeup([TOPIC], "w", lambda: None)):
        with pytest.raises(ConfigError, match="password") as caught:
            call()
        assert "wrong-word" not in str(caught.value)


@real_servers
def test_no_password_where_one_is_needed_says_so(guarded: Server, at: Open) -> None:
    broker = at(guarded.url)
    with pytest.raises(ConfigError, match="password"):
        create(broker, "a")


@real_servers
@pytest.mark.parametrize("word", ["p%40ss-word", "p%3Ass-word", "p%2Fss-word", "p@ss-word", "%C3%BC-word"])
def test_no_character_of_a_strange_password_is_shown(server: Server, at: Open, word: str) -> None:
    broker = at(f"redis://ada:{word}@127.0.0.1:{server.port}/0")
    assert "word" not in broker.describe()
    with pytest.raises(ConfigError) as caught:
        create(broker, "a")
    assert "word" not in str(caught.value).removesuffix("check the user and password").replace("username-password", "")


@real_servers
def test_a_password_among_the_options_of_a_url_is_not_shown(guarded: Server, at: Open) -> None:
    right = at(f"redis://127.0.0.1:{guarded.port}/0?password={SECRET}")
    works(right)
    assert SECRET not in right.describe()
    wrong = at(f"redis://127.0.0.1:{guarded.port}/0?password=wrong-word")
    with pytest.raises(ConfigError) as caught:
        create(wrong, "a")
    assert "wrong-word" not in str(caught.value)


@real_servers
def test_a_user_with_a_password_is_let_in(server: Server, at: Open) -> None:
    with closing(server.client()) as admin:
        admin.execute_command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all")  # type: ignore[no-untyped-call]
        works(at(f"redis://ada:{SECRET}@127.0.0.1:{server.port}/0"))
        works(at({"host": "127.0.0.1", "port": server.port, "username": "ada", "password": SECRET}))
        wrong = at(f"redis://ada:wrong-word@127.0.0.1:{server.port}/0")
        with pytest.raises(ConfigError, match="check the user and password") as caught:
            create(wrong, "a")
        assert "wrong-word" not in str(caught.value)
        admin.execute_command("ACL", "DELUSER", "ada")  # type: ignore[no-untyped-call]


@real_servers
@pytest.mark.parametrize("rights", ["-evalsha", "-@all +ping", "resetkeys ~nothing:*"])
def test_a_user_who_may_not_is_told_so(server: Server, at: Open, rights: str) -> None:
    with closing(server.client()) as admin:
        words = ["on", f">{SECRET}", "~*", "&*", "+@all", *rights.split()]
        admin.execute_command("ACL", "SETUSER", "bob", *words)  # type: ignore[no-untyped-call]
        broker = at(f"redis://bob:{SECRET}@127.0.0.1:{server.port}/0")
        with pytest.raises(ConfigError, match="refuses us"):
            create(broker, "a")
        assert admin.dbsize() == 0
        admin.execute_command("ACL", "DELUSER", "bob")  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 that signed itself."""
    if not shutil.which("openssl"):
        missing("openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=sjq -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_port(backend: str, certificate: Path) -> Iterator[int]:
    with Server(backend) as server, closing(server.client()) as admin:
        files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "cert.pem"}
        settings = [part for name, file in files.items() for part in (name, str(certificate / file))]
        admin.config_set("tls-auth-clients", "no")
        port = free_port()
        admin.config_set("tls-port", port, *settings)
        yield port


@pytest.mark.parametrize("backend", ["redis"], indirect=True)  # the wheel's Valkey was built without TLS
def test_tls_works_and_refuses_a_certificate_that_nobody_trusts(tls_port: int, at: Open, certificate: Path) -> None:
    works(at(f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate / 'cert.pem'}"))
    options = {"host": "127.0.0.1", "port": tls_port, "ssl": True, "ssl_ca_certs": str(certificate / "cert.pem")}
    works(at(options))
    stranger = at(f"rediss://127.0.0.1:{tls_port}/0")
    with pytest.raises(Error, match=rf"rediss://127.0.0.1:{tls_port}.*certificate"):
        create(stranger, "a")
    with pytest.raises(Error, match="certificate"):
        stranger.wakeup([TOPIC], "w", lambda: None)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:port/0", "redis://127.0.0.1/?socket_timeout=soon", "redis://[::1/0"]
)
def test_a_url_that_cannot_be_is_an_error_of_the_configuration(at: Open, url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        at(url)


def test_the_word_in_a_url_that_cannot_be_is_not_shown(at: Open) -> None:
    with pytest.raises(ConfigError) as caught:
        at(f"redis://ada:{SECRET}@127.0.0.1:port/0")
    assert SECRET not in str(caught.value)
