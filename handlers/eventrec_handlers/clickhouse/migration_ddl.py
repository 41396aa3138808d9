"""What migrations make in ClickHouse, as SQL: the same declaration gives the same text. Each may be run again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eventrec import Layout, default_layout
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
from eventrec_handlers._sql import LAYOUTS, version_of
from eventrec_handlers._sql.refreshing import refuse_same_version
from eventrec_handlers.clickhouse.ddl import is_reserved
from eventrec_handlers.clickhouse.declared import declared_as
from eventrec_handlers.clickhouse.rollup_columns import columns_of
from eventrec_handlers.clickhouse.rollups import KeptRollup
from eventrec_handlers.clickhouse.rollups.keeping import why_not
from eventrec_handlers.clickhouse.rollups.views import NOTES, NOTES_TABLE, number_blocks
from eventrec_handlers.clickhouse.rows import told_apart
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.state import BLOCK_NUMBERS, TableState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import ColumnSchema
    from eventrec.analytics import Declarations, RollupPlan
    from eventrec_handlers.clickhouse.ddl import Ddl
    from eventrec_handlers.clickhouse.rollups import Columns


class MigrationDdl:
    """What a catalogue declares, and the SQL for each kind of it, as `ddl` makes tables."""

    def __init__(self, ddl: Ddl) -> None:
        self._ddl = ddl

    def declared(self, catalogue: Declarations) -> list[Declaration]:
        """Everything that `catalogue` declares, in the order in which it is made.

        Raises:
            MigrationError: A name is reserved, or a rollup has no table of events.
        """
        layouts = {layout.table: layout for layout in catalogue.layouts}
        events = {
            table: default_layout(table, told_apart(columns)) for table, columns in tables_of_events(catalogue).items()
        }
        schemas = {
            table: {each.name: each for each in columns} for table, columns in tables_of_events(catalogue).items()
        }
        for table in (*events, *layouts):
            if is_reserved(table):
                raise MigrationError(f"table {table!r}: names that start with eventrec_ or .inner are reserved")
        found = [_own(LAYOUTS, Phase.PRE, self._ddl.make_layouts())] if layouts else []
        found += [self._events(layout, schemas[table]) for table, layout in events.items()]
        found += [
            Declaration(f"table {table}", Phase.PRE, canonical_json(json.loads(layout.to_json())), layout)
            for table, layout in layouts.items()
        ]
        plans = [plan_of(rollup) for rollup in catalogue.rollups]
        if plans:
            found.append(_own(NOTES, Phase.POST, NOTES_TABLE))
        return [*found, *(self._rollup(plan, events, layouts, schemas) for plan in plans)]

    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        """What makes `declaration` true where `before` was declared. Nothing that holds events is ever taken away.

        Raises:
            MigrationError: That cannot be.
        """
        content, old = json.loads(declaration.content), None if before is None else json.loads(before)
        kind, _, name = declaration.key.partition(" ")
        match kind:
            case "own":
                return Steps(_statements([NOTES_TABLE if name == NOTES else self._ddl.make_layouts()]), ())
            case "table":
                changed = None if before is None else Layout.from_json(before)
                return Steps(_statements(self._layout(declaration.source, changed)))
            case "rollup":
                if old is not None and old["fingerprint"] != content["fingerprint"]:
                    refuse_same_version(declaration.source[0], old["version"])
                plan, columns, state = declaration.source
                return _rollup_steps(plan, columns, state, old)
            case _:
                layout, schemas = declaration.source
                return Steps(_statements(self._event_table(layout, schemas, content, old)))

    def _events(self, layout: Layout, schemas: Mapping[str, ColumnSchema]) -> Declaration:
        columns = [
            [column.name, self._ddl.declared(layout, column, schemas.get(column.name))] for column in layout.columns
        ]
        content = canonical_json({"table": layout.table, "columns": columns})
        return Declaration(f"events {layout.table}", Phase.PRE, content, (layout, schemas))

    def _rollup(
        self,
        plan: RollupPlan,
        events: Mapping[str, Layout],
        layouts: Mapping[str, Layout],
        schemas: Mapping[str, Mapping[str, ColumnSchema]],
    ) -> Declaration:
        layout = layouts.get(plan.table) or events.get(plan.table)
        if layout is None:
            raise MigrationError(f"rollup {plan.name!r}: nothing in the catalogue declares its table {plan.table!r}")
        known = schemas.get(plan.table, {})
        types = {column.name: self._ddl.declared(layout, column, known.get(column.name)) for column in layout.columns}
        state = TableState(self._ddl.engine(layout), f"{BLOCK_NUMBERS} = 1", types, frozenset())
        content = {
            "version": plan.version,
            "fingerprint": plan.fingerprint,
            "table": plan.table,
            "columns": list(plan.column_names),
            "retention": plan.retention,
        }
        columns = columns_of(plan.table, types, layouts.get(plan.table))
        return Declaration(f"rollup {plan.name}", Phase.POST, canonical_json(content), (plan, columns, state))

    def _event_table(
        self,
        layout: Layout,
        schemas: Mapping[str, ColumnSchema],
        content: Mapping[str, Any],
        before: Mapping[str, Any] | None,
    ) -> Iterator[str]:
        if before is None:
            yield self._ddl.create(layout, schemas)
        elif added := added_columns(layout.table, before["columns"], content["columns"]):
            yield self._ddl.add(layout, [column for column in layout.columns if column.name in added], schemas)

    def _layout(self, layout: Layout, before: Layout | None) -> Iterator[str]:
        if before is None:
            yield self._ddl.create(layout, {})
        else:
            yield from self._changed(layout, before)
        said = f"({literal(layout.table)}, {literal(layout.to_json())})"
        yield f"INSERT INTO {LAYOUTS} (table_name, layout) VALUES {said}"  # noqa: S608 - literals

    def _changed(self, layout: Layout, before: Layout) -> Iterator[str]:
        changes = layout_changes(before, layout)
        alter = f"ALTER TABLE {quoted(layout.table)}{self._ddl.cluster}"
        if changes.added:
            yield self._ddl.add(layout, changes.added, {})
        columns = {column.name: column for column in (*before.columns, *layout.columns)}
        for name in changes.relaxed:
            nullable = replace(columns[name], nullable=True)
            yield f"{alter} MODIFY COLUMN {quoted(name)} {self._ddl.declared(layout, nullable)}"
        for column in changes.defaults:
            yield (
                f"{alter} MODIFY COLUMN {self._ddl.column(layout, column)}"
                if column.default is not None
                else (f"{alter} MODIFY COLUMN {quoted(column.name)} REMOVE DEFAULT")
            )
        if layout.retention_seconds != before.retention_seconds:
            expire = self._ddl.retain(layout)
            yield f"{alter} {'REMOVE TTL' if expire is None else f'MODIFY TTL {expire}'}"


def _rollup_steps(plan: RollupPlan, columns: Columns, state: TableState, before: Mapping[str, Any] | None) -> Steps:
    """What begins to count a rollup; a refresh counts in what was there before, and sets an older one aside."""
    kept = KeptRollup(plan, columns)
    if why_not(kept, state, nodes=1, may_make=True) is not None:
        return Steps((), ())
    if before is None or before["fingerprint"] != plan.fingerprint:
        undo = [f"DROP VIEW IF EXISTS {quoted(plan.name)}", *kept.drop()] if before is None else None
        made = [number_blocks(plan.table), *kept.make()]
        return Steps(_statements(made), None if undo is None else _statements(undo))
    if before["retention"] == plan.retention:
        return Steps((), ())
    old = KeptRollup(replace(plan, retention=before["retention"]), columns)
    return Steps(_statements([kept.expire()]), _statements([old.expire()]))


def _own(name: str, phase: Phase, statement: str) -> Declaration:
    return Declaration(f"own {name}", phase, version_of([statement]))


def _statements(texts: Sequence[str] | Iterator[str]) -> tuple[Statement, ...]:
    return tuple(Statement(text, in_transaction=False) for text in texts)


def differences(declaration: Declaration, engine: str | None, there: Mapping[str, str]) -> list[str] | None:
    """How a table of that name differs from what is declared, in words; None: it is not there."""
    if engine is None:
        return None
    content = json.loads(declaration.content)
    kind = declaration.key.partition(" ")[0]
    if kind == "rollup":
        is_view = engine == "View"
        return (
            [f"it has no column {name!r}" for name in content["columns"] if name not in there]
            if is_view
            else [f"it is a {engine}"]
        )
    if engine.endswith("View") or engine == "Dictionary":
        return [f"it is a {engine}"]
    match kind:
        case "events":
            wanted = [(name, declared) for name, declared in content["columns"]]
        case "table":
            layout = Layout.from_json(declaration.content)
            wanted = [(each.name, declared_as(each)) for each in layout.columns if each.source.kind != "generated"]
        case _:
            return []
    found = []
    for name, declared in wanted:
        if name not in there:
            found.append(f"it has no column {name!r}")
        elif there[name] != declared:
            found.append(f"its column {name!r} is {there[name]}, not {declared}")
    return found
