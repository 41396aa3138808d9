"""Answers what rollups tell of the events in a SQLite file, when it is asked."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from eventrec import default_layout
from eventrec.analytics import Answer, Refreshed, RollupStore
from eventrec_handlers._sql import KeptLayouts, fold_ascii
from eventrec_handlers._thread import WorkThread, check_cancelled
from eventrec_handlers.sqlite.file import read_table
from eventrec_handlers.sqlite.kept_layouts import read_layouts
from eventrec_handlers.sqlite.rollups.fields import Columns
from eventrec_handlers.sqlite.rollups.functions import add_functions
from eventrec_handlers.sqlite.rollups.select import newest, select
from eventrec_handlers.sqlite.snapshot import Snapshots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from eventrec import Layout
    from eventrec.analytics import Question, RollupPlan

STEPS: Final = 10_000
"""Instructions of SQLite's machine between two looks at whether the caller is still there: a millisecond, about."""


class SqliteRollups(RollupStore):
    """Answers from the events themselves, in one snapshot: nothing has to be refreshed, and each answer is complete.

    A table that is not there has no events yet. Rows that another program has written, and that are not events, do not
    count. `layouts` are those of tables that were made in another way than ours, beside those that the file keeps.
    """

    def __init__(self, path: Path, *, busy_timeout: float, layouts: Mapping[str, Layout] | None = None) -> None:
        self._path = path
        self._snapshots = Snapshots(path, busy_timeout=busy_timeout)
        self._layouts = dict(layouts or {})
        self._thread = WorkThread("eventrec-sqlite-rollups")

    def __repr__(self) -> str:
        return f"<SqliteRollups {str(self._path)!r}>"

    async def close(self) -> None:
        self._thread.end()

    async def answer(self, question: Question) -> Answer:
        def read(connection: sqlite3.Connection) -> Answer:
            connection.set_progress_handler(_look_up, STEPS)
            try:
                return self._answer(connection, question)
            except sqlite3.OperationalError:
                check_cancelled()  # which has interrupted it
                raise

        return await self._thread.run(lambda: self._snapshots.read(read))

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        """There is nothing to do; but that the file cannot be read is said."""
        await self._thread.run(lambda: self._snapshots.read(_look_into))
        return await super().refresh(plans, now=now)

    def _answer(self, connection: sqlite3.Connection, question: Question) -> Answer:
        plan = question.plan
        columns = self._columns(connection, plan)
        if columns is None:
            return Answer.of(question, (), pending=0)
        add_functions(connection, plan.bucket)
        statement = select(question, columns)
        rows = [statement.row(row) for row in connection.execute(statement.sql, statement.parameters)]
        found = connection.execute(newest(plan, columns)).fetchone()
        return Answer.of(question, rows, complete_to=None if found is None else found[0], pending=0)

    def _columns(self, connection: sqlite3.Connection, plan: RollupPlan) -> Columns | None:
        """The columns of the table of the events; None: it has none of events, or is not there."""
        table = read_table(connection, plan.table)
        if table.kind is None or table.columns is None:
            return None
        layouts = KeptLayouts(self._layouts, fold=fold_ascii)
        layouts.learn(read_layouts(connection))
        layout = layouts.among([plan.table]).get(plan.table)
        columns = Columns.of(default_layout(plan.table) if layout is None else layout, table)
        return columns if columns.are_of_events else None


def _look_into(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _look_up() -> int:
    """Whether SQLite should stop: told by a number that is not 0, or by an error."""
    check_cancelled()
    return 0
