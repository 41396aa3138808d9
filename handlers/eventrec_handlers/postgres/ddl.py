"""What migrations make in PostgreSQL, as SQL: the same declaration gives the same text.

Names stand without a schema: a migration runs with a search path that begins with the namespace.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics import (
    Declaration,
    MigrationError,
    Phase,
    Statement,
    Steps,
    added_columns,
    canonical_json,
    tables_of_events,
)
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.catalog import RESERVED
from eventrec_handlers.postgres.checkpoints import OWN_TABLES
from eventrec_handlers.postgres.columns import BASE_DECLARED, REQUIRED
from eventrec_handlers.postgres.columns import declared as type_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from eventrec.analytics import Declarations
    from eventrec_handlers.postgres.catalog import Table

LONGEST_NAME: Final = 63
"""Bytes that PostgreSQL keeps of a name."""


def declared(catalogue: Declarations) -> list[Declaration]:
    """Everything that `catalogue` declares.

    Raises:
        MigrationError: A name is reserved, or longer than PostgreSQL keeps it.
    """
    return [*_own(), *_events(catalogue)]


def _own() -> Iterator[Declaration]:
    for name in OWN_TABLES:
        yield Declaration(f"own {name}", Phase.PRE, canonical_json({"version": 1}))


def _events(catalogue: Declarations) -> Iterator[Declaration]:
    for table, columns in tables_of_events(catalogue).items():
        if table.startswith(RESERVED):
            raise MigrationError(f"table {table!r}: names that start with {RESERVED} are reserved")
        check_names(table, [table, *(column.name for column in columns)])
        wanted = [*BASE_DECLARED.items(), *((column.name, type_of(column)) for column in columns)]
        yield Declaration(f"events {table}", Phase.PRE, canonical_json({"table": table, "columns": wanted}))


def check_names(table: str, names: Iterable[str]) -> None:
    """Raise MigrationError where PostgreSQL would cut off one of the `names` of `table`."""
    for name in names:
        if (size := len(name.encode())) > LONGEST_NAME:
            raise MigrationError(f"table {table!r}: {name!r} has {size} bytes, and PostgreSQL holds {LONGEST_NAME}")


def steps(declaration: Declaration, before: str | None) -> Steps:
    """What makes `declaration` true where `before` was declared.

    Raises:
        MigrationError: That cannot be.
    """
    content, old = json.loads(declaration.content), None if before is None else json.loads(before)
    kind, _, name = declaration.key.partition(" ")
    match kind:
        case "own":
            return Steps((Statement(OWN_TABLES[name].format(name)),))
        case _:
            return _event_table(content, old)


def _event_table(content: Mapping[str, Any], before: Mapping[str, Any] | None) -> Steps:
    """Deletes nothing on its way back: there is none."""
    table = content["table"]
    name = quoted(table)
    if before is not None:
        added = added_columns(table, before["columns"], content["columns"])
        return Steps(tuple(Statement(add_column(table, *column)) for column in added.items()))
    columns = ", ".join(
        f"{quoted(column)} {declared}{' NOT NULL' * (column in REQUIRED)}" for column, declared in content["columns"]
    )
    # The name that the server gives to the index which the handler makes.
    index = quoted(index_name(table, "type_timestamp_idx"))
    return Steps(
        (
            Statement(f"CREATE TABLE IF NOT EXISTS {name} ({columns})"),
            Statement(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {name} (type, timestamp DESC)",
                in_transaction=False,
            ),
        )
    )


def add_column(table: str, column: str, declared: str) -> str:
    """The statement that adds a column where it is missing."""
    return f"ALTER TABLE {quoted(table)} ADD COLUMN IF NOT EXISTS {quoted(column)} {declared}"


def index_name(table: str, suffix: str) -> str:
    """The name of an index: cut, with a hash, where it would be longer than PostgreSQL keeps it."""
    name = f"{table}_{suffix}"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    rest = f"_{blake2b(name.encode(), digest_size=4).hexdigest()}_{suffix}"
    return name.encode()[: LONGEST_NAME - len(rest)].decode(errors="ignore") + rest


def differences(table: Table, declaration: Declaration) -> list[str] | None:
    """How `table`, which has the name that is declared, differs, in words; None: it is not there."""
    content = json.loads(declaration.content)
    if table.kind is None:
        return None
    if table.kind != "table":
        return [f"it is a {table.kind}"]
    return list(column_differences(table.columns, content.get("columns", ())))


def column_differences(there: Mapping[str, str], wanted: Sequence[tuple[str, str]]) -> Iterator[str]:
    """How the columns that are there differ from the wanted ones, in words; where none is wanted, not at all."""
    for name, declared in wanted:
        if name not in there:
            yield f"it has no column {name!r}"
        elif there[name] != declared:
            yield f"its column {name!r} is {there[name]}, not {declared}"
    if wanted:
        for name in there.keys() - dict(wanted).keys():
            yield f"it has a column {name!r} that is not declared"
