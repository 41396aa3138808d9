"""What a migration looks at first: statements that cannot run, records of other programs, tables of other kinds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec.analytics import EarlierMigrations, MigrationError
from eventrec_handlers.postgres.catalog import read_tables
from eventrec_handlers.postgres.rollups.registry import is_another

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec_handlers.postgres.checkpoints import Namespace

_WHOLE: Final = ("bigint", "integer", "smallint")
GAP: Final = r"(?:\s|--[^\n]*\n|/\*.*?\*/)"
"""What may stand before and within a statement, as an expression for `re.DOTALL`: a space, or a remark."""

_GAPS: Final = re.compile(f"{GAP}*", re.DOTALL)
_CLIENTS: Final = re.compile(r"COPY\b.*\b(?:FROM\s+STDIN|TO\s+STDOUT)\b", re.IGNORECASE | re.DOTALL)
_UNNAMED: Final = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+ON\b", re.IGNORECASE)


def refuse_statement(sql: str) -> None:
    """Refuse what a migration cannot run, or not once more after it was killed.

    Raises:
        MigrationError: Why.
    """
    start = _GAPS.match(sql)
    begins = sql[start.end() :] if start is not None else sql
    if _CLIENTS.match(begins):
        raise MigrationError("COPY from or to a client is not for a migration: use INSERT, or a file of the server")
    if _UNNAMED.match(begins):
        raise MigrationError("an index that is made CONCURRENTLY needs a name: a second run would make another one")


async def read_earlier(connection: asyncpg.Connection, namespace: Namespace) -> EarlierMigrations | None:
    """What another program has noted of its migrations; None: nothing."""
    name = EarlierMigrations.TABLE
    async with connection.transaction(isolation="read_committed", readonly=True):
        there = (await read_tables(connection, namespace, [name]))[name]
    if there.kind is None:
        return None
    is_known = there.kind == "table" and there.columns.keys() == EarlierMigrations.COLUMNS
    if not is_known or there.columns["version"] not in _WHOLE or there.columns["name"] != "text":
        return EarlierMigrations(None)
    try:
        rows = await connection.fetch(f"SELECT version, name FROM {namespace.named(name)} ORDER BY version")  # noqa: S608 - quoted
    except asyncpg.InsufficientPrivilegeError:
        return EarlierMigrations(None)
    return EarlierMigrations(tuple((row[0], row[1]) for row in rows))


async def refuse_hypertables(connection: asyncpg.Connection, namespace: Namespace, tables: Sequence[str]) -> None:
    """Raise MigrationError where one of `tables` is TimescaleDB's: PostgreSQL's statements do not fit it."""
    if await connection.fetchval("SELECT to_regclass('timescaledb_information.hypertables') IS NULL"):
        return
    found = await connection.fetchval(
        "SELECT min(hypertable_name::text) FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema::text = $1 AND hypertable_name::text = ANY ($2::text[])",
        namespace.namespace,
        tables,
    )
    if found is not None:
        raise MigrationError(f"table {found!r} is a hypertable of TimescaleDB: give the URL as timescale://")


async def refuse_other_rollups(connection: asyncpg.Connection, namespace: Namespace, keys: Sequence[str]) -> None:
    """Raise MigrationError where one of `keys`, of what is adopted, is a rollup whose name another table has."""
    for key in keys:
        kind, _, name = key.partition(" ")
        if kind == "rollup" and await is_another(connection, namespace, name):
            raise MigrationError(f"{key}: what has its name is not ours, and it is not touched: rename one of them")
