"""SQLite: records become rows of tables that are made in another way than ours, and are read back."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec import (
    CONTEXT,
    DEFAULT,
    EVENT,
    GENERATED,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    Batch,
    ColumnSchema,
    ColumnType,
    FencedError,
    Layout,
    LayoutColumn,
    LayoutSource,
    LayoutType,
    PauseError,
    PermanentError,
    ReceivedEvent,
    from_context,
    from_field,
    from_payload,
    reader_from_url,
)
from eventrec_handlers.sqlite import SqliteHandler

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Received = Callable[..., ReceivedEvent]
USER = UUID("01990000-0000-7000-8000-00000000000a")
WEEK = 7 * 86_400


def rows(path: Path, sql: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=1)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: all of it runs in the handler's thread."""
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def laid_out(path: Path, clock: Clock) -> AsyncIterator[Callable[..., Any]]:
    """Opens handlers for `path` that are told of layouts; each has a checkpoint of its own at 0."""
    opened: list[SqliteHandler] = []

    async def opened_with(*layouts: Layout, subscription: str = "tested", **options: Any) -> SqliteHandler:
        handler = SqliteHandler(path, busy_timeout=0.2, now=clock, **options)
        handler.use_layouts({layout.table: layout for layout in layouts})
        await handler.open()
        opened.append(handler)
        return handler

    yield opened_with
    for handler in opened:
        await handler.close()


async def stored(handler: SqliteHandler, batch: Batch) -> None:
    await handler.resume(batch.log_id, batch.subscription, 0)
    await handler.handle(batch)


def table_of(source: LayoutSource, kind: LayoutType | ColumnType, **more: Any) -> Layout:
    return Layout("t", [LayoutColumn("at", TIMESTAMP, "timestamptz"), LayoutColumn("value", source, kind, **more)])


# -- writing ----------------------------------------------------------------------------------------------------------


