"""Rollups of the events in a ClickHouse, answered from these themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventrec import ColumnSchema, ColumnType, PauseError, default_layout
from eventrec.analytics import Answer, RollupStore
from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.errors import UnknownCodeError
from eventrec_handlers.clickhouse.layouts import read_layouts
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.rollups import Columns, answer
from eventrec_handlers.clickhouse.rows import told_apart
from eventrec_handlers.clickhouse.stored import settings_of
from eventrec_handlers.clickhouse.tables import read_table
from eventrec_handlers.clickhouse.types import INTEGERS, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Layout
    from eventrec.analytics import Question
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

_TYPES: Final[Mapping[str, ColumnType]] = {
    "Bool": ColumnType.BOOLEAN,
    "Float32": ColumnType.FLOAT32,
    "Float64": ColumnType.FLOAT64,
    "String": ColumnType.STRING,
    "FixedString": ColumnType.STRING,
}


class ClickHouseRollups(RollupStore):
    """Answers from the events, so nothing has to be refreshed, and each answer is complete.

    `layouts` are those of tables that were made in another way than ours, beside those that the nodes keep. A table
    that is not there has no events yet. Rows that a table drops when it merges do not count.
    """

    def __init__(self, target: Target, options: Options, *, layouts: Mapping[str, Layout]) -> None:
        self._target = target
        self._layouts = layouts
        self._nodes = Nodes(target, options)
        self._calls = Calls()

    def __repr__(self) -> str:
        return f"<ClickHouseRollups '{self._target}'>"

    async def open(self) -> None:
        self._calls.start()
        await self._calls.run(lambda: self._nodes.call(_connected))

    async def close(self) -> None:
        if self._calls.can_run:
            await self._calls.run(self._nodes.close)
        await self._calls.stop()

    async def answer(self, question: Question) -> Answer:
        async def ask(node: Node) -> Answer:
            found = await self._columns(node, question.plan.table)
            if found is None:
                return Answer.of(question, ())
            columns, settings = found

            async def run(sql: str) -> Sequence[Sequence[Any]]:
                return await node.query(sql, settings=settings)

            return await answer(question, columns, run)

        try:
            return await self._calls.run(lambda: self._nodes.call(ask))
        except UnknownCodeError as exc:
            raise PauseError(str(exc)) from exc

    async def _columns(self, node: Node, table: str) -> tuple[Columns, Mapping[str, Any]] | None:
        """Where the fields of a rollup are found in `table`, and with which settings; None: there is no such table."""
        state = await read_table(node, table)
        if state is None:
            return None
        layouts = KeptLayouts(self._layouts)
        layouts.learn(await read_layouts(node))
        layout = layouts.of(table) or default_layout(
            table, told_apart(_schema(name, declared) for name, declared in state.columns.items())
        )
        return Columns(layout), settings_of(state.engine)


def _schema(name: str, declared: str) -> ColumnSchema:
    """A column of a table of events, as far as rollups can look into it."""
    type_ = parsed(declared).name
    if type_ in INTEGERS:
        return ColumnSchema(name, ColumnType.UINT64 if type_.startswith("U") else ColumnType.INT64)
    return ColumnSchema(name, _TYPES.get(type_, ColumnType.BINARY))


async def _connected(node: Node) -> None:
    await node.connect()
