"""What a client changes: jobs sent back, cancelled and forgotten, and locks, on a broker in memory."""

from __future__ import annotations

from typing import Any

import pytest

from sjq import identity
from sjq.brokers.redis.broker import RedisBroker
from sjq.client import Client
from sjq.errors import Error, LockHeld, NoSuchJob, WrongState
from sjq.states import State

from .ends import fail, record, succeed, take

# Sending back.


def test_failed_jobs_go_back_in_their_old_order(client: Client) -> None:
    ids = list(client.create_many("t", range(3)))
    for _ in ids:
        fail(client)
    other = client.create("u", 1)
    fail(client, "u")
    assert list(client.retry(["t"])) == ids
    assert [take(client).job_id for _ in ids] == ids
    assert client.get(other).state is State.FAILED
    assert list(client.retry()) == [other]
    assert list(client.retry()) == []


def test_a_single_job_goes_back_by_its_id(client: Client) -> None:
    ids = list(client.create_many("t", range(3)))
    for _ in ids:
        fail(client)
    assert list(client.retry(job_ids=ids[1:2])) == ids[1:2]
    assert [client.get(job_id).state for job_id in ids] == [State.FAILED, State.INCOMING, State.FAILED]


def test_only_a_job_that_ended_badly_goes_back(client: Client) -> None:
    job_id = client.create("t", 1)
    with pytest.raises(WrongState, match="is incoming: only failed, timedout and cancelled"):
        client.retry(job_ids=[job_id])
    take(client)
    with pytest.raises(WrongState, match="is processing"):
        client.retry(job_ids=[job_id])
    with pytest.raises(NoSuchJob):
        client.retry(job_ids=["nope"])


def test_a_job_that_succeeded_does_not_go_back(client: Client) -> None:
    client.create("t", 1)
    job_id = succeed(client)
    with pytest.raises(WrongState, match="is succeeded"):
        client.retry(job_ids=[job_id])


def test_a_job_that_was_deleted_does_not_go_back_and_the_message_says_why(client: Client) -> None:
    record(client.records, "old", state="failed")
    with pytest.raises(Error) as refused:
        client.retry(job_ids=["old"])
    assert "is failed: only failed" not in str(refused.value)


def test_retry_of_everything_passes_by_queues_of_other_programs(client: Client) -> None:
    client.create("t", 1)
    fail(client)
    assert isinstance(client.broker, RedisBroker)
    for name in ("a bad name", "zz bad"):
        client.broker.server.client.rpush(client.broker.keys.failed(name), "x")
    assert len(client.retry()) == 1
    for name in ("a bad name", "zz bad"):
        client.broker.server.client.delete(client.broker.keys.failed(name))


# Cancelling.


def test_a_message_that_waits_nowhere_cannot_be_cancelled_and_says_so(client: Client) -> None:
    assert isinstance(client.broker, RedisBroker)
    client.broker.server.client.set(client.broker.keys.job_data("a"), '{"job_id": "a", "data": 1}')
    with pytest.raises(WrongState, match="has a message, but waits on no topic yet"):
        client.cancel("a")
    client.broker.server.client.delete(client.broker.keys.job_data("a"))


# Forgetting.


def test_only_an_ended_job_is_deleted(client: Client) -> None:
    failed_id = client.create("t", 1)
    fail(client)
    waiting = client.create("t", 2)
    with pytest.raises(WrongState, match="is incoming"):
        client.delete([failed_id, waiting])
    assert client.get(failed_id).state is State.FAILED
    assert list(client.delete([failed_id, "nope"])) == [failed_id]
    with pytest.raises(NoSuchJob):
        client.get(failed_id)
    assert client.get(waiting)


def test_a_deleted_job_leaves_its_record(client: Client) -> None:
    job_id = client.create("t", 1)
    fail(client)
    record(client.records, job_id, state="failed")
    client.delete([job_id])
    assert client.get(job_id).state is State.FAILED


def test_a_purge_forgets_the_failed_of_a_topic(client: Client) -> None:
    for topic in ("t", "u"):
        list(client.create_many(topic, range(3)))
        fail(client, topic)
        fail(client, topic)
    assert client.count_purgeable("t") == 2
    assert client.purge("t") == 2
    assert client.purge("t") == 0
    assert client.count_purgeable("u") == 2
    assert client.counts()["t"][State.INCOMING] == 1
    assert client.purge("nope") == 0


@pytest.mark.parametrize("state", [State.INCOMING, State.PROCESSING])
def test_a_purge_of_jobs_that_have_not_ended_is_refused(client: Client, state: State) -> None:
    client.create("t", 1)
    with pytest.raises(WrongState, match=f"{state} jobs have not ended"):
        client.purge("t", [State.FAILED, state])
    assert client.counts()["t"][State.INCOMING] == 1


# Locks.


def lock(client: Client, topic: str, worker: str, **facts: str) -> None:
    client.broker.lock([topic], worker, 60)
    client.broker.heartbeat(worker, facts, lease_s=60, topics=[topic])


def test_the_lock_of_a_living_worker_stays_unless_forced(client: Client) -> None:
    client.create("t", 1)
    me = identity.WorkerIdentity.of_this_process()
    lock(client, "t", me.id, **me.fields(), started="2025-11-21T23:15:03Z", topics='{"t": "2026-11-21T23:15:03Z"}')
    lock(client, "dead", "w", **{**me.fields(), "start": "1"})
    with pytest.raises(LockHeld, match=r"topic 't' is held by worker .*, since 2026-.*--force"):
        client.unlock(["t", "dead"])
    assert [holder.topic for holder in client.broker.holders(["t", "dead"])] == ["t", "dead"]
    assert [holder.worker for holder in client.unlock(["t", "dead"], force=True)] == [me.id, "w"]
    assert client.broker.holders(["t", "dead"]) == []


def test_the_lock_of_a_dead_worker_is_freed(client: Client) -> None:
    client.create("t", 1)
    me = identity.WorkerIdentity.of_this_process()
    lock(client, "t", "w", **{**me.fields(), "start": "1"})
    assert [holder.topic for holder in client.unlock()] == ["t"]
    assert client.unlock() == []


def test_a_worker_elsewhere_may_live(client: Client) -> None:
    lock(client, "t", "w", host="elsewhere", boot="other", pid="1", start="1", pid_namespace="pid:[1]")
    with pytest.raises(LockHeld):
        client.unlock(["t"])


def test_a_lock_without_expiry_is_an_older_sjqs(client: Client) -> None:
    raw: Any = client.broker
    raw.server.ask("SET", raw.keys.lock("t"), "4711")
    assert [holder.worker for holder in client.unlock(["t"])] == ["4711"]
