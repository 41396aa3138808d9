"""What migrations make in PostgreSQL, as SQL: the same declaration gives the same text.

Names stand without a schema: a migration runs with a search path that begins with the namespace.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final

from eventrec import Layout, default_layout
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
from eventrec_handlers._sql import LAYOUTS, needed_for_layouts, quoted, version_of
from eventrec_handlers._sql.refreshing import refuse_same_version
from eventrec_handlers.postgres.catalog import RESERVED
from eventrec_handlers.postgres.checkpoints import ALWAYS, OWN_TABLES, literal
from eventrec_handlers.postgres.columns import BASE_DECLARED, REQUIRED
from eventrec_handlers.postgres.columns import declared as type_of
from eventrec_handlers.postgres.layout_ddl import UNQUALIFIED, layout_steps
from eventrec_handlers.postgres.layouts import spelled
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.rollups.tables import (
    PENDING,
    ROLLUPS,
    index_by_time,
    other_index,
    own_tables,
    prefix_of,
    rollup_tables,
    schedule,
    without_rollup,
)
from eventrec_handlers.postgres.rollups.tables import index_name as index_of_rollup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from eventrec import ColumnSchema
    from eventrec.analytics import Declarations, RollupPlan
    from eventrec_handlers.postgres.catalog import Table

LONGEST_NAME: Final = 63
"""Bytes that PostgreSQL keeps of a name."""


class PostgresDdl:
    """What is declared, and the SQL for each kind of it: overridden for databases that are PostgreSQL and more."""

    def declared(self, catalogue: Declarations) -> list[Declaration]:
        """Everything that `catalogue` declares, in the order in which it is made.

        Raises:
            MigrationError: A name is reserved, or longer than PostgreSQL keeps it; or a rollup has no table of events.
        """
        layouts = {layout.table: layout for layout in catalogue.layouts}
        events = tables_of_events(catalogue)
        found = [self._own(name) for name in (*ALWAYS, *needed_for_layouts(list(layouts.values())))]
        found += [_events(table, columns) for table, columns in events.items()]
        found += [_laid_out(layout) for layout in layouts.values()]
        tables = {**{table: default_layout(table, columns) for table, columns in events.items()}, **layouts}
        plans = [plan_of(rollup) for rollup in catalogue.rollups]
        if plans:
            found += [self._own(name) for name in self.own_of_rollups]
        return [*found, *(_rollup(plan, tables) for plan in plans)]

    own_of_rollups: ClassVar[tuple[str, ...]] = (ROLLUPS,)
    """Our own tables that are made as soon as there is a rollup."""

    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        """What makes `declaration` true where `before` was declared.

        Raises:
            MigrationError: That cannot be.
        """
        content, old = json.loads(declaration.content), None if before is None else json.loads(before)
        kind, _, name = declaration.key.partition(" ")
        match kind:
            case "own":
                # A rollback leaves them: they may hold what others need.
                return Steps(self.own_statements(name), ())
            case "table":
                layout: Layout = declaration.source
                made = self.layout_steps(layout, None if before is None else Layout.from_json(before))
                return Steps((*made.up, _keep(layout)), made.down)
            case "rollup":
                plan, columns = declaration.source
                if old is not None and old["fingerprint"] != content["fingerprint"]:
                    refuse_same_version(plan, old["version"])
                return self.rollup_steps(plan, columns, old)
            case _:
                return _event_table(content, old)

    def own_statements(self, name: str) -> tuple[Statement, ...]:
        """What makes `name` of our own tables, those of rollups under one name."""
        if name == ROLLUPS:
            return tuple(map(Statement, own_tables(UNQUALIFIED)))
        return tuple(Statement(sql.format(name)) for sql in OWN_TABLES[name])

    def layout_steps(self, layout: Layout, before: Layout | None) -> Steps:
        """The table of a layout."""
        return layout_steps(layout, before)

    def rollup_steps(self, plan: RollupPlan, columns: Columns, before: Mapping[str, Any] | None) -> Steps:
        """The table of a rollup; the one of an older version is kept under another name, for its rows."""
        if before is not None and before["fingerprint"] == plan.fingerprint:
            refresh = plan.refresh
            said = schedule(plan.name, (refresh.window, refresh.lag, refresh.every), plan.retention, UNQUALIFIED)
            other = schedule(plan.name, before["refresh"], before["retention"], UNQUALIFIED)
            # A rollback leaves the index: earlier versions read the rollup with it too.
            index = () if before.get("prefix") == prefix_of(plan) else other_index(plan, UNQUALIFIED)
            schedules = ((Statement(said),), (Statement(other),)) if said != other else ((), ())
            return Steps((*map(Statement, index), *schedules[0]), schedules[1])
        made = tuple(_rollup_statements(plan, columns))
        if before is not None:
            return Steps((*_set_aside(plan, before), *made))
        return Steps(made, tuple(map(Statement, without_rollup(plan, UNQUALIFIED))))

    def _own(self, name: str) -> Declaration:
        phase = Phase.PRE if name in OWN_TABLES else Phase.POST
        return Declaration(f"own {name}", phase, version_of(each.sql for each in self.own_statements(name)))


def _events(table: str, columns: Sequence[ColumnSchema]) -> Declaration:
    _check_table(table, [column.name for column in columns])
    wanted = [*BASE_DECLARED.items(), *((column.name, type_of(column)) for column in columns)]
    return Declaration(f"events {table}", Phase.PRE, canonical_json({"table": table, "columns": wanted}))


def _laid_out(layout: Layout) -> Declaration:
    names = [*(column.name for column in layout.columns), *(index.name for index in layout.indexes)]
    _check_table(layout.table, names)
    content = canonical_json(json.loads(layout.to_json()))
    return Declaration(f"table {layout.table}", Phase.PRE, content, layout)


def _keep(layout: Layout) -> Statement:
    """What lets programs that do not declare `layout` find it, as handlers do: its retention too."""
    return Statement(
        f"INSERT INTO {LAYOUTS} (table_name, layout)"  # noqa: S608 - a constant
        f" VALUES ({literal(layout.table)}, {literal(layout.to_json())})"
        " ON CONFLICT (table_name) DO UPDATE SET layout = excluded.layout"
    )


def _rollup(plan: RollupPlan, tables: Mapping[str, Layout]) -> Declaration:
    layout = tables.get(plan.table)
    if layout is None:
        raise MigrationError(f"rollup {plan.name!r}: nothing in the catalogue declares its table {plan.table!r}")
    content = {
        "version": plan.version,
        "fingerprint": plan.fingerprint,
        "table": plan.table,
        "columns": list(plan.column_names),
        "refresh": [plan.refresh.window, plan.refresh.lag, plan.refresh.every],
        "retention": plan.retention,
        "kept": layout.retention_seconds,
    }
    if (prefix := prefix_of(plan)) is not None:
        content["prefix"] = prefix
    return Declaration(f"rollup {plan.name}", Phase.POST, canonical_json(content), (plan, Columns.of(layout)))


def _rollup_statements(plan: RollupPlan, columns: Columns) -> Iterator[Statement]:
    by_time = index_by_time(plan, columns, UNQUALIFIED)
    for sql in rollup_tables(plan, columns, UNQUALIFIED):
        if sql == by_time and columns.layout.partition is None:
            # On all the events there are: writers go on meanwhile.
            yield Statement(sql.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1), in_transaction=False)
        else:
            yield Statement(sql)


def _set_aside(plan: RollupPlan, before: Mapping[str, Any]) -> Iterator[Statement]:
    """The table of the version before, renamed: the events that it has counted may be gone."""
    index = index_of_rollup(plan, UNQUALIFIED)
    suffix = f"_v{before['version']}"
    yield Statement(f"ALTER TABLE IF EXISTS {quoted(plan.name)} RENAME TO {quoted(fitting(plan.name, suffix))}")
    yield Statement(f"ALTER INDEX IF EXISTS {quoted(index)} RENAME TO {quoted(fitting(index, suffix))}")
    for table, column in ((ROLLUPS, "name"), (PENDING, "rollup")):
        yield Statement(f"DELETE FROM {table} WHERE {column} = {literal(plan.name)}")  # noqa: S608 - constants


def _check_table(table: str, others: Iterable[str]) -> None:
    """Raise MigrationError where `table` is reserved, or PostgreSQL would cut off its name or one of `others`."""
    if table.startswith(RESERVED):
        raise MigrationError(f"table {table!r}: names that start with {RESERVED} are reserved")
    for name in (table, *others):
        if (size := len(name.encode())) > LONGEST_NAME:
            raise MigrationError(f"table {table!r}: {name!r} has {size} bytes, and PostgreSQL holds {LONGEST_NAME}")


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
    index = quoted(fitting(table, "_type_timestamp_idx"))
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


def fitting(name: str, suffix: str) -> str:
    """`name` and `suffix`: cut, with a hash, where they would be longer than PostgreSQL keeps them."""
    whole = name + suffix
    if len(whole.encode()) <= LONGEST_NAME:
        return whole
    rest = f"_{blake2b(whole.encode(), digest_size=4).hexdigest()}{suffix}"
    return name.encode()[: LONGEST_NAME - len(rest)].decode(errors="ignore") + rest


def differences(table: Table, declaration: Declaration) -> list[str] | None:
    """How `table`, which has the name that is declared, differs, in words; None: it is not there."""
    content = json.loads(declaration.content)
    if table.kind is None:
        return None
    if table.kind != "table":
        return [f"it is a {table.kind}"]
    found = list(_column_differences(table.columns, _wanted(declaration, content)))
    if declaration.key.startswith("table "):
        for column in Layout.from_json(declaration.content).columns:
            holds = table.limits.get(column.name)
            if column.length is not None and holds is not None and holds != column.length:
                found.append(f"its column {column.name!r} holds {holds} characters, not {column.length}")
    return found


def _wanted(declaration: Declaration, content: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The columns that are declared, each with its type, or None where that is not known."""
    match declaration.key.partition(" ")[0]:
        case "events":
            return [(name, declared) for name, declared in content["columns"]]
        case "table":
            return [(column.name, spelled(column)) for column in Layout.from_json(declaration.content).columns]
        case "rollup":
            return [(name, None) for name in content["columns"]]
        case _:
            return []


def _column_differences(there: Mapping[str, str], wanted: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    for name, declared in wanted:
        if name not in there:
            yield f"it has no column {name!r}"
        elif declared is not None and there[name] != declared:
            yield f"its column {name!r} is {there[name]}, not {declared}"
    if wanted:
        for name in sorted(there.keys() - dict(wanted).keys()):
            yield f"it has a column {name!r} that is not declared"