async def test_table_of_another_system_is_written_with_exactly_its_columns(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(
        handler,
        batch(
            received("api_request", at=7_000, service="api", user_id=str(USER), endpoint="/é"),
            received("task_created", at=8_000, user_id=None),
            ReceivedEvent("bare", b"null", timestamp=9_000, table="analytics_events"),
        ),
    )

    assert [row[1] for row in rows(path, "PRAGMA table_info(analytics_events)")] == [
        "id",
        "timestamp",
        "event_type",
        "service",
        "user_id",
        "data",
    ]
    assert rows(path, "SELECT * FROM analytics_events ORDER BY id") == [
        (
            1,
            7_000,
            "api_request",
            "api",
            str(USER),
            f'{{"type":"api_request","service":"api","user_id":"{USER}","endpoint":"\\u00e9"}}'.replace(
                "\\u00e9", "/\\u00e9"
            ),
        ),
        (2, 8_000, "task_created", "unknown", None, '{"type":"task_created","user_id":null}'),
        (3, 9_000, "bare", "unknown", None, '{"type":"bare"}'),
    ]
    assert {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'index'")} >= {
        "idx_user",
        "idx_type",
    }


async def test_rows_of_several_types_are_numbered_in_the_order_of_their_records(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(handler, batch(*(received("ab"[n % 2], at=n) for n in range(7))))

    assert rows(path, "SELECT id, timestamp FROM analytics_events ORDER BY id") == [(n + 1, n) for n in range(7)]


async def test_table_without_a_layout_is_written_as_ever_beside_one_that_has_it(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(handler, batch(received("a", at=1), ReceivedEvent("b", b"{}", timestamp=2)))

    assert rows(path, "SELECT type, timestamp, payload FROM events") == [("b", 2, "{}")]
    assert rows(path, "SELECT event_type FROM analytics_events") == [("a",)]


@pytest.mark.parametrize(
    ("payload", "stored_event"),
    [
        (b"{}", '{"type":"kind"}'),
        (b" {\n } ", '{"type":"kind"}'),
        (b'{ "a" : 1}', '{"type":"kind","a" : 1}'),
        (b'{"type":"kind","a":1}', '{"type":"kind","a":1}'),
        (b'{"a":1,"\\u0074ype":"other"}', '{"type":"other","a":1}'),
        (b'{"a":{"type":"inner"}}', '{"type":"kind","a":{"type":"inner"}}'),
        (b'{"a":12345678901234567890123,"b":1.50}', '{"type":"kind","a":12345678901234567890123,"b":1.50}'),
    ],
)
async def test_whole_event_is_its_type_and_what_its_payload_says(
    path: Path, laid_out: Any, batch: Batches, payload: bytes, stored_event: str
) -> None:
    layout = Layout(
        "t",
        [
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("kind", TYPE, "text"),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
    )
    handler = await laid_out(layout)

    await stored(handler, batch(ReceivedEvent("kind", payload, timestamp=1, table="t")))

    assert rows(path, "SELECT data FROM t") == [(stored_event,)]


async def test_whole_event_holds_the_extra_columns_too(path: Path, laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(EVENT, "jsonb"))
    columns = [ColumnSchema("n", ColumnType.INT64), ColumnSchema("more", ColumnType.JSON)]
    event = ReceivedEvent(
        "k", b'{"n":"of the payload"}', timestamp=1, table="t", columns=columns, rows=[(1, {"a": 1}), (2, None)]
    )

    await stored(handler, batch(event))

    assert rows(path, "SELECT value FROM t ORDER BY rowid") == [
        ('{"type":"k","n":"of the payload","more":{"a":1}}',),
        ('{"type":"k","n":"of the payload","more":null}',),
    ]


@pytest.mark.parametrize(
    ("source", "kind", "payload", "kept"),
    [
        (from_payload("a"), "text", b'{"a":"x"}', "x"),
        (from_payload("a", "b"), "text", b'{"a":{"b":"x"}}', "x"),
        (from_payload("a", "b"), "text", b'{"a":"b"}', None),
        (from_payload("a"), "text", b"[1]", None),
        (from_payload("a"), "text", b'{"a":null}', None),
        (from_payload("a"), "uuid", f'{{"a":"{str(USER).upper()}"}}'.encode(), str(USER)),
        (from_payload("a"), "boolean", b'{"a":true}', 1),
        (from_payload("a"), "smallint", b'{"a":-32768}', -32_768),
        (from_payload("a"), "bigint", b'{"a":5.0}', 5),
        (from_payload("a"), "double", b'{"a":1}', 1.0),
        (from_payload("a"), "timestamptz", b'{"a":"1970-01-01T00:00:01.5+00:00"}', 1_500_000_000),
        (from_payload("a"), "timestamptz", b'{"a":"1970-01-01T01:00:01.123456789+01:00"}', 1_123_456_789),
        (from_payload("a"), "timestamptz", b'{"a":"1969-12-31 23:59:59,1234567Z"}', -876_543_300),
        (from_payload("a"), "bigint", b'{"a":9007199254740993}', 2**53 + 1),
        (from_payload("a"), "bigint", b'{"a":9007199254740991.0}', 2**53 - 1),
        (from_payload("a"), "double", b'{"a":9007199254740994}', 2.0**53 + 2),
        (from_payload("a"), "jsonb", b'{"a":{"b":[1]}}', '{"b":[1]}'),
        (from_payload("a"), "text", b'["no object"]', None),
        (from_payload("a"), "jsonb", b'{"a":null}', None),
        (from_payload("a"), ColumnType.STRING, b'{"a":"x"}', "x"),
        (from_context("host"), "text", b"{}", "here"),
        (from_context("no"), "text", b"{}", None),
        (CONTEXT, "jsonb", b"{}", '{"host":"here"}'),
        (PAYLOAD, "text", b'{"a":1}', '{"a":1}'),
    ],
)
async def test_value_is_taken_from_where_the_layout_says(
    path: Path, *, laid_out: Any, batch: Batches, source: LayoutSource, kind: Any, payload: bytes, kept: object
) -> None:
    handler = await laid_out(table_of(source, kind))

    await stored(handler, batch(ReceivedEvent("k", payload, timestamp=1, table="t", context=b'{"host":"here"}')))

    assert rows(path, "SELECT value FROM t") == [(kept,)]


@pytest.mark.parametrize(
    ("source", "kind", "more", "payload", "why"),
    [
        (from_payload("a"), "text", {}, b'{"a":5}', "not a text"),
        (from_payload("a"), "text", {}, b'{"a":"\\u0000"}', "NUL"),
        (from_payload("a"), "varchar", {"length": 2}, '{"a":"ééé"}'.encode(), "3 characters, and the column holds 2"),
        (from_payload("a"), "uuid", {}, b'{"a":"x"}', "not a UUID"),
        (from_payload("a"), "bigint", {}, b'{"a":"5"}', "not a whole number"),
        (from_payload("a"), "bigint", {}, b'{"a":true}', "not a whole number"),
        (from_payload("a"), "bigint", {}, b'{"a":9223372036854775808}', "not from"),
        (from_payload("a"), "smallint", {}, b'{"a":32768}', "not from"),
        (from_payload("a"), "bigint", {}, b'{"a":9007199254740993.0}', "not a whole number"),
        (from_payload("a"), "double", {}, b'{"a":9007199254740993}', "no float equals it"),
        (from_payload("a"), "double", {}, b'{"a":"1"}', "not a number"),
        (from_payload("a"), "double", {}, b'{"a":1' + b"0" * 400 + b"}", "too large"),
        (from_payload("a"), "boolean", {}, b'{"a":1}', "neither true nor false"),
        (from_payload("a"), "timestamptz", {}, b'{"a":"1970-01-01T00:00:01"}', "with a zone"),
        (from_payload("a"), "timestamptz", {}, b'{"a":5}', "RFC 3339"),
        (from_payload("a"), "timestamptz", {}, b'{"a":"0001-01-01T00:00:00Z"}', "1677 to 2262"),
        (from_payload("a"), "timestamptz", {}, b'{"a":"9999-12-31T00:00:00Z"}', "1677 to 2262"),
        (from_payload("a"), "jsonb", {}, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "cannot be read"),
        (from_payload("a"), "text", {}, b'{"b":"\\ud800"}', "cannot be read"),
        (from_payload("a"), "text", {}, b'{"a":"x"', "cannot be read"),
        (from_payload("a", "b"), "text", {}, b'{"a":{"\xff":1}}', "cannot be read"),
        (from_payload("a"), "text", {"nullable": False}, b"{}", "takes no NULL"),
        (TYPE, "varchar", {"length": 4}, b"{}", "5 characters, and the column holds 4"),
        (EVENT, "jsonb", {}, b"[1]", "not a JSON object"),
        (EVENT, "jsonb", {}, b'{"type":"another"}', "says another type"),
    ],
)
async def test_record_that_does_not_fit_is_refused_alone_and_in_words(
    path: Path,
    *,
    laid_out: Any,
    batch: Batches,
    source: LayoutSource,
    kind: Any,
    more: dict[str, Any],
    payload: bytes,
    why: str,
) -> None:
    handler = await laid_out(table_of(source, kind, **more))
    fine = ReceivedEvent("fine", b'{"a":null}' if more != {"nullable": False} else b'{"a":"x"}', timestamp=1, table="t")

    with pytest.raises(PermanentError, match=why) as caught:
        await stored(handler, batch(fine, ReceivedEvent("wrong", payload, timestamp=2, table="t")))

    assert list(caught.value.records) == [1]
    assert "eventrec_layouts" not in {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}


@pytest.mark.parametrize(
    ("kind", "given", "value", "kept"),
    [
        ("text", ColumnType.STRING, "x", "x"),
        ("uuid", ColumnType.STRING, USER, str(USER)),
        ("bigint", ColumnType.UINT8, 5, 5),
        ("double", ColumnType.FLOAT32, 0.5, 0.5),
        ("timestamptz", ColumnType.TIMESTAMP_SECOND, 2, 2_000_000_000),
        ("jsonb", ColumnType.JSON, {"a": 1}, '{"a":1}'),
        (ColumnType.DATE, ColumnType.DATE, 3, 3),
        (ColumnType.VECTOR, ColumnType.VECTOR, [0.5], "[0.5]"),
    ],
)
async def test_extra_column_of_an_event_has_its_place(
    path: Path, *, laid_out: Any, batch: Batches, kind: Any, given: ColumnType, value: object, kept: object
) -> None:
    handler = await laid_out(table_of(from_field("n"), kind))
    columns = [ColumnSchema("n", given)]

    await stored(
        handler,
        batch(
            ReceivedEvent("k", b"{}", timestamp=1, table="t", columns=columns, rows=[(value,), (None,)]),
            ReceivedEvent("k", b"{}", timestamp=2, table="t"),
        ),
    )

    assert rows(path, "SELECT at, value FROM t ORDER BY rowid") == [(1, kept), (1, None), (2, None)]


async def test_value_that_no_column_would_hold_is_refused_not_lost(laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(TYPE, "text"))
    columns = [ColumnSchema("n", ColumnType.INT64)]

    with pytest.raises(PermanentError, match="has no column for 'n'") as caught:
        await stored(
            handler,
            batch(
                ReceivedEvent("k", b"{}", timestamp=1, table="t", columns=columns, rows=[(None,)]),
                ReceivedEvent("k", b"{}", timestamp=1, table="t", columns=columns, rows=[(1,)]),
            ),
        )

    assert list(caught.value.records) == [1]


async def test_moment_of_an_event_that_64_bits_do_not_hold_is_refused_alone(laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(from_field("n"), "timestamptz"))
    columns = [ColumnSchema("n", ColumnType.TIMESTAMP_SECOND)]

    with pytest.raises(PermanentError, match="1677 to 2262") as caught:
        await stored(
            handler,
            batch(
                *(
                    ReceivedEvent("k", b"{}", timestamp=1, table="t", columns=columns, rows=[(second,)])
                    for second in (1, 2**62)
                )
            ),
        )

    assert list(caught.value.records) == [1]


async def test_column_of_another_type_than_its_events_have_is_refused(laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(from_field("n"), "timestamptz"))
    columns = [ColumnSchema("n", ColumnType.TIME_SECOND)]

    with pytest.raises(PermanentError, match="declares it TIME_SECOND"):
        await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t", columns=columns, rows=[(1,)])))


@pytest.mark.parametrize("name", ['a "b"', "a.b", "select", "é" * 100, "a;--", "a\nb", "'"])
async def test_names_are_taken_as_they_are(path: Path, laid_out: Any, batch: Batches, name: str) -> None:
    layout = Layout(
        name,
        [
            LayoutColumn(f"{name}1", TIMESTAMP, "timestamptz", default="now"),
            LayoutColumn(f"{name}2", from_payload(name), "text", default=name),
            LayoutColumn(f"{name}3", DEFAULT, "text", default=name),
        ],
        primary_key=(f"{name}1",),
    )
    handler = await laid_out(layout)

    await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1, table=name)))
    page = await handler.reader().latest(limit=9)

    quoted = name.replace('"', '""')
    assert rows(path, f'SELECT * FROM "{quoted}"') == [(1, name, name)]
    assert [event.id for event in page.events] == [f"{name}:1"]


# -- tables that are there --------------------------------------------------------------------------------------------

FOREIGN_SQL = (
    "CREATE TABLE analytics_events (id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT (0), event_type VARCHAR(100)"
    " NOT NULL, service VARCHAR(100) NOT NULL DEFAULT 'unknown', user_id UUID, data JSONB NOT NULL,"
    " PRIMARY KEY (timestamp, id))"
)


@pytest.mark.parametrize("schema", ["evolve", "strict"])
async def test_table_that_the_other_system_has_made_is_written_and_read_as_it_is(
    path: Path, *, laid_out: Any, batch: Batches, schema: str, reference: Layout, received: Received
) -> None:
    execute(path, FOREIGN_SQL)
    handler = await laid_out(reference, schema=schema)

    await stored(handler, batch(received("a", at=7, user_id=str(USER))))
    page = await handler.reader().latest(limit=9)

    (sql,) = rows(path, "SELECT sql FROM sqlite_master WHERE name = 'analytics_events'")
    assert sql == (FOREIGN_SQL,)
    assert rows(path, "SELECT timestamp, event_type, service, user_id FROM analytics_events") == [
        (7, "a", "unknown", str(USER))
    ]
    assert [(event.type, event.timestamp, event.payload) for event in page.events] == [
        ("a", 7, f'{{"user_id":"{USER}"}}')
    ]


async def test_strict_makes_no_table(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference, schema="strict")

    with pytest.raises(PermanentError, match="no such table"):
        await stored(handler, batch(received("a", at=7)))

    assert rows(path, "SELECT name FROM sqlite_master WHERE name LIKE 'analytics%'") == []


async def test_column_that_the_table_lacks_is_added_or_refused(path: Path, laid_out: Any, batch: Batches) -> None:
    execute(path, "CREATE TABLE t (at INTEGER, kind TEXT)", "INSERT INTO t VALUES (0, 'old')")
    layout = Layout(
        "t",
        [
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("kind", TYPE, "text"),
            LayoutColumn("shop", from_payload("shop"), "text", nullable=False, default="none"),
            LayoutColumn("body", PAYLOAD, "jsonb"),
        ],
    )
    strict, evolving = await laid_out(layout, schema="strict"), await laid_out(layout)

    with pytest.raises(PermanentError, match="no such column, and schema is 'strict'"):
        await stored(strict, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t")))
    await stored(evolving, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t")))

    assert rows(path, "SELECT * FROM t") == [(0, "old", "none", None), (1, "k", "none", "{}")]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE TABLE t (at TEXT, value TEXT)", "declares it TEXT"),
        ("CREATE TABLE t (at INTEGER, value INTEGER)", "declares it INTEGER"),
        ("CREATE TABLE t (at INTEGER, VALUE TEXT)", "only the case"),
        ("CREATE TABLE t (at INTEGER, value TEXT AS ('x'))", "computes it itself"),
        ("CREATE TABLE t (other TEXT)", "none of the columns of its layout"),
        ("CREATE VIEW t AS SELECT 1 AS at, 'x' AS value", "its name is taken: view"),
    ],
)
async def test_table_that_does_not_fit_its_layout_is_refused(
    path: Path, laid_out: Any, batch: Batches, sql: str, why: str
) -> None:
    execute(path, sql)
    handler = await laid_out(table_of(from_payload("a"), "text"))

    with pytest.raises(PermanentError, match=why):
        await stored(handler, batch(ReceivedEvent("k", b'{"a":"x"}', timestamp=1, table="t")))


async def test_constraint_of_the_table_names_the_record_that_it_refuses(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    execute(path, FOREIGN_SQL.replace("data JSONB", "data JSONB CHECK (data NOT LIKE '%bad%')"))
    handler = await laid_out(reference)

    with pytest.raises(PermanentError, match="CHECK") as caught:
        await stored(handler, batch(received("a", at=7), received("a", at=8, word="bad")))

    assert list(caught.value.records) == [1]


# -- without the classes ----------------------------------------------------------------------------------------------


async def test_program_that_knows_no_layout_finds_it_in_the_file(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=7)))

    await stored(await laid_out(), batch(received("b", at=8), subscription="other"))
    async with reader_from_url(f"sqlite:///{path}") as reader:
        page = await reader.latest(limit=9)

    assert [event.type for event in page.events] == ["a", "b"]
    assert rows(path, "SELECT table_name FROM eventrec_layouts") == [("analytics_events",)]


