"""Indexes that a migration makes CONCURRENTLY: what a killed one left, and tables with partitions.

PostgreSQL makes none so on a table with partitions. There each partition gets its own, while writers go on; then the
one of the table takes these as its parts, in a moment. Partitions that have such an index already keep it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import fitting, quoted
from eventrec_handlers.postgres.migration_checks import GAP

if TYPE_CHECKING:
    from typing import Self

    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

_NAME: Final = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_INDEX: Final = re.compile(
    rf"{GAP}*CREATE{GAP}+(?P<unique>UNIQUE{GAP}+)?INDEX{GAP}+CONCURRENTLY{GAP}+"
    rf"(?P<tolerant>IF{GAP}+NOT{GAP}+EXISTS{GAP}+)?(?P<name>{_NAME}){GAP}+ON{GAP}+(?P<only>ONLY{GAP}+)?"
    rf"(?P<table>{_NAME}(?:\s*\.\s*{_NAME})?){GAP}*(?P<rest>(?:\(|USING\b).*)",
    re.IGNORECASE | re.DOTALL,
)

# What `pg_get_indexdef` says of index `x`, `i` behind the name of its table `t` in schema `n`.
_SHAPE: Final = (
    "i.indisunique || substr(pg_get_indexdef(x.oid), 1 + length(format('CREATE %sINDEX %I ON %s%I.%I ',"
    " CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname,"
    " CASE x.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname)))"
)
_TRIAL: Final = "eventrec_trial_index"
_INDEXES: Final = (
    "pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
    " JOIN pg_namespace n ON n.oid = t.relnamespace"
)


@dataclass(frozen=True, slots=True)
class ConcurrentIndex:
    """A statement that makes an index CONCURRENTLY, in its parts; all but `name` as they stand in it.

    Attributes:
        name: What the index is called.
        table: Its table.
        rest: What stands behind that: columns and options.
        unique: "UNIQUE ", or nothing.
        is_tolerant: Whether one that is there already will do.
        is_whole: Whether it is also for the partitions of the table.
    """

    name: str
    table: str
    rest: str
    unique: str
    is_tolerant: bool
    is_whole: bool

    @classmethod
    def of(cls, sql: str) -> Self | None:
        """The parts of `sql`; None: it is another statement."""
        found = _INDEX.match(sql)
        if found is None:
            return None
        name = found["name"]
        return cls(
            name[1:-1].replace('""', '"') if name.startswith('"') else name.lower(),
            found["table"],
            found["rest"],
            "UNIQUE " if found["unique"] else "",
            is_tolerant=found["tolerant"] is not None,
            is_whole=found["only"] is None,
        )

    @property
    def on_table(self) -> str:
        """The statement that makes it in a transaction, of those that its partitions have."""
        unless = "IF NOT EXISTS " if self.is_tolerant else ""
        return f"CREATE {self.unique}INDEX {unless}{quoted(self.name)} ON {self.table} {self.rest}"

    def on_partition(self, name: str, partition: str) -> str:
        """The statement that makes that of one partition, in no transaction."""
        return f"CREATE {self.unique}INDEX CONCURRENTLY IF NOT EXISTS {quoted(name)} ON {partition} {self.rest}"


async def drop_invalid_index(connection: asyncpg.Connection, schema: str, name: str) -> None:
    """Drop what a `CREATE INDEX CONCURRENTLY` of `name` that was killed leaves behind: an index that is not used."""
    is_left = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname::text = $1 AND c.relname::text = $2 AND NOT i.indisvalid"
        " AND c.relkind = 'i')",
        schema,
        name,
    )
    if is_left:
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(schema)}.{quoted(name)}")


async def has_partitions(connection: asyncpg.Connection, index: ConcurrentIndex) -> bool:
    """Whether the table of `index` is one on which PostgreSQL does not make it CONCURRENTLY."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p')", index.table
    )
    return found and index.is_whole


async def shape_to_make(connection: asyncpg.Connection, index: ConcurrentIndex) -> str | None:
    """How the server describes `index`, inside a transaction; None: its table has one that will do.

    Where the statement says IF NOT EXISTS, one will do that has its name, or differs in nothing but that. Only the
    server can tell what the statement means: it is made of the table alone, and dropped again.
    """
    name = _TRIAL if index.is_tolerant else index.name
    await connection.execute(f"CREATE {index.unique}INDEX {quoted(name)} ON ONLY {index.table} {index.rest}")
    there = await connection.fetch(
        f"SELECT x.relname::text, x.oid::regclass::text, {_SHAPE}, i.indisvalid FROM {_INDEXES}"  # noqa: S608 - constants
        " WHERE i.indrelid = to_regclass($1) ORDER BY x.relname <> $2",
        index.table,
        name,
    )
    (_, trial, shape, _), *others = there
    await connection.execute(f"DROP INDEX {trial}")
    if index.is_tolerant and any(each[0] == index.name or (each[3] and each[2] == shape) for each in others):
        return None
    return str(shape)


async def index_partitions(
    connection: asyncpg.Connection, namespace: Namespace, index: ConcurrentIndex, shape: str
) -> None:
    """Make `index` of each partition that has none of this `shape`, in no transaction, while writers go on."""
    lacking = await connection.fetch(
        "SELECT n.nspname::text, c.relname::text FROM pg_partition_tree(to_regclass($1)) part"  # noqa: S608 - constants
        " JOIN pg_class c ON c.oid = part.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
        # One that is part of another index of a table above cannot be made part of this one.
        " WHERE part.isleaf AND c.relkind = 'r' AND NOT EXISTS (SELECT FROM"
        f" pg_partition_ancestors(part.relid) above JOIN ({_INDEXES}) ON i.indrelid = above.relid"
        f" WHERE above.relid <> to_regclass($1) AND i.indisvalid AND NOT x.relispartition AND {_SHAPE} = $2)"
        " ORDER BY 1, 2",
        index.table,
        shape,
    )
    for schema, partition in lacking:
        name = fitting(f"{partition}_{index.name}", "", namespace.longest_name)
        await drop_invalid_index(connection, schema, name)
        await connection.execute(index.on_partition(name, f"{quoted(schema)}.{quoted(partition)}"))
