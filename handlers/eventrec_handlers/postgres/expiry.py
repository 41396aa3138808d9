"""Deleting what is older than the time to live: in slices, beside the batches, at no batch's cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

SLICE: Final = 5_000
"""Rows deleted in one transaction."""

SHARE: Final = 0.1
"""Of the time between batches, at most this much goes into deleting."""

PATIENCE: Final = 1_000
"""Milliseconds that one slice may take, and ten times as many as it may wait for a lock."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between looking for something old, at most."""


class Expiry:
    """Decides when to look, and deletes a slice. `ttl` is in seconds; None: nothing ever gets old."""

    def __init__(self, ttl: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._not_before = 0.0
        self._rest: list[str] = []

    def inherit(self, ttl: float) -> None:
        """Use `ttl`, unless there is one."""
        if self._ttl is None:
            self._ttl = ttl

    @property
    def is_due(self) -> bool:
        """Whether it is time to delete a slice."""
        return self._ttl is not None and self._clock() >= self._not_before

    async def sweep(self, connection: asyncpg.Connection, namespace: Namespace, tables: Iterable[str]) -> int:
        """Delete a slice from one of `tables`, in turn; how many rows that was.

        Raises:
            asyncpg.PostgresError: It was not possible, this time. Nothing else is affected.
        """
        ttl = self._ttl
        if ttl is None:
            return 0
        if not self._rest:
            self._rest = sorted(tables)
        if not self._rest:
            return 0
        start = self._clock()
        deleted = 0
        try:
            await connection.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {PATIENCE};"
                f" SET LOCAL lock_timeout = {PATIENCE // 10}"
            )
            tag: str = await connection.execute(_delete(namespace, self._rest[-1], ttl))
            await connection.execute("COMMIT")
            deleted = int(tag.rpartition(" ")[2])
        finally:
            if deleted < SLICE:
                self._rest.pop()
            took = self._clock() - start
            pause = took / SHARE if self._rest else min(LONGEST_PAUSE, max(ttl / 100, took / SHARE))
            self._not_before = self._clock() + pause
        return deleted


def _delete(namespace: Namespace, table: str, ttl: float) -> str:
    # The index begins with the type, so each type is looked up by itself; and the types are found by leaping from one
    # to the next in that index, not by reading it.
    name = namespace.named(table)
    return (
        f"WITH RECURSIVE kinds AS ((SELECT type FROM {name} ORDER BY type LIMIT 1)"  # noqa: S608 - quoted
        f" UNION ALL SELECT (SELECT type FROM {name} WHERE type > kinds.type ORDER BY type LIMIT 1)"
        " FROM kinds WHERE kinds.type IS NOT NULL)"
        f" DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT old.at FROM kinds CROSS JOIN LATERAL"
        f" (SELECT ctid AS at FROM {name} AS known WHERE known.type = kinds.type"
        f" AND known.timestamp < now() - interval '{ttl:f} seconds' LIMIT {SLICE}) AS old LIMIT {SLICE}))"
    )
