"""What we keep at the destination ourselves: how far each log is, and who the destination is.

    eventrec_checkpoints   log_id, subscription, next, retired_at: one row for each log and subscription
    eventrec_destination   id: one row, made once
    eventrec_layouts       table_name, layout: one row for each table with a layout (`kept_layouts.py`)
    eventrec_seen          table_name, id, seen_at: ids of records in tables that do not hold them (`seen.py`)

Every statement is of the simple protocol, or runs in a transaction: so a pooler may stand between.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from eventrec import PauseError
from eventrec_handlers._sql import LAYOUTS, SEEN, quoted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from uuid import UUID

    import asyncpg

    from eventrec import Batch

RETIRED_KEPT: Final = "30 days"
"""How long the row of a finished log still answers `resume`."""

_TEMPORARY: Final = "pg_temp"
"""How the names of schemas of temporary tables begin."""

_TABLE_KINDS: Final = ("r", "p")

CHECKPOINTS: Final = "eventrec_checkpoints"
DESTINATION: Final = "eventrec_destination"

_OWN: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    CHECKPOINTS: {
        "log_id": ("uuid",),
        "subscription": ("text", "varchar"),
        "next": ("int8", "int4"),
        "retired_at": ("timestamptz", "timestamp"),
    },
    DESTINATION: {"id": ("uuid", "text", "varchar")},
    LAYOUTS: {"table_name": ("text", "varchar"), "layout": ("text", "varchar", "json", "jsonb")},
    SEEN: {"table_name": ("text", "varchar"), "id": ("uuid",), "seen_at": ("timestamptz",)},
}
"""Our own tables, and what each column may be: the first is what we make it."""

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    CHECKPOINTS: ("log_id", "subscription"),
    LAYOUTS: ("table_name",),
    SEEN: ("table_name", "id"),
}
"""Columns of which no two rows may have the same values: without that, they may say different things."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The schema (PostgreSQL's word for a folder of tables) that our tables are in, and how its server is set.

    Attributes:
        namespace: The name of the schema.
        longest_name: Bytes that a name may have.
        lock_timeout: Milliseconds to wait for a table.
        commit: What a commit waits for, as PostgreSQL's `synchronous_commit` says it: the disk at least.
    """

    namespace: str
    longest_name: int
    lock_timeout: int
    commit: str = "on"

    def named(self, table: str) -> str:
        """`table`, quoted and with its schema."""
        return f"{quoted(self.namespace)}.{quoted(table)}"

    @property
    def key(self) -> int:
        """The number of the advisory lock under which tables are made here."""
        return int.from_bytes(blake2b(f"eventrec {self.namespace}".encode(), digest_size=8).digest(), signed=True)


def literal(value: str) -> str:
    """`value` as a literal of PostgreSQL, whatever it holds (but NUL) and however the server is set."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@asynccontextmanager
async def creating(connection: asyncpg.Connection, namespace: Namespace) -> AsyncIterator[None]:
    """A short transaction in which no other session makes tables here. After an error it is left to roll back."""
    await connection.execute(
        f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {namespace.lock_timeout};"
        f" SELECT pg_advisory_xact_lock({namespace.key})"
    )
    yield
    await connection.execute("COMMIT")


async def is_made(connection: asyncpg.Connection, namespace: Namespace, table: str) -> bool:
    """Whether something has the name `table`, as of this statement.

    `to_regclass` answers from before a lock that the transaction has waited for: it asks a cache, and that is not told
    of what others made meanwhile until a table is read.
    """
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname::text = $1 AND c.relname::text = $2)",
        namespace.namespace,
        table,
    )
    return found


# -- the namespace --------------------------------------------------------------------------------------------------


