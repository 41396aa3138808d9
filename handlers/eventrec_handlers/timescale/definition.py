"""Whether a continuous aggregate of a rollup's name is that rollup: by its definition, as the server prints it.

What is declared is printed by the same server, from a view that is rolled back. Definitions that are alike are the
same. Others may still mean the same: a platform's own migrations wrote `event_type = 'x'` where we write something
longer. So filters in other words are tried, on events that are there and on rows made for it: where one event counts
for the one and not for the other, the aggregate is another rollup's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec

from eventrec import CatalogueError
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.hook import literal
from eventrec_handlers.timescale.ddl import aggregate
from eventrec_handlers.timescale.extension import find_extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.hook import Columns, Namespace

_TRIED: Final = 1_000
"""Events that filters are tried on: as many of the newest, and of the oldest."""

_SECONDS: Final = 5
"""That trying may take; what takes longer counts as another filter."""

_MAX_TEXTS: Final = 50
"""Constants of a filter that are tried as types of events."""

_LONGEST: Final = 300
"""Characters that are said of a definition."""

_CANNOT_TELL: Final = ("0A000", "25006", "42", "57014")
"""Views cannot be made there (a hot standby, a user who only reads), or not this one, or not in time."""

_PARTS: Final = re.compile(
    r"\A\s*SELECT\s(?P<columns>.*?)\n   FROM (?P<events>.*?)(?:\n  WHERE (?P<filter>.*?))?\n  GROUP BY (?P<by>.*)\Z",
    re.DOTALL,
)
_TEXT: Final = re.compile(r"'((?:[^']|'')*)'")
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Definition:
    """How the definition of a continuous aggregate compares with what is declared.

    Attributes:
        is_another: It counts other events.
        differs: What differs in it, in words; there may be something though it is not another.
    """

    is_another: bool = False
    differs: tuple[str, ...] = ()


async def compare_definition(
    connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns
) -> Definition:
    """Compare the continuous aggregate of `plan`. Nothing is changed; to be asked for in no transaction.

    Where that cannot be told, or there is no such aggregate, nothing differs.
    """
    select = _select(namespace, plan, columns)
    if select is None:
        return Definition()
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    try:
        extension = await find_extension(connection)
        if extension is None:
            return Definition()
        await extension.reach(connection)
        found = await connection.fetchval(
            "SELECT view_definition FROM timescaledb_information.continuous_aggregates"
            " WHERE view_schema::text = $1 AND view_name::text = $2",
            namespace.namespace,
            plan.name,
        )
        if found is None:  # there is no such aggregate
            return Definition()
        await connection.execute(f"SET LOCAL statement_timeout = {1_000 * _SECONDS}")
        view = f"eventrec_{uuid4().hex}"
        await connection.execute(f"CREATE TEMP VIEW {view} AS {select}")
        declared = await connection.fetchval(f"SELECT pg_get_viewdef('pg_temp.{view}'::regclass)")
        if _plain(found) == _plain(declared):
            return Definition()
        return await _compare(connection, namespace, plan, columns, (str(found), str(declared)))
    except asyncpg.PostgresError as exc:
        if not str(exc.sqlstate).startswith(_CANNOT_TELL):
            raise
        return Definition()
    finally:
        if not connection.is_closed():
            await transaction.rollback()


def _select(namespace: Namespace, plan: RollupPlan, columns: Columns) -> str | None:
    """What is declared; None: it cannot be a continuous aggregate, or the table lacks a field."""
    try:
        return aggregate(plan, columns, named=namespace.named)
    except CatalogueError:
        return None


async def _compare(
    connection: asyncpg.Connection,
    namespace: Namespace,
    plan: RollupPlan,
    columns: Columns,
    definitions: tuple[str, str],
) -> Definition:
    found, declared = (_PARTS.match(definition) for definition in definitions)
    if found is None or declared is None:
        return Definition(is_another=True, differs=(f"it is {_said(definitions[0])}, not {_said(definitions[1])}",))
    if _plain(found["events"]) != _plain(declared["events"]):
        said = f"it counts what is in {_said(found['events'])}, not in {_said(declared['events'])}"
        return Definition(is_another=True, differs=(said,))
    if "HAVING" in found["by"]:
        return Definition(is_another=True, differs=(f"it leaves out groups: {_said(found['by'])}",))
    differs = []
    if _plain(found["columns"]) != _plain(declared["columns"]):
        differs.append(f"it computes {_said(found['columns'])}, not {_said(declared['columns'])}")
    theirs, ours = (each["filter"] or "true" for each in (found, declared))
    if _plain(theirs) == _plain(ours):
        return Definition(differs=tuple(differs))
    if not await _tell_apart(connection, namespace, plan, columns, (theirs, ours)):
        return Definition(differs=tuple(differs))
    said = f"it counts the events with {_said(theirs)}, not those with {_said(ours)}"
    return Definition(is_another=True, differs=(said, *differs))


async def _tell_apart(
    connection: asyncpg.Connection,
    namespace: Namespace,
    plan: RollupPlan,
    columns: Columns,
    filters: tuple[str, str],
) -> bool:
    """Whether there is an event that one of the filters lets through and the other does not, or that fails."""
    table, time = namespace.named(plan.table), quoted(columns.time)
    kinds = await connection.fetch(
        "SELECT a.attname::text, t.typname::text, t.typcategory::text FROM pg_attribute a"
        " JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = to_regclass($1) AND a.attnum > 0"
        " AND NOT a.attisdropped",
        table,
    )
    types = {*(plan.types or ()), *(text.replace("''", "'") for each in filters for text in _TEXT.findall(each)), "?"}
    made = [
        msgspec.json.encode(row).decode()
        for type_ in sorted(types)[:_MAX_TEXTS]
        for row in _rows(columns, {name: (kind, family) for name, kind, family in kinds}, type_)
    ]
    first, second = filters
    rows = ", ".join(f"({literal(each)}::jsonb)" for each in made)
    try:
        async with connection.transaction():  # a savepoint: a filter may fail
            found: bool = await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM ((SELECT * FROM {table} ORDER BY {time} DESC LIMIT {_TRIED})"  # noqa: S608 - quoted
                f" UNION ALL (SELECT * FROM {table} ORDER BY {time} LIMIT {_TRIED})"
                f" UNION ALL SELECT (jsonb_populate_record(NULL::{table}, made)).* FROM (VALUES {rows}) AS rows (made))"
                f" AS {quoted(plan.table)} WHERE (({first}) IS TRUE) <> (({second}) IS TRUE))"
            )
    except asyncpg.PostgresError:
        return True
    return found


def _rows(columns: Columns, kinds: Mapping[str, tuple[str, str]], type_: str) -> Iterator[dict[str, Any]]:
    """Events of a type: with nothing but that, and with a value in every column."""
    payload = {"type": type_}
    known: dict[str, Any] = {"uuid": str(UUID(int=0)), "json": payload, "jsonb": payload, "bool": True}
    families: dict[str, Any] = {"N": 1, "S": "x"}
    least = {columns.type: type_, columns.time: "2026-01-01T00:00:00Z"}
    yield least
    yield {name: known.get(kind, families.get(family)) for name, (kind, family) in kinds.items()} | least


def _plain(definition: str) -> str:
    return _SPACE.sub(" ", definition).strip(" ;")


def _said(definition: str) -> str:
    plain = _plain(definition)
    return plain if len(plain) <= _LONGEST else plain[:_LONGEST] + "…"
