"""The rows: what is done to sjq, how often, and what must hold. Each is one function that is given a field."""

from __future__ import annotations

from chaos.rows.full_disk import FULL_AOF, FULL_RECORDS
from chaos.rows.kills import KILL
from chaos.rows.large import LARGE
from chaos.rows.malformed import MALFORMED
from chaos.rows.memory import MEMORY
from chaos.rows.names import NAMES
from chaos.rows.outages import OUTAGE, RESTART_ALWAYS, RESTART_EVERYSEC
from chaos.rows.row import Row
from chaos.rows.soak import SOAK
from chaos.rows.stale import PARTITION, STOP
from chaos.rows.trees import TREES

_TABLE = (
    KILL,
    RESTART_ALWAYS,
    RESTART_EVERYSEC,
    OUTAGE,
    PARTITION,
    STOP,
    FULL_RECORDS,
    FULL_AOF,
    TREES,
    MEMORY,
    MALFORMED,
    NAMES,
    LARGE,
    SOAK,
)
ROWS: dict[str, Row] = {row.name: row for row in _TABLE}
