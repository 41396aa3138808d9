"""The tables of rollups, as migrations make them: the same declaration gives the same text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from eventrec import GENERATED, TIMESTAMP
from eventrec.analytics import Declaration, MigrationError, Phase, Statement, Steps, canonical_json
from eventrec_handlers._sql.refreshing import refuse_same_version
from eventrec_handlers.sqlite.marks import row_number
from eventrec_handlers.sqlite.rollups.registry import registered
from eventrec_handlers.sqlite.rollups.tables import rollup_statements, set_aside, without_rollup

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from eventrec import Layout
    from eventrec.analytics import RollupPlan

_ROLLUP: Final = "rollup"


def rollup_declared(plan: RollupPlan, tables: Mapping[str, Layout]) -> Declaration:
    """What a migration makes of `plan`, whose events are in one of `tables`.

    Raises:
        MigrationError: They are in none.
    """
    layout = tables.get(plan.table)
    time = None if layout is None else layout.column_of(TIMESTAMP)
    if time is None:
        raise MigrationError(
            f"rollup {plan.name!r}: nothing in the catalogue declares its table {plan.table!r}, or its timestamp"
        )
    content = {
        "version": plan.version,
        "fingerprint": plan.fingerprint,
        "table": plan.table,
        "columns": list(plan.column_names),
        "index": plan.index,
    }
    return Declaration(f"{_ROLLUP} {plan.name}", Phase.POST, canonical_json(content), (plan, layout))


def rollup_steps(declaration: Declaration, before: Mapping[str, Any] | None) -> Steps:
    """The table of a rollup; the one of an older version is kept under another name, for its rows.

    Raises:
        MigrationError: It tells something else than before, and has no other version.
    """
    plan, layout = declaration.source
    number = row_number([column.name for column in layout.columns])
    if number is None:
        raise MigrationError(f"table {plan.table!r}: its rows have no numbers, so what arrives there is not noticed")
    time, generated = (layout.column_of(source) for source in (TIMESTAMP, GENERATED))
    chosen = None if generated is None else generated.name
    made = tuple(map(Statement, rollup_statements(plan, time.name, number=number, chosen=chosen)))
    if before is None:
        return Steps(made, tuple(map(Statement, without_rollup(plan))))
    if before["fingerprint"] == plan.fingerprint:
        return Steps((), ())
    refuse_same_version(plan, before["version"])
    return Steps((*map(Statement, set_aside(plan.name, before["version"], before["index"])), *made))


def rollup_differences(
    connection: sqlite3.Connection, there: Mapping[str, str], name: str, content: Mapping[str, Any]
) -> Iterator[str]:
    """How the table of the rollup `name`, whose columns are `there`, differs from what is declared, in words."""
    found = registered(connection, name)
    if found is None:
        yield _NOT_OURS
    elif found.fingerprint != content["fingerprint"]:
        yield f'it is of another declaration: it becomes "{name}_v{found.version}", and a new one is made'
    elif lacking := sorted(set(content["columns"]) - set(there)):
        yield f"it has no column {lacking[0]!r}"


def prepare_adopted(connection: sqlite3.Connection, key: str, content: str) -> None:
    """Look at what has the name of a rollup `key`, before a migration makes it; in a transaction.

    A table that a refresh has made, of another declaration than `content`, is renamed: no migration knows of it.

    Raises:
        MigrationError: It is not ours.
    """
    kind, _, name = key.partition(" ")
    if kind != _ROLLUP:
        return
    declared, found = json.loads(content), registered(connection, name)
    if found is None:
        raise MigrationError(f"{key}: {_NOT_OURS}")
    if found.fingerprint != declared["fingerprint"]:
        for sql in set_aside(name, found.version, declared["index"]):
            connection.execute(sql)


_NOT_OURS: Final = "what has its name is not ours, and it is not touched: rename one of them"
