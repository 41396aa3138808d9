"""The tables of events: what they are, what they lack, and making what is missing.

DDL runs in short transactions of its own, one for each table, under an advisory lock and a lock timeout. (Measured:
concurrent CREATE … IF NOT EXISTS fails in three ways; COPY and then ALTER in one transaction deadlocks.) A transaction
that makes things waits for one table and holds no other, so it cannot deadlock with those that write.

A column is added under a lock that every reader of the table conflicts with. Behind a long report that lock is waited
for, and all who come later wait behind it. So it is waited for a moment at a time, with growing pauses.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec import TransientError
from eventrec_handlers._sql import TablePlan, plan_layout, plan_table, quoted
from eventrec_handlers.postgres.checkpoints import creating, literal
from eventrec_handlers.postgres.columns import REQUIRED
from eventrec_handlers.postgres.divided import default_partition, partitions_ahead
from eventrec_handlers.postgres.errors import brief
from eventrec_handlers.postgres.layouts import conflict, create_table, declared_as, definition, indexed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from eventrec import Layout
    from eventrec_handlers._sql import SchemaMode, Wanted
    from eventrec_handlers.postgres.checkpoints import Namespace

MAX_COLUMNS: Final = 1_600
"""PostgreSQL's own bound on the columns of a table, those included that were dropped."""

RESERVED: Final = "eventrec_"
"""What no table of an event may start with."""

LOCK_MOMENT: Final = 200
"""Milliseconds that other readers of a table may have to wait because a column is to be added."""

LONGEST_LOCK_MOMENT: Final = 1_500
"""The same, where only an automatic vacuum is in the way."""

FIRST_PAUSE: Final = 0.4
"""Seconds between the first two attempts to get that lock; then twice as long each."""

NEXT_ATTEMPTS: Final = 5.0
"""Seconds before a worker begins with that again, at least."""

_SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_KINDS: Final = {
    "v": "view",
    "m": "materialized view",
    "i": "index",
    "I": "index",
    "S": "sequence",
    "f": "foreign table",
    "c": "type",
}


def can_be_read(name: str) -> str:
    """SQL: the server can send `name`, SQL for one. In a database in SQL_ASCII a name may not be UTF-8.

    No event has such a table or column, and an answer that holds one is an error instead.
    """
    return f"(getdatabaseencoding() <> 'SQL_ASCII' OR {name}::text COLLATE \"C\" ~ {literal(_UTF8)})"


_UTF8: Final = (
    r"^(?:[\x01-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    r"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    r"|\xf4[\x80-\x8f][\x80-\xbf]{2})*$"
)


