"""Rollups that nothing refreshes although events wait for them: an operator is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec_handlers.postgres.rollups.tables import DIRTY, PENDING, ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

PAUSE: Final = 60.0
"""Seconds between two looks."""

PAUSE_AFTER_FAILURE: Final = 3_600.0
"""Seconds after one that failed: those who write events may lack the right to look."""

PATIENCE: Final = 1_000
"""Milliseconds that one look may take."""

GRACE: Final = 60
"""Seconds that a rollup may be late, beside twice the time between two refreshes."""


class OverdueRollups:
    """Knows which rollups are overdue: not refreshed for twice the time that their schedule says, while events wait."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._not_before = clock() + PAUSE
        self.remarks: tuple[str, ...] = ()
        """A sentence for each."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self._clock() >= self._not_before

    async def look(self, connection: asyncpg.Connection, namespace: Namespace) -> None:
        """Look, on a connection in no transaction.

        Raises:
            Exception: It was not possible. Nothing else is affected, and nothing is known of any rollup.
        """
        self._not_before = self._clock() + PAUSE_AFTER_FAILURE
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
            self.remarks = tuple(
                f"rollup {name!r} was not refreshed for {minutes:,} minutes, and events wait for it: run eventrec"
                " refresh --every, or give the handler refresh=true"
                for name, minutes in rows
            )
        await connection.execute("ROLLBACK")
        self._not_before = self._clock() + PAUSE
