"""PostgreSQL: records become rows of tables that are made in another way than ours, by COPY, and are read back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import asyncpg
import pytest

from eventrec import (
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
    LayoutError,
    LayoutSource,
    PauseError,
    PermanentError,
    ReceivedEvent,
    from_field,
    from_payload,
    reader_from_url,
)
from eventrec_handlers.postgres import PostgresHandler, seen
from eventrec_handlers.postgres.checkpoints import find_namespace
from eventrec_handlers.postgres.kept_layouts import keep_layout, read_layouts

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Received = Callable[..., ReceivedEvent]
Database = Any
USER = UUID("01990000-0000-7000-8000-00000000000a")
NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
NOON_NS = 1_770_120_000_000_000_000

REFERENCE_SQL = (
    "CREATE TABLE analytics_events (id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT NOW(),"
    " event_type VARCHAR(100) NOT NULL, service VARCHAR(100) NOT NULL DEFAULT 'unknown', user_id UUID,"
    " data JSONB NOT NULL, PRIMARY KEY (timestamp, id))"
)
"""As the existing system makes it."""

DESCRIBE = (
    "SELECT column_name::text, data_type::text, character_maximum_length::int, is_nullable::text, column_default::text"
    " FROM information_schema.columns WHERE table_name = 'analytics_events' ORDER BY ordinal_position"
)


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: the driver always runs on asyncio."""
    return "asyncio"


@pytest.fixture
async def laid_out(database: Database) -> AsyncIterator[Callable[..., Any]]:
    """Opens handlers for `database` that are told of layouts."""
    made: list[PostgresHandler] = []

    async def opened_with(*layouts: Layout, **options: Any) -> PostgresHandler:
        handler = PostgresHandler(database.url(), **options)
        handler.use_layouts({layout.table: layout for layout in layouts})
        await handler.open()
        made.append(handler)
        return handler

    yield opened_with
    for handler in made:
        await handler.close()


@pytest.fixture
def swept_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "SWEEP_EVERY", 0.0)


async def stored(handler: PostgresHandler, batch: Batch) -> None:
    await handler.resume(batch.log_id, batch.subscription, batch.start)
    await handler.handle(batch)


def table_of(source: LayoutSource, kind: Any, **more: Any) -> Layout:
    return Layout("t", [LayoutColumn("at", TIMESTAMP, "timestamptz"), LayoutColumn("value", source, kind, **more)])


# -- writing ----------------------------------------------------------------------------------------------------------


