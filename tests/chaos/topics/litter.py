"""Leaves files in `job_data/` under names that no job has, of all kinds, and in the places of its own record."""

import os
import sys
from pathlib import Path

from _note import ATTEMPT, note

DEEP = 1500
NAMES = ("\udcff", "a\nb", "\x1b[2J", " ", "%41", "%ff", ".a", "~", "*", "-\t", "é\u202e", "x" * 200)
KINDS = ("input.json", "attachment.bin", "output.json", "metadata.json", "stdout.log", "stderr.log")
ENDINGS = (*KINDS, *(f"{kind}.{'a' * 16}" for kind in KINDS))


def deep(path: Path) -> None:
    """Make a folder that is deeper than a path may be long."""
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


WAYS = (
    Path.touch,
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/dev/zero"),
)

note("start")
output, job_id = Path(sys.argv[4]), os.environ["SJQ_JOB_ID"]
for number, name in enumerate(NAMES):
    for other, ending in enumerate(ENDINGS):
        WAYS[(number + other) % len(WAYS)](output.with_name(f"{name}-{ending}"))
for ending, way in (("metadata.json", deep), ("output.json", os.mkfifo), ("stdout.log", deep)):
    way(output.with_name(f"{job_id}-{ending}"))
output.write_text(f'{{"data": {{"attempt": {ATTEMPT}}}}}')
note("finish")