async def find_namespace(
    connection: asyncpg.Connection, schema_name: str | None, *, lock_timeout: int, may_make: bool
) -> Namespace:
    """Where our tables are: in `schema_name`, else where unqualified names go. What is missing of our own two is made.

    `may_make`: a namespace that is not there is made too.

    Raises:
        PauseError: There is no such schema, or another program's table has the name of one of our own.
    """
    async with connection.transaction(isolation="read_committed"):
        name, longest, commit, exists, own = await connection.fetchrow(
            "WITH here AS (SELECT coalesce($1::text, current_schema()::text) AS name)"
            " SELECT name, current_setting('max_identifier_length')::int, current_setting('synchronous_commit'),"
            " EXISTS (SELECT FROM pg_namespace WHERE nspname::text = name),"
            " (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname::text = name AND c.relname::text IN ($2, $3))"
            " FROM here",
            schema_name,
            CHECKPOINTS,
            DESTINATION,
        )
    if name is None:
        raise PauseError("no schema of the search path exists, and no namespace is given")
    if name.startswith(_TEMPORARY):
        raise PauseError(f"the namespace {name!r} is one of temporary tables: they go with the connection")
    if len(name.encode()) > longest:
        raise PauseError(f"the namespace {name!r} has more than {longest} bytes")
    if not exists and not may_make:
        raise PauseError(f"there is no schema {name!r}")
    # To wait for the replicas too is more; everything else would be less.
    namespace = Namespace(name, longest, lock_timeout, commit if commit == "remote_apply" else "on")
    # Looked for before: who may not make tables may still use those that are there.
    if own < 2:  # noqa: PLR2004 - both of them
        async with creating(connection, namespace):
            if not exists:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(name)}")
            for own_name in ALWAYS:
                await make_own(connection, namespace, own_name)
    await _check_own(connection, namespace)
    return namespace


async def _check_own(connection: asyncpg.Connection, namespace: Namespace) -> None:
    """Check that those of our own tables that are there are what we made, or as good.

    Raises:
        PauseError: One is another program's.
    """
    async with connection.transaction(isolation="read_committed"):
        found = await connection.fetch(
            "SELECT c.relname::text AS name, c.relkind::text AS kind, a.attname::text AS column,"
            " t.typname::text AS type,"
            " ARRAY(SELECT (SELECT string_agg(k.attname::text, ',') FROM pg_attribute k WHERE k.attrelid = c.oid"
            " AND k.attnum = ANY (i.indkey::int2[])) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique"
            " AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) AS keys"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " LEFT JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE n.nspname::text = $1 AND c.relname::text = ANY ($2::text[])",
            namespace.namespace,
            list(_OWN),
        )
    for name, columns in _OWN.items():
        mine = [row for row in found if row["name"] == name]
        if not mine:
            continue  # it is not needed yet, or was dropped just now: who needs it will notice
        types = {row["column"]: row["type"] for row in mine}
        is_table = all(row["kind"] in _TABLE_KINDS for row in mine)
        if not is_table or any(types.get(column) not in allowed for column, allowed in columns.items()):
            raise PauseError(f"{namespace.named(name)} is another program's: rename it, or give another namespace")
        key = _KEYS.get(name)
        if key is not None and not any(set(one.split(",")) == set(key) for one in mine[0]["keys"]):
            raise PauseError(f"{namespace.named(name)} has no unique key ({', '.join(key)})")


OWN_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    # Room in each page: a row that moves all the time stays in its page, and its index is left alone.
    CHECKPOINTS: (
        (
            "CREATE TABLE IF NOT EXISTS {} (log_id uuid NOT NULL, subscription text NOT NULL,"
            " next bigint NOT NULL, retired_at timestamptz, PRIMARY KEY (log_id, subscription)) WITH (fillfactor = 50)"
        ),
    ),
    DESTINATION: ("CREATE TABLE IF NOT EXISTS {} (id uuid NOT NULL)",),
    LAYOUTS: ("CREATE TABLE IF NOT EXISTS {} (table_name text PRIMARY KEY, layout text NOT NULL)",),
    SEEN: (
        (
            "CREATE TABLE IF NOT EXISTS {} (table_name text NOT NULL, id uuid NOT NULL,"
            " seen_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (table_name, id))"
        ),
        f"CREATE INDEX IF NOT EXISTS {SEEN}_seen_at_idx ON {{}} (seen_at)",
    ),
}
"""What makes each, by the handler or by a migration; `{}` stands for its name. See `rollups/tables.py` for the rest."""