async def test_layout_that_comes_while_a_program_runs_is_found_by_it(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    early = await laid_out()
    await stored(early, batch(ReceivedEvent("x", b"{}", timestamp=1), subscription="early"))

    await stored(await laid_out(reference), batch(received("a", at=7)))
    await early.handle(batch(received("b", at=8), subscription="early", start=1))

    assert rows(path, "SELECT event_type FROM analytics_events ORDER BY id") == [("a",), ("b",)]


async def test_what_a_process_declares_wins_over_what_is_kept(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=7)))
    other = replace(reference, columns=[*reference.columns, LayoutColumn("host", from_payload("host"), "text")])

    await stored(await laid_out(other), batch(received("b", at=8, host="here"), subscription="other"))

    assert rows(path, "SELECT event_type, host FROM analytics_events ORDER BY id") == [("a", None), ("b", "here")]
    assert rows(path, "SELECT layout FROM eventrec_layouts") == [(other.to_json(),)]


async def test_layout_that_cannot_be_read_holds_what_is_for_its_table_alone(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=7)))
    execute(path, "UPDATE eventrec_layouts SET layout = '{\"version\":9}'")
    handler = await laid_out()

    await stored(handler, batch(ReceivedEvent("x", b"{}", timestamp=1), subscription="one"))
    with pytest.raises(PauseError, match="not a layout of table 'analytics_events'"):
        await stored(handler, batch(received("b", at=8), subscription="two"))
    page = await handler.reader().latest(limit=9)

    assert [event.type for event in page.events] == ["x"]
    assert list(page.foreign.values()) == [1]


