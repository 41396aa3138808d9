"""Reads events back from PostgreSQL, beside the writers: `latest` and `range` by time, `follow` by transactions."""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from eventrec import EventPage, EventReader, PauseError, StoredEvent
from eventrec_handlers.postgres.cursor import START, Arrival, Reached
from eventrec_handlers.postgres.errors import is_about_table
from eventrec_handlers.postgres.moment import Moment, Row
from eventrec_handlers.postgres.queries import arrived, by_timestamp
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

LOCK_WAIT: Final = 2.0
"""Seconds that a call waits for a lock on one of several tables."""


class PostgresReader(EventReader):
    """Reads the tables of one schema that have our base columns; partitions are read with their parent.

    So it does tables with a layout that has a column for the time: one of `layouts`, or one that the database keeps.

    **Arrival.** PostgreSQL knows of stored rows which transaction wrote them, and no more. `latest` therefore gives the
    newest by their own timestamps. `follow` gives the rows of every transaction that ended since, in the order in which
    these began; rows that another program updates are shown again. Where no transaction has begun since it asks for
    nothing more; else it reads each table once, so it costs the more the larger the tables are. Where that takes more
    than a second it looks again only after four times as long: what arrives meanwhile is shown later.

    **Tables that cannot be read.** A table whose rows the server refuses, for a column, a policy or a partition that
    fails, a byte that is not text, a lock or a missing right, is passed over and named, and the others are read. Where
    none can be read, that is raised. `follow` goes on in a table from where it was when it last could be read, so what
    arrives there is shown once it can be again; what `latest` and `range` have passed over they do not give later.

    Extra columns come as bool, int, float, Decimal, str, bytes or a list of floats; what is of any other type comes as
    the text that PostgreSQL writes for it.

    Made by `PostgresHandler.reader` alone: what it takes may change.
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
        self._unread: Mapping[str, int] = {}
        self._locked: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<PostgresReader '{self._target}' {self._single.state}>"

    async def open(self) -> None:
        await self._single.open()

    async def close(self) -> None:
        await self._single.close()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)

        async def read(moment: Moment) -> EventPage:
            rows: list[Row] = []
            for table in moment.tables if limit else ():
                rows += await moment.rows(table, by_timestamp(table, types=types, limit=limit, newest=True)) or ()
            newest = sorted(rows, key=Row.by_time)[-limit:] if limit else []
            foreign = await moment.foreign() if limit else {}
            await moment.leave_out_compressed()
            seen = await moment.seen()
            return EventPage(
                _events(newest), Arrival(moment.server, moment.low, seen).to_text(), foreign | moment.unread()
            )

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

        async def read(moment: Moment) -> EventPage:
            parts = []
            for table in moment.tables if limit else ():
                query = by_timestamp(table, types=types, limit=limit, start=start, end=end, after=after)
                parts.append(await moment.rows(table, query) or [])
            page = list(heapq.merge(*parts, key=Row.in_range))[:limit]
            foreign = await moment.foreign(start=start, end=end) if cursor is None and limit else {}
            return EventPage(_events(page), page[-1].reached() if page else cursor or START, foreign | moment.unread())

        return await self._read(read)

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        given = Arrival.of(cursor)

        async def read(moment: Moment) -> EventPage:
            since = moment.valid(given)
            is_quiet = since.after is None and moment.is_as_at(since)
            if not limit or (is_quiet and not since.behind) or self._clock() < self._not_before:
                return EventPage((), since.to_text())
            await moment.leave_out_compressed()
            begun = self._clock()
            parts: dict[int, list[Row]] = {}
            looked_at = [table for table in moment.tables if not is_quiet or table.oid in since.behind]
            for table in looked_at:
                query = arrived(table, since.of_table(table.oid), end=moment.end, types=types, limit=limit)
                if (rows := await moment.rows(table, query)) is not None:
                    parts[table.oid] = rows
            page, after = moment.page_after(since, parts, limit=limit)
            if (took := self._clock() - begun) > SLOW and len(page) < limit:
                self._not_before = self._clock() + PAUSE * took
            foreign = await moment.foreign(looked_at, since=since)
            return EventPage.of(_events(page), after.to_text(), foreign | moment.unread())

        return await self._read(read)

    # -- from here on everything runs on asyncio

    async def _read(self, read: Callable[[Moment], Awaitable[T]]) -> T:
        async def whole() -> T:
            connection = await self._single.connected()
            try:
                return await self._in_snapshot(connection, read)
            except BaseException as exc:
                if not isinstance(exc, (asyncpg.PostgresError, PauseError)) or connection.is_closed():
                    await self._single.end(connection)
                raise

        return await self._single.run(whole)

    async def _in_snapshot(self, connection: asyncpg.Connection, read: Callable[[Moment], Awaitable[T]]) -> T:
        """What `read` gives, in one snapshot; where it fails, in another one in which tables may be passed over.

        So what was only changed meanwhile is read as it is now, and where all is well no table costs a savepoint.
        """
        try:
            return await self._in_one(connection, read, passes_over=bool(self._unread))
        except asyncpg.PostgresError as exc:
            if self._unread or not is_about_table(exc, connection):
                raise
        return await self._in_one(connection, read, passes_over=True)

    async def _in_one(
        self, connection: asyncpg.Connection, read: Callable[[Moment], Awaitable[T]], *, passes_over: bool
    ) -> T:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            moment = await Moment.of(
                connection,
                self._options.namespace,
                self._layouts,
                passes_over=passes_over,
                lock_wait=min(LOCK_WAIT, self._options.lock_timeout),
                locked=self._locked,
            )
            try:
                return await read(moment)
            finally:
                self._unread, self._locked = moment.unread(), frozenset(moment.locked)


def _events(rows: Iterable[Row]) -> tuple[StoredEvent, ...]:
    """Those of `rows` that are events."""
    return tuple(event for row in rows if not isinstance(event := row.event(), str))
