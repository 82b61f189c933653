"""The rows: what is done to sjq, how often, and what must hold. Each is one function that is given a field."""

from __future__ import annotations

from chaos.rows.kills import KILL
from chaos.rows.names import NAMES
from chaos.rows.outages import OUTAGE, RESTART_ALWAYS, RESTART_EVERYSEC
from chaos.rows.row import Row
from chaos.rows.stale import PARTITION, STOP

ROWS: dict[str, Row] = {
    row.name: row for row in (KILL, RESTART_ALWAYS, RESTART_EVERYSEC, OUTAGE, PARTITION, STOP, NAMES)
}
