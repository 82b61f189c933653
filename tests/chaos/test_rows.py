"""Every row of the table, at a fifth of its size for CI. `driver.py` runs them at any size."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import until

from chaos import driver
from chaos.ledger import Ledger
from chaos.rows import ROWS
from chaos.rows.row import Row

FRACTION = 0.2


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.timeout(row.seconds)) for row in ROWS.values()], ids=ROWS
)
def test_the_verdict_is_clean(row: Row, tmp_path: Path) -> None:
    plan = driver.new_plan(row.name, row.ci.part(FRACTION), seed=int.from_bytes(os.urandom(3)))
    verdict = driver.perform(plan, tmp_path)
    assert verdict.clean, f"{row.name}, seed {plan.seed}, in {tmp_path}: {verdict.described()}"


@pytest.mark.timeout(120)
def test_a_run_that_was_broken_off_goes_on_where_its_ledger_ends() -> None:
    command = [sys.executable, driver.__file__]
    with subprocess.Popen([*command, "kill", "--fraction", "0.04"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        place = re.search(r" in (\S+)$", first.stdout.readline().strip())
        assert place is not None
        path = Path(place[1]) / "ledger.jsonl"
        until(lambda: "fault" in kinds(path), 60, "the first fault")
        first.send_signal(signal.SIGKILL)
    before = kinds(path).count("fault")
    assert 1 <= before < 4
    second = subprocess.run([*command, "--resume", str(path)], capture_output=True, text=True, timeout=90, check=False)
    assert second.returncode == 0, second.stdout
    assert "kill: clean: " in second.stdout
    assert ", 4 faults: " in second.stdout
    assert not path.exists(), "what is clean is removed"


def kinds(path: Path) -> list[str]:
    return [note["note"] for note in Ledger(path).news()]
