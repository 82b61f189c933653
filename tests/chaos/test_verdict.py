"""A verdict that cannot be dirty proves nothing: each fault, in a ledger that was made up."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from chaos.book import Book, Verdict
from chaos.ledger import Ledger, Note

Notes = list[Note]


def note(what: str, /, **fields: Any) -> Note:
    return {"note": what, "at": 100.0, **fields}


def event(what: str, job_id: str, /, **fields: Any) -> Note:
    return note("event", event=what, id=job_id, topic="split", position=f"{next(_positions)}-0", **fields)


_positions = count(1)


def run(faults: int = 0, **bounds: Any) -> Notes:
    return [note("run", plan={"faults": faults, "jobs": 0}, bounds=bounds)]


def created(job_id: str, children: int = 0) -> Notes:
    return [
        note("create", ids=[job_id], children=children, end="succeeded"),
        note("created", ids=[job_id]),
        event("created", job_id),
    ]


def taken(job_id: str, attempt: int = 1) -> Notes:
    return [
        event("taken", job_id, fence=f"w.{attempt}", attempt=str(attempt)),
        note("start", id=job_id, attempt=attempt),
        note("finish", id=job_id, attempt=attempt),
    ]


def ended(job_id: str, attempt: int = 1) -> Notes:
    return [event("succeeded", job_id, fence=f"w.{attempt}", attempt=str(attempt)), recorded(job_id, attempt)]


def recorded(job_id: str, attempt: int = 1, **fields: Any) -> Note:
    return note("record", **{"id": job_id, "state": "succeeded", "attempt": attempt, "output": attempt, **fields})


def lost_with_worker(job_id: str, attempt: int = 1) -> Notes:
    return [event("recovered", job_id, fence=f"w.{attempt}")]


def born(child: str, parent: str) -> Notes:
    return [event("created", child, parent=parent), *taken(child), *ended(child)]


def judged(*parts: Notes) -> Verdict:
    return Book(line for part in parts for line in part).verdict()


def found(verdict: Verdict) -> dict[str, list[str]]:
    return {name: lines for name, lines in verdict.findings.items() if lines}


WHOLE = [*created("p", 2), *taken("p"), *ended("p"), *born("a", "p"), *born("b", "p")]


def test_a_run_in_which_all_went_well_is_clean() -> None:
    verdict = judged(run(most={"repeats": 0, "back_s": 1}), WHOLE)
    assert verdict.clean
    assert (verdict.jobs, verdict.repeats) == (3, 0)
    assert verdict.described().startswith("clean: 3 jobs")


def test_a_job_that_was_lost_with_its_worker_and_then_succeeded_is_a_repeat_and_no_fault() -> None:
    verdict = judged(created("p"), taken("p"), lost_with_worker("p"), taken("p", 2), ended("p", 2))
    assert verdict.clean
    assert (verdict.repeats, verdict.recovered) == (1, 1)


def test_what_ran_when_a_run_was_broken_off_may_run_once_more() -> None:
    bound, broken_off = run(most={"repeats": 0}), [*created("p"), *taken("p"), note("resumed")]
    again = [*lost_with_worker("p"), *taken("p", 2)]
    assert judged(bound, broken_off, again, ended("p", 2)).clean
    twice = judged(bound, broken_off, again, lost_with_worker("p", 2), taken("p", 3), ended("p", 3))
    assert found(twice) == {"complaints": ["repeats: 2; 1 is the most"]}


def test_a_run_in_which_nobody_lost_a_lease_did_not_show_what_it_was_to_show() -> None:
    bound = run(least={"recovered": 1})
    assert judged(bound, created("p"), taken("p"), lost_with_worker("p"), taken("p", 2), ended("p", 2)).clean
    assert found(judged(bound, WHOLE)) == {"complaints": ["recovered: 0; 1 is the least"]}


def test_failed_as_lost_is_an_end() -> None:
    assert judged(created("p", 2), taken("p"), [event("lost", "p", fence="w.1", reason="lost")]).clean


def test_a_job_that_nobody_confirmed_and_nobody_has_is_not_lost() -> None:
    assert judged([note("create", ids=["p"], children=2, end="succeeded")]).clean


LATE = [*created("p"), *taken("p"), *lost_with_worker("p"), *taken("p", 2)]


@pytest.mark.parametrize(
    ("kind", "ledger"),
    [
        ("lost", created("p")),
        ("lost", [*created("p"), *taken("p"), note("left", id="p", state=None)]),
        ("lost", [event("created", "p")]),  # its creator was killed before it could note the answer
        ("stuck", [*created("p"), *taken("p"), note("left", id="p", state="processing")]),
        ("ended twice", [*WHOLE, event("failed", "a", reason="exit")]),
        ("late settles", [*LATE, *ended("p", 1)]),
        ("late settles", [*LATE, *lost_with_worker("p", 2), *ended("p", 2)]),
        ("children twice", [*WHOLE, *born("c", "p")]),
        ("children twice", [*created("p", 2), *taken("p"), *born("a", "p"), *lost_with_worker("p"), *taken("p", 2)]),
        ("children lost", [*created("p", 2), *taken("p"), *ended("p"), *born("a", "p")]),
        ("wrong ends", [*created("p"), *taken("p"), event("failed", "p", fence="w.1", attempt="1", reason="exit")]),
        ("wrong ends", [*created("p"), *taken("p"), note("start", id="p", attempt=1), *ended("p")]),
        ("wrong ends", [*created("p"), event("taken", "p", fence="w.1", attempt="1"), *ended("p")]),
        ("wrong ends", [*created("p"), *taken("p"), *ended("p")[:1]]),
        ("wrong ends", [*created("p"), *taken("p"), *ended("p"), recorded("p", state="failed")]),
        ("wrong ends", [*LATE, *ended("p", 2), recorded("p", 1)]),
        ("wrong ends", [*LATE, *ended("p", 2), recorded("p", 2, output=1)]),
        ("complaints", [note("complaint", what="a process is left")]),
        ("complaints", [*run(most={"repeats": 0}), *LATE, *ended("p", 2)]),
        ("complaints", run(faults=1)),
        ("complaints", run(least={"kept": 0.9})),
        ("complaints", [*run(least={"kept": 0.9}), note("measure", what="kept", value=0.8)]),
        ("complaints", [*run(most={"back_s": 5}), note("fault", kind="kill", at=90.0), *WHOLE]),
        ("complaints", [*run(most={"back_s": 5}), note("fault", kind="kill", at=90.0), note("fault", kind="kill")]),
    ],
)
def test_each_fault_is_found(kind: str, ledger: Notes) -> None:
    verdict = judged(ledger)
    assert not verdict.clean
    assert kind in found(verdict), found(verdict)
    assert verdict.described().startswith("NOT CLEAN")


def test_a_job_may_be_meant_to_fail_for_a_reason() -> None:
    bad = [note("create", ids=["p"], children=0, end="failed (message)"), note("created", ids=["p"])]
    failed = event("failed", "p", fence="w.1", attempt="1", reason="message")
    taken_and_failed = [event("taken", "p", fence="w.1", attempt="1"), failed]
    assert judged(bad, taken_and_failed).clean
    assert "wrong ends" in found(judged(bad, [taken_and_failed[0], {**failed, "reason": "output"}]))
    assert "wrong ends" in found(judged(bad, taken("p"), ended("p")))


def test_work_that_goes_on_in_time_is_within_its_bound() -> None:
    fault = note("fault", kind="kill", at=97.0)
    verdict = judged(run(most={"back_s": 5}), [fault], WHOLE)
    assert verdict.clean
    assert verdict.back_s == 3.0


FORGETFUL = run(forgiven_s=1.0)
DOWN = [note("fault", kind="restart", down=100.5, at=102.0)]
FORGOTTEN = [note("create", ids=["p"], children=2, end="succeeded"), note("created", ids=["p"])]


def test_only_the_last_second_before_a_server_died_may_be_forgotten() -> None:
    verdict = judged(FORGETFUL, FORGOTTEN, DOWN)
    assert verdict.clean
    assert verdict.forgiven == 1
    assert "lost" in found(judged(run(), FORGOTTEN, DOWN))
    assert "lost" in found(judged(FORGETFUL, FORGOTTEN, [note("fault", kind="restart", down=101.5, at=102.0)]))
    assert "lost" in found(judged(FORGETFUL, FORGOTTEN, [event("created", "p")], DOWN))


def test_what_a_server_forgot_counts_as_it_is_told_after_a_second_look() -> None:
    again = [note("reread"), *created("p")[2:], *taken("p", 2), *ended("p", 2)]
    assert judged(created("p"), taken("p"), ended("p"), again).clean
    assert "lost" in found(judged(created("p"), taken("p"), ended("p"), [note("reread")]))


def test_a_line_that_its_writer_did_not_finish_spoils_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.note("created", ids=["p"], at=1.0)
    with ledger.path.open("ab") as file:
        file.write(b'\n{"note": "start", "id": "p')
    ledger.note("created", ids=["q"], at=2.0)
    assert [note["ids"] for note in ledger.news()] == [["p"], ["q"]]
    assert list(ledger.news()) == []
    ledger.note("created", ids=["r"], at=3.0)
    assert [note["ids"] for note in ledger.news()] == [["r"]]


def test_the_time_between_a_run_that_was_broken_off_and_the_next_is_nobodys_delay() -> None:
    broken_off = [note("fault", kind="kill", at=10.0), note("resumed", at=99.0)]
    assert judged(run(most={"back_s": 5}), broken_off, WHOLE).clean