async def test_table_of_another_system_is_written_with_exactly_its_columns(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(
        handler,
        batch(
            received("api_request", at=NOON_NS, service="api", user_id=str(USER), endpoint="/é"),
            received("task_created", at=NOON_NS + 1_999, user_id=None),
        ),
    )
    described = database.rows(DESCRIBE)
    found = database.rows("SELECT id, timestamp, event_type, service, user_id, data::text FROM analytics_events")
    database.execute("DROP TABLE analytics_events", REFERENCE_SQL)

    assert described == database.rows(DESCRIBE)
    assert [(*row[:5], json.loads(row[5])) for row in found] == [
        (
            1,
            NOON,
            "api_request",
            "api",
            USER,
            {"type": "api_request", "service": "api", "user_id": str(USER), "endpoint": "/é"},
        ),
        (
            2,
            NOON + timedelta(microseconds=1),
            "task_created",
            "unknown",
            None,
            {"type": "task_created", "user_id": None},
        ),
    ]


@pytest.mark.parametrize("schema", ["evolve", "strict"])
async def test_table_that_the_other_system_has_made_is_written_and_read_as_it_is(
    database: Database, *, laid_out: Any, batch: Batches, schema: str, reference: Layout, received: Received
) -> None:
    database.execute(REFERENCE_SQL, "INSERT INTO analytics_events (event_type, data) VALUES ('theirs', '{\"a\": 1}')")
    before = database.rows(DESCRIBE)
    handler = await laid_out(reference, schema=schema)

    await stored(handler, batch(received("ours", at=NOON_NS, n=1)))
    async with handler.reader() as reader:
        page = await reader.latest(limit=9)

    assert database.rows(DESCRIBE) == before
    assert [(event.id, event.type, json.loads(event.payload)) for event in page.events] == [
        ("analytics_events:2", "ours", {"n": 1}),
        ("analytics_events:1", "theirs", {"a": 1}),
    ]


@pytest.mark.parametrize(
    ("source", "kind", "payload", "kept"),
    [
        (from_payload("a"), "uuid", f'"{USER}"', USER),
        (from_payload("a"), "text", '"é"', "é"),
        (from_payload("a"), "boolean", "true", True),
        (from_payload("a"), "smallint", "-5", -5),
        (from_payload("a"), "integer", "5", 5),
        (from_payload("a"), "bigint", "5.0", 5),
        (from_payload("a"), "real", "0.5", 0.5),
        (from_payload("a"), "double", "1", 1.0),
        (from_payload("a"), "timestamptz", '"2026-02-03T12:00:00Z"', NOON),
        (from_payload("a"), "json", '{"b" : 1}', '{"b" : 1}'),
        (from_payload("a"), "jsonb", '{"b" : 1}', '{"b": 1}'),
        (from_payload("a"), ColumnType.INT64, "5", 5),
        (from_payload("b"), "text", "5", None),
        (PAYLOAD, "text", "5", '{"a":5}'),
        (EVENT, "json", "5", '{"type":"k","a":5}'),
    ],
)
async def test_each_type_holds_what_it_is_given(
    database: Database, *, laid_out: Any, batch: Batches, source: LayoutSource, kind: Any, payload: str, kept: object
) -> None:
    handler = await laid_out(table_of(source, kind))

    await stored(handler, batch(ReceivedEvent("k", f'{{"a":{payload}}}'.encode(), timestamp=1_000, table="t")))

    assert database.rows("SELECT value FROM t") == [(kept,)]


async def test_extra_columns_of_several_shapes_go_to_one_table_in_the_order_of_their_records(
    database: Database, laid_out: Any, batch: Batches
) -> None:
    layout = Layout(
        "t",
        [
            LayoutColumn("n", GENERATED, "bigint"),
            LayoutColumn("kind", TYPE, "text"),
            LayoutColumn("day", from_field("day"), ColumnType.DATE),
            LayoutColumn("who", from_field("who"), "uuid"),
        ],
    )
    handler = await laid_out(layout)
    dated = ReceivedEvent(
        "dated", b"{}", table="t", columns=[ColumnSchema("day", ColumnType.DATE)], rows=[(1,), (None,)]
    )
    named = ReceivedEvent("named", b"{}", table="t", columns=[ColumnSchema("who", ColumnType.STRING)], rows=[(USER,)])

    await stored(handler, batch(dated, named, dated))

    found = database.rows("SELECT n, kind, day::text, who FROM t ORDER BY n")
    day = "1970-01-02"
    assert found == [
        (1, "dated", day, None),
        (2, "dated", None, None),
        (3, "named", None, USER),
        (4, "dated", day, None),
        (5, "dated", None, None),
    ]


@pytest.mark.parametrize(
    ("source", "kind", "more", "payload", "why"),
    [
        (TYPE, "varchar", {"length": 4}, b"{}", "5 characters, and the column holds 4"),
        (from_payload("a"), "varchar", {"length": 2}, b'{"a":"abc"}', "3 characters, and the column holds 2"),
        (from_payload("a"), "uuid", {}, b'{"a":"x"}', "not a UUID"),
        (from_payload("a"), "text", {}, b'{"a":"\\u0000"}', "NUL"),
        (from_payload("a"), "jsonb", {}, b'{"a":"\\u0000"}', "NUL"),
        (EVENT, "jsonb", {}, b'{"a":"\\ud800"}', "surrogate|cannot be read"),
        (EVENT, "jsonb", {}, b"5", "not a JSON object"),
        (from_payload("a"), "timestamptz", {}, b'{"a":"0001-01-01T00:00:00"}', "with a zone"),
        (from_payload("a"), "text", {"nullable": False}, b"{}", "takes no NULL"),
    ],
)
async def test_record_that_does_not_fit_is_refused_alone_and_in_words(
    database: Database,
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
    fine = ReceivedEvent("fine", b'{"a":"x"}' if "nullable" in more else b'{"a":null}', timestamp=1, table="t")

    with pytest.raises(PermanentError, match=why) as caught:
        await stored(handler, batch(fine, ReceivedEvent("wrong", payload, timestamp=2, table="t")))

    assert list(caught.value.records) == [1]
    assert "t" not in database.tables() or database.rows("SELECT count(*) FROM t") == [(0,)]


async def test_prepared_rows_are_written_as_they_are(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    ahead = batch(*(received("a", at=NOON_NS, n=n) for n in range(450)))
    await handler.resume(ahead.log_id, "tested", 0)

    await handler.prepare(ahead)
    await handler.handle(ahead)

    assert database.rows("SELECT count(*), sum((data->>'n')::int) FROM analytics_events") == [(450, 450 * 449 // 2)]


@pytest.mark.parametrize("name", ['a "b"', "a.b", "select", "é" * 31, "a;--", "a\nb", "'\\", "x" * 62])
async def test_names_are_taken_as_they_are(database: Database, laid_out: Any, batch: Batches, name: str) -> None:
    layout = Layout(
        name,
        [
            LayoutColumn(f"{name}1", TIMESTAMP, "timestamptz", default="now"),
            LayoutColumn(f"{name}2", from_payload(name), "text", default=name),
        ],
        primary_key=(f"{name}1",),
    )
    handler = await laid_out(layout)

    await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1_000, table=name)))
    async with handler.reader() as reader:
        page = await reader.latest(limit=9)

    assert [(event.type, event.timestamp) for event in page.events] == [(name, 1_000)]
    assert page.events[0].columns == {f"{name}2": name}
    assert page.events[0].id.startswith(f"{name}:")


@pytest.mark.parametrize("name", ["x" * 64, "é" * 32])
def test_name_that_postgresql_would_cut_off_is_refused_where_it_is_declared(database: Database, name: str) -> None:
    handler = PostgresHandler(database.url())
    column = LayoutColumn("at", TIMESTAMP, "timestamptz")

    for layout in (Layout(name, [column]), Layout("t", [column, LayoutColumn(name, TYPE, "text")])):
        with pytest.raises(LayoutError, match="64 bytes, and PostgreSQL holds 63"):
            handler.use_layouts({layout.table: layout})


# -- tables that are there --------------------------------------------------------------------------------------------


async def test_strict_makes_no_table(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference, schema="strict")

    with pytest.raises(PermanentError, match="no such table"):
        await stored(handler, batch(received("a", at=7)))

    assert "analytics_events" not in database.tables()


async def test_column_that_the_table_lacks_is_added_or_refused(
    database: Database, laid_out: Any, batch: Batches
) -> None:
    database.execute("CREATE TABLE t (at timestamptz, kind text)", "INSERT INTO t VALUES (now(), 'old')")
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

    assert database.rows("SELECT kind, shop, body::text FROM t ORDER BY at DESC") == [
        ("old", "none", None),
        ("k", "none", "{}"),
    ]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE TABLE t (at timestamp, value text)", "declares it timestamp without time zone"),
        ("CREATE TABLE t (at timestamptz, value bigint)", "declares it bigint"),
        ("CREATE TABLE t (at timestamptz, value text GENERATED ALWAYS AS ('x') STORED)", "generated"),
        ("CREATE TABLE t (at timestamptz, value varchar(2))", "too long"),
        ("CREATE TABLE t (at timestamptz, value text CHECK (value <> 'abc'))", "violates check constraint"),
        ("CREATE TABLE t (other text)", "none of the columns of its layout"),
        ("CREATE VIEW t AS SELECT now() AS at, 'x' AS value", "its name is taken: view"),
    ],
)
async def test_table_that_does_not_fit_its_layout_is_refused(
    database: Database, laid_out: Any, batch: Batches, sql: str, why: str
) -> None:
    database.execute(sql)
    handler = await laid_out(table_of(from_payload("a"), "text"))

    with pytest.raises(PermanentError, match=why) as caught:
        await stored(handler, batch(ReceivedEvent("k", b'{"a":"abc"}', timestamp=1, table="t")))

    assert list(caught.value.records) == [0]


