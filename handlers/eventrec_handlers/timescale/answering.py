"""Answers from a continuous aggregate, made whole: what it has not counted is computed from the events.

A continuous aggregate knows itself what it lacks: everything from its watermark on, which it computes when it is asked
for, and the ranges in which events were stored since it was refreshed. The latter it leaves out, until its policy comes
to them, and beyond the window of the policy for ever: so these are computed here, in the same snapshot.

What retention may have removed is taken as it was counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers.postgres.hook import EARLIEST, Answering, Known
from eventrec_handlers.timescale.state import kept_from, read_state

if TYPE_CHECKING:
    import asyncpg

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.hook import Columns, Namespace


class TimescaleAnswering(Answering):
    """Answers questions about a rollup from its continuous aggregate, where it has one.

    `is_another`: the one of its name counts other events. Then all is computed from the events that are left.
    """

    def __init__(self, namespace: Namespace, plan: RollupPlan, columns: Columns, *, is_another: bool = False) -> None:
        super().__init__(namespace, plan, columns)
        self._is_another = is_another

    async def known(self, connection: asyncpg.Connection) -> Known:
        found = await read_state(connection, self._namespace.namespace, self._plan)
        if found is None or found.differs is not None or self._is_another:
            return Known.nothing(self._plan)
        floor = await kept_from(connection, self._namespace.namespace, self._plan.table)
        known = Known(self._plan, EARLIEST if floor is None else floor, is_made=True)
        known.ranges += [(low, min(high, found.watermark)) for low, high in found.invalid if low < found.watermark]
        known.complete_to = found.watermark if found.is_materialized_only else None
        return known
