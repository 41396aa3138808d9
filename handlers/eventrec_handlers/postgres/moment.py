"""One snapshot of a PostgreSQL that is read: its tables of events, what cannot be read of them, and what has ended."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from eventrec import PauseError, StoredEvent
from eventrec_handlers._sql import LAYOUTS, KeptLayouts, quoted
from eventrec_handlers.postgres.cursor import Arrival, Reached
from eventrec_handlers.postgres.errors import LOCKED, brief, is_about_table, state
from eventrec_handlers.postgres.event_tables import PLACE, EventTable, event_tables
from eventrec_handlers.postgres.queries import UNCOMPRESSED, foreign_rows, transactions_since

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from eventrec import Layout
    from eventrec_handlers.postgres.queries import Query

AGAIN_WAIT: Final = 0.05
"""Seconds to wait for a lock once another one did not come in time, or the same one a moment ago."""

FOREIGN: Final = "without an id, a type, a timestamp or a payload"


class Moment:
    """One snapshot of the database: its tables of events, and which transactions have ended in it.

    With `passes_over`, a table that cannot be read is left out of `tables` from there on, and told by `unread`.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        tables: list[EventTable],
        *,
        faults: Mapping[str, int],
        server: str,
        low: int,
        end: int,
        has_chunks: bool,
        passes_over: bool,
        locked: Collection[int],
    ) -> None:
        self._connection = connection
        self._has_chunks = has_chunks
        self._passes_over = passes_over
        self._faults = faults
        self._forbidden = {table.oid: table.name for table in tables if not table.may_be_read}
        # Where none may be read, the server says so. What was locked a moment ago is read last: no other waits for it.
        readable = [table for table in tables if table.may_be_read] or tables
        self.tables: Sequence[EventTable] = sorted(readable, key=lambda table: table.oid in locked)
        self._unread: dict[int, str] = {}
        self._was_locked = locked
        self._waits = len(tables) > 1
        self.locked: set[int] = set()
        """The tables, by oid, of which a lock did not come in time."""
        self.server = server
        self.low = low
        """Every transaction below it has ended."""
        self.end = end
        """No transaction from it on has."""

    @classmethod
    async def of(
        cls,
        connection: asyncpg.Connection,
        namespace: str | None,
        declared: Mapping[str, Layout],
        *,
        passes_over: bool,
        lock_wait: float,
        locked: Collection[int],
    ) -> Moment:
        """The snapshot of the transaction that `connection` is in.

        Of several tables one is waited for at most `lock_wait` seconds, and then each other one `AGAIN_WAIT`, as are
        those of `locked`, by oid. A single one hides no other, and is waited for.
        """
        name, low, end, exists, may_ask, has_chunks = await connection.fetchrow(
            "WITH here AS (SELECT coalesce($1::text, current_schema()::text) AS name, txid_current_snapshot() AS now)"
            " SELECT name, txid_snapshot_xmin(now), txid_snapshot_xmax(now),"
            " EXISTS (SELECT FROM pg_namespace WHERE nspname::text = name),"
            " coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE')"
            " AND has_function_privilege(to_regprocedure('pg_control_checkpoint()'), 'EXECUTE'), false),"
            " to_regclass('timescaledb_information.hypertables') IS NOT NULL FROM here",
            namespace,
        )
        if not exists:
            raise PauseError("no schema of the search path exists" if name is None else f"there is no schema {name!r}")
        server = f"{'system_identifier' if may_ask else 0} || ':' || {'timeline_id' if may_ask else 0} || ':' || oid"
        known = await connection.fetchval(
            f"SELECT {server} FROM pg_database{', pg_control_system(), pg_control_checkpoint()' * may_ask}"  # noqa: S608 - no input
            " WHERE datname = current_database()"
        )
        layouts, faults = KeptLayouts(declared), Counter[str]()
        layouts.learn(await _kept_layouts(connection, name))
        hypertables = await _hypertables(connection, name) if has_chunks else frozenset[str]()
        tables = await event_tables(connection, name, layouts, faults, hypertables=hypertables)
        has_chunks = any(table.place != PLACE for table in tables)
        if len(tables) > 1:
            await connection.execute(_patience(lock_wait))
        return cls(
            connection,
            tables,
            faults=faults,
            server=known,
            low=low,
            end=end,
            has_chunks=has_chunks,
            passes_over=passes_over,
            locked=locked,
        )

    async def rows(self, table: EventTable, query: Query) -> list[Row] | None:
        """The rows of `table` that `query` asks for; None: it cannot be read, and is passed over.

        Raises:
            asyncpg.PostgresError: As `fetch`.
        """
        found = await self.fetch(table, query)
        return None if found is None else [Row(table, row) for row in found]

    async def fetch(self, table: EventTable, query: Query) -> list[Any] | None:
        """What `query` about `table` gives; None: it cannot be read, and is passed over.

        Raises:
            asyncpg.PostgresError: It is not about this table, it is not to be passed over, or no other is left.
        """
        sql, values = query
        if table.oid in self._unread:
            return None
        if self._waits and (self.locked or table.oid in self._was_locked):
            self._waits = False
            await self._connection.execute(_patience(AGAIN_WAIT))
        try:
            if not self._passes_over:
                return list(await self._connection.fetch(sql, *values))
            async with self._connection.transaction():  # a savepoint
                return list(await self._connection.fetch(sql, *values))
        except asyncpg.PostgresError as exc:
            if state(exc) == LOCKED:
                self.locked.add(table.oid)
            if not (self._passes_over and is_about_table(exc, self._connection)) or len(self.tables) == 1:
                raise
            self._unread[table.oid] = f"table {table.name!r} cannot be read: {brief(exc)}"
            self.tables = [other for other in self.tables if other.oid != table.oid]
            return None

    def unread(self) -> dict[str, int]:
        """Why tables were passed over."""
        return dict.fromkeys(self._unread.values(), 1)

    async def leave_out_compressed(self) -> None:
        """From here on only what is not compressed is read: the rest does not tell which transaction wrote it."""
        if self._has_chunks:
            await self._connection.execute(UNCOMPRESSED)

    def valid(self, since: Arrival) -> Arrival:
        """`since`, unless it is of another server, or of a time to which this one has gone back: then nothing."""
        is_ahead = any(one.low > self.end for one in (since, *since.behind.values()))
        return Arrival(self.server, 0) if is_ahead or since.server != self.server else since

    def is_as_at(self, since: Arrival) -> bool:
        """Whether no transaction has begun since."""
        return since.low == self.low == self.end

    async def seen(self) -> frozenset[int]:
        """The transactions from `low` on whose rows are there."""
        found: set[int] = set()
        for table in self.tables if self.low < self.end else ():
            rows = await self.fetch(table, transactions_since(table, self.low, end=self.end))
            found |= {row[0] for row in rows or ()}
        return frozenset(found)

    def page_after(self, since: Arrival, parts: Mapping[int, list[Row]], *, limit: int) -> tuple[list[Row], Arrival]:
        """At most `limit` rows of `parts`, what each table has behind `since`, by its oid; and how far that goes.

        A part that has `limit` rows may have more. A table that was passed over stays where it was; one that is read
        again goes on by itself, until it and the others have been read to the end in one snapshot.
        """
        merged = heapq.merge(*(rows for oid, rows in parts.items() if oid not in since.behind), key=Row.in_arrival)
        page = list(islice(merged, limit))
        is_whole = len(page) < limit
        after = self._after(since, page, is_whole=is_whole)
        seen, behind = after.seen, {oid: since.of_table(oid) for oid in (*self._unread, *self._forbidden)}
        for oid in parts.keys() & since.behind.keys():
            rows = parts[oid][: limit - len(page)]
            is_read = len(rows) == len(parts[oid]) < limit
            if not (rows or is_read):
                behind[oid] = since.of_table(oid)
                continue
            at = self._after(since.of_table(oid), rows, is_whole=is_read)
            page += rows
            if is_read and is_whole:
                seen |= at.seen
            else:
                behind[oid] = at
        return page, replace(after, seen=seen, behind=behind)

    def _after(self, since: Arrival, page: list[Row], *, is_whole: bool) -> Arrival:
        """How far a reader is that went on from `since` and was given `page`; `is_whole`: there was no more."""
        seen = since.seen | {row.place[0] for row in page}
        last = None
        if not is_whole:
            last = page[-1].place
            seen -= {last[0]}
            if since.after is not None and since.after[0] != last[0]:
                seen |= {since.after[0]}
        elif since.after is not None:
            seen |= {since.after[0]}
        # What is shown is shown in the order of transactions: below the last one nothing is left that has ended.
        low = self.low if last is None else min(self.low, last[0])
        return Arrival(self.server, low, frozenset(one for one in seen if one >= low), last)

    async def foreign(
        self, tables: Sequence[EventTable] | None = None, *, since: Arrival | None = None, **window: int | None
    ) -> dict[str, int]:
        """How many rows of a window are not events, by table; and which tables may not be read, or are of no use.

        The window is a time, or what arrived `since`. `tables` are those that are looked at; None: all.
        """
        counts = {f"table {name!r} may not be read by this user": 1 for name in self._forbidden.values()}
        counts |= self._faults
        for table in self.tables if tables is None else tables:
            if table.may_hold_foreign:
                at = None if since is None else since.of_table(table.oid)
                query = foreign_rows(table, end_of_transactions=self.end, since=at, **window)
                if (found := await self.fetch(table, query)) and found[0][0]:
                    counts[f"{FOREIGN}: {table.name}"] = found[0][0]
        return counts


