"""What a handler wants to be done with a job that it did not finish."""

from __future__ import annotations

import pytest

from .project import Project

HEAD = """
import sjq

class Busy(sjq.Retry):
    def __init__(self, disk):
        self.disk = disk

class Hopeless(sjq.Fail):
    def __init__(self, disk):
        self.disk = disk

@sjq.job
def handler(data):
"""


@pytest.mark.parametrize(
    ("raised", "code", "output"),
    [
        ("sjq.Retry()", 75, {"retry": {"why": ""}}),
        ("sjq.Retry('busy', after=60)", 75, {"retry": {"why": "busy", "after": 60.0}}),
        ("sjq.Retry(after='10m')", 75, {"retry": {"why": "", "after": 600.0}}),
        ("sjq.Retry(after=__import__('datetime').timedelta(minutes=2))", 75, {"retry": {"why": "", "after": 120.0}}),
        ("sjq.Fail('no such customer')", 1, {"fail": {"why": "no such customer"}}),
        ("sjq.Fail()", 1, {"fail": {"why": ""}}),
        ("sjq.Fail('x' * 70_000)", 1, {"fail": {"why": "x" * 2000}}),
        ("sjq.Fail('no file \\udcff')", 1, {"fail": {"why": "no file \\udcff"}}),
        ("sjq.Retry('\\udcff', after=3)", 75, {"retry": {"why": "\\udcff", "after": 3.0}}),
        ("Busy('sda')", 75, {"retry": {"why": "sda"}}),
        ("Hopeless('sda')", 1, {"fail": {"why": "sda"}}),
    ],
)
def test_it_stands_in_the_output_and_in_the_exit_code(
    project: Project, raised: str, code: int, output: dict[str, object]
) -> None:
    run = project.run(f"{HEAD}    raise {raised}\n")
    assert (run.code, run.output) == (code, output), run.stderr
    assert "Traceback" not in run.stderr


def test_what_led_to_it_is_shown(here: Project) -> None:
    run = here.run(f"{HEAD}    try:\n        1 / 0\n    except ZeroDivisionError:\n        raise sjq.Retry('odd')\n")
    assert run.code == 75
    assert "ZeroDivisionError" in run.stderr


@pytest.mark.parametrize("after", ["-1", "float('nan')", "float('inf')", "'10 parsecs'", "True", "1e10", "'20000d'"])
def test_a_pause_that_cannot_be_is_refused(here: Project, after: str) -> None:
    run = here.run(f"{HEAD}    raise sjq.Retry(after={after})\n")
    assert run.code == 1
    assert run.output is None
    assert "is no duration" in run.stderr or "is longer than any job waits" in run.stderr
