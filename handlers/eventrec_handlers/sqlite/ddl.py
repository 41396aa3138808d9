"""What migrations make in a SQLite file, as SQL: the same declaration gives the same text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from eventrec import GENERATED, TIMESTAMP, TYPE, Layout, default_layout
from eventrec.analytics import (
    Declaration,
    MigrationError,
    Phase,
    Statement,
    Steps,
    added_columns,
    canonical_json,
    layout_changes,
    plan_of,
    tables_of_events,
)
from eventrec_handlers._sql import LAYOUTS, fold_ascii, needed_for_layouts, quoted, version_of
from eventrec_handlers.sqlite.columns import BASE_DECLARED, REQUIRED, STORED
from eventrec_handlers.sqlite.file import is_reserved, read_table
from eventrec_handlers.sqlite.layouts import add_column, conflict, create_index, declared_as, layout_statements, literal
from eventrec_handlers.sqlite.own_tables import ALWAYS, OF_ROLLUPS, OWN_TABLES, ROLLUPS
from eventrec_handlers.sqlite.rollup_ddl import rollup_declared, rollup_differences, rollup_steps

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from eventrec import ColumnSchema
    from eventrec.analytics import Declarations

_OWN: Final = "own"
_EVENTS: Final = "events"
_TABLE: Final = "table"
_INDEX: Final = "index"


def declared(catalogue: Declarations, *, refreshes: bool = False) -> list[Declaration]:
    """Everything that `catalogue` declares. `refreshes`: rollups have tables.

    Raises:
        MigrationError: A table has a name that is reserved, or that only the case of A to Z tells from another's.
    """
    layouts = {layout.table: layout for layout in catalogue.layouts}
    events = tables_of_events(catalogue)
    _check_names([*events, *layouts])
    found = [_own(name) for name in (*ALWAYS, *needed_for_layouts(list(layouts.values())))]
    found += [_events(table, columns) for table, columns in events.items()]
    found += [_laid_out(layout) for layout in layouts.values()]
    tables = {**{table: default_layout(table, columns) for table, columns in events.items()}, **layouts}
    found += _indexes(catalogue, tables)
    plans = [plan_of(rollup) for rollup in catalogue.rollups] if refreshes else []
    if plans:
        _check_names([*tables, *(plan.name for plan in plans)])
        found.append(_own(ROLLUPS, Phase.POST))
    return [*found, *(rollup_declared(plan, tables) for plan in plans)]


def _check_names(tables: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for table in tables:
        if is_reserved(table):
            raise MigrationError(f"table {table!r}: names that start with sqlite_ or eventrec_ are reserved")
        if (other := known.setdefault(fold_ascii(table), table)) != table:
            raise MigrationError(
                f"tables {other!r} and {table!r} are one for SQLite: only the case of their names differs"
            )


def _own(name: str, phase: Phase = Phase.PRE) -> Declaration:
    return Declaration(f"{_OWN} {name}", phase, version_of(_own_statements(name)))


def _own_statements(name: str) -> Sequence[str]:
    """What makes `name` of our own tables, those of rollups under one name."""
    if name == ROLLUPS:
        return [statement for each in OF_ROLLUPS for statement in OWN_TABLES[each]]
    return OWN_TABLES[name]


def _events(table: str, columns: Sequence[ColumnSchema]) -> Declaration:
    wanted = [*BASE_DECLARED.items(), *((column.name, STORED[column.type][0]) for column in columns)]
    return Declaration(f"{_EVENTS} {table}", Phase.PRE, canonical_json({"table": table, "columns": wanted}))


def _laid_out(layout: Layout) -> Declaration:
    return Declaration(f"{_TABLE} {layout.table}", Phase.PRE, canonical_json(json.loads(layout.to_json())))


def _indexes(catalogue: Declarations, tables: Mapping[str, Layout]) -> Iterator[Declaration]:
    """By which rollups are answered: tables of ours have one by type and time already, a layout may have others."""
    wanted: dict[str, set[tuple[str, ...]]] = {}
    for plan in map(plan_of, catalogue.rollups):
        layout = tables.get(plan.table)
        time, kind = (None, None) if layout is None else (layout.column_of(TIMESTAMP), layout.column_of(TYPE))
        if layout is None or time is None:
            continue
        if plan.types is None:
            names: tuple[str, ...] = (time.name,)
        elif plan.table in {each.table for each in catalogue.layouts} and kind is not None:
            names = (kind.name, time.name)
        else:
            continue
        if not _has_index(layout, names):
            wanted.setdefault(plan.table, set()).add(names)
    for table, indexes in wanted.items():
        content = {"table": table, "columns": sorted(map(list, indexes))}
        yield Declaration(f"{_INDEX} {table}", Phase.POST, canonical_json(content))


def _has_index(layout: Layout, names: tuple[str, ...]) -> bool:
    """Whether an index that the layout declares, and SQLite makes, begins with these columns."""
    made = [index.columns for index in layout.indexes if index.kind == "ordered" and not index.where_not_null]
    generated = layout.column_of(GENERATED)
    if generated is None or generated.name not in layout.primary_key:
        made.append(layout.primary_key)
    return any(tuple(columns[: len(names)]) == names for columns in made)


def steps(declaration: Declaration, before: str | None) -> Steps:
    """What makes `declaration` true where `before` was declared.

    Raises:
        MigrationError: That cannot be.
    """
    content, old = json.loads(declaration.content), None if before is None else json.loads(before)
    kind, _, name = declaration.key.partition(" ")
    match kind:
        case "own":
            # A rollback leaves them: they may hold what others need.
            return Steps(tuple(map(Statement, _own_statements(name))), ())
        case "rollup":
            return rollup_steps(declaration, old)
        case "index":
            return _index_steps(content, [] if old is None else old["columns"])
        case "table":
            layout = Layout.from_json(declaration.content)
            changes = layout_statements(layout) if before is None else _changed(layout, Layout.from_json(before))
            return Steps(tuple(map(Statement, (*changes, *_kept(layout)))))
        case _:
            return _event_table(content, old)


def _index_steps(content: Mapping[str, Any], before: Sequence[Sequence[str]]) -> Steps:
    table = content["table"]
    names = {_index_name(table, columns): columns for columns in content["columns"] if columns not in before}
    return Steps(
        tuple(
            Statement(
                f"CREATE INDEX IF NOT EXISTS {quoted(name)} ON {quoted(table)} ({', '.join(map(quoted, columns))})"
            )
            for name, columns in names.items()
        ),
        tuple(Statement(f"DROP INDEX IF EXISTS {quoted(name)}") for name in names),
    )


def _index_name(table: str, columns: Sequence[str]) -> str:
    return f"eventrec_{'_'.join((table, *columns))}"


def _changed(layout: Layout, before: Layout) -> Iterator[str]:
    """What changes in the table. What a column holds, and its default, are not changed: SQLite keeps any text."""
    changes = layout_changes(before, layout)
    if changes.relaxed:
        raise MigrationError(
            f"table {layout.table!r}: the column {changes.relaxed[0]!r} needs no value any more, and SQLite cannot take"
            " NOT NULL from a column: declare another table, and move the rows there"
        )
    for column in changes.added:
        if column.source == GENERATED or (column.source == TIMESTAMP and column.default is not None):
            raise MigrationError(
                f"table {layout.table!r}: SQLite cannot add the column {column.name!r}, which it fills by itself"
            )
        yield add_column(layout, column.name)
    added = {index.name for index in changes.indexes}
    for number, index in enumerate(layout.indexes):
        if index.name in added and (made := create_index(layout, number, index.name)) is not None:
            yield made


def _kept(layout: Layout) -> Iterator[str]:
    """What lets programs that do not declare `layout` find it, as the handler does."""
    folded, name, text = map(literal, (fold_ascii(layout.table), layout.table, layout.to_json()))
    yield f"DELETE FROM {LAYOUTS} WHERE lower(table_name) = {folded}"  # noqa: S608 - a constant
    yield f"INSERT INTO {LAYOUTS} (table_name, layout) VALUES ({name}, {text})"  # noqa: S608 - a constant


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
    kind, _, name = declaration.key.partition(" ")
    content = json.loads(declaration.content)
    if kind == _INDEX:
        names = [_index_name(name, columns) for columns in content["columns"]]
        kinds = {each: read_table(connection, each).kind for each in names}
        differs = [f"{each!r} is a {found}" for each, found in kinds.items() if found not in {None, _INDEX}]
        return differs if any(kinds.values()) else None
    table = read_table(connection, name)
    if table.kind is not None and (table.kind != _TABLE or table.columns is None):
        return [f"it is a {table.kind}"]
    if table.columns is None:
        return None
    found: Iterable[str] = ()
    match kind:
        case "table":
            layout = Layout.from_json(declaration.content)
            found = [
                *_layout_differences(table.columns, layout),
                *_others(table.unnameable),
                *_index_differences(connection, layout),
            ]
        case "events":
            found = [*_column_differences(table.columns, content["columns"]), *_others(table.unnameable)]
        case "rollup":
            found = rollup_differences(connection, table.columns, name, content)
    return list(found)


def _layout_differences(there: Mapping[str, str], layout: Layout) -> Iterator[str]:
    """Types are another program's business, as long as they hold what is written."""
    known = {fold_ascii(name): (name, declared) for name, declared in there.items()}
    for column in layout.columns:
        found = known.pop(fold_ascii(column.name), None)
        if found is None:
            yield f"it has no column {column.name!r}"
        elif column.source != GENERATED and conflict(column, found[1]) is not None:
            yield f"its column {found[0]!r} is {found[1] or 'without a type'}, not {declared_as(column)}"
    yield from _others(name for name, _ in known.values())


def _others(columns: Iterable[str]) -> Iterator[str]:
    return (f"it has a column {name!r} that is not declared" for name in columns)


def _index_differences(connection: sqlite3.Connection, layout: Layout) -> Iterator[str]:
    for index in layout.indexes:
        found = connection.execute(
            "SELECT tbl_name FROM sqlite_master WHERE type = 'index' AND name = ? COLLATE NOCASE", (index.name,)
        ).fetchone()
        if found is not None and fold_ascii(found[0]) != fold_ascii(layout.table):
            yield f"its index {index.name!r} is one of table {found[0]!r}"


def _column_differences(there: Mapping[str, str], wanted: Sequence[tuple[str, str]]) -> Iterator[str]:
    known = {fold_ascii(name): (name, declared) for name, declared in there.items()}
    for name, declared in wanted:
        found = known.pop(fold_ascii(name), None)
        if found is None:
            yield f"it has no column {name!r}"
        elif found[1].upper() != declared.upper():
            yield f"its column {found[0]!r} is {found[1] or 'without a type'}, not {declared}"
    yield from _others(name for name, _ in known.values())