async def test_table_that_was_mended_meanwhile_is_looked_at_again(
    database: Database, laid_out: Any, batch: Batches
) -> None:
    database.execute("CREATE TABLE t (at timestamptz, value bigint)")
    handler = await laid_out(table_of(from_payload("a"), "text"))
    wanted = batch(ReceivedEvent("k", b'{"a":"abc"}', timestamp=1, table="t"))

    with pytest.raises(PermanentError):
        await stored(handler, wanted)
    database.execute("ALTER TABLE t ALTER value TYPE text")
    await stored(handler, wanted)

    assert database.rows("SELECT value FROM t") == [("abc",)]


async def test_columns_are_looked_at_again_before_the_end(database: Database, laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(from_payload("a"), "bigint"))
    await stored(handler, batch(ReceivedEvent("k", b'{"a":1}', timestamp=1, table="t")))
    database.execute("ALTER TABLE t ALTER value TYPE double precision")

    with pytest.raises(PermanentError, match="declares it double precision"):
        await stored(handler, batch(ReceivedEvent("k", b'{"a":1}', timestamp=1, table="t"), start=1))

    assert database.rows("SELECT value FROM t") == [(1.0,)]


async def test_table_under_row_security_is_written_too(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    database.execute(
        REFERENCE_SQL,
        "ALTER TABLE analytics_events ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE analytics_events FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON analytics_events USING (true) WITH CHECK (event_type <> 'bad')",
        "CREATE ROLE laid_out_writer LOGIN",
        "GRANT ALL ON SCHEMA public TO laid_out_writer",
        "GRANT ALL ON analytics_events TO laid_out_writer",
        "GRANT ALL ON SEQUENCE analytics_events_id_seq TO laid_out_writer",
    )
    handler = PostgresHandler(database.url(user="laid_out_writer"))
    handler.use_layouts({reference.table: reference})
    try:
        await handler.open()
        await stored(handler, batch(received("a", at=NOON_NS), received("b", at=NOON_NS)))
        with pytest.raises(PermanentError) as caught:
            await stored(handler, batch(received("a", at=NOON_NS), received("bad", at=NOON_NS), start=2))
    finally:
        await handler.close()
        database.execute("DROP OWNED BY laid_out_writer", "DROP ROLE laid_out_writer")

    assert list(caught.value.records) == [3]
    assert database.rows("SELECT event_type FROM analytics_events ORDER BY id") == [("a",), ("b",)]


# -- partitions -------------------------------------------------------------------------------------------------------


async def test_table_with_partitions_is_made_and_written(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(replace(reference, partition="day"))

    await stored(handler, batch(received("a", at=NOON_NS), received("b", at=NOON_NS + 86_400_000_000_000)))
    async with handler.reader() as reader:
        page = await reader.range(limit=9)

    assert database.rows("SELECT partstrat::text FROM pg_partitioned_table") == [("r",)]
    assert [(event.table, event.type) for event in page.events] == [
        ("analytics_events", "a"),
        ("analytics_events", "b"),
    ]


async def test_day_without_a_partition_is_its_records_fault_unless_it_is_today(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    part = "CREATE TABLE {} PARTITION OF analytics_events FOR VALUES FROM ('{}') TO ('{}')"
    database.execute(
        f"{REFERENCE_SQL} PARTITION BY RANGE (timestamp)", part.format("first", "1970-01-01", "1970-01-02")
    )
    handler = await laid_out(reference)
    await stored(handler, batch(received("a", at=1)))
    another_day = batch(received("b", at=10 * 86_400_000_000_000), start=1)

    with pytest.raises(PauseError, match="nor for one of now"):
        await stored(handler, another_day)
    database.execute(part.format("present", "2000-01-01", "2200-01-01"))
    with pytest.raises(PermanentError, match="no partition") as caught:
        await stored(handler, another_day)

    assert list(caught.value.records) == [1]


# -- without the classes ----------------------------------------------------------------------------------------------


async def test_program_that_knows_no_layout_finds_it_in_the_database(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    early = await laid_out()
    await stored(early, batch(ReceivedEvent("x", b"{}", timestamp=1_000), subscription="early"))
    await stored(await laid_out(reference), batch(received("a", at=NOON_NS)))

    await stored(early, batch(received("b", at=NOON_NS), subscription="early", start=1))
    await stored(await laid_out(), batch(received("c", at=NOON_NS), subscription="late"))
    async with reader_from_url(database.url()) as reader:
        page = await reader.latest(limit=9)

    assert [event.type for event in page.events] == ["x", "a", "b", "c"]
    assert database.rows("SELECT table_name, layout FROM eventrec_layouts") == [
        ("analytics_events", reference.to_json())
    ]


async def test_what_a_process_declares_wins_over_what_is_kept(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=NOON_NS)))
    other = replace(reference, columns=[*reference.columns, LayoutColumn("host", from_payload("host"), "text")])

    await stored(await laid_out(other), batch(received("b", at=NOON_NS, host="here"), subscription="other"))

    assert database.rows("SELECT event_type, host FROM analytics_events ORDER BY id") == [("a", None), ("b", "here")]
    assert database.rows("SELECT layout FROM eventrec_layouts") == [(other.to_json(),)]


async def test_layout_that_cannot_be_read_holds_what_is_for_its_table_alone(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    await stored(await laid_out(reference), batch(received("a", at=NOON_NS)))
    database.execute("UPDATE eventrec_layouts SET layout = '{\"version\":9}'")
    handler = await laid_out()

    await stored(handler, batch(ReceivedEvent("x", b"{}", timestamp=1), subscription="one"))
    with pytest.raises(PauseError, match="not a layout of table 'analytics_events'"):
        await stored(handler, batch(received("b", at=8), subscription="two"))
    async with handler.reader() as reader:
        page = await reader.latest(limit=9)

    assert [event.type for event in page.events] == ["x"]
    assert list(page.foreign.values()) == [1]


@pytest.mark.parametrize("table", ["eventrec_seen", "eventrec_layouts"])
async def test_table_of_another_program_with_a_name_of_ours_is_left_alone(
    database: Database, laid_out: Any, table: str
) -> None:
    database.execute(f"CREATE TABLE {table} (table_name text, mine text)")

    with pytest.raises(PauseError, match="is another program's"):
        await laid_out()


# -- twice ------------------------------------------------------------------------------------------------------------


async def test_record_that_comes_twice_with_one_id_is_stored_once(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)

    await stored(handler, batch(received("a", at=1, id_=1), received("a", at=2, id_=1), received("b", at=3, id_=2)))
    await stored(handler, batch(received("a", at=4, id_=2), received("c", at=5, id_=3), subscription="other"))
    await stored(handler, batch(received("a", at=6, id_=2), subscription="third"))

    assert database.rows("SELECT event_type FROM analytics_events ORDER BY id") == [("a",), ("b",), ("c",)]
    assert database.rows("SELECT count(*) FROM eventrec_checkpoints WHERE next > 0") == [(3,)]


async def test_two_processes_that_are_given_the_same_records_at_once_store_them_once(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    one, two = await laid_out(reference), await laid_out(reference)
    numbers = list(range(600))
    batches = [
        batch(*(received("a", at=NOON_NS, id_=n + 1) for n in order), subscription=name)
        for name, order in (("one", numbers), ("two", numbers[::-1]))
    ]

    async with anyio.create_task_group() as group:
        for handler, each in zip((one, two), batches, strict=True):
            group.start_soon(stored, handler, each)

    assert database.rows("SELECT count(*) FROM analytics_events") == [(600,)]


async def test_what_another_process_makes_while_this_one_waits_for_its_turn_is_found(
    database: Database, reference: Layout
) -> None:
    connection = await asyncpg.connect(database.url())
    other = await asyncpg.connect(database.url())
    try:
        namespace = await find_namespace(connection, None, lock_timeout=20_000, may_make=False)
        assert await read_layouts(connection, namespace) == {}  # from here on it knows that there is none
        await other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({namespace.key})")
        async with anyio.create_task_group() as group:
            group.start_soon(keep_layout, connection, namespace, reference)
            with anyio.fail_after(120):
                while not await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):  # noqa: ASYNC110 - the server says it
                    await anyio.sleep(0.01)
            await other.execute(
                "CREATE TABLE eventrec_layouts (table_name text PRIMARY KEY, layout text NOT NULL); COMMIT"
            )
        kept = await read_layouts(connection, namespace)
    finally:
        await connection.close()
        await other.close()

    assert kept == {"analytics_events": reference.to_json()}


async def test_ids_go_with_the_transaction_of_their_rows(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    again = batch(received("a", at=1, id_=1))
    await stored(handler, batch(received("x", at=1, id_=9)))
    fenced = batch(received("b", at=1, id_=2))  # the checkpoint has moved to 1

    with pytest.raises(FencedError):
        await handler.handle(fenced)
    await stored(handler, batch(received("b", at=1, id_=2), subscription="other"))
    await stored(handler, replace_subscription(again, "third"))

    assert database.rows("SELECT event_type FROM analytics_events ORDER BY id") == [("x",), ("b",), ("a",)]


def replace_subscription(batch: Batch, name: str) -> Batch:
    return Batch(
        log_id=batch.log_id,
        subscription=name,
        start=batch.start,
        end=batch.end,
        offsets=batch.offsets,
        entries=batch._entries,
    )


async def test_table_that_holds_ids_needs_no_memory_of_them(database: Database, laid_out: Any, batch: Batches) -> None:
    event = ReceivedEvent("a", b"{}", timestamp=1, table="t", id=USER.bytes)

    await stored(await laid_out(table_of(ID, "uuid")), batch(event))

    assert database.rows("SELECT value FROM t") == [(USER,)]
    assert database.tables() == {"t", "eventrec_layouts"}


@pytest.mark.usefixtures("swept_after_each_batch")
async def test_ids_are_forgotten_after_their_time(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference, seen_for=3_600)
    await stored(handler, batch(received("a", at=1, id_=1), received("b", at=2, id_=2)))
    database.execute("UPDATE eventrec_seen SET seen_at = now() - interval '2 hours' WHERE id::text LIKE '%1'")

    await stored(handler, batch(received("c", at=3, id_=3), subscription="other"))

    assert [row[0].int for row in database.rows("SELECT id FROM eventrec_seen ORDER BY id")] == [2, 3]


@pytest.mark.usefixtures("swept_after_each_batch")
async def test_sweep_that_fails_is_no_batchs_failure_and_is_said(
    database: Database, laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference, seen_for=1)
    await stored(handler, batch(received("a", at=1, id_=1)))
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$",
        "CREATE TRIGGER kept BEFORE DELETE ON eventrec_seen FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )

    for n in range(2, 6):
        await stored(handler, batch(received("a", at=n, id_=n), subscription=f"s{n}"))

    assert database.rows("SELECT count(*) FROM analytics_events") == [(5,)]
    assert handler.remarks == ("old ids in eventrec_seen are not deleted: kept (P0001)",)


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_what_is_written_is_read_back(
    laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    await stored(handler, batch(received("first", at=1_000)))
    reader = handler.reader()
    try:
        start = (await reader.latest(limit=0)).cursor
        await stored(
            handler,
            batch(*(received("ab"[n % 2], at=n * 10_000 // 2, n=n) for n in range(1, 6)), start=1),
        )
        first = await reader.range(5_000, limit=2)
        rest = await reader.range(5_000, limit=9, cursor=first.cursor)
        followed = await reader.follow(start, limit=9, types=["a"])
        nothing = await reader.follow(followed.cursor, limit=9)
    finally:
        await reader.close()

    assert [json.loads(event.payload)["n"] for event in (*first.events, *rest.events)] == [1, 2, 3, 4, 5]
    assert [json.loads(event.payload)["n"] for event in followed.events] == [2, 4]
    assert first.events[0].columns == {"id": 2, "service": "unknown", "user_id": None}
    assert not nothing.events


async def test_pages_of_events_of_one_moment_neither_miss_nor_repeat(
    laid_out: Any, batch: Batches, reference: Layout, received: Received
) -> None:
    handler = await laid_out(reference)
    await stored(handler, batch(*(received("a", at=NOON_NS, n=n) for n in range(7))))
    shown: list[int] = []
    cursor = None

    async with handler.reader() as reader:
        while len(page := (found := await reader.range(limit=2, cursor=cursor)).events) == 2 or page:
            shown += [json.loads(event.payload)["n"] for event in page]
            cursor = found.cursor

    assert shown == list(range(7))


async def test_type_is_read_from_the_whole_event_where_no_column_holds_it(laid_out: Any, batch: Batches) -> None:
    handler = await laid_out(table_of(EVENT, "jsonb"))
    events = [ReceivedEvent(kind, b'{"a":1}', timestamp=1, table="t") for kind in ("one", "two")]

    await stored(handler, batch(*events))
    async with handler.reader() as reader:
        page = await reader.latest(limit=9, types=["two"])

    assert [(event.type, event.payload) for event in page.events] == [("two", '{"a":1}')]


async def test_table_without_a_time_is_written_and_its_rows_are_said_to_have_no_order(
    database: Database, laid_out: Any, batch: Batches
) -> None:
    handler = await laid_out(Layout("t", [LayoutColumn("kind", TYPE, "text")]))

    await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t")))
    async with handler.reader() as reader:
        page = await reader.latest(limit=9)

    assert database.rows("SELECT kind FROM t") == [("k",)]
    assert not page.events
    assert "no column for the time" in next(iter(page.foreign))


async def test_rows_that_are_not_events_are_passed_over_and_counted(
    database: Database, laid_out: Any, batch: Batches
) -> None:
    handler = await laid_out(table_of(EVENT, "jsonb"))
    await stored(handler, batch(ReceivedEvent("k", b"{}", timestamp=1, table="t")))
    database.execute(
        "ALTER TABLE t ALTER at DROP NOT NULL, ALTER value DROP NOT NULL",
        "INSERT INTO t VALUES (NULL, '{}'), ('infinity', '{}'), (now(), NULL)",
    )

    async with handler.reader() as reader:
        page = await reader.latest(limit=9)

    assert len(page.events) == 1
    assert sum(page.foreign.values()) == 3
