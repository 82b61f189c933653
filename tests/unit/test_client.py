"""The client, on a broker in memory."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import pytest

import sjq.client
from sjq.brokers import open_broker
from sjq.client import MOST_PER_BATCH, Client
from sjq.config import Config
from sjq.errors import Error, MessageError, NoSuchJob, UsageError
from sjq.job_policy import JobPolicy
from sjq.jobs import id_from_bytes
from sjq.states import Reason, State

from .ends import WORKER, fail, record, succeed, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sjq.brokers.base import Broker

# Creating.


def test_a_created_job_waits(client: Client) -> None:
    job_id = client.create("t", {"a": [1, None]}, parent_job_id="p")
    found = client.get(job_id)
    assert (found.job_id, found.topic, found.state, found.parent_job_id) == (job_id, "t", State.INCOMING, "p")
    assert json.loads(found.data or b"") == {"a": [1, None]}
    assert found.attempt == 0
    assert found.created_at


def test_data_may_be_text(client: Client) -> None:
    assert client.get(client.create("t", msgspec.Raw(b'{"a":  1.0}'))).data == b'{"a":  1.0}'
    assert client.get(client.create("t")).data == b"{}", "as the command has it"
    assert client.get(client.create("t", None)).data == b"null"


def test_an_attachment_goes_with_the_job(client: Client) -> None:
    client.create("t", 1, attachment=b"\0bytes")
    assert take(client).message.attachment == b"\0bytes"


def test_an_attachment_may_be_a_file_and_is_never_a_file_name_by_mistake(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0file")
    client.create("t", 1, attachment=tmp_path / "a.bin")
    assert take(client).message.attachment == b"\0file"
    with pytest.raises(UsageError, match="cannot be read"):
        client.create("t", 1, attachment=tmp_path / "gone")
    with pytest.raises(UsageError, match="expected its bytes, or a Path"):
        client.create("t", 1, attachment="a.bin")  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "a b", "_a", "../a"])
def test_a_wrong_topic_is_refused(client: Client, topic: str) -> None:
    with pytest.raises(UsageError):
        client.create(topic, 1)
    with pytest.raises(UsageError):
        list(client.create_many(topic, [1]))
    with pytest.raises(UsageError):
        client.retry([topic])
    with pytest.raises(UsageError):
        client.purge(topic)
    with pytest.raises(UsageError):
        client.unlock([topic])
    assert client.counts() == {}


def test_wrong_data_and_parents_are_refused(client: Client) -> None:
    with pytest.raises(MessageError):
        client.create("t", object())
    with pytest.raises(MessageError):
        client.create("t", msgspec.Raw(b"nul"))
    with pytest.raises(MessageError):
        client.create("t", 1, parent_job_id="")
    assert client.counts() == {}


def test_many_jobs_are_created_as_their_ids_are_asked_for(client: Client) -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(2 * MOST_PER_BATCH + 1):
            asked.append(number)
            yield number

    ids = client.create_many("t", items())
    assert not asked
    first = next(ids)
    assert len(asked) == MOST_PER_BATCH
    assert client.get(first).data == b"0"
    rest = list(ids)
    assert len({first, *rest}) == 2 * MOST_PER_BATCH + 1
    assert client.counts()["t"][State.INCOMING] == 2 * MOST_PER_BATCH + 1
    assert [take(client).message.data for _ in range(3)] == [b"0", b"1", b"2"]


def test_a_wrong_item_ends_it_before_any_of_its_thousand(client: Client) -> None:
    items: list[object] = [*range(MOST_PER_BATCH + 10), float("nan")]
    ids = client.create_many("t", items)
    assert len(list(islice(ids, MOST_PER_BATCH))) == MOST_PER_BATCH
    with pytest.raises(UsageError, match="data is nan"):
        next(ids)
    assert client.counts()["t"][State.INCOMING] == MOST_PER_BATCH


def test_no_items_are_no_jobs(client: Client) -> None:
    assert list(client.create_many("t", [])) == []


@pytest.mark.parametrize(
    "policy",
    [{"retries": -1}, {"retries": 3 * 10**9}, {"timeout": 0}, {"timeout": "20000d"}, {"backoff": "x"}],
    ids=str,
)
def test_a_policy_that_every_take_would_refuse_is_refused_at_once(client: Client, policy: JobPolicy) -> None:
    with pytest.raises(UsageError, match=next(iter(policy))):
        client.create("t", 1, **policy)
    assert client.counts() == {}


# Looking.


def test_nobody_knows_an_unknown_job(client: Client) -> None:
    with pytest.raises(NoSuchJob, match="no job nope: neither the broker nor job_data/ knows it"):
        client.get("nope")


def test_a_failed_job_says_why(client: Client) -> None:
    client.create("t", 1)
    found = client.get(fail(client))
    assert (found.state, found.reason, found.why) == (State.FAILED, Reason.EXIT, "it was too much")
    assert (found.attempt, found.worker) == (1, WORKER)


def test_a_succeeded_job_is_known_by_its_record(client: Client) -> None:
    client.create("t", 1)
    job_id = succeed(client)
    found = client.get(job_id)
    assert (found.state, found.data, found.topic) == (State.SUCCEEDED, b"7", "t")
    assert found.fence
    assert client.children(job_id) == ["x", "y"]


def test_a_succeeded_job_without_a_record_here_is_known_by_the_broker(client: Client) -> None:
    client.create("t", 1)
    found = client.get(succeed(client, recorded=False))
    assert (found.state, found.data) == (State.SUCCEEDED, None)


def test_what_only_a_record_knows_is_found(client: Client) -> None:
    record(client.records, "old", state="failed")
    found = client.get("old")
    assert (found.state, found.reason, found.why) == (State.FAILED, Reason.EXIT, "it was too much")
    assert client.children("nope") == []


def test_an_id_may_be_shortened_as_long_as_it_is_one(client: Client) -> None:
    job_id = client.create("resize", 1)
    assert client.resolve(job_id) == job_id
    assert client.resolve(job_id[:-3]) == job_id
    other = client.create("resize", 1)
    with pytest.raises(UsageError, match="is the beginning of several ids: ") as several:
        client.resolve(job_id[:8])
    assert job_id in str(several.value)
    assert other in str(several.value)
    with pytest.raises(NoSuchJob, match="no job starts with x"):
        client.resolve("x")
    with pytest.raises(UsageError):
        client.resolve("")


def test_many_ids_are_not_all_listed(client: Client) -> None:
    ids = list(client.create_many("t", range(50)))
    with pytest.raises(UsageError, match=r", \.\.\.$") as several:
        client.resolve(ids[0][:4])
    assert len(str(several.value)) < 300


def test_an_id_that_others_begin_with_is_itself(client: Client) -> None:
    for job_id in ("a", "ab", "abc"):
        record(client.records, job_id)
    assert client.resolve("a") == "a"
    assert client.resolve("abc") == "abc"


def test_a_job_that_both_know_is_one(client: Client) -> None:
    job_id = client.create("t", 1)
    succeed(client)
    assert client.resolve(job_id[:-1]) == job_id


@pytest.mark.parametrize("wild", ["*", "?", "[a-z]", "\\"])
def test_a_prefix_is_no_pattern(client: Client, wild: str) -> None:
    client.create("t", 1)
    record(client.records, "old")
    with pytest.raises(NoSuchJob):
        client.resolve(wild)


@pytest.mark.parametrize(("job_id", "prefix"), [("order:17", "order:1"), ("é-17", "é"), ("x" * 200, "x" * 150)])
def test_a_foreign_id_that_only_a_record_knows_may_be_shortened(client: Client, job_id: str, prefix: str) -> None:
    record(client.records, job_id)
    assert client.resolve(prefix) == job_id


def test_what_a_file_is_called_is_no_prefix(client: Client) -> None:
    record(client.records, "order:17")
    with pytest.raises(NoSuchJob):
        client.resolve("order%3A")


def test_jobs_are_listed_by_topic_and_state(client: Client) -> None:
    failed_id = client.create("t", 1)
    fail(client)
    done_id = client.create("t", 2)
    succeed(client)
    running_id = client.create("t", 3)
    take(client)
    waiting = list(client.create_many("t", [4, 5]))
    other = client.create("u", 6)
    assert [(found.job_id, found.state) for found in client.list("t")] == [
        (running_id, State.PROCESSING),
        (waiting[0], State.INCOMING),
        (waiting[1], State.INCOMING),
        (failed_id, State.FAILED),
        (done_id, State.SUCCEEDED),
    ]
    assert {found.job_id for found in client.list()} == {running_id, *waiting, failed_id, done_id, other}
    assert [found.job_id for found in client.list(state="failed")] == [failed_id]
    assert [found.job_id for found in client.list(state=State.SUCCEEDED)] == [done_id]
    assert client.list("u", State.SUCCEEDED) == []
    assert client.list("nope") == []


def test_a_list_ends_at_its_limit_for_each_topic_and_state(client: Client) -> None:
    for topic in ("t", "u"):
        list(client.create_many(topic, range(5)))
    for number in range(5):
        record(client.records, f"old-{number}")
    found = client.list(limit=2)
    assert [one.topic for one in found if one.state is State.INCOMING] == ["t", "t", "u", "u"]
    assert [one.job_id for one in found if one.state is State.SUCCEEDED] == ["old-4", "old-3"]


def test_a_list_of_a_topic_without_a_name_is_refused(client: Client) -> None:
    with pytest.raises(UsageError):
        client.list("")


def test_a_list_of_none_is_empty(client: Client) -> None:
    record(client.records, "old")
    assert client.list(limit=0) == []


def test_a_state_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(Error, match="finished"):
        client.list(state="finished")


def test_counts_and_status(client: Client) -> None:
    (client.config.topics_folder).mkdir()
    (client.config.topics_folder / "idle.py").touch()
    list(client.create_many("t", range(4)))
    fail(client)
    succeed(client)
    take(client)
    assert client.counts()["t"] == {
        State.INCOMING: 1,
        State.PROCESSING: 1,
        State.FAILED: 1,
        State.SCHEDULED: 0,
        State.SUCCEEDED: 1,
    }
    client.broker.lock(["t"], WORKER, 60)
    client.broker.heartbeat(WORKER, {"held": '{"t": "no such package"}'}, lease_s=60, topics=["t"])
    idle, busy = client.status()
    assert (idle.topic, idle.incoming, idle.processing, idle.failed, idle.succeeded) == ("idle", 0, 0, 0, 0)
    assert (idle.worker, idle.held) == (None, None)
    assert (busy.topic, busy.incoming, busy.processing, busy.failed, busy.succeeded) == ("t", 1, 1, 1, 1)
    assert (busy.worker, busy.held) == (WORKER, "no such package")


def test_events_are_read_behind_a_position(client: Client) -> None:
    job_id = client.create("t", 1)
    fail(client)
    events = client.events()
    assert [(event.event, event.job_id, event.topic) for event in events] == [
        ("created", job_id, "t"),
        ("taken", job_id, "t"),
        ("failed", job_id, "t"),
    ]
    assert client.events(events[0].id) == events[1:]
    assert client.events(events[-1].id) == []
    assert client.events(limit=1) == events[:1]


def test_an_id_that_is_no_utf_8_can_be_looked_at(client: Client) -> None:
    with pytest.raises(NoSuchJob, match=r"no job \\xff"):
        client.get(id_from_bytes(b"\xff"))


def test_a_worker_hash_of_another_program_does_not_stop_the_status(client: Client) -> None:
    client.broker.lock(["t"], WORKER, 60)
    client.broker.heartbeat(WORKER, {"held": "garbage"}, lease_s=60, topics=["t"])
    assert [topic.held for topic in client.status()] == [None]


# Opening.


def test_a_client_opens_nothing_before_it_is_asked(tmp_path: Path) -> None:
    config = Config(root=tmp_path, job_data=tmp_path / "job_data", broker="redis://127.0.0.1:1")
    with Client(config=config) as idle:
        assert idle.records.folder == tmp_path / "job_data"
    assert not (tmp_path / "job_data").exists()


def test_a_client_finds_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"broker": "memory://x", "prefix": "p"}')
    for name in ("SJQ_BROKER", "SJQ_CONFIG", "SJQ_JOB_DATA"):
        monkeypatch.delenv(name, raising=False)
    assert Client(tmp_path).config.prefix == "p"
    assert Client(str(tmp_path)).config.prefix == "p"
    monkeypatch.chdir(tmp_path)
    assert Client().config.prefix == "p"


def test_a_closed_client_opens_again(client: Client) -> None:
    job_id = client.create("t", 1)
    client.close()
    client.close()
    assert client.get(job_id)


def test_threads_share_a_client(client: Client) -> None:
    def work(number: int) -> str:
        job_id = client.create("t", number)
        assert client.get(job_id).data == str(number).encode()
        return job_id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(work, range(200)))
    assert len(ids) == 200
    assert client.counts()["t"][State.INCOMING] == 200
    leases = []
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: take(client).job_id, range(200)))
    assert set(leases) == ids


def test_threads_that_ask_at_once_open_one_broker(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Broker] = []
    both = threading.Barrier(2)

    def slowly(config: Config, *, patience_s: float, answer_s: float) -> Broker:
        opened.append(open_broker(config, patience_s=patience_s, answer_s=answer_s))
        if len(opened) == 1:
            with pytest.raises(threading.BrokenBarrierError):
                both.wait(0.5)  # nobody else comes
        else:
            both.abort()
        return opened[-1]

    monkeypatch.setattr(sjq.client, "open_broker", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: client.broker, range(2)))
    assert len(opened) == 1


def test_a_forked_child_opens_a_broker_of_its_own(client: Client) -> None:
    ours = client.broker
    pid = os.fork()
    if not pid:
        os._exit(0 if client.broker is not ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.broker is ours
