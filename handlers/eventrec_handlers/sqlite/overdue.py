"""Rollups that nothing refreshes although events wait for them: an operator is told."""

from __future__ import annotations

import sqlite3
from typing import Final

from eventrec_handlers._sql.refreshing import OverdueLooks, overdue_remark
from eventrec_handlers.sqlite.marks import has_arrived
from eventrec_handlers.sqlite.own_tables import DIRTY, FLOORS, PENDING, ROLLUPS, has_own_table

GRACE: Final = 60 * 1_000_000_000
"""Nanoseconds that a rollup may be late, beside twice the time between two refreshes."""


class OverdueRollups(OverdueLooks):
    """Knows which rollups are overdue."""

    def look(self, connection: sqlite3.Connection, now: int) -> None:
        """Look, on a connection in no transaction; where that is not possible, nothing is known of any rollup."""
        self._pause(self.PAUSE)
        try:
            self.remarks = tuple(_overdue(connection, now))
        except sqlite3.Error:
            self.remarks = ()


def _overdue(connection: sqlite3.Connection, now: int) -> list[str]:
    if not all(has_own_table(connection, name) for name in (DIRTY, PENDING, ROLLUPS, FLOORS)):
        return []
    rows = connection.execute(
        "SELECT name, table_name, refreshed_at,"  # noqa: S608 - constants
        f" EXISTS (SELECT 1 FROM {PENDING} WHERE rollup = known.name) FROM {ROLLUPS} AS known"
        " WHERE refreshed_at < ? - CAST(2 * refresh_every * 1000000000 AS INTEGER) ORDER BY name",
        (now - GRACE,),
    ).fetchall()
    return [
        overdue_remark(name, (now - refreshed_at) // 60_000_000_000)
        for name, table, refreshed_at, waits in rows
        if waits or has_arrived(connection, table)
    ]
