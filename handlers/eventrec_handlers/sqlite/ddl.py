"""What migrations make in a SQLite file, as SQL: the same declaration gives the same text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics import (
    Declaration,
    MigrationError,
    Phase,
    Statement,
    Steps,
    added_columns,
    canonical_json,
    plan_of,
    tables_of_events,
)
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers.sqlite.columns import BASE_DECLARED, REQUIRED, STORED
from eventrec_handlers.sqlite.file import is_reserved, read_table
from eventrec_handlers.sqlite.own_tables import OWN_TABLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.analytics import Declarations

_OWN: Final = "own"
_EVENTS: Final = "events"
_INDEX: Final = "index"


def declared(catalogue: Declarations) -> list[Declaration]:
    """Everything that `catalogue` declares.

    Raises:
        MigrationError: A table has a name that is reserved.
    """
    return [*_own(), *_events(catalogue), *_indexes(catalogue)]


def _own() -> Iterator[Declaration]:
    for name in OWN_TABLES:
        yield Declaration(f"{_OWN} {name}", Phase.PRE, canonical_json({"version": 1}))


def _events(catalogue: Declarations) -> Iterator[Declaration]:
    for table, columns in tables_of_events(catalogue).items():
        if is_reserved(table):
            raise MigrationError(f"table {table!r}: names that start with sqlite_ or eventrec_ are reserved")
        wanted = [*BASE_DECLARED.items(), *((column.name, STORED[column.type][0]) for column in columns)]
        yield Declaration(f"{_EVENTS} {table}", Phase.PRE, canonical_json({"table": table, "columns": wanted}))


def _indexes(catalogue: Declarations) -> Iterator[Declaration]:
    """For tables of ours with a rollup of any event: its time is looked up without a type, which theirs begins with."""
    of_any = {plan.table for plan in map(plan_of, catalogue.rollups) if plan.types is None}
    for table in tables_of_events(catalogue):
        if table in of_any:
            yield Declaration(f"{_INDEX} {table}", Phase.POST, canonical_json({"table": table}))


def steps(declaration: Declaration, before: str | None) -> Steps:
    """What makes `declaration` true where `before` was declared.

    Raises:
        MigrationError: That cannot be.
    """
    content, old = json.loads(declaration.content), None if before is None else json.loads(before)
    kind, _, name = declaration.key.partition(" ")
    match kind:
        case "own":
            return Steps((Statement(OWN_TABLES[name]),))
        case "index":
            index, table = quoted(_time_index(name)), quoted(name)
            return Steps(
                (Statement(f"CREATE INDEX IF NOT EXISTS {index} ON {table} (timestamp)"),),
                (Statement(f"DROP INDEX IF EXISTS {index}"),),
            )
        case _:
            return _event_table(content, old)


def _time_index(table: str) -> str:
    return f"eventrec_{table}_timestamp"


def _event_table(content: Mapping[str, Any], before: Mapping[str, Any] | None) -> Steps:
    """Deletes nothing on its way back: there is none."""
    table = content["table"]
    name = quoted(table)
    if before is not None:
        added = added_columns(table, before["columns"], content["columns"])
        return Steps(tuple(_add(name, column, declared) for column, declared in added.items()))
    columns = ", ".join(
        f"{quoted(column)} {declared}{' NOT NULL' * (column in REQUIRED)}" for column, declared in content["columns"]
    )
    index = quoted(f"eventrec_{table}_type_timestamp")
    return Steps(
        (
            Statement(f"CREATE TABLE IF NOT EXISTS {name} ({columns})"),
            Statement(f"CREATE INDEX IF NOT EXISTS {index} ON {name} (type, timestamp DESC)"),
        )
    )


def _add(name: str, column: str, declared: str) -> Statement:
    return Statement(f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {declared}")


def differences(connection: sqlite3.Connection, declaration: Declaration) -> list[str] | None:
    """How what is there differs from `declaration`, in words; None: it is not there."""
    content = json.loads(declaration.content)
    kind, _, name = declaration.key.partition(" ")
    found = read_table(connection, _time_index(name) if kind == _INDEX else name)
    if found.kind is None:
        return None
    if kind == _INDEX:
        return [] if found.kind == "index" else [f"it is a {found.kind}"]
    if found.kind != "table" or found.columns is None:
        return [f"it is a {found.kind}"]
    return [] if kind == _OWN else list(_column_differences(found.columns, content["columns"]))


def _column_differences(there: Mapping[str, str], wanted: Sequence[tuple[str, str]]) -> Iterator[str]:
    known = {fold_ascii(name): (name, declared) for name, declared in there.items()}
    for name, declared in wanted:
        found = known.pop(fold_ascii(name), None)
        if found is None:
            yield f"it has no column {name!r}"
        elif found[1].upper() != declared.upper():
            yield f"its column {found[0]!r} is {found[1] or 'without a type'}, not {declared}"
    for name, _ in known.values():
        yield f"it has a column {name!r} that is not declared"
