"""Ids, names of topics and of files that lead elsewhere, if anybody takes them for paths, patterns, or text to show."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from unicodedata import category

from chaos.field import Field, Missed
from chaos.rows.row import Row, Size
from chaos.watch import Watch
from sjq.errors import MessageError
from sjq.job_data import JobData
from sjq.jobs import check_id, id_from_bytes, id_to_bytes, new_message
from sjq.records import KINDS
from sjq.trees import remove

PARTS = 50
PER_PART = 500
"""The least in a part: behind each everything is looked at."""
SHOWN = 5
"""So many of each portion are asked for by the commands that a person types."""
OURS = ("config.json", "topics", "job_data", ".sjq", ".venv", "running")
"""What is in the project, or is written by the handlers of these rows."""
DRIVERS = ("ledger.jsonl", "project", "server", "workers")
CANARY = "canary"
LITTER = 12 * 12
"""How many files `litter.py` leaves under names that no job has."""
EVIL = "import os\nopen(os.environ['CHAOS_LEDGER'] + '.evil', 'w').close()\n"


def names(field: Field) -> None:
    """Push ids and topics of all kinds, watched from all around the project, with canaries where they lead."""
    root = field.project.root
    canaries = list(_lay_canaries(field))
    field.project.configure(topics={"piece": {"script": "work.py", "concurrency": 4}, "litter": {}})
    touched: set[Path] = set()
    with Watch(field.folder, root) as watch:

        def all_ended() -> bool:
            touched.update(watch.touched())  # now and then, for inotify keeps no more than some thousands
            return not field.book.open

        worker = field.worker()
        field.until(worker.serves, 60, "the start of the worker")
        per_part = max(PER_PART, field.plan.faults // PARTS)
        for number in range(field.book.faults["names"], field.plan.faults, per_part):
            count = min(per_part, field.plan.faults - number)
            ids = _push(field, number, count)
            try:
                litter = field.put(new_message("litter", 0), "succeeded")
                field.until(all_ended, 600, "the end of all that was pushed")
                _ask(field, [*ids, litter])
                _look_at_litter(field)
                field.project.run("fsck", "--repair", seconds=300)  # fails what waits on topics that cannot be
            finally:
                for path in touched.union(watch.touched()):
                    if path.name not in (*OURS, *DRIVERS):
                        field.complain(f"{path} was touched")
                touched.clear()
                for path in _led_to(field.project.job_data, ids):
                    field.complain(f"{path} was written")
            field.fault("names", times=count)
    for canary in canaries:
        if canary.read_text() != EVIL:
            field.complain(f"{canary} was overwritten")
    if field.ledger.path.with_name("ledger.jsonl.evil").exists():
        field.complain("a script from outside of topics/ was run")
    field.drain()


def _lay_canaries(field: Field) -> Iterator[Path]:
    """Put files where hostile names lead: into the project's folder and the one above, as records and as scripts."""
    for folder in (field.project.root, field.folder):
        for name in (f"{CANARY}.py", *(f"{CANARY}-{kind}" for kind in KINDS)):
            (folder / name).write_text(EVIL)
            yield folder / name


def _push(field: Field, first: int, count: int) -> list[str]:
    """Push ids of all kinds to a topic with a handler, and some to topics that cannot be."""
    dice = field.random(first)
    ids = list(dict.fromkeys(id_from_bytes(_id(dice, number, field)) for number in range(first, first + count)))
    ids = [job_id for job_id in ids if job_id not in field.book.jobs]
    valid = [job_id for job_id in ids if _is_valid(job_id)]
    invalid = [job_id for job_id in ids if not _is_valid(job_id)]
    field.ledger.note("create", ids=valid, children=0, end="succeeded")
    elsewhere = f"hostile-{first}"
    field.ledger.note("create", ids=[*invalid, elsewhere], children=0, end="failed (message)")
    with field.server.client() as server:
        pipe = server.pipeline(transaction=False)
        for job_id in ids:
            raw_id = id_to_bytes(job_id)
            pipe.set(b"job_data:" + raw_id, b'{"job_id": "x", "data": [0, 0]}', nx=True)
            for _ in range(dice.choice((1, 1, 2))):  # a producer who had no answer repeats himself
                pipe.rpush("incoming:piece", raw_id)
        for topic in _topics(field):
            pipe.rpush(b"incoming:" + topic, elsewhere)
        pipe.execute()
    field.ledger.note("created", ids=ids)
    field.read()
    return ids


