"""The folder `job_data/` as a whole: how much it holds, what stands there half, and how a record is taken away.

Beside `records`, which has the files of one job, the only writer there.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from sjq import trees
from sjq.jobs import id_to_bytes
from sjq.records import KEPT_OF_LONG_NAME, KINDS, id_of, is_name, name_in, read_metadata
from sjq.trees import remove

_TICK_S = 0.05
"""What the clock of a file system may be coarse by."""


class JobData:
    """All records of this host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def written(self, kind: str) -> Iterator[tuple[str, float]]:
        """Yield the name of each job that has a published file of this kind, and when that was written.

        In seconds since the epoch, in no order; what is taken away meanwhile may be left out or not.
        """
        ending = f"-{kind}"
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name = entry.name.removesuffix(ending)
                    if name != entry.name and is_name(name):
                        try:
                            yield name, entry.stat().st_mtime
                        except OSError:
                            continue  # taken away, or a link to nowhere
        except FileNotFoundError:
            return

    def foreign(self) -> Iterator[str]:
        """Yield the files that are named as those of a job, and that no job can have: handlers left them."""
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name = name_in(entry.name)
                    if name is not None and not is_name(name):
                        yield entry.name
        except FileNotFoundError:
            return

    def size(self) -> Iterator[int]:
        """Yield the bytes of one file after the other, folders of jobs included."""
        yield from trees.sizes(self.folder)

    def size_of(self, name: str) -> int:
        """Return how many bytes a record has."""
        sizes = (trees.size(self._path(name, kind)) for kind in KINDS)
        return sum(sizes) + sum(trees.sizes(self._path(name, "files")))

    def has_metadata(self, name: str) -> bool:
        """Tell whether a record is published, readable or not."""
        return os.path.lexists(self._path(name, "metadata.json"))

    def is_readable(self, name: str) -> bool:
        """Tell whether a record's metadata is that job's."""
        return read_metadata(self._path(name, "metadata.json"), name) is not None

    def take_away(self, name: str, *, since: float) -> bool:
        """Remove a record; False when its input was written `since` then: a new attempt of the job has begun.

        The metadata goes last, so that a record whose removal was broken off is still found.
        """
        given = self._path(name, "input.json")
        try:
            if given.lstat().st_mtime > since - _TICK_S:
                return False
        except FileNotFoundError:
            pass
        for kind in ("input.json", *(kind for kind in KINDS if kind not in ("input.json", "metadata.json")), "files"):
            remove(self._path(name, kind))
        remove(self._path(name, "metadata.json"))
        return True

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}-{kind}"


def beginning_of_id(name: str) -> str:
    """Return the id that a name stands for; of a long one, which cannot be told, its beginning."""
    if (job_id := id_of(name)) is not None:
        return job_id
    kept = name[:KEPT_OF_LONG_NAME]
    whole = kept[: kept.rfind("%")] if "%" in kept[-2:] else kept
    # Of a character that is cut off nothing counts; bytes that are no text at all stay as they are.
    return codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(id_to_bytes(id_of(whole) or ""))