async def test_case_of_a_table_makes_no_other_one(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(handler, batch(received("a", at=7), ReceivedEvent("b", b"{}", timestamp=8, table="Analytics_EVENTS")))

    assert rows(path, "SELECT event_type FROM analytics_events ORDER BY id") == [("a",), ("b",)]


# -- twice ------------------------------------------------------------------------------------------------------------


async def test_record_that_comes_twice_with_one_id_is_stored_once(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(handler, batch(received("a", at=1, id_=1), received("a", at=2, id_=1), received("b", at=3, id_=2)))
    await stored(handler, batch(received("a", at=4, id_=2), received("c", at=5, id_=3), subscription="other"))

    assert rows(path, "SELECT event_type, timestamp FROM analytics_events ORDER BY id") == [
        ("a", 1),
        ("b", 3),
        ("c", 5),
    ]


async def test_all_rows_of_a_record_are_stored_or_none(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    several = replace(received("a", at=1, id_=1), columns=[ColumnSchema("n", ColumnType.INT64)], rows=[(1,), (2,)])

    await stored(handler, batch(several, several))

    assert rows(path, "SELECT count(*) FROM analytics_events") == [(2,)]


async def test_records_without_an_id_of_their_own_are_not_remembered(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=1)))

    assert "eventrec_seen" not in {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}


async def test_table_that_holds_ids_needs_no_memory_of_them(path: Path, laid_out: Any, batch: Batches) -> None:
    layout = table_of(ID, "uuid")

    await stored(await laid_out(layout), batch(ReceivedEvent("a", b"{}", timestamp=1, table="t", id=USER.bytes)))

    assert rows(path, "SELECT value FROM t") == [(str(USER),)]
    assert "eventrec_seen" not in {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}


async def test_ids_of_a_batch_that_was_not_stored_are_not_remembered(
    path: Path, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    again = batch(received("a", at=1, id_=1))
    await handler.resume(again.log_id, "tested", 5)

    with pytest.raises(FencedError):
        await handler.handle(again)
    await stored(handler, batch(received("a", at=1, id_=1), subscription="other"))

    assert rows(path, "SELECT count(*) FROM analytics_events") == [(1,)]


async def test_ids_are_forgotten_after_their_time(
    path: Path, *, laid_out: Any, batch: Batches, clock: Clock, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference, seen_for=WEEK)
    await stored(handler, batch(received("a", at=1, id_=1)))

    clock.now += (WEEK - 1) * 1_000_000_000
    await stored(handler, batch(received("b", at=2, id_=2), subscription="two"))
    kept = rows(path, "SELECT count(*) FROM eventrec_seen")
    clock.now += 70 * 1_000_000_000
    await stored(handler, batch(received("c", at=3, id_=3), subscription="three"))

    assert kept == [(2,)]
    assert rows(path, "SELECT count(*) FROM eventrec_seen") == [(2,)]


@pytest.mark.parametrize("table", ["eventrec_seen", "eventrec_layouts"])
async def test_table_of_another_program_with_a_name_of_ours_is_left_alone(
    path: Path, laid_out: Any, table: str, reference: Layout
) -> None:
    execute(path, f"CREATE TABLE {table} (mine TEXT)")

    with pytest.raises(PauseError, match="of another program"):
        await laid_out(reference)


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_what_is_written_is_read_back(
    laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    reader = handler.reader()
    start = (await reader.latest(limit=0)).cursor
    await stored(
        handler, batch(received("a", at=30, n=1), received("b", at=20, service="s"), received("a", at=10, n=3))
    )

    latest = await reader.latest(limit=2)
    ranged = await reader.range(10, 30, limit=9)
    followed = await reader.follow(start, limit=9, types=["a"])

    assert [event.timestamp for event in latest.events] == [20, 30]
    assert [(event.type, event.payload) for event in ranged.events] == [("a", '{"n":3}'), ("b", '{"service":"s"}')]
    assert [(event.id, event.type) for event in followed.events] == [
        ("analytics_events:3", "a"),
        ("analytics_events:1", "a"),
    ]
    assert ranged.events[1].columns == {"id": 2, "service": "s", "user_id": None}


async def test_event_is_read_back_from_columns_alone(laid_out: Any, batch: Batches) -> None:
    layout = Layout(
        "t",
        [
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("a", from_payload("a", "b"), "bigint"),
            LayoutColumn("c", from_payload("a", "c"), "jsonb"),
            LayoutColumn("d", from_payload("d"), "text"),
            LayoutColumn("host", from_context("host"), "text"),
        ],
    )
    handler = await laid_out(layout)
    payload = b'{"a":{"b":1,"c":{"x":[]}},"lost":1}'

    await stored(handler, batch(ReceivedEvent("k", payload, timestamp=1, table="t", context=b'{"host":"here"}')))
    (event,) = (await handler.reader().latest(limit=9)).events

    assert (event.type, event.payload, event.context) == ("t", '{"a":{"b":1,"c":{"x":[]}}}', '{"host":"here"}')
    assert [len((await handler.reader().latest(limit=9, types=[kind])).events) for kind in ("t", "k")] == [1, 0]


async def test_type_is_read_from_the_whole_event_where_no_column_holds_it(laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(EVENT, "jsonb"))

    await stored(
        handler,
        batch(*(ReceivedEvent(kind, b'{"a":1}', timestamp=1, table="t") for kind in ("one", "two"))),
    )
    page = await handler.reader().latest(limit=9, types=["two"])

    assert [(event.type, event.payload) for event in page.events] == [("two", '{"a":1}')]


async def test_table_without_a_time_is_written_and_its_rows_are_said_to_have_no_order(
    path: Path, laid_out: Any, batch: Batches
) -> None:
    handler = await laid_out(Layout("t", [LayoutColumn("kind", TYPE, "text"), LayoutColumn("n", GENERATED, "bigint")]))

    await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t")))
    page = await handler.reader().latest(limit=9)

    assert rows(path, "SELECT kind FROM t") == [("k",)]
    assert not page.events
    assert "no column for the time" in next(iter(page.foreign))


@pytest.mark.parametrize(
    "values",
    ["('x', 'a', 's', NULL, '{}')", "(1, x'00', 's', NULL, '{}')", "(1, 'a', 's', NULL, x'00')"],
)
async def test_row_of_another_program_is_passed_over_and_counted(
    path: Path, *, laid_out: Any, batch: Batches, values: str, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    await stored(handler, batch(received("a", at=7)))
    execute(path, f"INSERT INTO analytics_events (timestamp, event_type, service, user_id, data) VALUES {values}")

    page = await handler.reader().latest(limit=9)

    assert [event.type for event in page.events] == ["a"]
    assert list(page.foreign.values()) == [1]


@pytest.mark.parametrize("data", ["[1]", "nonsense", '{"type":5}', '{"type":"x","type":"a"}'])
async def test_data_of_another_program_is_given_without_an_error(
    path: Path, *, laid_out: Any, batch: Batches, data: str, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    await stored(handler, batch(received("a", at=7)))
    execute(path, f"INSERT INTO analytics_events (timestamp, event_type, data) VALUES (8, 'a', '{data}')")

    page = await handler.reader().latest(limit=9)

    assert len(page.events) == 2
