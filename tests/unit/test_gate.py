"""The gate of a topic: open while it is locked and built, and patient when it cannot be built."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sjq import clock
from sjq.config import TopicPolicy
from sjq.errors import EnvironmentFailed
from sjq.executors.base import Executor, Exit, Runtime, Task
from sjq.topics import Topic
from sjq.worker.gate import LONGEST_RETRY_S, Gate

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = Topic(name="t", script=Path("topics/t.py"), policy=TopicPolicy())
RUNTIME = Runtime(
    topic=TOPIC,
    python="3.11.0",
    interpreter=Path("python"),
    environ={},
    packages={},
    script_sha256="",
    git=None,
    start_method="spawn",
)


class Building(Executor):
    """An executor that only prepares, or fails to."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.asked = 0

    def prepare(self, topic: Topic) -> Runtime:
        assert topic is TOPIC
        self.asked += 1
        if self.fault:
            raise EnvironmentFailed(self.fault)
        return RUNTIME

    def stop_preparing(self) -> None:
        raise NotImplementedError

    def run(self, task: Task) -> Exit:
        raise NotImplementedError

    def kill(self, task: Task) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which a test turns by hand."""
    hand = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: hand[0])
    return hand


@pytest.fixture
def executor() -> Building:
    return Building()


@pytest.fixture
def gate(executor: Building, now: list[float]) -> Gate:
    assert now
    opened = Gate(TOPIC, executor, on_change=lambda: None)
    opened.locked = True
    return opened


def test_a_topic_that_is_not_locked_is_not_even_built(gate: Gate, executor: Building) -> None:
    gate.locked = False
    assert gate.pass_through() is None
    assert executor.asked == 0
    assert gate.held is None


def test_a_topic_that_is_locked_and_built_is_open(gate: Gate) -> None:
    assert gate.pass_through() is RUNTIME
    assert gate.held is None
    assert gate.retry_in_s() is None


def test_a_topic_that_cannot_be_built_is_held_and_says_why(
    gate: Gate, executor: Building, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    executor.fault = "no such package"
    with caplog.at_level(logging.INFO, "sjq.worker"):
        assert gate.pass_through() is None
        assert gate.held == "no such package"
        assert gate.retry_in_s() == 1.0
        assert gate.pass_through() is None
        assert executor.asked == 1, "it is not tried before its time"
        now[0] += 1.0
        executor.fault = None
        assert gate.pass_through() is RUNTIME
    assert gate.retry_in_s() is None
    assert [getattr(record, "event", None) for record in caplog.records] == ["held", "resumed"]
    assert "no such package" in caplog.text


def pauses(gate: Gate, now: list[float], count: int, again: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(count):
        again()
        pause = gate.retry_in_s()
        assert pause is not None
        found.append(pause)
        now[0] += pause
    return found


def test_each_pause_is_twice_as_long_up_to_a_minute(gate: Gate, executor: Building, now: list[float]) -> None:
    executor.fault = "why"
    assert pauses(gate, now, 8, gate.pass_through) == [1, 2, 4, 8, 16, 32, LONGEST_RETRY_S, LONGEST_RETRY_S]


def test_a_job_that_ran_makes_the_next_pause_short_again(gate: Gate, executor: Building, now: list[float]) -> None:
    executor.fault = "why"
    pauses(gate, now, 5, gate.pass_through)
    executor.fault = None
    assert gate.pass_through() is RUNTIME
    gate.ran_well()
    executor.fault = "why"
    assert pauses(gate, now, 2, gate.pass_through) == [1, 2]


def test_a_build_that_helped_nobody_does_not(gate: Gate, now: list[float]) -> None:
    def fail_to_run() -> None:
        assert gate.pass_through() is RUNTIME
        gate.hold("job_data/ cannot be used")

    assert pauses(gate, now, 4, fail_to_run) == [1, 2, 4, 8]


def test_slots_that_meet_the_same_fault_at_once_count_it_once(
    gate: Gate, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(gate.hold, ["disk full"] * 100))
    assert len(caplog.records) == 1
    assert gate.retry_in_s() == 1.0
    now[0] += 0.25
    assert gate.retry_in_s() == 0.75
    now[0] += 10
    assert gate.retry_in_s() == 0.0