class Row:
    """A row as it was fetched, and its places in the three orders."""

    def __init__(self, table: EventTable, row: Any) -> None:
        self._table = table
        self._row = row
        self.place: tuple[int, int, str] = (row["x"], row["o"], row["c"])

    def event(self) -> StoredEvent | str:
        return self._table.event(self._row)

    @property
    def _key(self) -> str:
        """What the server orders events of one time by."""
        return "" if self._table.base.order == "''::text" else self._row["id"]

    def by_time(self) -> tuple[int, str, int, tuple[int, ...]]:
        return self._row["us"], self._key, self.place[1], _numbers(self.place[2])

    def in_range(self) -> tuple[int, str, str, int, tuple[int, ...]]:
        return self._row["us"], self._table.name, self._key, self.place[1], _numbers(self.place[2])

    def in_arrival(self) -> tuple[int, int, tuple[int, ...]]:
        return self.place[0], self.place[1], _numbers(self.place[2])

    def reached(self) -> str:
        _, oid, ctid = self.place
        return Reached(self._row["us"], self._table.name, self._key, oid, ctid).to_text()


async def _kept_layouts(connection: asyncpg.Connection, namespace: str) -> dict[str, str]:
    table = f"{quoted(namespace)}.{quoted(LAYOUTS)}"
    may_read = "SELECT coalesce(has_table_privilege(to_regclass($1), 'SELECT'), false)"
    if not await connection.fetchval(may_read, table):
        return {}
    rows = await connection.fetch(f"SELECT table_name::text, layout::text FROM {table}")  # noqa: S608 - quoted
    return {row[0]: row[1] for row in rows}


async def _hypertables(connection: asyncpg.Connection, namespace: str) -> frozenset[str]:
    rows = await connection.fetch(
        "SELECT hypertable_name::text FROM timescaledb_information.hypertables WHERE hypertable_schema::text = $1",
        namespace,
    )
    return frozenset(row[0] for row in rows)


def _patience(seconds: float) -> str:
    """The statement that has the rest of a transaction wait no longer for each lock."""
    return f"SET LOCAL lock_timeout = {max(1, round(seconds * 1_000))}"


def _numbers(ctid: str) -> tuple[int, ...]:
    return tuple(map(int, ctid.strip("()").split(",")))
