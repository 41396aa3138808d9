"""The two tables of our own as another program made or changed them, and what stands where the file should."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from eventrec import Batch, Event, PauseError
from eventrec_handlers.sqlite import SqliteHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

COLUMNS: Final = "log_id TEXT NOT NULL, subscription TEXT NOT NULL, next INTEGER NOT NULL, retired_at INTEGER"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        for statement in statements:
            connection.execute(statement)


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'events'").fetchone()
        return int(found) and int(connection.execute("SELECT count(*) FROM events").fetchone()[0])


@pytest.mark.parametrize(
    "columns",
    [
        COLUMNS,
        f"{COLUMNS}, PRIMARY KEY (log_id)",
        COLUMNS.replace("subscription TEXT", "subscription TEXT COLLATE NOCASE") + ", UNIQUE (log_id, subscription)",
    ],
    ids=["none", "of one column", "without case"],
)
async def test_checkpoints_without_their_key_hold_delivery(path: Path, columns: str) -> None:
    execute(path, f"CREATE TABLE eventrec_checkpoints ({columns})")

    with pytest.raises(PauseError, match="has no unique key"):
        await SqliteHandler(path).open()


async def test_key_may_be_an_index(path: Path, log_id: UUID) -> None:
    execute(
        path,
        f"CREATE TABLE eventrec_checkpoints ({COLUMNS})",
        "CREATE UNIQUE INDEX k ON eventrec_checkpoints (subscription, log_id)",
    )
    handler = SqliteHandler(path)
    await handler.open()

    found = [await handler.resume(log_id, "tested", 0), await handler.resume(log_id, "tested", 7)]
    await handler.close()

    assert found == [0, 0]


@pytest.mark.parametrize("theirs", ["RAISE(IGNORE)", "RAISE(ABORT, 'no')"])
async def test_row_that_another_program_does_not_let_in_holds_delivery(
    handler: SqliteHandler, path: Path, log_id: UUID, theirs: str
) -> None:
    execute(path, f"CREATE TRIGGER t BEFORE INSERT ON eventrec_checkpoints BEGIN SELECT {theirs}; END")

    with pytest.raises(Exception, match=r"does not keep the row of 'other'|: no"):
        await handler.resume(log_id, "other", 0)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("SELECT RAISE(ABORT, 'hands off')", "cannot be moved: hands off"),
        ("SELECT RAISE(IGNORE)", "a trigger keeps the checkpoint from moving"),
        ("INSERT INTO eventrec_destination VALUES (NULL)", "cannot be moved: NOT NULL constraint failed"),
    ],
)
async def test_checkpoint_that_cannot_be_moved_is_no_records_fault(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, theirs: str, said: str
) -> None:
    execute(path, f"CREATE TRIGGER t BEFORE UPDATE ON eventrec_checkpoints BEGIN {theirs}; END")

    with pytest.raises(PauseError, match=said):
        await handler.handle(batch(event(0), event(1)))
    assert count(path) == 0
    execute(path, "DROP TRIGGER t")
    await handler.handle(batch(event(0), event(1)))

    assert count(path) == 2


@pytest.mark.parametrize("others", ["(NULL)", "(x'ff')", "(NULL), ('b'), ('a')"])
async def test_id_is_one_and_the_same_whatever_stands_beside_it(path: Path, others: str) -> None:
    execute(path, "CREATE TABLE eventrec_destination (id TEXT)", f"INSERT INTO eventrec_destination VALUES {others}")
    found = []
    for _ in range(2):
        handler = SqliteHandler(path)
        await handler.open()
        found.append(await handler.destination_id())
        await handler.close()
        execute(path, "INSERT INTO eventrec_destination VALUES ('z')")

    assert found[0] == found[1]
    assert found[0] not in {"None", "z"}


async def test_what_is_not_a_file_holds_delivery_before_it_is_touched(path: Path) -> None:
    os.mkfifo(path)

    with pytest.raises(PauseError, match="is not a file"):
        await SqliteHandler(path).open()
    with pytest.raises(PauseError, match="is not a file"):
        await SqliteHandler(path).reader().latest(limit=1)

    assert [found.name for found in path.parent.iterdir()] == [path.name]
