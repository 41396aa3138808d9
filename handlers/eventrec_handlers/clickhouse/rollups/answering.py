"""Answers questions about rollups, by any client that runs a statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from eventrec.analytics import Answer
from eventrec_handlers.clickhouse.rollups.select import extent, newest, select

if TYPE_CHECKING:
    from eventrec.analytics import Question
    from eventrec_handlers.clickhouse.rollups.fields import Columns

Run: TypeAlias = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]
"""Runs a statement, and gives its rows: values as ClickHouse writes them in JSON."""


async def answer(question: Question, columns: Columns, run: Run) -> Answer:
    """What the rollup tells of the events that are stored.

    ClickHouse has no snapshots: of events that are inserted meanwhile, the answer may have some.

    Raises:
        CatalogueError: The table does not store a field, or the buckets are too many for one statement.
    """
    ((first, last),) = await run(extent(question, columns))
    ((latest,),) = await run(newest(question.plan, columns))
    rows = []
    if first is not None:
        statement = select(question, columns, (int(first), int(last)))
        rows = [statement.row(row) for row in await run(statement.sql)]
    return Answer.of(question, rows, complete_to=None if latest is None else int(latest), pending=0)
