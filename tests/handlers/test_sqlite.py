from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    Event,
    FencedError,
    HandlerURLError,
    PermanentError,
    ReceivedEvent,
)
from eventrec_handlers.sqlite import SqliteHandler, from_url
from eventrec_handlers.sqlite.columns import STORED
from eventrec_handlers.sqlite.own_tables import RETIRED_KEPT

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

NOON = datetime(2024, 2, 29, 12, 0, 0, 123_456, tzinfo=UTC)
NOON_US = 1_709_208_000_123_456
NOON_OF_DAY = 43_200


def rows(path: Path, sql: str, *values: object) -> list[Any]:
    """What the file holds, as another program sees it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def execute(path: Path, *statements: str) -> None:
    """What another program does to the file."""
    with closing(sqlite3.connect(path, timeout=1)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def declared(path: Path, table: str = "events") -> dict[str, str]:
    quoted = table.replace('"', '""')
    return {row[1]: row[2] for row in rows(path, f'PRAGMA table_info("{quoted}")')}


def column(name: str, kind: ColumnType = ColumnType.INT64) -> tuple[ColumnSchema, ...]:
    return (ColumnSchema(name, kind),)


def tables(path: Path) -> set[str]:
    found = {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    return found - {"eventrec_checkpoints", "eventrec_destination"}


# -- storing


async def test_records_become_rows_with_the_base_columns(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    stored = batch(event({"n": "é"}, kind="a", at=7), event([1], kind="b", at=8))

    await handler.handle(stored)

    first, second = (record.id for record in stored.records)
    assert rows(path, "SELECT * FROM events ORDER BY rowid") == [
        (first, "a", 7, '{"n":"é"}'),
        (second, "b", 8, "[1]"),
    ]
    assert declared(path) == {"id": "TEXT", "type": "TEXT", "timestamp": "INTEGER", "payload": "TEXT"}
    assert rows(path, "SELECT next FROM eventrec_checkpoints WHERE log_id = ?", str(log_id)) == [(2,)]


async def test_base_columns_are_not_null_and_id_is_not_unique(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))

    assert [row[3] for row in rows(path, "PRAGMA table_info(events)")] == [1, 1, 1, 1]
    ((name, unique),) = rows(path, "SELECT name, [unique] FROM pragma_index_list('events')")
    assert (name, unique) == ("eventrec_events_type_timestamp", 0)
    assert rows(path, "SELECT name, [desc] FROM pragma_index_xinfo(?) WHERE key", name) == [
        ("type", 0),
        ("timestamp", 1),
    ]


async def test_context_column_is_made_when_there_is_context(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    await handler.handle(batch(event(2), start=1, context=b'{"user":"u"}'))

    assert rows(path, "SELECT payload, context FROM events") == [("1", None), ("2", '{"user":"u"}')]


async def test_journal_is_wal_and_every_commit_is_synced(handler: SqliteHandler, path: Path) -> None:
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert handler._file.connection is not None
    assert handler._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_batches_larger_than_a_statement_keep_every_row_in_order(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n, columns=column("n"), values=(n,)) for n in range(1_234))))

    assert rows(path, "SELECT payload, n FROM events ORDER BY rowid") == [(str(n), n) for n in range(1_234)]


async def test_one_batch_may_hold_many_tables_and_shapes(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    wide = [event(n, into=f"t{n % 30}", columns=column(f"c{n}"), values=(n,)) for n in range(60)]

    await handler.handle(batch(*wide))

    assert len(tables(path)) == 30
    assert rows(path, "SELECT payload, c3, c33 FROM t3 ORDER BY rowid") == [("3", 3, None), ("33", None, 33)]


CONVERSIONS: list[tuple[ColumnType, object, str, object]] = [
    (ColumnType.BOOLEAN, True, "BOOLEAN", 1),
    (ColumnType.INT8, -128, "INTEGER", -128),
    (ColumnType.INT16, 1, "INTEGER", 1),
    (ColumnType.INT32, 2, "INTEGER", 2),
    (ColumnType.INT64, -(2**63), "INTEGER", -(2**63)),
    (ColumnType.UINT8, 255, "INTEGER", 255),
    (ColumnType.UINT16, 4, "INTEGER", 4),
    (ColumnType.UINT32, 5, "INTEGER", 5),
    (ColumnType.UINT64, 2**63 - 1, "INTEGER", 2**63 - 1),
    (ColumnType.FLOAT32, 0.5, "REAL", 0.5),
    (ColumnType.FLOAT64, 3, "REAL", 3.0),
    (ColumnType.BINARY, b"\0\xff", "BLOB", b"\0\xff"),
    (ColumnType.STRING, "1.0 é 🎉", "TEXT", "1.0 é 🎉"),
    (ColumnType.STRING, "1.0", "TEXT", "1.0"),
    (ColumnType.DICTIONARY, "red", "TEXT", "red"),
    (ColumnType.DECIMAL128, Decimal("1.10"), "TEXT DECIMAL", "1.10"),
    (ColumnType.JSON, {"a": [None, "\0"]}, "TEXT JSON", '{"a":[null,"\\u0000"]}'),
    (ColumnType.JSON, 1, "TEXT JSON", "1"),
    (ColumnType.LIST, [1, "é"], "TEXT JSON", '[1,"é"]'),
    (ColumnType.STRUCT, {"a": 1}, "TEXT JSON", '{"a":1}'),
    (ColumnType.VECTOR, [1, 0.25], "TEXT VECTOR", "[1.0,0.25]"),
    (ColumnType.DATE, date(1970, 1, 3), "INTEGER DATE_DAYS", 2),
    (ColumnType.DATETIME, NOON, "INTEGER DATETIME_US", NOON_US),
    (ColumnType.TIMESTAMP_SECOND, NOON, "INTEGER TIMESTAMP_S", NOON_US // 10**6),
    (ColumnType.TIMESTAMP_MILLISECOND, NOON, "INTEGER TIMESTAMP_MS", NOON_US // 10**3),
    (ColumnType.TIMESTAMP_MICROSECOND, NOON, "INTEGER TIMESTAMP_US", NOON_US),
    (ColumnType.TIMESTAMP_NANOSECOND, NOON, "INTEGER TIMESTAMP_NS", NOON_US * 10**3),
    (ColumnType.TIME_SECOND, time(12), "INTEGER TIME_S", NOON_OF_DAY),
    (ColumnType.TIME_MILLISECOND, time(12), "INTEGER TIME_MS", NOON_OF_DAY * 10**3),
    (ColumnType.TIME_MICROSECOND, time(12), "INTEGER TIME_US", NOON_OF_DAY * 10**6),
    (ColumnType.TIME_NANOSECOND, time(12), "INTEGER TIME_NS", NOON_OF_DAY * 10**9),
    (ColumnType.INTERVAL_YEAR_MONTH, 14, "INTEGER MONTHS", 14),
    (ColumnType.INTERVAL_DAY_TIME, timedelta(days=1), "INTEGER DURATION_MS", 86_400_000),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, (1, 2, 3), "TEXT INTERVAL", "[1,2,3]"),
]


def test_every_column_type_is_stored_somehow() -> None:
    assert set(STORED) == set(ColumnType)
    assert {kind for kind, *_ in CONVERSIONS} == set(ColumnType)


async def test_each_column_type_is_stored_as_documented(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    schema = [ColumnSchema(f"c{i}", kind) for i, (kind, *_) in enumerate(CONVERSIONS)]
    values = tuple(value for _, value, *_ in CONVERSIONS)

    await handler.handle(
        batch(event(columns=schema, values=values), event(columns=schema, values=(None,) * len(values)))
    )

    full, empty = (row[4:] for row in rows(path, "SELECT * FROM events ORDER BY rowid"))
    assert list(declared(path).values())[4:] == [kind for _, _, kind, _ in CONVERSIONS]
    assert [(type(value), value) for value in full] == [(type(value), value) for *_, value in CONVERSIONS]
    assert set(empty) == {None}


# -- what cannot be stored: named, and its neighbours stored

BAD_VALUES: list[tuple[ColumnType, object, str]] = [
    (ColumnType.UINT64, 2**63, r"of kind int \(UINT64 as INTEGER\): 9223372036854775808 has more than 63 bits"),
    (ColumnType.STRING, "a\0b", r"of kind str \(STRING as TEXT\): it holds a NUL character"),
    (ColumnType.DICTIONARY, "\0", r"of kind str \(DICTIONARY as TEXT\): it holds a NUL character"),
]


@pytest.mark.parametrize(("kind", "value", "why"), BAD_VALUES, ids=lambda part: str(part)[:20])
async def test_value_that_does_not_fit_is_found_before_writing_and_its_neighbours_are_stored(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, kind: ColumnType, value: object, why: str
) -> None:
    first, bad, last = (event(n, columns=column("it", kind), values=(v,)) for n, v in enumerate([None, value, None]))

    with pytest.raises(PermanentError, match=r"1 of 3 records cannot be stored; at offset 1") as caught:
        await handler.handle(batch(first, bad, last))
    made_before = tables(path)
    await handler.handle(batch(first))
    await handler.handle(batch(last, start=1))

    assert list(caught.value.records) == [1]
    caught.match(rf"column 'it' of table 'events' cannot take a value {why}")
    assert made_before == set()
    assert rows(path, "SELECT payload FROM events") == [("0",), ("2",)]


async def test_payload_with_nul_is_stored_as_escaped_text(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event({"a\0": "\0"})))

    assert rows(path, "SELECT payload FROM events") == [('{"a\\u0000":"\\u0000"}',)]


@pytest.mark.parametrize(("payload", "why"), [(b'"\xed\xa0\x80"', "not UTF-8 at byte 1"), (b'"\0"', "NUL character")])
async def test_received_payload_that_is_no_text_is_refused_alone(
    handler: SqliteHandler, event: Events, batch: Batches, payload: bytes, why: str
) -> None:
    with pytest.raises(PermanentError, match=why) as caught:
        await handler.handle(batch(event(1), ReceivedEvent("received", payload)))

    assert list(caught.value.records) == [1]


async def test_other_declared_type_is_refused_unless_the_value_is_null(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0, columns=column("total"), values=(1,))))
    texts = column("total", ColumnType.STRING)

    with pytest.raises(PermanentError) as caught:
        await handler.handle(
            batch(
                event(1, columns=texts, values=("x",)),
                event(2, columns=texts, values=(None,)),
                event(3, columns=column("total"), values=(3,)),
                start=1,
            )
        )
    await handler.handle(batch(event(2, columns=texts, values=(None,)), start=1))

    assert caught.value.records == {
        1: "column 'total' of table 'events' cannot take a value of kind str (STRING as TEXT): "
        "the table declares it INTEGER"
    }
    assert rows(path, "SELECT payload, total FROM events") == [("0", 1), ("2", None)]
    assert declared(path)["total"] == "INTEGER"


async def test_units_of_time_are_not_mixed_in_one_column(handler: SqliteHandler, event: Events, batch: Batches) -> None:
    await handler.handle(batch(event(columns=column("at", ColumnType.TIMESTAMP_SECOND), values=(1,))))

    with pytest.raises(PermanentError, match=r"TIMESTAMP_MS.*declares it INTEGER TIMESTAMP_S"):
        await handler.handle(batch(event(columns=column("at", ColumnType.TIMESTAMP_MILLISECOND), values=(1,)), start=1))


async def test_conflict_between_two_records_of_one_batch_refuses_the_later_shape(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    number = event(columns=column("a"), values=(1,))
    word = event(columns=column("a", ColumnType.STRING), values=("x",))

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(number, word, number))

    assert list(caught.value.records) == [1]


@pytest.mark.parametrize("names", [("userId", "userid"), ("a", "ID"), ("a", "Context")])
async def test_columns_that_differ_by_case_alone_are_refused(
    handler: SqliteHandler, event: Events, batch: Batches, names: tuple[str, ...]
) -> None:
    schema = [ColumnSchema(name, ColumnType.INT64) for name in names]

    with pytest.raises(PermanentError, match=rf"column '{names[-1]}' .* only the case of its name differs") as caught:
        await handler.handle(
            batch(event(columns=schema, values=(1, 2)), event(columns=schema, values=(1, None)), context=b"{}")
        )

    assert list(caught.value.records) == [0]


async def test_too_many_columns_are_refused_and_not_one_is_added(path: Path, event: Events, batch: Batches) -> None:
    handler = SqliteHandler(path, max_columns=6)
    await handler.open()
    await handler.resume(batch(event(1)).log_id, "tested", 0)
    three = [ColumnSchema(name, ColumnType.INT64) for name in "abc"]
    await handler.handle(batch(event(0)))

    with pytest.raises(PermanentError, match=r"'a'.* the table would have 7 columns, and max_columns is 6"):
        await handler.handle(batch(event(1, columns=three, values=(1, 2, 3)), start=1))
    await handler.handle(batch(event(2, columns=three, values=(None,) * 3), start=1))
    await handler.handle(batch(event(3, columns=three[:2], values=(1, 2)), start=2))
    await handler.close()

    assert list(declared(path)) == ["id", "type", "timestamp", "payload", "a", "b"]
    assert rows(path, "SELECT payload, b FROM events") == [("0", None), ("2", None), ("3", 2)]


@pytest.mark.parametrize("table", ["sqlite_master", "SQLite_x", "eventrec_checkpoints", "EVENTREC_destination"])
async def test_reserved_table_names_are_refused_alone(
    handler: SqliteHandler, event: Events, batch: Batches, table: str
) -> None:
    with pytest.raises(PermanentError, match=r"names that start with sqlite_ or eventrec_ are reserved") as caught:
        await handler.handle(batch(event(1), event(2, into=table)))

    assert list(caught.value.records) == [1]


async def test_view_index_and_foreign_table_are_left_alone(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    execute(path, "CREATE TABLE users (name TEXT)", "CREATE VIEW seen AS SELECT * FROM users")
    execute(path, "CREATE INDEX by_name ON users (name)")

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(event(into="users"), event(into="seen"), event(into="By_Name"), event()))

    assert caught.value.records == {
        0: "table 'users': it is not one of ours: it lacks 'id', 'type', 'timestamp', 'payload'",
        1: "table 'seen': its name is taken: view",
        2: "table 'By_Name': its name is taken: index",
    }


async def test_strict_schema_makes_no_table_and_no_column(path: Path, event: Events, batch: Batches) -> None:
    handler = SqliteHandler(path, schema="strict")
    await handler.open()
    await handler.resume(batch(event(1)).log_id, "tested", 0)

    with pytest.raises(PermanentError, match=r"there is no such table, and schema is 'strict'"):
        await handler.handle(batch(event(1)))
    execute(path, "CREATE TABLE events (id TEXT, type TEXT, timestamp INTEGER, payload TEXT)")
    with pytest.raises(PermanentError, match=r"the table has no such column, and schema is 'strict'") as caught:
        await handler.handle(batch(event(1), event(2, columns=column("a"), values=(1,))))
    await handler.handle(batch(event(1)))
    await handler.close()

    assert list(caught.value.records) == [1]
    assert rows(path, "SELECT payload FROM events") == [("1",)]
    assert list(declared(path)) == ["id", "type", "timestamp", "payload"]


HOSTILE = [
    'a"; DROP TABLE events; --',
    "it's",
    "[x]",
    "`x`",
    "select",
    "rowid",
    "ÄÖ ß 🎉",
    "a.b",
    "%s",
    "{x}",
    "?1",
    ":x",
    " ",
    "a\nb",
    "--",
    "/*",
    "x" * 255,
    "pragma_table_xinfo",
    "json_each",
    "main",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:12]))
async def test_hostile_names_are_taken_literally(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, name: str
) -> None:
    hostile = event(1, into=name, kind=name, columns=column(name, ColumnType.STRING), values=(name,))

    await handler.handle(batch(hostile))
    await handler.handle(batch(hostile, event(2), start=1))
    seen = await handler.reader().latest(limit=10)

    assert tables(path) == {name, "events"}
    assert declared(path, name)[name] == "TEXT"
    assert [(e.table, e.type, dict(e.columns)) for e in seen.events if e.table == name] == [
        (name, name, {name: name})
    ] * 2


# -- fencing, resuming, retiring


async def test_overlapping_redelivery_is_fenced_and_stores_nothing(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    one, two, three, four = (event(n) for n in range(1, 5))
    await handler.handle(batch(one, two, three))

    with pytest.raises(FencedError, match=r"the checkpoint stands at 3, the batch starts at 1"):
        await handler.handle(batch(two, three, four, start=1))
    at = await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(four, start=at))

    assert rows(path, "SELECT payload FROM events ORDER BY rowid") == [("1",), ("2",), ("3",), ("4",)]


async def test_a_batch_before_resume_is_fenced(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    with pytest.raises(FencedError, match=r"stands at None"):
        await handler.handle(batch(event(1), subscription="unknown"))

    assert rows(path, "SELECT count(*) FROM events") == [(0,)]


async def test_resume_makes_the_row_at_start_once(handler: SqliteHandler) -> None:
    log = UUID(int=5)

    assert await handler.resume(log, "a", 40) == 40
    assert await handler.resume(log, "a", 0) == 40
    assert await handler.resume(log, "b", 0) == 0


async def test_retired_row_answers_for_thirty_days(path: Path, log_id: UUID) -> None:
    clock = [0]
    handler = SqliteHandler(path, now=lambda: clock[0])

    async def reopened_after(passed: int) -> int:
        clock[0] = passed
        await handler.close()
        await handler.open()
        return await handler.resume(log_id, "tested", 0)

    await handler.open()
    await handler.retire(log_id, "tested", 9)
    await handler.retire(log_id, "tested", 7)

    assert await reopened_after(RETIRED_KEPT) == 9
    assert await reopened_after(RETIRED_KEPT + 1) == 0
    await handler.close()


async def test_row_that_moves_again_is_not_swept(path: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = SqliteHandler(path, now=lambda: 0)
    await handler.open()
    await handler.retire(log_id, "tested", 1)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    later = SqliteHandler(path, now=lambda: 2 * RETIRED_KEPT)
    await later.open()

    assert await later.resume(log_id, "tested", 0) == 2
    await later.close()


async def test_destination_id_is_the_files_own(handler: SqliteHandler, path: Path, tmp_path: Path) -> None:
    same, other = SqliteHandler(path), SqliteHandler(tmp_path / "other.db")
    await same.open()
    await other.open()

    assert handler.checkpoints is handler
    assert await same.destination_id() == await handler.destination_id()
    assert await other.destination_id() != await handler.destination_id()
    await same.close()
    await other.close()


# -- opening and closing


async def test_reopened_handler_goes_on(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(1)))

    await handler.close()
    await handler.close()
    await handler.open()
    await handler.open()
    await handler.handle(batch(event(2), start=await handler.resume(log_id, "tested", 0)))

    assert rows(path, "SELECT payload FROM events") == [("1",), ("2",)]


async def test_closed_handler_says_so(path: Path, event: Events, batch: Batches) -> None:
    handler = SqliteHandler(path)

    await handler.close()
    with pytest.raises(RuntimeError, match=r"has not been opened"):
        await handler.handle(batch(event(1)))
    assert not path.exists()
    await handler.open()
    assert repr(handler) == f"<SqliteHandler {str(path)!r} open>"
    await handler.close()

    assert repr(handler) == f"<SqliteHandler {str(path)!r} closed>"
    with pytest.raises(RuntimeError, match=r"closed.* is not open"):
        await handler.handle(batch(event(1)))


# -- by URL


async def test_url_names_a_relative_or_an_absolute_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for url in ("sqlite:///one.db", f"sqlite:///{tmp_path}/two%20%3F.db?busy_timeout=1s&max_columns=50&schema=strict"):
        handler = from_url(url)
        await handler.open()
        await handler.close()

    assert {path.name for path in tmp_path.iterdir()} == {"one.db", "two ?.db"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite://one.db", "sqlite:///relative.db"),
        ("sqlite:", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///:memory:", "MemoryHandler"),
        ("sqlite:///x.db?mode=ro", "unknown option 'mode'.*busy_timeout, catalogue, max_columns, refresh, schema"),
        ("sqlite:///x.db?schema=loose", "'schema' of a sqlite URL must be one of evolve, strict"),
        ("sqlite:///x.db?max_columns=4", "max_columns must be 5 to 2000, got 4"),
        ("sqlite:///x.db?max_columns=many", "'max_columns' of a sqlite URL must be a whole number"),
        ("sqlite:///x.db?busy_timeout=soon", "'busy_timeout' of a sqlite URL must be a duration"),
        ("sqlite://user:pw@/x.db", "no user"),
    ],
)
def test_wrong_url_says_what_is_wrong(url: str, why: str) -> None:
    with pytest.raises(HandlerURLError, match=why):
        from_url(url)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must name a file, got ''"):
        SqliteHandler("")
    with pytest.raises(ValueError, match=r"schema must be one of evolve, strict"):
        SqliteHandler(tmp_path / "x.db", schema="loose")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_columns must be 5 to 2000, got 2001"):
        SqliteHandler(tmp_path / "x.db", max_columns=2_001)
