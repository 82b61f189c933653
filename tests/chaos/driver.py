"""Does to sjq what kills other queues, keeps a ledger of it, and says whether anything was lost.

    uv run tests/chaos/driver.py [ROW...] [--ci | --release | --fraction F] [--seed N] [--resume FILE]

Ends with 1 when a verdict is not clean. A run that was broken off goes on where its ledger ends: --resume names it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from chaos.book import Book, Verdict
from chaos.field import Field, Missed, Plan
from chaos.ledger import Ledger
from chaos.rows import ROWS
from chaos.rows.row import Size
from sjq.errors import Error


def new_plan(row: str, size: Size, seed: int) -> Plan:
    return Plan(row=row, seed=seed, faults=size.faults, jobs=size.jobs, fsync=ROWS[row].fsync)


def begun(ledger: Path) -> Plan:
    """Return the plan of a run that was broken off."""
    first = next(Ledger(ledger).news())
    return Plan(**first["plan"])


def perform(plan: Plan, folder: Path) -> Verdict:
    """Do what is left of a plan, and judge it by its ledger alone."""
    row, path = ROWS[plan.row], folder / "ledger.jsonl"
    resumed = path.exists()
    if not resumed:
        Ledger(path).note("run", plan=asdict(plan), bounds=row.bounds(plan))
    with Field(folder, plan) as field:
        if resumed:
            field.ledger.note("resumed")
        try:
            row.run(field)
        except (Missed, Error, pytest.fail.Exception) as error:
            field.complain(f"the run ended early: {error}")
        field.close()
    return Book(Ledger(path).news()).verdict()


def remove(folder: Path) -> None:
    """Remove what a run left, and with the last of several the place of all."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def main() -> int:
    options = _options()
    if options.resume:
        runs = [(begun(options.resume), options.resume.parent)]
    else:
        place = Path(tempfile.mkdtemp(prefix="sjq-chaos-"))
        runs = []
        for name in options.rows or ROWS:
            size = ROWS[name].release if options.release else ROWS[name].ci.part(options.fraction)
            runs.append((new_plan(name, size, options.seed), place / name))
    dirty = 0
    for plan, folder in runs:
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        print(f"{plan.row} (seed {plan.seed}, {plan.faults} faults) in {folder}", flush=True)
        try:
            verdict = perform(plan, folder)
        except pytest.skip.Exception as reason:
            print(f"{plan.row}: skipped: {reason}")
            remove(folder)
            continue
        print(f"{plan.row}: {verdict.described()}, {time.monotonic() - began:.0f} s", flush=True)
        if verdict.clean:
            remove(folder)
        dirty += not verdict.clean
    return 1 if dirty else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", metavar="ROW", nargs="*", help=f"of {', '.join(ROWS)}; all by default")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ci", action="store_const", dest="fraction", const=1.0, help="the size for CI; the default")
    size.add_argument("--release", action="store_true", help="the size for releases")
    size.add_argument("--fraction", type=float, help="a part of the size for CI")
    parser.add_argument("--seed", type=int, help="repeats a run's choices, though not its timing")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with the run of this ledger")
    options = parser.parse_args()
    options.fraction = options.fraction or 1.0
    options.seed = random.randrange(1_000_000) if options.seed is None else options.seed
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"{unknown.pop()!r} is no row: the rows are {', '.join(ROWS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
