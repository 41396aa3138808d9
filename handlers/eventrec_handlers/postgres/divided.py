"""What a table is divided into: its partitions by time, what they are called, and where they begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import fitting, quoted
from eventrec_handlers.postgres.checkpoints import literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from eventrec import PartitionUnit
    from eventrec_handlers.postgres.checkpoints import Namespace

AHEAD: Final = 7
"""Partitions after the present one that are made."""

_DEFAULT: Final = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a table: rows from `start` on, before `end`; None and None: the DEFAULT one.

    `start` alone None: from the beginning of time; `end` alone: to its end.
    """

    name: str
    schema: str
    start: datetime | None
    end: datetime | None
    is_default: bool

    @property
    def quoted(self) -> str:
        """It in SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class Divided:
    """A table that is divided by ranges of one column of type timestamptz.

    Attributes:
        name: Its name.
        column: The column.
        partitions: What it is divided into.
    """

    name: str
    column: str
    partitions: tuple[Partition, ...]

    @property
    def default(self) -> Partition | None:
        """The partition for what fits in no other."""
        return next((part for part in self.partitions if part.is_default), None)

    def covers(self, start: datetime, end: datetime) -> bool:
        """Whether a partition has rows from `start` to `end`, all or a part of them."""
        return any(
            (part.start is None or part.start < end) and (part.end is None or part.end > start)
            for part in self.partitions
            if not part.is_default
        )


def start_of(unit: PartitionUnit, moment: datetime) -> datetime:
    """The beginning of its day, week or month, UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def end_of(unit: PartitionUnit, start: datetime) -> datetime:
    """Where the day, week or month that begins at `start` ends."""
    return start_of(unit, start + _LONGER[unit])


_LONGER: Final[Mapping[PartitionUnit, timedelta]] = {
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=32),
}


def partition_name(table: str, start: datetime, *, longest: int) -> str:
    """What the partition from `start` on is called: cut where it is too long, and then told apart by a checksum."""
    return fitting(table, f"_p{start:%Y%m%d}", longest)


def default_partition(namespace: Namespace, table: str) -> str:
    """The statement that makes the DEFAULT partition of `table`, if there is none under its name."""
    name = fitting(table, "_default", namespace.longest_name)
    return f"CREATE TABLE IF NOT EXISTS {namespace.named(name)} PARTITION OF {namespace.named(table)} DEFAULT"


def partitions_ahead(namespace: Namespace, table: str, unit: PartitionUnit, *, ahead: int = AHEAD) -> str:
    """The statement that makes the partition of the present, and `ahead` more, where the server's clock says that is.

    It may be repeated. A partition that cannot be made is left to maintenance: another one has some of its time, or the
    DEFAULT one has rows of it.
    """
    parent = namespace.named(table)
    schema = parent.removesuffix(quoted(table))
    stem = partition_name(table, datetime(2000, 1, 1, tzinfo=UTC), longest=namespace.longest_name)[: -len("20000101")]
    body = f"""
DECLARE since timestamp; until timestamp;
BEGIN
    FOR n IN 0..{ahead} LOOP
        since := date_trunc('{unit}', now() AT TIME ZONE 'UTC') + n * interval '1 {unit}';
        until := since + interval '1 {unit}';
        BEGIN
            EXECUTE 'CREATE TABLE IF NOT EXISTS ' || {literal(schema)}
                || quote_ident({literal(stem)} || to_char(since, 'YYYYMMDD')) || ' PARTITION OF ' || {literal(parent)}
                || to_char(since, '" FOR VALUES FROM (''"YYYY-MM-DD" 00:00+00'')"')
                || to_char(until, '" TO (''"YYYY-MM-DD" 00:00+00'')"');
        EXCEPTION WHEN check_violation OR invalid_object_definition OR duplicate_table THEN NULL;
        END;
    END LOOP;
END
"""
    tag = "$do$"
    while tag in body:
        tag = f"$o{tag[1:]}"
    return f"DO {tag}{body}{tag}"


async def read_divided(connection: asyncpg.Connection, namespace: Namespace, table: str) -> Divided | None:
    """How `table` is divided; None: not by ranges of one timestamptz, or there is no such table."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")
        rows = await connection.fetch(
            "SELECT a.attname::text AS column, i.relname::text AS part, n.nspname::text AS schema,"
            " pg_get_expr(i.relpartbound, i.oid) AS bound FROM pg_partitioned_table p"
            " JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]"
            " LEFT JOIN pg_inherits h ON h.inhparent = p.partrelid LEFT JOIN pg_class i ON i.oid = h.inhrelid"
            " LEFT JOIN pg_namespace n ON n.oid = i.relnamespace"
            " WHERE p.partrelid = to_regclass($1) AND p.partstrat = 'r' AND p.partnatts = 1"
            " AND a.atttypid = 'timestamptz'::regtype ORDER BY 2",
            namespace.named(table),
        )
        if not rows:
            return None
        parts = [
            Partition(row["part"], row["schema"], *_bounds(row["bound"]), is_default=row["bound"] == _DEFAULT)
            for row in rows
            if row["part"] is not None
        ]
    return Divided(table, rows[0]["column"], tuple(parts))


def _bounds(said: str) -> tuple[datetime | None, datetime | None]:
    """`FOR VALUES FROM ('2026-01-05 00:00:00+00') TO (MAXVALUE)`; None for one that Python cannot hold."""
    if said == _DEFAULT:
        return None, None
    first, _, second = said.removeprefix("FOR VALUES FROM (").removesuffix(")").partition(") TO (")
    return _moment(first), _moment(second)


def _moment(said: str) -> datetime | None:
    try:
        return datetime.fromisoformat(said.strip("'"))
    except ValueError:
        return None
