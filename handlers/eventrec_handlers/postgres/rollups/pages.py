"""Rows of a rollup in the order of its answers, from a cursor on, and no more of them than are asked for.

PostgreSQL sorts, and gives each column as one array: for an answer of a hundred thousand rows that is a fraction of
what a hundred thousand records of the driver take.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.rollups.fields import TYPES
from eventrec_handlers.postgres.rollups.moments import EARLIEST, LATEST, moment, nanoseconds
from eventrec_handlers.postgres.rollups.packing import ROWS, LooksLikeMarkError, as_array, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import asyncpg

    from eventrec.analytics import AnswerColumn, AnswerRow, Question

FETCHED: Final = 500_000
"""Rows that one statement gives: what it packs must not become too large for the server."""

_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the order of an answer, and the bucket of each."""

    rows: list[AnswerRow]
    buckets: list[int]


class Pages:
    """Reads rows of the answer to `question` that come after its cursor: all, or `limit`, one more than it asks for."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.limit = None if question.limit is None else question.limit + 1
        self._columns = question.columns
        self._bucket = next(place for place, column in enumerate(self._columns) if column.role == "bucket")
        self._pack = packed
        self._sums = {each.name for each in question.plan.measures if each.function == "sum" and each.kind == "integer"}

    async def read(
        self, connection: asyncpg.Connection, rows: str, *parameters: object, prefix: int | None = None
    ) -> Page:
        """Those of `rows`, a SELECT with `parameters` whose columns are called as the answer's.

        `prefix`: an index of theirs has the order of answers, with so many characters of each text.

        Raises:
            ValueError: The cursor is not of this database.
        """
        found = Page([], [])
        after = self.question.after()
        while not self.is_full(found):
            size = FETCHED if self.limit is None else min(FETCHED, self.limit - len(found.rows))
            condition, values = self._behind(after, len(parameters))
            rest = f"{condition} ORDER BY {self._order(prefix)} LIMIT {size}"
            buckets = await self._fetch(connection, rows, rest, *parameters, *values, into=found)
            if len(buckets) < size:
                break
            after = self._key(found.rows[-1])
        return found

    def is_full(self, page: Page) -> bool:
        """Whether it has as many rows as are asked for, and one more."""
        return self.limit is not None and len(page.rows) >= self.limit

    def merged(self, counted: Page, computed: Page) -> list[AnswerRow]:
        """The rows of both, which have no bucket in common, in order."""
        if not computed.rows or not counted.rows:
            return counted.rows or computed.rows
        is_descending = self.question.newest_first
        sign = -1 if is_descending else 1
        rows: list[AnswerRow] = []
        done = 0
        for start, end in _blocks(computed.buckets):
            at = bisect_left(counted.buckets, sign * computed.buckets[start], done, key=lambda bucket: sign * bucket)
            rows += counted.rows[done:at]
            rows += computed.rows[start:end]
            done = at
        return rows + counted.rows[done:]

    async def _fetch(
        self, connection: asyncpg.Connection, rows: str, rest: str, *parameters: object, into: Page
    ) -> Sequence[int]:
        """Add to `into` what one statement gives; the buckets of these rows."""
        try:
            return self._append(into, await connection.fetchrow(self._statement(rows, rest), *parameters))
        except LooksLikeMarkError:
            self._pack = as_array
            return self._append(into, await connection.fetchrow(self._statement(rows, rest), *parameters))

    def _statement(self, rows: str, rest: str) -> str:
        said = ", ".join(
            ", ".join(self._pack(column, is_numeric=column.name in self._sums)) for column in self._columns
        )
        # The LIMIT keeps the order: what is above it takes the rows as they come.
        return f"SELECT {ROWS}, {said} FROM (SELECT * FROM ({rows}) AS er_rows{rest}) AS er_page"  # noqa: S608 - quoted

    def _order(self, prefix: int | None) -> str:
        """The order of answers, said as the index has it: rows come from there, and only those alike are sorted."""
        bucket = quoted(self.question.plan.bucket_name)
        keys = [f"{bucket} DESC" if self.question.newest_first else bucket]
        for column in self._groups():
            if prefix is not None and column.kind == "text":
                keys.append(f'left({quoted(column.name)}, {prefix}) COLLATE "C" NULLS FIRST')
            keys.append(f"{_compared(column)} NULLS FIRST")
        return ", ".join(keys)

    def _append(self, found: Page, given: Sequence[Any]) -> Sequence[int]:
        count, *values = given
        columns: list[Sequence[Any]] = []
        for column, value, known in zip(self._columns, values[::2], values[1::2], strict=True):
            convert = self._conversion(column)
            read = unpacked(column, value, count, known)
            columns.append(read if convert is None else [None if one is None else convert(one) for one in read])
        buckets = columns[self._bucket]
        found.rows.extend(zip(*columns, strict=True))
        found.buckets.extend(buckets)
        return buckets

    def _conversion(self, column: AnswerColumn) -> Callable[[Any], Any] | None:
        """What makes a value of the answer of what the driver gives; None: it is one."""
        if column.name in self._sums:
            return int  # of a Decimal
        return nanoseconds if column.kind == "timestamp" and column.role != "bucket" else None

    def _groups(self) -> Iterator[AnswerColumn]:
        """The columns of the groups, in the order in which they are compared."""
        named = {column.name: column for column in self._columns}
        return (named[name] for name in self.question.group_names)

    def _key(self, row: AnswerRow) -> tuple[int, tuple[Any, ...]]:
        said = {column.name: value for column, value in zip(self._columns, row, strict=True)}
        return int(said[self.question.plan.bucket_name] or 0), tuple(said[name] for name in self.question.group_names)

    def _behind(self, after: tuple[int, tuple[Any, ...]] | None, given: int) -> tuple[str, list[object]]:
        """The condition for rows after that bucket and these groups, and its parameters, `given` other ones first."""
        if after is None:
            return "", []
        at, groups = after
        if not EARLIEST <= at < LATEST or at % _SECOND:
            return "", []  # no bucket begins then: see what the answer begins with
        bucket = quoted(self.question.plan.bucket_name)
        values: list[object] = [moment(at), *groups]
        later = "<" if self.question.newest_first else ">"
        inside = "false"
        for number, (column, value) in reversed(list(enumerate(zip(self._groups(), groups, strict=True), given + 2))):
            own = _compared(column)
            placed = f"${number}{'::text' if column.kind == 'uuid' else ''}::{TYPES[column.kind]}"
            if isinstance(value, str) and "\0" in value:
                raise ValueError("the cursor is of another database: it has a text that this one cannot have")
            if value is None:
                inside = f"({own} IS NOT NULL OR ({placed} IS NULL AND {inside}))"  # it is: so each has a type
            else:
                inside = f"({own} > {placed} OR ({own} = {placed} AND {inside}))"
        # The first is what an index is good for.
        condition = f"{bucket} {later}= ${given + 1} AND ({bucket} {later} ${given + 1} OR {inside})"
        return f" WHERE {condition}", values


def _blocks(buckets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the rows of each bucket begin and end."""
    start = 0
    for at in range(1, len(buckets) + 1):
        if at == len(buckets) or buckets[at] != buckets[start]:
            yield start, at
            start = at


def _compared(column: AnswerColumn) -> str:
    """The column of a group: texts byte by byte."""
    return f'{quoted(column.name)} COLLATE "C"' if column.kind == "text" else quoted(column.name)
