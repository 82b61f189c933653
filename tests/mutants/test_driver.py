"""The promises without which nothing else holds: each is broken, and a test turns red."""

from __future__ import annotations

import subprocess
import sys

from mutants.driver import ROOT

FIRST = (
    "a settle asks for no fence",
    "next jobs come before the end of their parent",
    "next jobs come after the end of their parent",
    "only the first process of a job is killed",
    "an attempt writes under the final names",
    "a worker judges by expiry at once",
)
"""The fence, the atomicity of a hand-over (both ways), the tree kill, the rename, the lease after a reconnect."""


def test_the_first_promises_cannot_be_broken_unnoticed() -> None:
    driver = [sys.executable, str(ROOT / "tests" / "mutants" / "driver.py"), *FIRST]
    done = subprocess.run(driver, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines()[-1:] == [f"{len(FIRST)} of {len(FIRST)} were caught"], done.stdout + done.stderr
