"""Answers of a rollup: what is in its table where that is up to date, and the rest from the events, in one snapshot.

So an answer is right at every moment, whether or when anything refreshes: what a refresh saves is time. Buckets that
begin before the floor of their table are answered from the rollup's table alone: their events may be gone.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics import ADDITIVE, Answer
from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.refreshing import late_remarks
from eventrec_handlers.sqlite.rollups.computing import Computing
from eventrec_handlers.sqlite.rollups.known import BEGIN, END, Known
from eventrec_handlers.sqlite.rollups.select import HIGHEST

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from eventrec.analytics import AnswerRow, Question, RollupPlan, Value
    from eventrec_handlers.sqlite.rollups.fields import Columns

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answering:
    """Answers questions about `plan`, in the transaction of `connection`."""

    def __init__(self, connection: sqlite3.Connection, plan: RollupPlan, columns: Columns) -> None:
        self._connection = connection
        self._plan = plan
        self._known = Known.of(connection, plan)
        self._computing = Computing(connection, replace(plan, bucket=self._known.bucket), columns)

    def answer(self, question: Question) -> Answer:
        """The answer, as of one moment.

        Raises:
            ValueError: Asked for fewer groups, a part of it cannot be computed: its events are no longer stored.
        """
        known = self._known
        start, end = _range(question)
        rows = self._rows(question, known, start, end) if start < end else []
        remarks = [*late_remarks(known.late_rows), *known.remarks]
        return Answer.of(question, rows, complete_to=self._computing.newest(), pending=0, remarks=remarks)

    def _rows(self, question: Question, known: Known, start: int, end: int) -> list[AnswerRow]:
        groups = question.group_names
        is_whole = len(groups) == len(self._plan.groups)
        if not known.is_made:
            return self._computing.rows(start, end, groups)
        if not is_whole and any(measure.function not in ADDITIVE for measure in self._plan.measures):
            self._refuse_gone(known, start, end)
            return self._computing.rows(max(start, known.floor), end, groups) if known.floor < end else []
        spans = known.to_compute(start, end)
        counted = self._counted(question, spans, start, end)
        if question.limit is None or question.empty_buckets:
            found = list(counted)
        else:
            found, last = self._page(question, counted)
            spans = _before(spans, last, is_descending=question.newest_first)
        if not is_whole:
            found = _added_up(question, self._plan, found)
        for low, high in spans:
            found += self._computing.rows(low, high, groups)
        return found

    def _counted(
        self, question: Question, spans: Sequence[tuple[int, int]], start: int, end: int
    ) -> Iterator[AnswerRow]:
        """Rows of the rollup's table in the order of their buckets, without those in `spans`: with all groups."""
        plan = self._plan
        bucket, place = quoted(plan.bucket_name), plan.column_names.index(plan.bucket_name)
        names = ", ".join(map(quoted, plan.column_names))
        order = "DESC" if question.newest_first else "ASC"
        reads = [_read(plan, name) for name in plan.column_names]
        lows = [low for low, _ in spans]
        statement = (
            f"SELECT {names} FROM {quoted(plan.name)} WHERE {bucket} >= ? AND {bucket} <= ? ORDER BY {bucket} {order}"  # noqa: S608 - quoted
        )
        for row in self._connection.execute(statement, (start, min(end - 1, HIGHEST))):
            at = row[place]
            span = bisect_right(lows, at) - 1
            if span < 0 or at >= spans[span][1]:
                yield tuple(value if read is None else read(value) for value, read in zip(row, reads, strict=True))

    def _page(self, question: Question, rows: Iterator[AnswerRow]) -> tuple[list[AnswerRow], int | None]:
        """The first of `rows`, in whole buckets: enough for the page; and the last of their buckets, if there are more.

        Those of the bucket in which the page before has ended do not count: they may all have been on it.
        """
        place = self._plan.column_names.index(self._plan.bucket_name)
        after = question.after()
        found: list[AnswerRow] = []
        buckets: set[Any] = set()
        limit = question.limit or 0
        count = 0
        for row in rows:
            at: Any = row[place]
            # By fewer groups a bucket may have one row.
            if at not in buckets and (len(buckets) if question.groups is not None else count) > limit:
                return found, int(found[-1][place] or 0)
            found.append(row)
            if after is None or at != after[0]:
                buckets.add(at)
                count += 1
        return found, None

    def _refuse_gone(self, known: Known, start: int, end: int) -> None:
        if start >= known.floor:
            return
        bucket = quoted(self._plan.bucket_name)
        (is_there,) = self._connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM {quoted(self._plan.name)} WHERE {bucket} >= ? AND {bucket} < ?)",  # noqa: S608 - quoted
            (start, min(end, known.floor)),
        ).fetchone()
        if is_there:
            floor = _EPOCH + timedelta(microseconds=known.floor // 1_000)
            raise ValueError(
                f"before {floor:%Y-%m-%d %H:%M} UTC the events are no longer stored, and what rollup"
                f" {self._plan.name!r} measures cannot be added up over its groups: ask for all of them, or for later"
            )


def _range(question: Question) -> tuple[int, int]:
    """From when on buckets can be in the answer, and until when."""
    start = BEGIN if question.start is None else min(max(question.start, BEGIN), END)
    end = END if question.end is None else max(min(question.end, END), BEGIN)
    after = None if question.empty_buckets else question.after()
    if after is None:
        return start, end
    at = min(max(after[0], start), end)
    return (start, min(at + 1, end)) if question.newest_first else (at, end)


def _before(spans: Sequence[tuple[int, int]], last: int | None, *, is_descending: bool) -> list[tuple[int, int]]:
    """`spans` without what comes behind the bucket `last`, in the order of the answer."""
    if last is None:
        return list(spans)
    if is_descending:
        return [(max(low, last), high) for low, high in spans if high > last]
    return [(low, min(high, last)) for low, high in spans if low < last]


def _read(plan: RollupPlan, name: str) -> Callable[[Any], Value] | None:
    """What makes a value of the answer of one in the table; None: it is one."""
    match plan.kind_of(name):
        case "boolean":
            return lambda value: None if value is None else bool(value)
        case "integer":
            return lambda value: int(value) if isinstance(value, str) else value
        case _:
            return None


def _added_up(question: Question, plan: RollupPlan, rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    """`rows` with all groups, added up over those that the question leaves out."""
    names = list(plan.column_names)
    keys = [names.index(name) for name in (plan.bucket_name, *question.group_names)]
    folds = {names.index(measure.name): _FOLDS[measure.function] for measure in plan.measures}
    parts: dict[tuple[Value, ...], list[list[Any]]] = {}
    for row in rows:
        found = parts.setdefault(tuple(row[key] for key in keys), [[] for _ in names])
        for place in folds:
            if row[place] is not None:
                found[place].append(row[place])
    added: list[AnswerRow] = []
    for key, values in parts.items():
        said = dict(zip(keys, key, strict=True))
        said |= {place: fold(values[place]) if values[place] else None for place, fold in folds.items()}
        added.append(tuple(said[place] for place in sorted(said)))
    return added


_FOLDS: Final[dict[str, Callable[[list[Any]], Any]]] = {"count": sum, "sum": sum, "min": min, "max": max}
