"""Deleting what is older than the time to live: in slices, beside the batches, at no batch's cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec import get_logger
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.chunks import chunks_of
from eventrec_handlers.postgres.errors import brief, state
from eventrec_handlers.postgres.rollups.retention import floor_for_ttl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec_handlers.postgres.checkpoints import Namespace

_logger = get_logger("eventrec.postgres")

SLICE: Final = 5_000
"""Rows deleted in one transaction."""

SMALLEST_SLICE: Final = 50
"""As few, where more take too long."""

SHARE: Final = 0.1
"""Of the time between batches, at most this much goes into deleting."""

PATIENCE: Final = 1_000
"""Milliseconds that one slice may take, and ten times as many as it may wait for a lock."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between looking for something old, at most, while that goes well."""

LONGEST_PAUSE_AFTER_FAILURES: Final = 3_600.0
"""Seconds before a table is tried again whose old rows cannot be deleted, at most."""

ACCIDENTS: Final = 3
"""How often in a row a lock or the time limit may be in the way before it is said."""

_MAY_PASS: Final = ("08", "40", "53", "55P03", "57")


@dataclass(slots=True)
class _Trouble:
    """What is wrong with one table: how often in a row, when to try again, what was said of it."""

    times: int = 0
    not_before: float = 0.0
    said: str | None = None


class Expiry:
    """Decides when to look, and deletes a slice. `ttl` is in seconds; None: nothing ever gets old.

    What a rollup has not counted yet is kept until it has. Of a hypertable whole chunks are dropped, one for a slice.

    A table whose old rows cannot be deleted is said in one line of the logging, and in another one once they can; in
    between it is among the `remarks`. It is tried again after pauses that grow.
    """

    def __init__(self, ttl: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._not_before = 0.0
        self._rest: list[str] = []
        self._slice = SLICE
        self._troubles: dict[str, _Trouble] = {}

    def inherit(self, ttl: float) -> None:
        """Use `ttl`, unless there is one."""
        if self._ttl is None:
            self._ttl = ttl

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for each table whose old rows cannot be deleted."""
        troubles = tuple(self._troubles.items())
        return tuple(
            f"expired rows of table {table!r} are not deleted: {trouble.said}"
            for table, trouble in troubles
            if trouble.said is not None
        )

    @property
    def is_due(self) -> bool:
        """Whether it is time to delete a slice."""
        return self._ttl is not None and self._clock() >= self._not_before

    async def sweep(self, connection: asyncpg.Connection, namespace: Namespace, tables: Iterable[str]) -> int:
        """Delete a slice from one of `tables`, in turn; how many rows that was.

        Raises:
            Exception: It was not possible, this time. Nothing else is affected.
        """
        start, ttl = self._clock(), self._ttl
        if ttl is None:
            return 0
        if not self._rest:
            troubles = self._troubles
            self._rest = sorted(name for name in tables if name not in troubles or troubles[name].not_before <= start)
        if not self._rest:
            self._not_before = start + min(LONGEST_PAUSE, max(ttl / 100, 1.0))
            return 0
        table, size = self._rest[-1], min(self._slice, SLICE)
        deleted = 0
        try:
            await connection.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {PATIENCE};"
                f" SET LOCAL lock_timeout = {PATIENCE // 10}"
            )
            deleted, kept, may_pass = await _remove(connection, namespace, table, ttl, size)
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as exc:
            if state(exc) == "57014":
                self._slice = max(SMALLEST_SLICE, size // 2)
            self._failed(table, brief(exc), may_pass=state(exc).startswith(_MAY_PASS))
            raise
        else:
            if kept is not None:
                self._failed(table, kept, may_pass=may_pass)
            else:
                self._went_well(table)
                self._slice = min(SLICE, size * 2)
        finally:
            if deleted < size:
                self._rest.pop()
            took = self._clock() - start
            pause = took / SHARE if self._rest else min(LONGEST_PAUSE, max(ttl / 100, took / SHARE))
            self._not_before = self._clock() + pause
        return deleted

    def _failed(self, table: str, error: str, *, may_pass: bool) -> None:
        trouble = self._troubles.setdefault(table, _Trouble())
        trouble.times += 1
        trouble.not_before = self._clock() + min(LONGEST_PAUSE_AFTER_FAILURES, 2.0 ** min(trouble.times, 12))
        if trouble.said != error and (not may_pass or trouble.times >= ACCIDENTS):
            trouble.said = error
            _logger.warning("expired rows are not deleted", table=table, error=error)

    def _went_well(self, table: str) -> None:
        trouble = self._troubles.pop(table, None)
        if trouble is not None and trouble.said is not None:
            _logger.info("expired rows are deleted again", table=table)


async def _remove(
    connection: asyncpg.Connection, namespace: Namespace, table: str, ttl: float, size: int
) -> tuple[int, str | None, bool]:
    """Delete at most `size` old rows, or drop a chunk, inside a transaction.

    How many that was, a chunk counted as `size`; why others are left, in words; and whether that may pass by itself.
    """
    chunks = await chunks_of(connection, namespace, table, ttl)
    if chunks is not None:
        return size * await chunks.drop_first(connection, namespace, table), chunks.why_kept, False
    end = await floor_for_ttl(connection, namespace, table, ttl)
    found, deleted, hides = map(int, await connection.fetchrow(_delete(namespace, table, ttl, size, end=end)))
    if found and not deleted:
        # Another sweep may have been quicker; else a trigger or a policy keeps them.
        return 0, "the server deletes none of them: see its triggers and policies", True
    # Rows were just written there; but all of them may be gone already.
    return deleted, "its policies let none of its rows be seen" if hides else None, True


def _delete(namespace: Namespace, table: str, ttl: float, limit: int, *, end: str | None) -> str:
    # The index begins with the type, so each type is looked up by itself; and the types are found by leaping from one
    # to the next in that index, not by reading it. A ctid is a place in one partition: others have rows there too. The
    # first condition finds the rows by their places, the others say which of them are meant.
    name = namespace.named(table)
    old = f"timestamp < now() - interval '{ttl:f} seconds'" if end is None else f"timestamp < {end}"
    return (
        f"WITH RECURSIVE kinds AS ((SELECT type FROM {name} ORDER BY type LIMIT 1)"  # noqa: S608 - quoted
        f" UNION ALL SELECT (SELECT type FROM {name} WHERE type > kinds.type ORDER BY type LIMIT 1)"
        " FROM kinds WHERE kinds.type IS NOT NULL),"
        " expired AS MATERIALIZED (SELECT old.part, old.at FROM kinds CROSS JOIN LATERAL"
        f" (SELECT tableoid AS part, ctid AS at FROM {name} AS known WHERE known.type = kinds.type"
        f" AND known.{old} LIMIT {limit}) AS old LIMIT {limit}),"
        f" gone AS (DELETE FROM {name} AS known WHERE known.ctid = ANY (ARRAY(SELECT at FROM expired))"
        f" AND (known.tableoid, known.ctid) IN (SELECT part, at FROM expired) AND known.{old} RETURNING 1)"
        " SELECT (SELECT count(*) FROM expired), (SELECT count(*) FROM gone),"
        f" (row_security_active({literal(name)}) AND NOT EXISTS (SELECT FROM kinds))::int"
    )
