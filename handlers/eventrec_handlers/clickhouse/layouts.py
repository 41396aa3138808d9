"""Which layout a table has: as this process declares it, else as the nodes keep it in `eventrec_layouts`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.clickhouse.errors import UNKNOWN_TABLE, Failure
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from eventrec import Layout
    from eventrec_handlers.clickhouse.ddl import Ddl
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.nodes import Nodes

LEARNED_FOR: Final = 30.0
"""Seconds for which what the nodes have is not asked for again."""


async def read_layouts(node: Node) -> dict[str, str]:
    """What a node keeps: table to JSON.

    Raises:
        Failure: It does not tell.
    """
    try:
        rows = await node.query("SELECT table_name, argMax(layout, kept_at) FROM eventrec_layouts GROUP BY table_name")
    except Failure as exc:
        if exc.code == UNKNOWN_TABLE:
            return {}
        raise
    return {str(table): str(layout) for table, layout in rows}


class Layouts:
    """Those of one destination. `clock` is in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.known = KeptLayouts()
        self._clock = clock
        self._learned_at: float | None = None
        self._remark: str | None = None

    @property
    def remarks(self) -> Sequence[str]:
        """What an operator should know."""
        return () if self._remark is None else (self._remark,)

    def forget(self) -> None:
        """Ask the nodes again before the next batch."""
        self._learned_at = None

    async def among(self, nodes: Nodes, tables: Collection[str]) -> Mapping[str, Layout]:
        """The layouts of `tables`.

        Raises:
            Failure: No node tells.
            PauseError: One that is kept cannot be read.
        """
        if self._learned_at is None or self._clock() - self._learned_at > LEARNED_FOR:
            for node in nodes:
                node.forget()  # tables may have other columns, settings and views by now
            self.known.learn(await nodes.call(read_layouts))
            self._learned_at = self._clock()
        return self.known.among(tables) if self.known.has_any else {}

    async def keep(self, nodes: Nodes, layout: Layout, ddl: Ddl, *, may_make: bool) -> None:
        """Keep `layout` at every node that can be reached, so that other programs find it."""
        if self.known.is_kept(layout):
            return
        said = f"({literal(layout.table)}, {literal(layout.to_json())})"
        for node in nodes:
            try:
                if may_make:
                    await node.run(ddl.make_layouts())
                await node.run(f"INSERT INTO eventrec_layouts (table_name, layout) VALUES {said}")  # noqa: S608 - literals
            except Failure as exc:
                if exc.kind == "down":
                    nodes.leave_out(node)
                elif exc.kind == "transient":
                    raise
                else:
                    self._remark = f"the layout of table {layout.table!r} is not kept for other programs: {exc}"
        self.known.note_kept(layout)
        self.known.note_committed()
