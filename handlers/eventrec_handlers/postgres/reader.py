"""Reads events back from PostgreSQL, beside the writers: `latest` and `range` by time, `follow` by transactions."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from eventrec import EventPage, EventReader, PauseError, StoredEvent
from eventrec_handlers._sql import LAYOUTS, KeptLayouts, quoted
from eventrec_handlers.postgres.cursor import START, Arrival, Reached
from eventrec_handlers.postgres.event_tables import PLACE, EventTable, event_tables
from eventrec_handlers.postgres.queries import UNCOMPRESSED, arrived, by_timestamp, foreign_rows, transactions_since
from eventrec_handlers.postgres.single_connection import SingleConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from eventrec import Layout
    from eventrec_handlers.postgres.options import Options
    from eventrec_handlers.postgres.target import Target

T = TypeVar("T")

SLOW: Final = 1.0
"""Seconds that reading all tables for what arrived may take before pauses are made."""

PAUSE: Final = 4.0
"""How much longer such a pause is than what it follows."""

FOREIGN: Final = "without an id, a type, a timestamp or a payload"


class PostgresReader(EventReader):
    """Reads the tables of one schema that have our base columns; partitions are read with their parent.

    So it does tables with a layout that has a column for the time: one of `layouts`, or one that the database keeps.

    **Arrival.** PostgreSQL knows of stored rows which transaction wrote them, and no more. `latest` therefore gives the
    newest by their own timestamps. `follow` gives the rows of every transaction that ended since, in the order in which
    these began; rows that another program updates are shown again. Where no transaction has begun since it asks for
    nothing more; else it reads each table once, so it costs the more the larger the tables are. Where that takes more
    than a second it looks again only after four times as long: what arrives meanwhile is shown later.

    Extra columns come as bool, int, float, Decimal, str, bytes or a list of floats; what is of any other type comes as
    the text that PostgreSQL writes for it.
    """

    def __init__(
        self,
        target: Target,
        options: Options,
        *,
        layouts: Mapping[str, Layout] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._layouts = layouts or {}
        self._target = target
        self._options = options
        self._single = SingleConnection(target, options, timeout=options.timeout)
        self._not_before = 0.0

    def __repr__(self) -> str:
        return f"<PostgresReader '{self._target}' {self._single.state}>"

    async def open(self) -> None:
        await self._single.open()

    async def close(self) -> None:
        await self._single.close()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)

        async def read(moment: _Moment) -> EventPage:
            rows: list[_Row] = []
            for table in moment.tables if limit else ():
                sql, values = by_timestamp(table, types=types, limit=limit, newest=True)
                rows += [_Row(table, row) for row in await moment.connection.fetch(sql, *values)]
            newest = sorted(rows, key=_Row.by_time)[-limit:] if limit else []
            foreign = await moment.foreign() if limit else {}
            await moment.leave_out_compressed()
            seen = await moment.seen()
            return EventPage(_events(newest), Arrival(moment.server, moment.low, seen).to_text(), foreign)

        return await self._read(read)

    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: str | None = None,
    ) -> EventPage:
        self.check_limit(limit)
        after = None if cursor is None else Reached.of(cursor)

        async def read(moment: _Moment) -> EventPage:
            parts = []
            for table in moment.tables if limit else ():
                sql, values = by_timestamp(table, types=types, limit=limit, start=start, end=end, after=after)
                parts.append([_Row(table, row) for row in await moment.connection.fetch(sql, *values)])
            page = list(heapq.merge(*parts, key=_Row.in_range))[:limit]
            foreign = await moment.foreign(start=start, end=end) if cursor is None and limit else {}
            return EventPage(_events(page), page[-1].reached() if page else cursor or START, foreign)

        return await self._read(read)

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        given = Arrival.of(cursor)

        async def read(moment: _Moment) -> EventPage:
            since = moment.valid(given)
            if not limit or (since.after is None and moment.is_as_at(since)) or self._clock() < self._not_before:
                return EventPage((), since.to_text())
            await moment.leave_out_compressed()
            parts = []
            begun = self._clock()
            for table in moment.tables:
                sql, values = arrived(table, since, end=moment.end, types=types, limit=limit)
                parts.append([_Row(table, row) for row in await moment.connection.fetch(sql, *values)])
            page = list(heapq.merge(*parts, key=_Row.in_arrival))[:limit]
            if (took := self._clock() - begun) > SLOW and len(page) < limit:
                self._not_before = self._clock() + PAUSE * took
            after = moment.after(since, page, is_whole=len(page) < limit)
            return EventPage.of(_events(page), after.to_text(), await moment.foreign(since=since))

        return await self._read(read)

    # -- from here on everything runs on asyncio

    async def _read(self, read: Callable[[_Moment], Awaitable[T]]) -> T:
        async def whole() -> T:
            connection = await self._single.connected()
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    return await read(await _Moment.of(connection, self._options.namespace, self._layouts))
            except BaseException as exc:
                if not isinstance(exc, (asyncpg.PostgresError, PauseError)) or connection.is_closed():
                    await self._single.end(connection)
                raise

        return await self._single.run(whole)


class _Moment:
    """One snapshot of the database: its tables of events, and which transactions have ended in it."""

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
    ) -> None:
        self.connection = connection
        self._has_chunks = has_chunks
        # Where none may be read, the server says so.
        self.tables = [table for table in tables if table.may_be_read] or tables
        self._faults = faults
        self._unreadable = [table.name for table in tables if not table.may_be_read]
        self.server = server
        self.low = low
        """Every transaction below it has ended."""
        self.end = end
        """No transaction from it on has."""

    @classmethod
    async def of(cls, connection: asyncpg.Connection, namespace: str | None, declared: Mapping[str, Layout]) -> _Moment:
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
        return cls(connection, tables, faults=faults, server=known, low=low, end=end, has_chunks=has_chunks)

    async def leave_out_compressed(self) -> None:
        """From here on only what is not compressed is read: the rest does not tell which transaction wrote it."""
        if self._has_chunks:
            await self.connection.execute(UNCOMPRESSED)

    def valid(self, since: Arrival) -> Arrival:
        """`since`, unless it is of another server, or of a time to which this one has gone back: then nothing."""
        return since if since.server == self.server and since.low <= self.end else Arrival(self.server, 0)

    def is_as_at(self, since: Arrival) -> bool:
        """Whether no transaction has begun since."""
        return since.low == self.low == self.end

    async def seen(self) -> frozenset[int]:
        """The transactions from `low` on whose rows are there."""
        found: set[int] = set()
        for table in self.tables if self.low < self.end else ():
            sql, values = transactions_since(table, self.low, end=self.end)
            found |= {row[0] for row in await self.connection.fetch(sql, *values)}
        return frozenset(found)

    def after(self, since: Arrival, page: list[_Row], *, is_whole: bool) -> Arrival:
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

    async def foreign(self, **window: Any) -> dict[str, int]:
        """How many rows of a window are not events, by table; and which tables may not be read."""
        counts = {f"table {name!r} may not be read by this user": 1 for name in self._unreadable}
        counts |= self._faults
        for table in self.tables:
            if table.may_hold_foreign:
                sql, values = foreign_rows(table, end_of_transactions=self.end, **window)
                if count := await self.connection.fetchval(sql, *values):
                    counts[f"{FOREIGN}: {table.name}"] = count
        return counts


class _Row:
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


def _events(rows: Iterable[_Row]) -> tuple[StoredEvent, ...]:
    """Those of `rows` that are events."""
    return tuple(event for row in rows if not isinstance(event := row.event(), str))


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


def _numbers(ctid: str) -> tuple[int, ...]:
    return tuple(map(int, ctid.strip("()").split(",")))
