"""Computing buckets of a rollup from the events, in one snapshot: the same for answers and for tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from eventrec import TYPE
from eventrec.analytics import Question
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers.sqlite.rollups.functions import add_functions
from eventrec_handlers.sqlite.rollups.select import HIGHEST, LOWEST, newest, oldest, select

if TYPE_CHECKING:
    import sqlite3

    from eventrec.analytics import AnswerRow, RollupPlan
    from eventrec_handlers.sqlite.rollups.fields import Columns

MAX_TYPES: Final = 400
"""Types that are looked up each by itself; SQLite allows 500 parts of a statement."""


class Computing:
    """Computes `plan` from the events in the columns `columns` of their table, in the transaction of `connection`."""

    def __init__(self, connection: sqlite3.Connection, plan: RollupPlan, columns: Columns) -> None:
        self._connection = connection
        self._columns = columns
        self._plan = _narrowed(connection, plan, columns)
        add_functions(connection, plan.bucket)

    def rows(self, start: int, end: int, groups: tuple[str, ...] | None = None) -> list[AnswerRow]:
        """Rows of the buckets that begin in [`start`, `end`), by `groups` alone if given; in any order."""
        question = Question(
            self._plan,
            start=start if start > LOWEST else None,
            end=end if end <= HIGHEST else None,
            groups=groups,
        )
        statement = select(question, self._columns)
        return [statement.row(row) for row in self._connection.execute(statement.sql, statement.parameters)]

    def next_event(self, start: int, end: int) -> int | None:
        """The time of the first event of the rollup's types in [`start`, `end`)."""
        if self._plan.types == ():
            return None
        within = {"start": start, "end": end}
        found: int | None = self._connection.execute(oldest(self._plan, self._columns), within).fetchone()[0]
        return found

    def newest(self) -> int | None:
        """The time of the newest event of the rollup's types."""
        if self._plan.types == ():
            return None
        found = self._connection.execute(newest(self._plan, self._columns)).fetchone()
        return None if found is None else found[0]


def has_index(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> bool:
    """Whether an index of `table` begins with `columns`, and has all rows."""
    wanted = [fold_ascii(name) for name in columns]
    for _, index, _, _, is_partial in connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
        found = connection.execute(f"PRAGMA index_info({quoted(index)})").fetchall()
        if not is_partial and [fold_ascii(row[2] or "") for row in found[: len(wanted)]] == wanted:
            return True
    return False


def index_wanted(connection: sqlite3.Connection, plan: RollupPlan, columns: Columns) -> tuple[str, ...] | None:
    """The columns of an index by which events of a time are found, where there is none."""
    kind = columns.layout.column_of(TYPE)
    by_type = None if kind is None else (kind.name, columns.time)
    if has_index(connection, plan.table, (columns.time,)):
        return None
    if by_type is not None and has_index(connection, plan.table, by_type):
        return None
    return by_type if by_type is not None and plan.types is not None else (columns.time,)


def _narrowed(connection: sqlite3.Connection, plan: RollupPlan, columns: Columns) -> RollupPlan:
    """`plan`; where it is about any type, and events are found by their type first, about all types that there are."""
    kind = columns.layout.column_of(TYPE)
    if plan.types is not None or kind is None:
        return plan
    if has_index(connection, plan.table, (columns.time,)):
        return plan
    if not has_index(connection, plan.table, (kind.name, columns.time)):
        return plan
    types = _types(connection, quoted(plan.table), quoted(kind.name))
    return plan if types is None else replace(plan, types=types)


def _types(connection: sqlite3.Connection, table: str, kind: str) -> tuple[str, ...] | None:
    """The types of the events, found by leaping from one to the next in the index; None: too many, or odd ones."""
    leaping = (
        f"WITH RECURSIVE kinds (kind) AS (SELECT (SELECT min({kind}) FROM {table} WHERE {kind} >= '')"  # noqa: S608 - quoted
        f" UNION ALL SELECT (SELECT min({kind}) FROM {table} WHERE {kind} > kinds.kind)"
        " FROM kinds WHERE kinds.kind IS NOT NULL)"
        f" SELECT kind FROM kinds WHERE typeof(kind) = 'text' LIMIT {MAX_TYPES + 1}"
    )
    found = tuple(kind for (kind,) in connection.execute(leaping))
    is_odd = any("\0" in kind or "\ufffd" in kind for kind in found)
    return None if is_odd or len(found) > MAX_TYPES else found
