"""Rollups that nothing refreshes although events wait for them: an operator is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql.refreshing import OverdueLooks, overdue_remark
from eventrec_handlers.postgres.rollups.tables import DIRTY, PENDING, ROLLUPS

if TYPE_CHECKING:
    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

PAUSE_AFTER_FAILURE: Final = 3_600.0
"""Seconds after one that failed: those who write events may lack the right to look."""

PATIENCE: Final = 1_000
"""Milliseconds that one look may take."""

GRACE: Final = 60
"""Seconds that a rollup may be late, beside twice the time between two refreshes."""


class OverdueRollups(OverdueLooks):
    """Knows which rollups are overdue."""

    async def look(self, connection: asyncpg.Connection, namespace: Namespace) -> None:
        """Look, on a connection in no transaction.

        Raises:
            Exception: It was not possible. Nothing else is affected, and nothing is known of any rollup.
        """
        self._pause(PAUSE_AFTER_FAILURE)
        self.remarks = ()
        named = namespace.named
        await connection.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;"
            f" SET LOCAL statement_timeout = {PATIENCE}; SET LOCAL lock_timeout = {PATIENCE // 10}"
        )
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", named(ROLLUPS)):
            rows = await connection.fetch(
                "SELECT name, (extract(epoch FROM now() - refreshed_at) / 60)::bigint AS minutes"  # noqa: S608 - quoted
                f" FROM {named(ROLLUPS)} AS known"
                f" WHERE refreshed_at < now() - make_interval(secs => 2 * refresh_every + {GRACE})"
                f" AND (EXISTS (SELECT FROM {named(DIRTY)} WHERE table_name = known.table_name)"
                f" OR EXISTS (SELECT FROM {named(PENDING)} WHERE rollup = known.name)) ORDER BY name"
            )
            self.remarks = tuple(overdue_remark(name, minutes) for name, minutes in rows)
        await connection.execute("ROLLBACK")
        self._pause(self.PAUSE)