@dataclass(frozen=True, slots=True)
class Table:
    """What stands under a name: a "table", something else, or nothing (None); and the columns of a table.

    Attributes:
        kind: See above.
        oid: Its number.
        columns: Name to type, as `format_type` spells it.
        numbers: Name to number of the column, oid of its type, and the type's modifier: its length, its precision.
        dropped: How many columns it had before, which PostgreSQL still counts.
        has_row_security: Whether policies choose the rows that we may write, and COPY is therefore refused.
        limits: The columns that take so many characters and no more.
    """

    kind: str | None = None
    oid: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    dropped: int = 0
    has_row_security: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)

    def identities(self, columns: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
        """What identifies each of `columns`: table, column, type, modifier."""
        return ((self.oid, *self.numbers[name]) for name in columns)


async def read_tables(connection: asyncpg.Connection, namespace: Namespace, names: Collection[str]) -> dict[str, Table]:
    """What stands under each of `names`. To be asked for in a transaction."""
    holdable = [name for name in names if len(name.encode()) <= namespace.longest_name]
    found = await connection.fetch(
        "SELECT c.relname::text AS name, c.relkind::text AS kind, c.oid::bigint AS oid, a.attname::text AS column,"  # noqa: S608 - constants
        " a.attnum::int AS number, a.atttypid::bigint AS type, a.atttypmod::int AS modifier, a.attisdropped AS dropped,"
        " row_security_active(c.oid) AS row_security,"
        " format_type(a.atttypid, a.atttypmod) || CASE a.attgenerated WHEN '' THEN '' ELSE ' generated' END AS declared"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND {can_be_read('a.attname')}"
        f" AND {can_be_read('format_type(a.atttypid, NULL)')}"
        " WHERE n.nspname::text = $1 AND c.relname = ANY ($2::text[]::name[])"
        # A type that belongs to no table takes the name too; one that is made beside a type, an array of it, gives way.
        " UNION ALL SELECT t.typname::text, 'c', 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
        " FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
        " WHERE n.nspname::text = $1 AND t.typname = ANY ($2::text[]::name[])"
        " AND t.typrelid = 0 AND t.typcategory <> 'A' ORDER BY number",
        namespace.namespace,
        holdable,
    )
    tables = dict.fromkeys(names, Table())
    for name in holdable:
        mine = [row for row in found if row["name"] == name]
        if mine:
            columns = [row for row in mine if row["column"] is not None and not row["dropped"]]
            tables[name] = Table(
                kind=_KINDS.get(mine[0]["kind"], "table"),
                oid=mine[0]["oid"],
                columns={row["column"]: _spelled(row["declared"]) for row in columns},
                numbers={row["column"]: (row["number"], row["type"], row["modifier"]) for row in columns},
                dropped=sum(row["dropped"] is True for row in mine),
                has_row_security=mine[0]["row_security"] is True,
                limits={row["column"]: most for row in columns if (most := _limit(row["declared"])) is not None},
            )
    return tables


_VARYING: Final = re.compile(r"character varying(?:\((\d+)\))?")


def _spelled(declared: str) -> str:
    """A text of limited length takes the same fields as one that is not: see `Table.limits`."""
    return "text" if _VARYING.fullmatch(declared) else unquoted_type(declared)


def _limit(declared: str) -> int | None:
    found = _VARYING.fullmatch(declared)
    return int(found[1]) if found is not None and found[1] else None


def unquoted_type(declared: str) -> str:
    """The name of a type as `format_type` spells it where the server is not set to quote every name."""
    return re.sub(r'"([a-z][a-z0-9_]*)"', r"\1", declared)


def plan(
    table: Table,
    name: str,
    wanted: Wanted,
    namespace: Namespace,
    *,
    schema: SchemaMode,
    max_columns: int,
    layout: Layout | None = None,
) -> TablePlan:
    """What `table`, called `name`, needs before rows with the `wanted` columns fit, and what will never fit.

    `layout` says how it is made; None: as ours are.
    """
    longest = namespace.longest_name
    if name.startswith(RESERVED):
        return TablePlan(refused_table=f"names that start with {RESERVED} are reserved")
    if (size := len(name.encode())) > longest:
        return TablePlan(refused_table=f"its name has {size} bytes, and PostgreSQL holds {longest}")
    if table.kind not in (None, "table"):
        return TablePlan(refused_table=f"its name is taken: {table.kind}")
    impossible: dict[str, str] = {}
    for column, _ in wanted:
        if (size := len(column.encode())) > longest:
            impossible[column] = f"its name has {size} bytes, and PostgreSQL holds {longest}"
        elif column in _SYSTEM_COLUMNS:
            impossible[column] = "PostgreSQL has a column of this name in every table"
    there = None if table.kind is None else table.columns
    most = min(max_columns, MAX_COLUMNS - table.dropped)
    if layout is not None:
        found = _laid_out_plan(there, layout, impossible, schema=schema, max_columns=most)
    else:
        possible = [(column, kind) for column, kind in wanted if column not in impossible]
        found = plan_table(there, possible, required=REQUIRED, schema=schema, max_columns=most)
    if impossible and found.refused_table is None:
        return TablePlan(create=found.create, add=found.add, refused={**found.refused, **impossible})
    return found


def _laid_out_plan(
    there: Mapping[str, str] | None,
    layout: Layout,
    impossible: Mapping[str, str],
    *,
    schema: SchemaMode,
    max_columns: int,
) -> TablePlan:
    for column, why in impossible.items():
        return TablePlan(refused_table=f"column {column!r} of its layout: {why}")
    return plan_layout(there, layout, declared=declared_as, conflict=conflict, schema=schema, max_columns=max_columns)


def statements(
    namespace: Namespace, table: str, needs: TablePlan, layout: Layout | None = None, *, divides: bool = True
) -> Iterator[str]:
    """The statements that do what `needs` asks for. `divides`: with native partitions, where `layout` has some."""
    name = namespace.named(table)
    if layout is not None:
        yield from _layout_statements(namespace, layout, needs, divides=divides)
        return
    if needs.create is not None:
        columns = ", ".join(
            f"{quoted(column)} {declared}{' NOT NULL' * (column in REQUIRED)}" for column, declared in needs.create
        )
        yield f"CREATE TABLE {name} ({columns})"
        # The server gives it a name: one that is free, and not cut off in a way that collides.
        yield f"CREATE INDEX ON {name} (type, timestamp DESC)"
    if needs.add:
        added = ", ".join(f"ADD COLUMN {quoted(column)} {declared}" for column, declared in needs.add)
        yield f"ALTER TABLE {name} {added}"


def _layout_statements(namespace: Namespace, layout: Layout, needs: TablePlan, *, divides: bool) -> Iterator[str]:
    name = namespace.named(layout.table)
    if needs.create is not None:
        yield create_table(layout, name, divides=divides)
        if divides and layout.partition is not None:
            yield default_partition(namespace, layout.table)
            yield partitions_ahead(namespace, layout.table, layout.partition)
        for index in layout.indexes:
            yield f"CREATE INDEX IF NOT EXISTS {quoted(index.name)} {indexed(index, name)}"
    for column, declared in needs.add:
        default = layout.column(column).default
        # Rows that are there have no value, unless there is a default.
        as_declared = f"{quoted(column)} {declared}" if default is None else definition(layout.column(column))
        yield f"ALTER TABLE {name} ADD COLUMN {as_declared}"


async def make(
    connection: asyncpg.Connection,
    namespace: Namespace,
    table: str,
    shapes: Sequence[Wanted],
    *,
    schema: SchemaMode,
    max_columns: int,
    layout: Layout | None = None,
    divides: bool = True,
) -> Table:
    """Make what `table` lacks for rows of every one of `shapes`, as it stands once no other session makes anything.

    `layout` and `divides` are as for `statements`.

    Raises:
        TransientError: Other sessions use the table, for as long as a lock is waited for. Nothing was made.
        asyncpg.PostgresError: What else the server says. Nothing was made, but the transaction may be open.
    """
    clock = asyncio.get_running_loop().time
    end, pause, moment = clock() + namespace.lock_timeout / 1_000, FIRST_PAUSE, LOCK_MOMENT
    while True:
        try:
            return await _make(
                connection,
                namespace,
                table,
                shapes,
                schema=schema,
                max_columns=max_columns,
                moment=moment,
                layout=layout,
                divides=divides,
            )
        except asyncpg.LockNotAvailableError as exc:
            if (left := end - clock()) <= 0:
                raise TransientError(
                    f"table {table!r} cannot be changed while others use it: {brief(exc)}",
                    retry_after=min(NEXT_ATTEMPTS, namespace.lock_timeout / 1_000),
                ) from exc
        await connection.execute("ROLLBACK")
        await asyncio.sleep(min(pause, left))
        pause *= 2
        moment = await lock_moment(connection, namespace, table)


async def lock_moment(connection: asyncpg.Connection, namespace: Namespace, table: str) -> int:
    """Milliseconds to wait for the lock of `table` that was not to be had.

    Behind an automatic vacuum, and nothing else, it is longer: the server ends that one for a session that has waited
    as long as `deadlock_timeout`, and else it may take hours.
    """
    async with connection.transaction(isolation="read_committed"):
        found = await connection.fetchrow(
            "SELECT count(*), count(v.pid), (SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout')"
            " FROM pg_locks l LEFT JOIN pg_stat_progress_vacuum v ON v.pid = l.pid"
            " WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND l.relation = to_regclass($1)",
            namespace.named(table),
        )
    holders, vacuums, deadlock_timeout = map(int, found)
    if vacuums and holders == vacuums:
        return max(LOCK_MOMENT, min(deadlock_timeout + LOCK_MOMENT, LONGEST_LOCK_MOMENT))
    return LOCK_MOMENT


async def _make(
    connection: asyncpg.Connection,
    namespace: Namespace,
    table: str,
    shapes: Sequence[Wanted],
    *,
    schema: SchemaMode,
    max_columns: int,
    moment: int,
    layout: Layout | None,
    divides: bool,
) -> Table:
    async with creating(connection, namespace):
        for wanted in shapes:
            found = (await read_tables(connection, namespace, [table]))[table]
            needs = plan(found, table, wanted, namespace, schema=schema, max_columns=max_columns, layout=layout)
            if needs.add:
                await connection.execute(f"SET LOCAL lock_timeout = {min(moment, namespace.lock_timeout)}")
            for statement in statements(namespace, table, needs, layout, divides=divides):
                await connection.execute(statement)
        return (await read_tables(connection, namespace, [table]))[table]