def _id(dice: Random, number: int, field: Field) -> bytes:
    tail = b"%d" % number
    ways = (
        dice.randbytes(dice.randint(1, 40)) + tail,
        b"../" * dice.randint(1, 2) + tail,
        b"../" * dice.randint(1, 2) + CANARY.encode(),
        os.fsencode(field.folder / CANARY),
        os.fsencode(field.folder / "absolute") + tail,
        b"." * dice.randint(1, 9) + tail,
        b"%2E%2E%2F" + tail,
        b"a~" + tail,
        b"x" * dice.choice((119, 120, 121, 508, 600)) + tail,
        "/é\u202e\u2028💥".encode() * dice.randint(1, 12) + tail,
        b"\x1b[2J\x1b]0;title\x07\r\n" + tail,
        b"a\0b" + tail,
        b"*?[a-z]" + tail,
        b"--help" + tail,
        b"-" + tail,
        b" " * dice.randint(1, 5) + tail,
        b"name-metadata.json." + b"a" * 16 + tail,
        b"{tag}:" + tail,
        b"con:nul|<>\"'\\" + tail,
        b"",
    )
    return dice.choice(ways)


def _topics(field: Field) -> Iterator[bytes]:
    yield from (b"../" * depth + CANARY.encode() for depth in (1, 2, 3))
    yield from (
        os.fsencode(field.folder / CANARY),
        b"",
        b"\x1b[2J",
        b"a\0b",
        b"\xff",
        b"*",
        b"x" * 300,
        b"../topics/work",
    )


def _is_valid(job_id: str) -> bool:
    try:
        check_id(job_id)
    except MessageError:
        return False
    return True


def _ask(field: Field, ids: list[str]) -> None:
    """Ask for jobs as a person does; what is shown must be fit for a terminal."""
    askable = [job_id for job_id in ids if _is_valid(job_id)][:SHOWN]
    lists = (["list", "--limit", "20"], ["list", "--limit", "20", "--json"])
    for command in (["status"], *lists, *(["show", "--", job_id] for job_id in askable)):
        done = field.project.run(*command)
        if done.returncode not in (0, 2, 3) or "Traceback" in done.stderr:
            raise Missed(f"{command} went well; it ended with {done.returncode}: {done.stderr}")
        _see_fit(field, command, done)


def _see_fit(field: Field, command: list[str], done: subprocess.CompletedProcess[str]) -> None:
    """Complain where what a command said could do something to a terminal."""
    text = (done.stdout + done.stderr).replace("\n", "")
    # JSON is for programs, to which every character matters; it must hold no commands.
    unfit = [char for char in text if (category(char) == "Cc" if "--json" in command else not char.isprintable())]
    if unfit:
        field.complain(f"{command} shows {unfit[0]!r}")


def _look_at_litter(field: Field) -> None:
    """See a worker start, a look and a pruning go well beside what a handler left, told and untouched; remove it."""
    job_data = JobData(field.project.job_data)
    left = sorted(job_data.foreign())
    if len(left) < LITTER:
        raise Missed(f"a handler left {len(left)} files of {LITTER}")
    for command in (["worker", "--burst"], ["fsck"], ["prune", "--older-than", "0s", "--size", "0"]):
        done = field.project.run(*command, seconds=300)
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:
            field.complain(f"{command} ended with {done.returncode}: {done.stderr[-1000:]}")
        _see_fit(field, command, done)
        if command == ["fsck"] and (told := done.stdout.count("is named like a file of a job")) != len(left):
            field.complain(f"fsck tells {told} files of {len(left)}")
    if sorted(job_data.foreign()) != left:
        field.complain("what a handler left is not what is there")
    for name in left:
        remove(job_data.folder / name)


def _led_to(job_data: Path, ids: list[str]) -> Iterator[Path]:
    """Yield what exists where ids lead as paths, other than canaries, which are looked at by what is in them."""
    for job_id in ids:
        for kind in KINDS:
            path = Path(os.path.normpath(job_data / f"{job_id}-{kind}"))
            with suppress(OSError, ValueError):  # too long for a path, or with a NUL
                if path.parent != job_data and CANARY not in job_id and path.exists():
                    yield path


NAMES = Row(name="names", run=names, ci=Size(5_000, 0), release=Size(100_000, 0))
