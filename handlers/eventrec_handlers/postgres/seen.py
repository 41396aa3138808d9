"""Records that came with an id, told apart in tables that do not do so themselves: `eventrec_seen` keeps their ids.

They are written in the transaction of the rows, in the order of the ids: of two processes that write the same ones, one
waits for the other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

from eventrec_handlers._sql import SEEN, new_rows, remembered_ids
from eventrec_handlers.postgres.checkpoints import creating, is_made, make_own
from eventrec_handlers.postgres.errors import brief

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.copy import Part

SWEEP_EVERY: Final = 60.0
"""Seconds between two sweeps, once nothing old is left."""

SWEPT_AT_ONCE: Final = 5_000
PATIENCE: Final = 1_000
"""Milliseconds that a sweep may take."""

ACCIDENTS: Final = 3
"""How often in a row a sweep may fail before it is said."""


class Seen:
    """Keeps ids for `seconds`. `clock` is one that never goes back."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next_sweep = 0.0
        self._is_there = False
        self._is_used = False
        self._failures: list[str] = []

    def forget(self) -> None:
        """The table may be gone."""
        self._is_there = False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is wrong with the sweeps."""
        if len(self._failures) < ACCIDENTS:
            return ()
        return (f"old ids in {SEEN} are not deleted: {self._failures[-1]}",)

    async def prepare(self, connection: asyncpg.Connection, namespace: Namespace, part: Part) -> None:
        """Make the table, if `part` needs it and there is none; in no transaction."""
        if self._is_there or not remembered_ids(part):
            return
        async with creating(connection, namespace):
            if not await is_made(connection, namespace, SEEN):
                await make_own(connection, namespace, SEEN)
        self._is_there = True

    async def new(self, connection: asyncpg.Connection, namespace: Namespace, parts: Sequence[Part]) -> Sequence[Part]:
        """The rows of `parts` whose records were not stored before, and each once; in the transaction that stores them.

        Ids are kept only of records that brought one with them, and only where the table does not tell them apart.
        """
        of_table: dict[str, list[Part]] = {}
        for part in parts:
            if part.kept_ids:
                of_table.setdefault(part.table, []).append(part)
        first = {table: found for table, some in of_table.items() if (found := remembered_ids(*some))}
        if not first:
            return parts
        self._is_used = True
        # All of them in one statement: the order of several would be that of the batch.
        rows = await connection.fetch(
            f"INSERT INTO {namespace.named(SEEN)} (table_name, id)"  # noqa: S608 - quoted
            " SELECT name, id FROM unnest($1::text[], $2::uuid[]) AS given (name, id) ORDER BY name, id"
            " ON CONFLICT DO NOTHING RETURNING table_name, id",
            [table for table, ids in first.items() for _ in ids],
            [UUID(bytes=id_) for ids in first.values() for id_ in ids],
        )
        new: dict[str, set[bytes]] = {table: set() for table in first}
        for table, id_ in rows:
            new[table].add(id_.bytes)
        return [
            part.only(new_rows(part, first[part.table], new[part.table]))
            if part.kept_ids and part.table in first
            else part
            for part in parts
        ]

    @property
    def is_due(self) -> bool:
        """Whether it is time to sweep."""
        return self._is_used and self._clock() >= self._next_sweep

    async def sweep(self, connection: asyncpg.Connection, namespace: Namespace) -> int:
        """Forget some of the ids that are older than they are kept; how many.

        Raises:
            Exception: It was not possible, this time. Nothing else is affected.
        """
        self._next_sweep = self._clock() + SWEEP_EVERY
        table = namespace.named(SEEN)
        try:
            await connection.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {PATIENCE};"
                f" SET LOCAL lock_timeout = {PATIENCE // 10}"
            )
            # Several processes share the work.
            status = await connection.execute(
                f"DELETE FROM {table} WHERE (table_name, id) IN (SELECT table_name, id FROM {table}"  # noqa: S608 - quoted
                f" WHERE seen_at < now() - interval '{self._seconds:f} seconds' ORDER BY seen_at"
                f" LIMIT {SWEPT_AT_ONCE} FOR UPDATE SKIP LOCKED)"
            )
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as exc:
            self._failures.append(brief(exc))
            del self._failures[:-ACCIDENTS]
            raise
        self._failures.clear()
        swept = int(status.split()[-1])
        if swept == SWEPT_AT_ONCE:
            self._next_sweep = 0.0
        return swept
