from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, PermanentError, ReceivedEvent
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.turns import SLICE

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


def column(name: str, kind: ColumnType = ColumnType.INT64) -> tuple[ColumnSchema, ...]:
    return (ColumnSchema(name, kind),)


# -- storing


async def test_records_become_rows_with_the_base_columns(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    stored = batch(event({"n": "é"}, kind="a", at=1_709_208_000_123_456_789), event([1], kind="b", at=-1))

    await handler.handle(stored)

    first, second = (UUID(record.id) for record in stored.records)
    assert database.rows("SELECT * FROM events ORDER BY id") == [
        (first, "a", datetime(2024, 2, 29, 12, 0, 0, 123_456, tzinfo=UTC), '{"n": "é"}'),
        (second, "b", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "[1]"),
    ]
    assert database.declared() == {
        "id": "uuid",
        "type": "text",
        "timestamp": "timestamp with time zone",
        "payload": "jsonb",
    }
    assert database.rows("SELECT next FROM eventrec_checkpoints WHERE log_id = $1", log_id) == [(2,)]


async def test_base_columns_are_not_null_and_id_is_not_unique(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))

    nulls = "SELECT bool_or(NOT attnotnull) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0"
    assert database.rows(nulls) == [(False,)]
    assert database.rows("SELECT indexdef FROM pg_indexes WHERE tablename = 'events'") == [
        ('CREATE INDEX events_type_timestamp_idx ON public.events USING btree (type, "timestamp" DESC)',)
    ]


