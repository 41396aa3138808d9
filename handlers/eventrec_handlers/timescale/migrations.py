"""Migrates a TimescaleDB: as PostgreSQL, with hypertables for partitions and continuous aggregates for rollups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

from eventrec import Layout
from eventrec.analytics import MigrationError, Statement, Steps
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.hook import PostgresDdl, PostgresMigrations, create_index, create_table, literal
from eventrec_handlers.timescale.ddl import EXTENSION, continuous_aggregate, hypertable, without_aggregate
from eventrec_handlers.timescale.extension import find_extension
from eventrec_handlers.timescale.standing import table_differences, view_differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.analytics import Declaration, RollupPlan
    from eventrec_handlers.postgres.hook import Columns

_VIEW: Final = "it is a view"


class TimescaleDdl(PostgresDdl):
    """What TimescaleDB has in place of native partitions and of tables of rollups."""

    own_of_rollups: ClassVar[tuple[str, ...]] = ()

    def layout_steps(self, layout: Layout, before: Layout | None) -> Steps:
        if before is None:
            return Steps(tuple(_table(layout)))
        if _policies(before) != _policies(layout):
            raise MigrationError(
                f"table {layout.table!r}: its partitions, retention or compression are policies of the database by now:"
                " alter these there, and declare what they say"
            )
        return super().layout_steps(layout, before)

    def rollup_steps(self, plan: RollupPlan, columns: Columns, before: Mapping[str, Any] | None) -> Steps:
        # A table that is not divided into chunks has none: its rollups are answered from its events.
        is_chunked = columns.layout.partition is not None
        made = tuple(map(Statement, continuous_aggregate(plan, columns))) if is_chunked else ()
        if before is None or not made:
            return Steps(made, (Statement(without_aggregate(plan)),) if made else ())
        if before["fingerprint"] != plan.fingerprint:
            raise MigrationError(
                f"rollup {plan.name!r} tells something else than before: a continuous aggregate cannot be altered, and"
                " without it what it has counted is gone; declare the new one under another name"
            )
        view = f"{literal(quoted(plan.name))}::regclass"
        removed = [f"SELECT remove_continuous_aggregate_policy({view}, if_exists => true)"]
        if before["retention"] != plan.retention:
            removed.append(f"SELECT remove_retention_policy({view}, if_exists => true)")
        return Steps((*map(Statement, removed), *made))


class TimescaleMigrations(PostgresMigrations):
    """Migrates the TimescaleDB `target`; what is not said here is `PostgresMigrations`'s."""

    dialect: ClassVar[str] = "timescaledb"
    _ddl: ClassVar[PostgresDdl] = TimescaleDdl()

    def __repr__(self) -> str:
        return super().__repr__().replace("PostgresMigrations", "TimescaleMigrations")

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
        return found

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
        yield Statement(sql)
    for index in layout.indexes:
        yield create_index(layout, index)


def _policies(layout: Layout) -> object:
    declared = json.loads(layout.to_json())
    return [declared.get(name) for name in ("partition", "retention", "compression")]
