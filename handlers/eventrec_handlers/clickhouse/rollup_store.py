"""Rollups of the events in a ClickHouse: answered from what views keep, once that is complete, or from the events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventrec.analytics import Answer, Refreshed, RollupStore
from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.layouts import read_layouts
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.rollup_columns import columns_of
from eventrec_handlers.clickhouse.rollups import Columns, KeptRollup, answer, answer_kept
from eventrec_handlers.clickhouse.rollups.keeping import bring_up, why_not
from eventrec_handlers.clickhouse.rollups.notes import read_notes
from eventrec_handlers.clickhouse.stored import settings_of
from eventrec_handlers.clickhouse.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Layout
    from eventrec.analytics import Progress, Question, RollupPlan
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.state import TableState
    from eventrec_handlers.clickhouse.target import Target


class ClickHouseRollups(RollupStore):
    """Answers from the states that views keep, once `refresh` has made and filled these; else from the events.

    Either way an answer is complete, and the same. What views have counted stays where the events are removed. A rollup
    that ClickHouse cannot keep is answered from the events: one of a table on several nodes, or of a table that drops
    rows when it merges; one of buckets that its calendar does not have (of several hours, or of minutes, in a zone; in
    a zone whose clock was changed about midnight). `refresh` says so. Kept exactly, a percentile is as large as its
    values, and `distinct` as what it tells apart.

    `layouts` are those of tables that were made in another way than ours, beside those that the nodes keep. A table
    that is not there has no events yet. Rows that a table drops when it merges do not count.

    Made by `ClickHouseHandler.rollups` alone: what it takes may change.
    """

    def __init__(self, target: Target, options: Options, *, layouts: Mapping[str, Layout]) -> None:
        self._target = target
        self._options = options
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
            found = await self._table(node, question.plan.table)
            if found is None:
                return Answer.of(question, ())
            columns, state = found

            async def run(sql: str) -> Sequence[Sequence[Any]]:
                return await node.query(sql, settings=settings_of(state.engine))

            kept = KeptRollup(question.plan, columns)
            if why_not(kept, state, nodes=len(self._nodes), may_make=True) is None:
                notes = await read_notes(node, kept)
                if notes.is_complete and notes.parts is not None:
                    return await answer_kept(question, kept, notes.parts, run)
            return await answer(question, columns, run)

        return await self._calls.ask(self._nodes, ask)

    async def claim_due(self, plans: Sequence[RollupPlan]) -> Sequence[RollupPlan]:
        """All of them: processes may bring up one rollup beside each other."""
        return plans

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        del now  # inserts keep them up to date
        done = Refreshed()
        for plan in plans:
            done += await self.backfill(plan)
        return done

    async def backfill(self, plan: RollupPlan, *, progress: Progress | None = None) -> Refreshed:
        """Make what keeps a rollup, and count in the events from before: once, however often that is begun."""
        may_make = self._options.schema == "evolve"

        async def bring(node: Node) -> Refreshed:
            found = await self._table(node, plan.table)
            if found is None:
                return Refreshed()
            columns, state = found
            kept = KeptRollup(plan, columns)
            why = why_not(kept, state, nodes=len(self._nodes), may_make=may_make)
            if why is not None:
                return Refreshed(remarks=(f"rollup {plan.name!r} is answered from the events: {why}",))
            return await bring_up(node, kept, state, may_make=may_make, progress=progress)

        return await self._calls.ask(self._nodes, bring)

    async def _table(self, node: Node, table: str) -> tuple[Columns, TableState] | None:
        """Where the fields of a rollup are found in `table`, and what that is; None: there is no such table."""
        state = await read_table(node, table)
        if state is None:
            return None
        layouts = KeptLayouts(self._layouts)
        layouts.learn(await read_layouts(node))
        return columns_of(table, state.columns, layouts.of(table)), state


async def _connected(node: Node) -> None:
    await node.connect()
