"""A SQLite file as other programs left it: renamed tables, computed columns, STRICT tables, triggers, views."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    DeliveryError,
    Event,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
)
from eventrec.analytics import Question, Rollup, bucket, count, plan_of
from eventrec_handlers.sqlite import SqliteHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


class PerDay(Rollup, name="per_day"):
    day = bucket("day")
    n = count()


BASE = "id TEXT, type TEXT, timestamp INTEGER, payload TEXT"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def with_column(event: Events, n: int, kind: ColumnType, value: object) -> Event:
    return event(n, columns=(ColumnSchema("x", kind),), values=(value,))


# -- tables


async def test_table_that_was_renamed_away_is_made_again(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    for turn in range(3):
        await handler.handle(batch(event(turn), start=turn))
        execute(path, f"ALTER TABLE events RENAME TO events_{turn}")
    await handler.handle(batch(event(3), start=3))

    assert [rows(path, f"SELECT payload FROM events_{turn}") for turn in range(3)] == [[("0",)], [("1",)], [("2",)]]
    assert rows(path, "SELECT payload FROM events") == [("3",)]
    indexes = rows(path, "SELECT tbl_name FROM sqlite_master WHERE type = 'index' AND name LIKE '%type_timestamp%'")
    assert sorted(indexes) == [("events",), ("events_0",), ("events_1",), ("events_2",)]


async def test_table_whose_base_columns_are_in_upper_case_is_written_and_read(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    execute(
        path, 'CREATE TABLE EVENTS (ID TEXT, "Type" TEXT, TIMESTAMP INTEGER, Payload TEXT, CONTEXT TEXT, Mine TEXT)'
    )
    seven = event(1, at=6, columns=(ColumnSchema("x", ColumnType.INT64),), values=(7,))
    stored = batch(event(0, at=5), seven, context=b'{"u":1}')

    await handler.handle(stored)

    assert rows(path, "SELECT * FROM events") == [
        (stored.records[0].id, "happening", 5, "0", '{"u":1}', None, None),
        (stored.records[1].id, "happening", 6, "1", '{"u":1}', None, 7),
    ]
    seen = await handler.reader().latest(limit=9)
    told = {one.payload: (one.id, one.type, one.timestamp, one.context, one.columns) for one in seen.events}
    assert told["0"] == (stored.records[0].id, "happening", 5, '{"u":1}', {"Mine": None, "x": None})
    assert told["1"][-1] == {"Mine": None, "x": 7}
    async with handler.rollups() as rollups:
        assert (await rollups.answer(Question(PerDay))).rows == ((0, 2),)


async def test_column_of_an_event_that_only_differs_by_case_from_another_programs_is_refused_alone(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    execute(path, "CREATE TABLE events (ID TEXT, TYPE TEXT, TIMESTAMP INTEGER, PAYLOAD TEXT, X INTEGER)")

    with pytest.raises(PermanentError, match="only the case of its name differs from that of column 'X'") as refused:
        await handler.handle(batch(event(0), with_column(event, 1, ColumnType.INT64, 1)))

    assert list(refused.value.records) == [1]


@pytest.mark.parametrize("name", ["TYPE", "Type"])
async def test_table_that_computes_a_base_column_in_upper_case_is_not_one_of_ours(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, name: str
) -> None:
    execute(path, f"CREATE TABLE events (id TEXT, timestamp INTEGER, payload TEXT, {name} TEXT AS ('t'))")

    with pytest.raises(PermanentError, match="it computes 'type' itself"):
        await handler.handle(batch(event(0)))


@pytest.mark.parametrize(
    "computed", ["AS (timestamp) VIRTUAL", "AS (timestamp) STORED", "GENERATED ALWAYS AS (timestamp)"]
)
async def test_value_for_a_computed_column_is_refused_alone(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, computed: str
) -> None:
    execute(path, f"CREATE TABLE events ({BASE}, x INTEGER {computed})")
    odd = with_column(event, 1, ColumnType.INT64, 1)

    with pytest.raises(PermanentError, match="the table computes it itself") as refused:
        await handler.handle(batch(event(0), odd, event(2)))
    await handler.handle(batch(event(0), with_column(event, 1, ColumnType.INT64, None), event(2)))

    assert list(refused.value.records) == [1]
    assert rows(path, "SELECT payload FROM events ORDER BY payload") == [("0",), ("1",), ("2",)]


async def test_table_that_computes_a_base_column_is_not_one_of_ours(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    execute(path, "CREATE TABLE events (id TEXT, timestamp INTEGER, payload TEXT, type TEXT AS ('t'))")

    with pytest.raises(PermanentError, match="it computes 'type' itself"):
        await handler.handle(batch(event(0)))


@pytest.mark.parametrize(
    "computes",
    [
        "CREATE INDEX n ON events (json_extract(payload, '$.n'))",
        "CREATE INDEX n ON events (id) WHERE json_extract(payload, '$.n') > 1",
        "ALTER TABLE events ADD COLUMN n AS (json_extract(payload, '$.n')) CHECK (n IS NOT 99)",
        "CREATE TRIGGER n AFTER INSERT ON events BEGIN SELECT json_extract(new.payload, '$.n'); END",
        "CREATE TRIGGER n BEFORE INSERT ON events WHEN new.payload = 'no json' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER n BEFORE INSERT ON events WHEN new.payload = 'no json' BEGIN SELECT RAISE(FAIL, 'no'); END",
        "CREATE TRIGGER n BEFORE INSERT ON events WHEN new.payload = 'no json' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    ],
)
async def test_record_that_the_table_cannot_compute_with_is_named(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID, computes: str
) -> None:
    execute(path, f"CREATE TABLE events ({BASE})", computes)
    odd = ReceivedEvent("t", b"no json")

    with pytest.raises(PermanentError) as refused:
        await handler.handle(batch(*(event({"n": n}) for n in range(60)), odd, event({"n": 3})))
    left = rows(path, "SELECT count(*) FROM events"), await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(event({"n": 0}), event({"n": 1})))

    assert list(refused.value.records) == [60]
    assert left == ([(0,)], 0)
    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TRIGGER n AFTER INSERT ON events BEGIN SELECT only_theirs(new.payload); END",
        "CREATE TRIGGER n AFTER INSERT ON events BEGIN SELECT new.payload COLLATE only_theirs < 'x'; END",
    ],
)
async def test_function_of_another_program_holds_delivery(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, broken: str
) -> None:
    execute(path, f"CREATE TABLE events ({BASE})", broken)

    with pytest.raises(PauseError, match="only_theirs"):
        await handler.handle(batch(event(0), event(1)))
    execute(path, "DROP TRIGGER n")
    await handler.handle(batch(event(0), event(1)))

    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize(
    ("trigger", "gone"),
    [
        ("INSERT INTO theirs VALUES (1)", "DROP TABLE theirs"),
        ("INSERT INTO theirs (a) VALUES (1)", "ALTER TABLE theirs RENAME TO away"),
        ("INSERT INTO theirs (a) VALUES (1)", "DROP TABLE theirs; CREATE TABLE theirs (b)"),
    ],
)
async def test_trigger_whose_table_is_gone_holds_delivery_and_nothing_is_lost(
    *, handler: SqliteHandler, path: Path, event: Events, batch: Batches, trigger: str, gone: str
) -> None:
    execute(
        path,
        f"CREATE TABLE events ({BASE})",
        "CREATE TABLE theirs (a)",
        f"CREATE TRIGGER n AFTER INSERT ON events BEGIN {trigger}; END",
        "PRAGMA legacy_alter_table = ON",
        *gone.split("; "),
    )

    with pytest.raises(PauseError, match="a trigger needs what is not there"):
        await handler.handle(batch(event(0), event(1)))
    execute(path, "DROP TRIGGER n")
    await handler.handle(batch(event(0), event(1)))

    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


async def test_view_that_cannot_be_read_does_not_stop_a_new_column(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    execute(path, "CREATE VIEW broken AS SELECT * FROM nowhere", "CREATE VIEW seen AS SELECT * FROM events")

    await handler.handle(batch(with_column(event, 1, ColumnType.INT64, 5), start=1))

    assert rows(path, "SELECT payload, x FROM events") == [("0", None), ("1", 5)]


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (ColumnType.BOOLEAN, True, 1),
        (ColumnType.INT64, 7, 7),
        (ColumnType.FLOAT64, 1.5, 1.5),
        (ColumnType.STRING, "s", "s"),
        (ColumnType.BINARY, b"\xff", b"\xff"),
        (ColumnType.JSON, {"a": 1}, '{"a":1}'),
        (ColumnType.TIMESTAMP_NANOSECOND, 9, 9),
    ],
)
async def test_strict_table_takes_every_type(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, kind: ColumnType, value: object, stored: object
) -> None:
    execute(path, f"CREATE TABLE events ({BASE}) STRICT")

    await handler.handle(batch(with_column(event, 0, kind, value), event(1)))
    await handler.handle(batch(with_column(event, 2, kind, value), start=2))

    assert rows(path, "SELECT x FROM events ORDER BY payload") == [(stored,), (None,), (stored,)]


async def test_table_without_rowid_is_written(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    execute(path, f"CREATE TABLE events ({BASE}, PRIMARY KEY (id)) WITHOUT ROWID")

    await handler.handle(batch(event(0), event(1)))

    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize(
    "between",
    [
        ("VACUUM",),
        ("DROP TABLE events",),
        ("ALTER TABLE events RENAME TO old", "CREATE VIEW events_view AS SELECT * FROM old"),
        ("DROP INDEX eventrec_events_type_timestamp",),
        ("CREATE TRIGGER ours AFTER INSERT ON events BEGIN DELETE FROM events WHERE rowid < new.rowid; END",),
        ("REINDEX", "ANALYZE"),
        ("DELETE FROM events", "PRAGMA wal_checkpoint(TRUNCATE)"),
    ],
    ids=lambda between: between[0],
)
async def test_delivery_goes_on_after_changes_by_an_operator(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, between: tuple[str, ...]
) -> None:
    await handler.handle(batch(event(0), event(1)))
    execute(path, "PRAGMA busy_timeout = 1000", *between)

    await handler.handle(batch(event(2), start=2))

    assert rows(path, "SELECT payload FROM events ORDER BY rowid DESC LIMIT 1") == [("2",)]


# -- our own two tables, and the files beside


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE VIEW eventrec_checkpoints AS SELECT 1",
        "CREATE TABLE eventrec_checkpoints (id TEXT)",
        "CREATE VIEW eventrec_destination AS SELECT 'x' AS id",
        "CREATE TABLE eventrec_destination (name TEXT)",
        "CREATE TABLE t (x); CREATE INDEX eventrec_destination ON t (x)",
    ],
)
async def test_name_of_our_own_table_that_is_taken_holds_delivery(path: Path, theirs: str) -> None:
    execute(path, *theirs.split("; "))

    with pytest.raises(PauseError, match=r"eventrec_\w+ is a \w+ of another program"):
        await SqliteHandler(path).open()


@pytest.mark.parametrize("next_", ["'many'", "x'00'", "-1", "1.5"])
async def test_checkpoint_that_another_program_changed_holds_delivery(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID, next_: str
) -> None:
    execute(path, f"UPDATE eventrec_checkpoints SET next = {next_}")

    with pytest.raises(PauseError, match="eventrec_checkpoints holds"):
        await handler.resume(log_id, "tested", 0)
    with pytest.raises(PauseError, match="eventrec_checkpoints holds"):
        await handler.handle(batch(event(0)))


async def test_id_whose_row_was_deleted_is_another_one(handler: SqliteHandler, path: Path) -> None:
    before = await handler.destination_id()
    execute(path, "DELETE FROM eventrec_destination")

    after = await handler.destination_id()

    assert after != before
    assert await handler.destination_id() == after


async def test_own_tables_that_were_dropped_are_made_again(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    execute(path, "DROP TABLE eventrec_checkpoints", "DROP TABLE eventrec_destination")

    with pytest.raises(TransientError):
        await handler.handle(batch(event(0)))
    assert await handler.resume(log_id, "tested", 0) == 0
    await handler.handle(batch(event(0)))

    assert rows(path, "SELECT count(*) FROM events") == [(1,)]


@pytest.mark.parametrize("beside", ["events.db-wal", "events.db-shm", "events.db-journal"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 5_000])
async def test_bytes_of_another_program_beside_the_file_do_no_harm(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, beside: str, content: bytes
) -> None:
    await handler.handle(batch(event(0)))
    await handler.close()
    path.with_name(beside).write_bytes(content)

    await handler.open()
    await handler.handle(batch(event(1), start=1))
    page = await handler.reader().latest(limit=9)

    assert sorted(told.payload for told in page.events) == ["0", "1"]


@pytest.mark.parametrize("beside", ["events.db-wal", "events.db-shm", "events.db-journal"])
async def test_directory_in_the_place_of_a_file_beside_holds_delivery(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, beside: str
) -> None:
    await handler.handle(batch(event(0)))
    await handler.close()
    path.with_name(beside).mkdir()

    with pytest.raises(DeliveryError):
        await handler.open()
    path.with_name(beside).rmdir()
    await handler.open()
    await handler.handle(batch(event(1), start=1))

    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_file_of_another_encoding_is_written_and_read(
    path: Path, event: Events, batch: Batches, log_id: UUID, encoding: str
) -> None:
    execute(path, f"PRAGMA encoding = '{encoding}'", "CREATE TABLE theirs (x)")
    handler = SqliteHandler(path)
    await handler.open()
    await handler.resume(log_id, "tested", 0)

    await handler.handle(batch(event("caf\u00e9 \U0001f600")))
    page = await handler.reader().latest(limit=9)
    await handler.close()

    assert [told.payload for told in page.events] == ['"caf\u00e9 \U0001f600"']


# -- names that are not UTF-8


def execute_latin_1(path: Path, *statements: str) -> None:
    """Execute `statements` as a script in Latin-1 that the shell of SQLite was given: names are kept as its bytes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement.replace("\xe9", "_E9_"))
        connection.execute("PRAGMA writable_schema = ON")
        connection.create_function("latin", 1, lambda text: text.encode("latin-1").replace(b"_E9_", b"\xe9"))
        connection.execute(
            "UPDATE sqlite_master SET sql = CAST(latin(sql) AS TEXT), name = CAST(latin(name) AS TEXT)"
            " WHERE sql LIKE '%_E9_%'"
        )


