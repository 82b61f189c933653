# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib>=3.9"]
# ///
"""Stage 3 of the census: draw what was found as one picture. Here the pipeline ends.

`matplotlib` is large and takes a moment to load. The other stages do not notice: every script has an
environment of its own.
"""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import _picture
import _rows

import sjq

COUNTS = "files", "lines", "code", "docstrings", "comments", "functions", "complexity"


@dataclass
class Chart:
    """What a job of this topic is given."""

    folder: str  # of the census: its rows are there, and the picture goes there


@sjq.job
def chart(data: Chart) -> _rows.Row:
    """Return data without a next topic: the job's final output."""
    rows = _rows.load(data.folder)
    if not any(row["code"] for row in rows):
        sys.exit(f"there is nothing to draw in {data.folder}/rows")  # an exit code other than 0 is a failure

    total = {"modules": len(rows)} | {name: sum(row[name] for row in rows) for name in COUNTS}
    png = BytesIO()
    _picture.draw(rows, total).savefig(png, format="png")
    path = Path(data.folder, "census.png")
    _rows.replace(path, png.getvalue())  # drawn again, it is replaced in one step

    print(f"drew {path}: {total['modules']} modules, {total['lines']:,} lines")
    return {"picture": path.as_posix(), "python": rows[0]["python"], **total}
