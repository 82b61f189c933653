"""A handler's lines in the ledger. Nothing is imported that is not built in: these scripts start by the thousand."""

from __future__ import annotations

import os
import time
from _json import encode_basestring_ascii as quoted

ATTEMPT = int(os.environ["SJQ_ATTEMPT"])


def note(what: str) -> None:
    job_id, topic = quoted(os.environ["SJQ_JOB_ID"]), quoted(os.environ["SJQ_TOPIC"])
    line = (
        f'\n{{"note": "{what}", "id": {job_id}, "attempt": {ATTEMPT}, "topic": {topic}, '
        f'"pid": {os.getpid()}, "at": {time.time()}}}\n'
    )
    descriptor = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)