async def test_context_column_is_made_when_there_is_context(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    await handler.handle(batch(event(2), start=1, context=b'{"user":"u"}'))

    assert database.rows("SELECT payload, context FROM events ORDER BY id") == [("1", None), ("2", '{"user": "u"}')]


async def test_batches_of_several_slices_keep_every_row(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    many = 3 * SLICE + 1

    await handler.handle(batch(*(event(n, columns=column("n"), values=(n,)) for n in range(many))))

    assert database.rows("SELECT payload::text::int, n FROM events ORDER BY id") == [(n, n) for n in range(many)]


async def test_types_with_the_same_columns_are_written_together(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    mixed = [event(n, kind=f"type_{n % 7}") for n in range(500)]

    await handler.handle(batch(*mixed))

    assert database.rows("SELECT type, count(*) FROM events GROUP BY type ORDER BY type") == [
        (f"type_{k}", len(range(k, 500, 7))) for k in range(7)
    ]
    # Rows of one statement carry one command number.
    assert database.rows("SELECT count(DISTINCT cmin::text) FROM events") == [(1,)]


async def test_one_batch_may_hold_many_tables_and_shapes(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    wide = [event(n, into=f"t{n % 30}", columns=column(f"c{n}"), values=(n,)) for n in range(60)]

    await handler.handle(batch(*wide))

    assert len(database.tables()) == 30
    assert database.rows("SELECT payload, c3, c33 FROM t3 ORDER BY id") == [("3", 3, None), ("33", None, 33)]


async def test_largest_record_is_stored(handler: PostgresHandler, database: Any, event: Events, batch: Batches) -> None:
    await handler.handle(batch(event("é" * (1 << 19)), event(2)))

    assert database.rows("SELECT length(payload::text) FROM events ORDER BY id") == [((1 << 19) + 2,), (1,)]


async def test_id_that_a_record_brings_with_it_is_kept(handler: PostgresHandler, database: Any, batch: Batches) -> None:
    own = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

    await handler.handle(batch(ReceivedEvent("received", b"1", id=own.bytes)))
    await handler.handle(batch(ReceivedEvent("received", b"1", id=own.bytes), start=1))

    assert database.rows("SELECT id FROM events") == [(own,), (own,)]


async def test_commit_is_on_disk_whatever_the_database_is_set_to(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    database.execute(
        "CREATE TABLE seen (setting text)",
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$",
        "CREATE TRIGGER t AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION see()",
        f"ALTER DATABASE {database.name} SET synchronous_commit = off",
    )
    await handler.close()
    await handler.open()

    await handler.handle(batch(event(1), start=1))

    assert database.rows("SHOW synchronous_commit") == [("off",)]
    assert database.rows("SELECT setting FROM seen") == [("on",)]


# -- tables and columns


async def test_other_type_is_refused_unless_the_value_is_null(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
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
        1: "column 'total' of table 'events' cannot take a value of kind str (STRING as text): "
        "the table declares it bigint"
    }
    assert database.rows("SELECT payload, total FROM events ORDER BY id") == [("0", 1), ("2", None)]
    assert database.declared()["total"] == "bigint"


async def test_conflict_between_two_records_of_one_batch_refuses_the_later_shape(
    handler: PostgresHandler, event: Events, batch: Batches
) -> None:
    number = event(columns=column("a"), values=(1,))
    word = event(columns=column("a", ColumnType.STRING), values=("x",))

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(number, word, number))

    assert list(caught.value.records) == [1]


async def test_names_that_differ_by_case_are_different(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    schema = [ColumnSchema(name, ColumnType.INT64) for name in ("userId", "userid", "ID")]

    await handler.handle(batch(event(into="Orders", columns=schema, values=(1, 2, 3)), event(into="orders")))

    assert database.tables() == {"Orders", "orders"}
    assert database.rows('SELECT "userId", userid, "ID" FROM "Orders"') == [(1, 2, 3)]


async def test_too_many_columns_are_refused_and_not_one_is_added(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), max_columns=6)
    three = [ColumnSchema(name, ColumnType.INT64) for name in "abc"]
    await handler.handle(batch(event(0)))

    with pytest.raises(PermanentError, match=r"'a'.* the table would have 7 columns, and max_columns is 6"):
        await handler.handle(batch(event(1, columns=three, values=(1, 2, 3)), start=1))
    await handler.handle(batch(event(2, columns=three, values=(None,) * 3), start=1))
    await handler.handle(batch(event(3, columns=three[:2], values=(1, 2)), start=2))

    assert list(database.declared()) == ["id", "type", "timestamp", "payload", "a", "b"]
    assert database.rows("SELECT payload, b FROM events ORDER BY id") == [("0", None), ("2", None), ("3", 2)]


async def test_reserved_table_names_are_refused_alone(handler: PostgresHandler, event: Events, batch: Batches) -> None:
    with pytest.raises(PermanentError, match="names that start with eventrec_ are reserved") as caught:
        await handler.handle(batch(event(1), event(2, into="eventrec_checkpoints")))

    assert list(caught.value.records) == [1]


async def test_what_is_no_table_of_ours_is_left_alone(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        "CREATE TABLE users (name text)",
        "CREATE VIEW seen AS SELECT * FROM users",
        "CREATE INDEX by_name ON users (name)",
        "CREATE SEQUENCE steps",
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE TABLE other (id uuid, type text, timestamp timestamptz, payload json)",
    )
    taken = ["users", "seen", "by_name", "steps", "mood", "other", "_mood", "events"]

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(*(event(into=name) for name in taken)))

    assert caught.value.records == {
        0: "table 'users': it is not one of ours: it lacks 'id', 'type', 'timestamp', 'payload'",
        1: "table 'seen': its name is taken: view",
        2: "table 'by_name': its name is taken: index",
        3: "table 'steps': its name is taken: sequence",
        4: "table 'mood': its name is taken: type",
        5: "column 'payload' of table 'other' cannot take a value of kind bytes (JSON as jsonb): "
        "the table declares it json",
    }
    await handler.handle(batch(event(into="_mood")))
    assert "_mood" in database.tables()


async def test_table_of_ones_own_with_more_to_it_is_used_as_it_is(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        "CREATE TABLE events (n bigserial PRIMARY KEY, payload jsonb, type varchar(20), id uuid, timestamp timestamptz,"
        " day date GENERATED ALWAYS AS ((timestamp AT TIME ZONE 'UTC')::date) STORED) PARTITION BY RANGE (n)",
        "CREATE TABLE part PARTITION OF events FOR VALUES FROM (0) TO (1000)",
    )

    await handler.handle(batch(event(1, at=0), event(2, at=86_400_000_000_000)))
    with pytest.raises(PermanentError, match=r"value too long for type character varying\(20\)") as caught:
        await handler.handle(batch(event(1), event(2, kind="x" * 21), start=2))
    with pytest.raises(PermanentError, match="declares it date generated"):
        await handler.handle(batch(event(1, columns=column("day", ColumnType.DATE), values=(1,)), start=2))

    assert list(caught.value.records) == [3]
    assert database.rows("SELECT n, payload, day::text FROM events ORDER BY n") == [
        (1, "1", "1970-01-01"),
        (2, "2", "1970-01-02"),
    ]


async def test_strict_schema_makes_no_table_and_no_column(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), schema="strict")

    with pytest.raises(PermanentError, match="there is no such table, and schema is 'strict'"):
        await handler.handle(batch(event(1)))
    database.execute("CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)")
    await handler.close()
    await handler.open()
    with pytest.raises(PermanentError, match="the table has no such column, and schema is 'strict'") as caught:
        await handler.handle(batch(event(1), event(2, columns=column("a"), values=(1,))))
    await handler.handle(batch(event(1)))

    assert list(caught.value.records) == [1]
    assert database.rows("SELECT payload FROM events") == [("1",)]
    assert list(database.declared()) == ["id", "type", "timestamp", "payload"]


async def test_namespace_holds_all_our_tables(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    one = await opened(database.url(), namespace='a"b.c')
    await one.handle(batch(event(1)))

    assert database.rows("SELECT DISTINCT schemaname::text FROM pg_tables WHERE tablename ~ '^event'") == [('a"b.c',)]
    assert database.rows('SELECT payload FROM "a""b.c".events') == [("1",)]


# -- names

HOSTILE: Final = [
    'a"; DROP TABLE events; --',
    "it's",
    "E'\\x'",
    "select",
    "user",
    "Upper Case",
    "ÄÖ ß 🎉",
    "public.events",
    "%s",
    "{x}",
    "$1",
    ":x",
    " ",
    "a\nb, line 7",
    "--",
    "/*",
    "pg_catalog",
    "pg_class",
    "_x",
    "x" * 63,
    "é" * 31,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:12]))
async def test_hostile_names_are_taken_literally(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, name: str
) -> None:
    hostile = event(1, into=name, kind=name, columns=column(name, ColumnType.STRING), values=(name,))

    await handler.handle(batch(hostile))
    await handler.handle(batch(hostile, event(2), start=1))

    quoted = '"' + name.replace('"', '""') + '"'
    assert database.tables() == {name, "events"}
    assert database.rows(f"SELECT type, {quoted} FROM public.{quoted}") == [(name, name)] * 2


async def test_names_that_are_too_long_are_refused_and_not_cut_off(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    long, longer = "é" * 32, "x" * 255

    with pytest.raises(PermanentError) as caught:
        await handler.handle(
            batch(
                event(0),
                event(1, into=long),
                event(2, columns=column(longer), values=(1,)),
                event(3, columns=column(longer), values=(None,)),
            )
        )
    await handler.handle(batch(event(3, columns=column(longer), values=(None,))))

    assert caught.value.records == {
        1: f"table '{long}': its name has 64 bytes, and PostgreSQL holds 63",
        2: f"column '{longer}' of table 'events' cannot take a value of kind int (INT64 as bigint): "
        "its name has 255 bytes, and PostgreSQL holds 63",
    }
    assert list(database.declared()) == ["id", "type", "timestamp", "payload"]


async def test_long_names_that_begin_alike_do_not_collide(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    alike = ["x" * 62 + last for last in "abc"]

    await handler.handle(batch(*(event(into=name) for name in alike)))

    assert database.tables() == set(alike)
    assert database.rows("SELECT count(*) FROM pg_indexes WHERE tablename ~ '^x'") == [(3,)]


@pytest.mark.parametrize("name", ["xmin", "ctid", "tableoid"])
async def test_names_of_system_columns_are_refused_alone(
    handler: PostgresHandler, event: Events, batch: Batches, name: str
) -> None:
    with pytest.raises(PermanentError, match="PostgreSQL has a column of this name in every table") as caught:
        await handler.handle(batch(event(0), event(1, columns=column(name), values=(1,))))

    assert list(caught.value.records) == [1]