ALWAYS: Final = (CHECKPOINTS, DESTINATION)
"""Those that every destination has; the others are made when they are needed."""


async def make_own(connection: asyncpg.Connection, namespace: Namespace, name: str) -> None:
    """Make `name` of our own tables, where it is missing; in the transaction of `creating`."""
    for sql in OWN_TABLES[name]:
        await connection.execute(sql.format(namespace.named(name)))


async def destination_id(connection: asyncpg.Connection, namespace: Namespace) -> str:
    """The id of the destination; made under the lock, if there is none."""
    # Of several rows always the same one, whatever the order in which they stand.
    select = f"SELECT min(id::text) FROM {namespace.named(DESTINATION)}"  # noqa: S608 - quoted
    async with connection.transaction(isolation="read_committed"):
        found: str | None = await connection.fetchval(select)
    if found is None:
        async with creating(connection, namespace):
            found = await connection.fetchval(select)
            if found is None:
                found = str(uuid4())
                await connection.execute(
                    f"INSERT INTO {namespace.named(DESTINATION)} (id) VALUES ({literal(found)})"  # noqa: S608 - quoted
                )
    return found


# -- checkpoints ------------------------------------------------------------------------------------------------------


async def resume(
    connection: asyncpg.Connection, namespace: Namespace, log_id: UUID, subscription: str, start: int
) -> int:
    """The next offset stored; where there is none, a row is made at `start`. Rows retired long ago are swept.

    Raises:
        PauseError: The row is not kept, or says what is not an offset.
    """
    table = namespace.named(CHECKPOINTS)
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(
            f"DELETE FROM {table} WHERE retired_at < now() - interval '{RETIRED_KEPT}'"  # noqa: S608 - quoted
        )
        await connection.execute(
            f"INSERT INTO {table} (log_id, subscription, next)"  # noqa: S608 - quoted
            " VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            log_id,
            subscription,
            start,
        )
        found = await next_offset(connection, namespace, log_id, subscription)
    if found is None:
        raise PauseError(f"{table} does not keep the row of {subscription!r}: see its triggers, rules and policies")
    return found


async def next_offset(
    connection: asyncpg.Connection, namespace: Namespace, log_id: UUID, subscription: str
) -> int | None:
    """The next offset stored, or None: no row. To be asked for in a transaction.

    Raises:
        PauseError: Another program has stored something else there.
    """
    found = await connection.fetch(
        f"SELECT next FROM {namespace.named(CHECKPOINTS)} WHERE log_id = $1 AND subscription = $2",  # noqa: S608 - quoted
        log_id,
        subscription,
    )
    if not found:
        return None
    stands: int | None = found[0][0]
    if stands is None or stands < 0:
        raise PauseError(f"{CHECKPOINTS} holds {stands} as next of {subscription!r} in the log {log_id}")
    return stands


async def retire(
    connection: asyncpg.Connection, namespace: Namespace, log_id: UUID, subscription: str, end: int
) -> None:
    """Stamp the row as finished at `end`, or further if it is."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(
            f"INSERT INTO {namespace.named(CHECKPOINTS)} AS known"  # noqa: S608 - quoted
            " (log_id, subscription, next, retired_at) VALUES ($1, $2, $3, now())"
            " ON CONFLICT (log_id, subscription) DO UPDATE"
            " SET next = greatest(known.next, excluded.next), retired_at = excluded.retired_at",
            log_id,
            subscription,
            end,
        )


def acknowledgement(namespace: Namespace, batch: Batch, guard: str) -> str:
    """The last statement of a transaction: moves the row from the batch's start to its end, or changes none.

    `guard` is a condition more.
    """
    return (
        f"UPDATE {namespace.named(CHECKPOINTS)} SET next = {batch.end:d}, retired_at = NULL"  # noqa: S608 - quoted
        f" WHERE log_id = '{batch.log_id}' AND subscription = {literal(batch.subscription)}"
        f" AND next = {batch.start:d} AND {guard}"
    )
