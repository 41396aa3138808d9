"""The rollups of a SQLite file: answered, and refreshed into tables where that is asked for."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, TypeVar

from eventrec import PauseError, default_layout
from eventrec.analytics import Answer, Refreshed, RollupStore
from eventrec_handlers._sql import KeptLayouts, fold_ascii
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.sqlite.file import connect, errors_translated, is_about_statement, read_table
from eventrec_handlers.sqlite.kept_layouts import read_layouts
from eventrec_handlers.sqlite.rollups.answering import Answering
from eventrec_handlers.sqlite.rollups.fields import Columns
from eventrec_handlers.sqlite.rollups.refreshing import Done, Refreshing, distribute
from eventrec_handlers.sqlite.rollups.registry import (
    check_declared,
    claim_due,
    has_rollups,
    has_table,
    is_marked,
    make_rollup,
    note_refreshed,
    registered,
)
from eventrec_handlers.sqlite.rollups.retention import Retention
from eventrec_handlers.sqlite.rollups.zones import can_note, take_over
from eventrec_handlers.sqlite.snapshot import Snapshots, watched
from eventrec_handlers.sqlite.transactions import reading, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from eventrec import Layout
    from eventrec.analytics import Progress, Question, RollupPlan

T = TypeVar("T")


class SqliteRollups(RollupStore):
    """Answers in one snapshot: from the events, and of a rollup that was refreshed, from its table where that is right.

    So nothing has to be refreshed, and each answer is complete. A table that is not there has no events yet. Rows that
    another program has written, and that are not events, do not count. `layouts` are those of tables that were made in
    another way than ours, beside those that the file keeps.

    `refresh` and `backfill` make the tables of a rollup that has none yet, unless `may_make` is false: its own, with
    its name and its columns, and ours beside it (`tables.py`). `refresh` also removes events older than the retention
    of a layout among `layouts`, once every rollup has counted them. Before anything was refreshed, neither exists, and
    no writer does anything for it.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float,
        layouts: Mapping[str, Layout] | None = None,
        may_make: bool = True,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._snapshots = Snapshots(path, busy_timeout=busy_timeout)
        self._layouts = dict(layouts or {})
        self._may_make = may_make
        self._now = now
        self._thread = WorkThread("eventrec-sqlite-rollups")
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<SqliteRollups {str(self._path)!r}>"

    async def close(self) -> None:
        if self._connection is not None:
            await self._thread.run(self._disconnect)
        self._thread.end()

    async def answer(self, question: Question) -> Answer:
        def read(connection: sqlite3.Connection) -> Answer:
            return self._answer(connection, question)

        return await self._thread.run(lambda: self._snapshots.read(read, is_awaited=self.is_awaited))

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        moment = self._now() if now is None else now

        def refresh() -> Refreshed:
            done = Refreshed()
            for table in dict.fromkeys(plan.table for plan in plans):
                done += self._refresh_table(table, [plan for plan in plans if plan.table == table], moment)
            remarks = [remark for layout in self._layouts.values() for remark in self._retain(layout, moment)]
            return done + Refreshed(remarks=tuple(remarks))

        return await self._run(refresh)

    async def claim_due(self, plans: Sequence[RollupPlan]) -> Sequence[RollupPlan]:
        """Those of `plans` that no process has refreshed within their time: from now on others leave them to this one.

        Also those that are new, or not filled yet.
        """

        def claim() -> Sequence[RollupPlan]:
            if not self._reads(has_rollups):
                return plans
            with writing(self._connected(), self._busy_timeout):
                return claim_due(self._connected(), plans, self._now())

        return await self._run(claim)

    async def backfill(self, plan: RollupPlan, *, progress: Progress | None = None) -> Refreshed:
        moment = self._now()
        return await self._run(lambda: self._refresh_one(plan, moment, progress))

    # -- from here on everything runs in the thread

    async def _run(self, job: Callable[[], T]) -> T:
        def guarded() -> T:
            with errors_translated(self._path):
                return job()

        return await self._thread.run(guarded)

    def _reads(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What `job` reads. The file is not made, and nothing beside it."""
        return self._snapshots.read(job)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, self._busy_timeout)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _answer(self, connection: sqlite3.Connection, question: Question) -> Answer:
        columns = self._columns(connection, question.plan.table)
        if columns is None:
            return Answer.of(question, (), pending=0)
        return Answering(connection, question.plan, columns).answer(question)

    def _columns(self, connection: sqlite3.Connection, name: str) -> Columns | None:
        """The columns of the table of the events; None: it has none of events, or is not there."""
        table = read_table(connection, name)
        if table.kind is None or table.columns is None:
            return None
        layouts = KeptLayouts(self._layouts, fold=fold_ascii)
        layouts.learn(read_layouts(connection))
        layout = layouts.among([name]).get(name)
        columns = Columns.of(default_layout(name) if layout is None else layout, table)
        return columns if columns.are_of_events else None

    # -- refreshing

    def _refresh_table(self, table: str, plans: Sequence[RollupPlan], now: int) -> Refreshed:
        made = [(plan, columns) for plan in plans if (columns := self._made(plan)) is not None]
        if not made:
            return Refreshed(remarks=self._unmade(table))
        connection = self._connected()
        remarks = tuple(remark for plan, _ in made if (remark := self._take_over(plan)) is not None)
        with writing(connection, self._busy_timeout):
            note_refreshed(connection, [plan for plan, _ in made], self._now())
        with watched(connection):
            distribute(connection, table, self._busy_timeout, now=self._now())
            done = Refreshed(remarks=remarks)
            for plan, columns in made:
                refreshing = Refreshing(connection, plan, columns, seconds=self._busy_timeout)
                one = refreshing.refresh(now)
                refreshing.expire(now)
                done += Refreshed(one.buckets, refreshing.remaining(), one.late)
        return done

    def _refresh_one(self, plan: RollupPlan, now: int, progress: Progress | None) -> Refreshed:
        columns = self._made(plan)
        if columns is None:
            return Refreshed()
        connection = self._connected()
        remark = self._take_over(plan)
        with watched(connection):
            one: Done = Refreshing(connection, plan, columns, seconds=self._busy_timeout).refresh(
                now, progress=progress
            )
        return Refreshed(one.buckets, 0, one.late, () if remark is None else (remark,))

    def _take_over(self, plan: RollupPlan) -> str | None:
        return take_over(self._connected(), plan, seconds=self._busy_timeout, now=self._now())

    def _made(self, plan: RollupPlan) -> Columns | None:
        """The columns of the events of `plan`, once it has its tables; None: there is no table of its events yet.

        Raises:
            PauseError: It is declared otherwise here than in the file, or its tables cannot be made.
        """

        def look(connection: sqlite3.Connection) -> tuple[Columns | None, bool]:
            columns = self._columns(connection, plan.table)
            if columns is None or read_table(connection, plan.table).kind != "table":
                return None, False
            found = registered(connection, plan.name)
            if found is not None:
                check_declared(plan, found)
            is_made = found is not None and has_table(connection, plan) and can_note(connection, plan)
            return columns, is_made and is_marked(connection, plan.table)

        columns, is_made = self._reads(look)
        if columns is None or is_made:
            return columns
        if not self._may_make:
            raise PauseError(f"rollup {plan.name!r} has no table there: migrate first, with refresh=true in the URL")
        try:
            with writing(self._connected(), self._busy_timeout):
                make_rollup(self._connected(), plan, columns)
        except sqlite3.OperationalError as exc:
            if not is_about_statement(exc):
                raise
            raise PauseError(f"{self._path}: rollup {plan.name!r} cannot be kept in a table: {exc}") from exc
        return columns

    def _unmade(self, table: str) -> tuple[str, ...]:
        """Why nothing is refreshed of `table`, where an operator would not guess."""
        found = self._reads(lambda connection: read_table(connection, table))
        if found.kind in {None, "table"}:
            return ()
        return (f"{table!r} is a {found.kind}: its rollups are answered from its events, and not refreshed",)

    def _retain(self, layout: Layout, now: int) -> list[str]:
        """Remove what is older than the layout's retention; what was left undone."""
        seconds = layout.retention_seconds
        if not seconds:
            return []
        columns = self._reads(lambda connection: self._columns(connection, layout.table))
        if columns is None:
            return []
        connection = self._connected()
        distribute(connection, layout.table, self._busy_timeout, now=self._now())
        with reading(connection):
            retention = Retention(connection, columns, seconds=self._busy_timeout)
        return retention.delete_old(now - round(seconds * 1_000_000_000), now=now)
