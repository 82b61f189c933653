"""Jobs that fail and are tried again, as their topic, their message or their handler wants it."""

from __future__ import annotations

import json

from servers import until

from end_to_end.project import Project

FLAKY = """
    import json, os, sys
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    print("attempt", os.environ["SJQ_ATTEMPT"])
    if os.environ["SJQ_ATTEMPT"] < "3":
        sys.exit("not yet")
    json.dump({"data": os.environ["SJQ_ATTEMPT"]}, open(args["--output"], "w"))
"""
WISHES = """
    import sjq

    @sjq.job
    def wish(data, job):
        if data == "busy" and job.attempt < 3:
            raise sjq.Retry("the disk is busy", after=0.05)
        if data == "hopeless":
            raise sjq.Fail("no such customer")
        return job.attempt
"""


def test_a_job_is_tried_again_until_it_succeeds(project: Project) -> None:
    project.configure(topics={"flaky": {"retries": 2, "backoff": "20ms"}})
    project.topic("flaky", FLAKY)
    job_id = project.create("flaky", 1)
    said = project.burst()
    assert "again in 0.0" in said
    record = project.metadata(job_id)
    assert (record["state"], record["attempt"]) == ("succeeded", 3)
    assert [(entry["end"], entry["reason"]) for entry in record["attempts"]] == [("failed", "exit")] * 2
    assert project.ends(job_id) == ["succeeded"]
    with project.client() as client:
        story = [event.event for event in client.events(limit=100) if event.job_id == job_id]
    assert story == ["created", *["taken", "retried", "due"] * 2, "taken", "succeeded"]


def test_a_job_that_has_used_up_its_tries_fails(project: Project) -> None:
    project.configure(defaults={"retries": 9, "backoff": 0})
    project.topic("flaky", FLAKY)
    job_id = project.create("flaky", 1, "--retries", "1")
    project.burst()
    record = project.metadata(job_id)
    assert (record["state"], record["attempt"], record["reason"]["code"]) == ("failed", 2, "exit")
    assert project.ends(job_id) == ["failed"]
    project.sjq("retry", "flaky")
    project.burst()
    assert project.metadata(job_id)["attempt"] == 3, "attempts go on counting"


def test_between_two_tries_a_job_is_scheduled_and_its_record_says_why(project: Project) -> None:
    project.topic("flaky", FLAKY)
    job_id = project.create("flaky", 1, "--retries", "1", "--backoff", "1h")
    project.sjq("worker", "--limit", "1")
    shown = project.show(job_id)
    assert (shown["state"], shown["reason"]["code"], shown["record"]["state"]) == ("scheduled", "exit", "scheduled")
    assert shown["due"] > shown["since"]
    assert shown["record"]["stderr"] == "not yet\n"
    status = json.loads(project.sjq("status", "--json").stdout)["topics"]
    assert [(topic["incoming"], topic["scheduled"]) for topic in status] == [(0, 1)]
    assert "again" in project.sjq("show", job_id).stdout
    assert job_id in project.sjq("list", "--state", "scheduled").stdout
    project.sjq("delete", job_id, code=5)


def test_a_handler_may_ask_for_another_try_or_give_up(project: Project) -> None:
    project.configure(topics={"wish": {"retries": 5, "backoff": "1h"}})
    project.topic("wish", WISHES)
    busy, hopeless = project.create("wish", "busy"), project.create("wish", "hopeless")
    project.burst()
    assert project.output(busy) == {"data": 3}
    record = project.metadata(hopeless)
    assert (record["state"], record["attempt"]) == ("failed", 1)
    assert record["reason"] == {"code": "exit", "why": "no such customer"}
    assert record["stderr"] == "failed: no such customer\n"


def test_who_asks_for_another_try_and_has_none_fails(project: Project) -> None:
    project.topic("wish", WISHES)
    job_id = project.create("wish", "busy")
    project.burst()
    record = project.metadata(job_id)
    assert record["state"] == "failed"
    assert record["reason"]["why"] == "it asked for another try: the disk is busy; no try is left (0 retries)"
    assert record["exit_code"] == 75


def test_a_worker_that_has_nothing_else_to_do_is_there_when_the_time_comes(project: Project) -> None:
    project.configure(topics={"flaky": {"retries": 2, "backoff": "300ms"}})
    project.topic("flaky", FLAKY)
    with project.worker():
        job_id = project.create("flaky", 1)
        until(lambda: project.ends(job_id) == ["succeeded"], 10, "it was tried again")
