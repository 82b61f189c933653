"""The rows of a census: one small file for each module, so that no two jobs ever write to the same one.

A file in topics/ whose name starts with `_` is no topic: it holds what scripts share. A script finds
it by a plain `import _rows`, because Python puts a script's own folder first on its path.
"""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def save(folder: str, row: Row) -> int:
    """Write one row, and return how many there are now.

    The file appears whole, or not at all: two jobs that end at the same moment cannot read half of it.
    """
    rows = Path(folder, "rows")
    rows.mkdir(parents=True, exist_ok=True)
    replace(rows / f"{row['module']}.json", json.dumps(row, indent=2).encode())
    return len(list(rows.glob("*.json")))


def load(folder: str) -> list[Row]:
    """Read all rows, in the order of their modules' names."""
    return [json.loads(path.read_bytes()) for path in sorted(Path(folder, "rows").glob("*.json"))]


def clear(folder: str) -> None:
    """Forget the rows of an earlier attempt."""
    for path in Path(folder, "rows").glob("*.json"):
        path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Put a file in place in one step: written beside, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)
