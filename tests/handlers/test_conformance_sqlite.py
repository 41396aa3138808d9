from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from eventrec import (
    CONTEXT,
    GENERATED,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    Batch,
    EventHandler,
    Layout,
    LayoutColumn,
    ReceivedEvent,
)
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec_handlers.sqlite import SqliteHandler

pytestmark = pytest.mark.handlers

BASE = ("id", "type", "timestamp", "payload", "context")


class SqliteHarness(HandlerHarness):
    """A file in a directory of its own. An outage is a lock that another writer holds."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "late_commit": "SQLite commits in the handler's own process: nothing is under way once `handle` has failed",
        "too_large": "SQLite takes a batch of any size",
    }

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "database"
        self.directory.mkdir()
        self.path = self.directory / "events.db"
        self.away = directory / "away"
        self.answers_to_lose = 0
        self.lock: sqlite3.Connection | None = None

    async def stop(self) -> None:
        await self.reconnect()

    def handler(self) -> EventHandler:
        return _LosingAnswers(self)

    async def delivered(self) -> Sequence[Delivered]:
        path = self.path if self.directory.is_dir() else self.away / "events.db"
        found: list[Delivered] = []
        with closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                if not table.startswith(("eventrec_", "sqlite_")):
                    cursor = connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
                    names = [description[0] for description in cursor.description]
                    found += [self.row(table, dict(zip(names, row, strict=True))) for row in cursor]
        return found

    def row(self, table: str, row: dict[str, object]) -> Delivered:
        id_, kind, timestamp, payload = (row[name] for name in BASE[:4])
        assert isinstance(timestamp, int)
        columns = {name: value for name, value in row.items() if name not in BASE}
        return Delivered(str(id_), str(kind), timestamp, str(payload).encode(), table, columns)

    async def disconnect(self) -> None:
        self.lock = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        self.lock.execute("BEGIN IMMEDIATE")

    async def reconnect(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    def poison(self) -> ReceivedEvent:
        return ReceivedEvent("poison", b'"\0"')

    async def forbid(self) -> None:
        self.directory.rename(self.away)

    async def permit(self) -> None:
        self.away.rename(self.directory)

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.answers_to_lose += 1

    async def backup(self) -> object:
        copy = self.directory.with_name("backup.db")
        _copy(self.path, copy)
        return copy

    async def restore(self, backup: Path) -> None:
        _copy(backup, self.path)

    async def replace(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as two:
        one.backup(two)


class _LosingAnswers(SqliteHandler):
    """The disk fails right after the commit, when the harness says so."""

    def __init__(self, harness: SqliteHarness) -> None:
        # Short, for an outage is a lock; but four that come first at once wait for one another, and for the disk.
        super().__init__(harness.path, busy_timeout=0.5)
        self.harness = harness

    def _store(self, batch: Batch) -> None:
        super()._store(batch)
        if self.harness.answers_to_lose:
            self.harness.answers_to_lose -= 1
            error = sqlite3.OperationalError("staged: disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error


class TestSqliteHandler(HandlerConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> HandlerHarness:
        return SqliteHarness(tmp_path)


class LaidOutSqliteHarness(SqliteHarness):
    """The same with a layout: the table of most events has other names, and a number that the file gives."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        **SqliteHarness.lacks,
        "columns": "a layout names its columns: an event with another one is refused, not stored without it",
    }
    layout: ClassVar[Layout] = Layout(
        "events",
        [
            LayoutColumn("n", GENERATED, "bigint"),
            LayoutColumn("moment", TIMESTAMP, "timestamptz"),
            LayoutColumn("key", ID, "uuid"),
            LayoutColumn("kind of it", TYPE, "varchar", length=200),
            LayoutColumn("body", PAYLOAD, "jsonb"),
            LayoutColumn("around", CONTEXT, "json"),
        ],
        primary_key=("n",),
    )

    def handler(self) -> EventHandler:
        handler = super().handler()
        handler.use_layouts({"events": self.layout})
        return handler

    def row(self, table: str, row: dict[str, object]) -> Delivered:
        if table == "events":
            names = {"key": "id", "kind of it": "type", "moment": "timestamp", "body": "payload", "around": "context"}
            row = {names[name]: value for name, value in row.items() if name != "n"}
        return super().row(table, row)


class TestSqliteHandlerWithLayout(HandlerConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def harness(self, tmp_path: Path) -> HandlerHarness:
        return LaidOutSqliteHarness(tmp_path)
