"""Answers questions about rollups, by any client that runs a statement: from states that are kept, or the events."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from eventrec.analytics import Answer
from eventrec_handlers.clickhouse.rollups.select import extent, newest, oldest_and_newest, select

if TYPE_CHECKING:
    from eventrec.analytics import AnswerRow, Question
    from eventrec_handlers.clickhouse.rollups.fields import Columns
    from eventrec_handlers.clickhouse.rollups.views import KeptRollup

Run: TypeAlias = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]
"""Runs a statement, and gives its rows: values as ClickHouse writes them in JSON."""


async def answer(question: Question, columns: Columns, run: Run) -> Answer:
    """What the rollup tells of the events that are stored.

    ClickHouse has no snapshots: of events that are inserted meanwhile, the answer may have some.

    Raises:
        CatalogueError: The table does not store a field.
    """
    rows = await _from_events(question, columns, run)
    return Answer.of(question, rows, complete_to=await _complete_to(question, columns, run), pending=0)


async def answer_kept(question: Question, kept: KeptRollup, parts: Sequence[int], run: Run) -> Answer:
    """What the states of a rollup tell, by those `parts`; of buckets that are not kept, the events."""
    statement = kept.select(question, parts)
    ((earliest, latest),) = await run(oldest_and_newest(question.plan, kept.columns))
    rows = [statement.row(row) for row in await run(statement.sql)]
    low, high = kept.range
    if earliest is not None and not (low <= int(earliest) and int(latest) < high):
        start, end = question.start, question.end
        whole = dataclasses.replace(question, limit=None, cursor=None, empty_buckets=False)
        before = dataclasses.replace(whole, end=low if end is None else min(end, low))
        behind = dataclasses.replace(whole, start=high if start is None else max(start, high))
        for outside in (before, behind):
            if outside.start is None or outside.end is None or outside.start < outside.end:
                rows += await _from_events(outside, kept.columns, run)
    return Answer.of(question, rows, complete_to=None if latest is None else int(latest), pending=0)


async def _from_events(question: Question, columns: Columns, run: Run) -> list[AnswerRow]:
    ((first, last),) = await run(extent(question, columns))
    if first is None:
        return []
    statement = select(question, columns, (int(first), int(last)))
    return [statement.row(row) for row in await run(statement.sql)]


async def _complete_to(question: Question, columns: Columns, run: Run) -> int | None:
    ((latest,),) = await run(newest(question.plan, columns))
    return None if latest is None else int(latest)
