"""Migrates a TimescaleDB: as PostgreSQL, with hypertables for partitions and continuous aggregates for rollups."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from eventrec import CatalogueError, Layout
from eventrec.analytics import MigrationError, Statement, Steps
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.hook import (
    Columns,
    PostgresDdl,
    PostgresMigrations,
    create_index,
    create_table,
    in_block,
    literal,
    prefix_of,
)
from eventrec_handlers.timescale.ddl import (
    EXTENSION,
    compressed,
    compression_policy,
    continuous_aggregate,
    hypertable,
    indexes,
    refresh_policy,
    retention_policy,
    without_aggregate,
    without_policy,
)
from eventrec_handlers.timescale.definition import compare_definition
from eventrec_handlers.timescale.extension import find_extension
from eventrec_handlers.timescale.standing import table_differences, view_differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import asyncpg

    from eventrec.analytics import Declaration, Declarations, RollupPlan
    from eventrec_handlers.postgres.hook import Namespace, Options, Target

_VIEW: Final = "it is a view"


class TimescaleDdl(PostgresDdl):
    """What TimescaleDB has in place of native partitions and of tables of rollups."""

    own_of_rollups: ClassVar[tuple[str, ...]] = ()

    def layout_steps(self, layout: Layout, before: Layout | None) -> Steps:
        if before is None:
            return Steps(tuple(_table(layout)))
        return Steps((*super().layout_steps(layout, before).up, *map(Statement, _other_policies(layout, before))))

    def rollup_steps(self, plan: RollupPlan, columns: Columns, before: Mapping[str, Any] | None) -> Steps:
        # A table that is not divided into chunks has none: its rollups are answered from its events.
        is_chunked = columns.layout.partition is not None
        try:
            made = tuple(map(Statement, continuous_aggregate(plan, columns))) if is_chunked else ()
        except CatalogueError as exc:
            raise MigrationError(str(exc)) from exc
        if before is None or not made:
            return Steps(made, (Statement(without_aggregate(plan)),) if made else ())
        if before["fingerprint"] != plan.fingerprint:
            raise MigrationError(
                f"rollup {plan.name!r} tells something else than before: a continuous aggregate cannot be altered, and"
                " without it what it has counted is gone; declare the new one under another name"
            )
        window, lag, every = before["refresh"]
        old = replace(
            plan,
            refresh=replace(plan.refresh, window=window, lag=lag, every=every),
            retention=before["retention"],
        )
        kept = Columns.of(replace(columns.layout, retention=before["kept"]))
        # A rollback leaves the index: earlier versions need no other.
        index = () if before.get("prefix") == prefix_of(plan) else tuple(map(Statement, indexes(plan)))
        return Steps(
            (*index, *_other_schedule((old, kept), (plan, columns))),
            tuple(_other_schedule((plan, columns), (old, kept))),
        )


class TimescaleMigrations(PostgresMigrations):
    """Migrates the TimescaleDB `target`; what is not said here is `PostgresMigrations`'s."""

    dialect: ClassVar[str] = "timescaledb"
    _ddl: ClassVar[PostgresDdl] = TimescaleDdl()

    def __init__(self, target: Target, options: Options) -> None:
        super().__init__(target, options)
        self._rollups: dict[str, tuple[RollupPlan, Columns]] = {}
        """Those that were declared: of migrations from files, none."""

    def __repr__(self) -> str:
        return super().__repr__().replace("PostgresMigrations", "TimescaleMigrations")

    async def _check_tables(self, connection: asyncpg.Connection, namespace: Namespace, tables: Sequence[str]) -> None:
        """Hypertables are what is wanted."""

    def declared(self, catalogue: Declarations) -> Sequence[Declaration]:
        found = super().declared(catalogue)
        self._rollups = {each.key: each.source for each in found if each.key.startswith("rollup ")}
        return found

    async def found(self, declarations: Sequence[Declaration]) -> Mapping[str, Sequence[str]]:
        found = dict(await super().found(declarations))

        async def compare() -> None:
            connection, namespace = self._open()
            async with connection.transaction(isolation="read_committed", readonly=True):
                extension = await find_extension(connection)
                if extension is None or extension.why_not is not None:
                    return  # an old one is refused with the first statement
                for each in declarations:
                    differs = found.get(each.key)
                    if differs is None:
                        continue
                    if each.key.startswith("table "):
                        layout = Layout.from_json(each.content)
                        found[each.key] = [*differs, *await table_differences(connection, namespace.namespace, layout)]
                    elif each.key.startswith("rollup ") and list(differs) == [_VIEW]:
                        name, content = each.key.partition(" ")[2], json.loads(each.content)
                        found[each.key] = await view_differences(
                            connection, namespace.namespace, name, content["table"], content["columns"]
                        )

        await self._run(compare)
        await self._run(lambda: self._compare_definitions(found))
        return found

    async def _compare_definitions(self, found: dict[str, Sequence[str]]) -> None:
        """Add to `found` how continuous aggregates that have what is declared are defined otherwise."""
        connection, namespace = self._open()
        for key, differs in found.items():
            if key in self._rollups and not differs:
                found[key] = (await compare_definition(connection, namespace, *self._rollups[key])).differs

    async def _execute(self, statement: Statement | None) -> None:
        connection, _ = self._open()
        extension = await find_extension(connection)
        if extension is not None and statement is not None:
            if extension.why_not is not None:
                raise MigrationError(extension.why_not)
            await extension.reach(connection)
        await super()._execute(statement)


def _table(layout: Layout) -> Iterator[Statement]:
    if layout.partition is not None:
        yield Statement(EXTENSION)
    yield Statement(create_table(layout, quoted(layout.table), divides=False))
    for sql in hypertable(layout):
        is_compressing = layout.compression is not None and sql == compressed(layout, layout.compression)
        yield Statement(_unless_compressed(layout.table, sql) if is_compressing else sql)
    for index in layout.indexes:
        yield create_index(layout, index)


def _unless_compressed(table: str, sql: str) -> str:
    """`sql`, for a table that is compressed in no way yet: one that is adopted stays as it is."""
    return in_block(
        "IF NOT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
        f" AND hypertable_name = {literal(table)} AND compression_enabled) THEN {sql}; END IF;"
    )


def _other_schedule(before: tuple[RollupPlan, Columns], after: tuple[RollupPlan, Columns]) -> Iterator[Statement]:
    """What makes the policies of a continuous aggregate those of `after`: each that differs is replaced."""
    plan, columns = after
    if refresh_policy(*before) != (policy := refresh_policy(plan, columns)):
        yield Statement(without_policy("continuous_aggregate", plan.name))
        yield Statement(policy)
    if before[0].retention != plan.retention:
        yield Statement(without_policy("retention", plan.name))
        if plan.retention is not None:
            yield Statement(retention_policy(plan.name, plan.retention))


def _other_policies(layout: Layout, before: Layout) -> Iterator[str]:
    """What makes the policies those of `layout`: each that differs is replaced. What is compressed stays so."""
    if layout.partition is None:
        return
    compression, other = layout.compression, before.compression
    if compression is not None and (other is None or replace(compression, after=other.after) != other):
        yield compressed(layout, compression)
    if (None if compression is None else compression.after) != (None if other is None else other.after):
        yield without_policy("compression", layout.table)
        if compression is not None:
            yield compression_policy(layout, compression)
    if layout.retention_seconds != before.retention_seconds:
        yield without_policy("retention", layout.table)
        if layout.retention_seconds is not None:
            yield retention_policy(layout.table, layout.retention_seconds)
