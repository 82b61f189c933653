"""The arithmetic of `benchmarks/peers/`, on ledgers that were made up, and its kills, on processes that were not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from math import inf
from pathlib import Path

import pytest
from chaos.ledger import Note
from ledger import Ledger, Verdict, judge
from processes import Process, family, kill_at_once
from servers import until

KILLED_AT = 10.0
OLD, NEW = 1, 2
"""The processes of the killed worker, and of the one after it."""


def ran(job_id: str, start: float, finish: float | None, pid: int = OLD) -> list[Note]:
    notes = [{"note": "start", "id": job_id, "pid": pid, "at": start}]
    return notes if finish is None else [*notes, {"note": "finish", "id": job_id, "pid": pid, "at": finish}]


def judged(
    *runs: list[Note],
    created: Iterable[str] = ("a", "b"),
    waiting: Iterable[str] = (),
    in_flight: Iterable[str] = (),
    failed: Iterable[str] = (),
) -> Verdict:
    notes = sorted((note for run in runs for note in run), key=lambda note: float(note["at"]))
    held = {"waiting": waiting, "in_flight": in_flight, "failed": failed}
    return judge(notes, created=created, held=held, killed_at=KILLED_AT)


def counts(verdict: Verdict) -> dict[str, int]:
    names = ("running", "lost", "stuck", "failed", "repeats", "finished_twice")
    return {name: getattr(verdict, name) for name in names if getattr(verdict, name)}


EARLY = ran("a", 8, 9)


def test_a_worker_that_was_killed_between_two_jobs_costs_nothing() -> None:
    verdict = judged(EARLY, ran("b", 12, 13, NEW))
    assert counts(verdict) == {}
    assert (verdict.back_s, verdict.last_end_s) == (0.0, 3.0)


def test_a_job_that_was_run_again_is_a_repeat_and_tells_when_work_went_on() -> None:
    verdict = judged(EARLY, ran("b", 9.5, None), ran("b", 25, 26, NEW))
    assert counts(verdict) == {"running": 1, "repeats": 1}
    assert (verdict.back_s, verdict.last_end_s) == (15.0, 16.0)


def test_a_job_that_its_process_finished_after_the_kill_is_no_repeat() -> None:
    verdict = judged(EARLY, ran("b", 9.5, 10.5))
    assert counts(verdict) == {"running": 1}
    assert verdict.back_s == 0.5


def test_a_job_that_was_finished_by_both_is_finished_twice() -> None:
    verdict = judged(EARLY, ran("b", 9.5, 10.5), ran("b", 11, 12, NEW))
    assert counts(verdict) == {"running": 1, "repeats": 1, "finished_twice": 1}
    assert verdict.back_s == 1.0


def test_a_job_that_was_finished_before_anybody_heard_of_it_tells_when_work_went_on_too() -> None:
    verdict = judged(EARLY, ran("b", 9, 9.5), ran("b", 14, 15, NEW))
    assert counts(verdict) == {"repeats": 1, "finished_twice": 1}
    assert verdict.back_s == 4.0


@pytest.mark.parametrize(
    ("held", "count"),
    [
        ({}, "lost"),
        ({"in_flight": ["b"]}, "stuck"),
        ({"waiting": ["b"]}, "stuck"),
        ({"failed": ["b"]}, "failed"),
        ({"in_flight": ["b"], "failed": ["b"]}, "failed"),
    ],
)
def test_a_job_that_never_ended_is_what_the_queue_says_of_it(held: dict[str, list[str]], count: str) -> None:
    verdict = judged(EARLY, ran("b", 9.5, None), **held)
    assert counts(verdict) == {"running": 1, count: 1}
    assert verdict.back_s == inf


def test_a_job_that_was_taken_and_not_even_started_can_be_lost_too() -> None:
    assert counts(judged(EARLY)) == {"lost": 1}


def test_a_job_that_ended_is_neither_stuck_nor_failed_whatever_the_queue_still_holds() -> None:
    assert counts(judged(EARLY, ran("b", 8, 9), in_flight=["a"], failed=["b"])) == {}


def test_the_slowest_of_those_that_ran_tells_when_work_went_on() -> None:
    runs = [ran("a", 9, None), ran("b", 9, None), ran("a", 11, 12, NEW), ran("b", 40, 41, NEW)]
    assert judged(*runs).back_s == 30.0
    assert judged(*runs[:3], in_flight=["b"]).back_s == inf


def test_a_ledger_is_read_on_from_its_last_whole_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    first, second = '{"note": "start", "id": "a", "pid": 1, "at": 8.0}\n', '{"note": "finish", "id": "a", "pid": 1, '
    (tmp_path / "ledger").write_text(first + second)
    assert ledger.read()
    assert ledger.notes == ran("a", 8.0, None)
    assert not ledger.finished
    assert not ledger.read()
    with (tmp_path / "ledger").open("a") as file:
        file.write('"at": 9.0}\n')
    assert ledger.read()
    assert ledger.notes == ran("a", 8.0, 9.0)
    assert ledger.finished == {"a"}


def test_a_kill_takes_the_whole_family() -> None:
    with subprocess.Popen(["sh", "-c", "(sleep 600; :) & setsid sleep 600 & wait"]) as head:
        until(lambda: len(family(head.pid)) == 4, what="a family of four")
        killed = kill_at_once([Process.now(head.pid)])
        head.wait()
    assert len(killed) == 4
    until(lambda: not any(process.lives() for process in killed), what="an end of all")