async def test_column_and_trigger_of_another_program_whose_names_are_not_utf_8_are_left_alone(
    path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    execute_latin_1(
        path,
        f"CREATE TABLE events ({BASE}, caf\xe9 TEXT)",
        "CREATE TRIGGER \xe9t\xe9 AFTER INSERT ON events BEGIN SELECT 1; END",
    )
    execute(path, "INSERT INTO events VALUES ('a', 'happening', 1, '1', 'the value')")
    handler = SqliteHandler(path)
    await handler.open()
    await handler.resume(log_id, "tested", 0)

    await handler.handle(batch(with_column(event, 2, ColumnType.INT64, 7)))
    page = await handler.reader().latest(limit=9)
    async with handler.rollups() as rollups:
        refreshed = await rollups.refresh([plan_of(PerDay)])
        answer = await rollups.answer(Question(PerDay))
    await handler.close()

    assert [(told.payload, told.columns) for told in page.events] == [("1", {"x": None}), ("2", {"x": 7})]
    assert refreshed.remarks == ()
    assert sum(int(row[1] or 0) for row in answer.rows) == 2


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([f"CREATE TABLE events ({BASE}, caf\xe9 TEXT NOT NULL)"], r"NOT NULL constraint failed: events.caf\xe9"),
        (
            [
                f"CREATE TABLE events ({BASE})",
                "CREATE TRIGGER t BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'ferm\xe9'); END",
            ],
            r"ferm\xe9",
        ),
    ],
    ids=["a column that needs a value", "a trigger"],
)
async def test_refusal_that_is_not_utf_8_holds_delivery_with_what_is_said(  # noqa: PLR0917
    path: Path, event: Events, batch: Batches, log_id: UUID, statements: list[str], said: str
) -> None:
    execute_latin_1(path, *statements)
    handler = SqliteHandler(path)
    await handler.open()
    await handler.resume(log_id, "tested", 0)

    with pytest.raises(PauseError) as caught:
        await handler.handle(batch(event(1)))
    await handler.close()

    assert str(caught.value) == f"{path}: {said}"
    assert rows(path, "SELECT count(*) FROM events") == [(0,)]
