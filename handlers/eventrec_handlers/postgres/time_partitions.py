"""Tables with a native partition for each day, week or month: made ahead, and dropped when they are too old.

    events                      PARTITION BY RANGE (timestamp)
      events_p20260105          FROM ('2026-01-05 00:00+00') TO ('2026-01-06 00:00+00')
      events_default            DEFAULT: the days that have none of their own

No row is refused for its day: a late one, one from the future, one that came while no process made partitions goes into
the DEFAULT partition. From there maintenance moves a day at a time into a partition of its own, unless the day is too
old to be kept, or further ahead than partitions are made; what is too old is deleted, and counted.

Writers go on meanwhile. A partition is made apart and attached, which waits for no writer of the table; moving a day
out of DEFAULT keeps off those alone that write there, so the present day is moved while it has few rows, or once it is
over; dropping one needs the whole table for a moment. Every lock is
waited for a moment only (`LOCK_MOMENT`): what was not done is done by the next maintenance. One process does it at a
time. Tables that are divided in another way, hypertables among them, are left alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.divided import AHEAD, Divided, Partition, end_of, partition_name, read_divided, start_of
from eventrec_handlers.postgres.errors import brief, is_about_table, state
from eventrec_handlers.postgres.maintained import Maintained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec import PartitionUnit
    from eventrec_handlers.postgres.checkpoints import Namespace

LOCK_MOMENT: Final = 200
"""Milliseconds that a lock is waited for, at most: others wait behind us meanwhile."""

MAX_MOVED: Final = 100_000
"""Rows of a partition to be that are moved while the DEFAULT one is written to: writers wait for that."""

MAX_MADE: Final = 400
"""Partitions made by one maintenance, at most: the rest of a large DEFAULT partition is moved by the next."""

_FIRST_DAY: Final = datetime(1900, 1, 1, tzinfo=UTC)
"""Rows of earlier days stay where they are."""

_OTHERS_USE_IT: Final = ("55P03", "57014")
"""What is met at one old partition, and then at each: the table itself is locked."""


class TimePartitions:
    """Maintains the partitions of `table`, on a connection that is given and in no transaction.

    `kept` is how long rows are kept; None: for ever. `ahead` partitions are made after the present one.
    """

    def __init__(
        self,
        namespace: Namespace,
        table: str,
        unit: PartitionUnit = "day",
        *,
        kept: timedelta | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self._namespace = namespace
        self._table = table
        self._unit: PartitionUnit = unit
        self._kept = kept
        self._ahead = ahead

    def kept_from(self, now: datetime) -> datetime | None:
        """The first day whose rows are kept; None: there is none before which any is dropped."""
        return None if self._kept is None else start_of("day", now - self._kept)

    async def maintain(
        self,
        connection: asyncpg.Connection,
        *,
        now: datetime,
        why_kept: Callable[[datetime], Awaitable[str | None]] | None = None,
    ) -> Maintained:
        """Make what is to come, move what strayed, drop what is too old.

        What the server refuses of one partition is said, and the others are maintained all the same.

        `why_kept(end)` is asked inside the transaction that drops what is before `end`, when no writer of the table is
        left: what it gives is a reason not to.
        """
        divided = await read_divided(connection, self._namespace, self._table)
        if divided is None:
            return Maintained()
        report = Maintained()
        try:
            try:
                await self._make(connection, divided, report, now=now)
            except asyncpg.PostgresError as exc:
                await self._leave(connection, exc, report, f"table {self._table!r}: no partitions were made")
            await self._drop(connection, report, now=now, why_kept=why_kept)
        except _BusyError:
            report.left += (f"table {self._table!r}: another process maintains it",)
        return report

    # -- making and moving

    async def _make(
        self, connection: asyncpg.Connection, divided: Divided, report: Maintained, *, now: datetime
    ) -> None:
        present = last = start_of(self._unit, now)
        starts = {present}
        for _ in range(self._ahead):
            last = end_of(self._unit, last)
            starts.add(last)
        if (default := divided.default) is not None:
            starts |= await self._strayed(
                connection, default, divided.column, first=self.kept_from(now), end=end_of(self._unit, last)
            )
        # What is written to now comes first.
        lacking = (start for start in starts if not divided.covers(start, end_of(self._unit, start)))
        has_writers = False
        not_made: dict[str, list[str]] = {}
        for start in sorted(lacking, key=lambda start: abs(start - present))[:MAX_MADE]:
            try:
                if default is not None and (has_writers or start == present):
                    number = await self._count_strayed(connection, default, divided.column, start)
                    if number > MAX_MOVED:
                        has_writers = True
                        report.left += (_said_not_made(start, self._unit, default),)
                        continue
                await self._make_one(connection, divided, start, report)
            except asyncpg.PostgresError as exc:
                await self._give_up(connection, exc)
                not_made.setdefault(brief(exc), []).append(f"{start:%Y-%m-%d}")
        report.left += tuple(_said_refused(starts, error) for error, starts in not_made.items())

    async def _strayed(
        self,
        connection: asyncpg.Connection,
        default: Partition,
        column: str,
        *,
        first: datetime | None,
        end: datetime,
    ) -> set[datetime]:
        """The days, weeks or months from `first` to `end` of which `default` has rows."""
        async with connection.transaction(isolation="read_committed"):
            rows = await connection.fetch(
                f"SELECT DISTINCT date_trunc('{self._unit}', {quoted(column)}, 'UTC') FROM {default.quoted}"  # noqa: S608 - quoted
                f" WHERE {quoted(column)} >= $1 AND {quoted(column)} < $2",
                max(first or _FIRST_DAY, _FIRST_DAY),
                end,
            )
        return {row[0] for row in rows}

    async def _count_strayed(
        self, connection: asyncpg.Connection, default: Partition, column: str, start: datetime
    ) -> int:
        """How many rows `default` has of the day, week or month from `start` on; `MAX_MOVED` and one: more."""
        async with connection.transaction(isolation="read_committed"):
            found: int = await connection.fetchval(
                f"SELECT count(*) FROM (SELECT FROM {default.quoted} WHERE {quoted(column)} >= $1"  # noqa: S608 - quoted
                f" AND {quoted(column)} < $2 LIMIT {MAX_MOVED + 1}) AS strayed",
                start,
                end_of(self._unit, start),
            )
        return found

    async def _make_one(
        self, connection: asyncpg.Connection, divided: Divided, start: datetime, report: Maintained
    ) -> None:
        name = partition_name(self._table, start, longest=self._namespace.longest_name)
        part, parent = self._namespace.named(name), self._namespace.named(self._table)
        first, last = _literal(start), _literal(end_of(self._unit, start))
        moved = 0
        await self._begin(connection)
        # Made apart: to make it as a partition at once would lock the table.
        await connection.execute(
            f"CREATE TABLE {part} (LIKE {parent} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY"
            " EXCLUDING STATISTICS)"
        )
        if (default := divided.default) is not None:
            inside = f"{quoted(divided.column)} >= {first} AND {quoted(divided.column)} < {last}"
            await connection.execute(f"LOCK TABLE {default.quoted} IN ACCESS EXCLUSIVE MODE")
            columns = await self._written_columns(connection)
            # A published table without a key refuses a DELETE, also of nothing.
            if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {default.quoted} WHERE {inside})"):  # noqa: S608 - quoted
                status = await connection.execute(
                    f"WITH strayed AS (DELETE FROM {default.quoted} WHERE {inside} RETURNING {columns})"  # noqa: S608 - quoted
                    f" INSERT INTO {part} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM strayed"
                )
                moved = int(status.split()[-1])
        await connection.execute(f"ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ({first}) TO ({last})")
        await connection.execute("COMMIT")
        report.made += (name,)
        report.moved += moved

    async def _written_columns(self, connection: asyncpg.Connection) -> str:
        rows = await connection.fetch(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            self._namespace.named(self._table),
        )
        return ", ".join(quoted(row[0]) for row in rows)

    # -- dropping

    async def _drop(
        self,
        connection: asyncpg.Connection,
        report: Maintained,
        *,
        now: datetime,
        why_kept: Callable[[datetime], Awaitable[str | None]] | None,
    ) -> None:
        kept_from = self.kept_from(now)
        divided = await read_divided(connection, self._namespace, self._table)
        if kept_from is None or divided is None:
            return
        old = sorted((part.end, part.name, part) for part in divided.partitions if part.end and part.end <= kept_from)
        for end, name, part in old:
            try:
                await self._begin(connection)
                await connection.execute(f"LOCK TABLE {self._namespace.named(self._table)} IN ACCESS EXCLUSIVE MODE")
                if why_kept is not None and (reason := await why_kept(end)) is not None:
                    await connection.execute("ROLLBACK")
                    report.left += (f"partition {name!r}: {reason}",)
                    return  # those after it are younger: they go when this one has gone
                await connection.execute(f"DROP TABLE {part.quoted}")
                await connection.execute("COMMIT")
                report.dropped += (name,)
            except asyncpg.PostgresError as exc:
                await self._leave(connection, exc, report, f"partition {name!r} was not dropped")
                if state(exc).startswith(_OTHERS_USE_IT):
                    return
        if (default := divided.default) is not None:
            await self._delete_late(connection, divided, default, kept_from, report, why_kept=why_kept)

    async def _delete_late(
        self,
        connection: asyncpg.Connection,
        divided: Divided,
        default: Partition,
        kept_from: datetime,
        report: Maintained,
        *,
        why_kept: Callable[[datetime], Awaitable[str | None]] | None,
    ) -> None:
        """Delete what the DEFAULT partition has of days that are not kept."""
        old = f"{quoted(divided.column)} < {_literal(kept_from)}"
        try:
            await self._begin(connection)
            if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {default.quoted} WHERE {old})"):  # noqa: S608
                # Those that write there now would be missed by `why_kept`.
                await connection.execute(f"LOCK TABLE {default.quoted} IN SHARE ROW EXCLUSIVE MODE")
                if why_kept is not None and (reason := await why_kept(kept_from)) is not None:
                    report.left += (f"partition {default.name!r}: {reason}",)
                else:
                    status = await connection.execute(f"DELETE FROM {default.quoted} WHERE {old}")  # noqa: S608
                    report.too_late += int(status.split()[-1])
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as exc:
            await self._leave(connection, exc, report, f"old rows of partition {default.name!r} were not deleted")

    # -- transactions

    async def _begin(self, connection: asyncpg.Connection) -> None:
        await connection.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {LOCK_MOMENT};"
            " SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"
        )
        if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({self._lock})"):
            await connection.execute("ROLLBACK")
            raise _BusyError

    async def _leave(
        self, connection: asyncpg.Connection, exc: asyncpg.PostgresError, report: Maintained, what: str
    ) -> None:
        """Note that something was not done, and why.

        Raises:
            asyncpg.PostgresError: The server does not answer any more.
        """
        await self._give_up(connection, exc)
        report.left += (f"{what}: {brief(exc)}",)

    async def _give_up(self, connection: asyncpg.Connection, exc: asyncpg.PostgresError) -> None:
        if not is_about_table(exc, connection):
            raise exc
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")

    @property
    def _lock(self) -> int:
        """The number of the advisory lock: one process maintains a table."""
        said = f"eventrec partitions {self._namespace.namespace} {self._table}"
        return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), signed=True)


class _BusyError(Exception):
    """Another process maintains the table."""


def _said_not_made(start: datetime, unit: PartitionUnit, default: Partition) -> str:
    return (
        f"the partition of {start:%Y-%m-%d} is not made before the present {unit} is over:"
        f" {default.name!r} has over {MAX_MOVED:,} rows of it, and is written to"
    )


def _said_refused(starts: list[str], error: str) -> str:
    first, *more = starts
    if not more:
        return f"the partition of {first} was not made: {error}"
    return f"the partition of {first}, and {len(more)} more, were not made: {error}"


def _literal(moment: datetime) -> str:
    return f"{literal(moment.astimezone(UTC).isoformat())}::timestamptz"
