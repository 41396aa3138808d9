from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec import Batch, ColumnSchema, ColumnType, Event, PermanentError, ReceivedEvent
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.columns import STORED, json_refusal, numeric_field
from eventrec_handlers.postgres.turns import SLICE

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

NOON: Final = datetime(2024, 2, 29, 12, 0, 0, 123_456, tzinfo=UTC)
NOON_MS: Final = NOON.replace(microsecond=123_000)
NOON_S: Final = NOON.replace(microsecond=0)
TIMESTAMP: Final = "timestamp with time zone"
TIME: Final = "time without time zone"

CONVERSIONS: list[tuple[ColumnType, object, str, object]] = [
    (ColumnType.BOOLEAN, True, "boolean", True),
    (ColumnType.BOOLEAN, False, "boolean", False),
    (ColumnType.INT8, -128, "smallint", -128),
    (ColumnType.INT16, -(2**15), "smallint", -(2**15)),
    (ColumnType.INT32, -(2**31), "integer", -(2**31)),
    (ColumnType.INT64, -(2**63), "bigint", -(2**63)),
    (ColumnType.UINT8, 255, "smallint", 255),
    (ColumnType.UINT16, 2**16 - 1, "integer", 2**16 - 1),
    (ColumnType.UINT32, 2**32 - 1, "bigint", 2**32 - 1),
    (ColumnType.UINT64, 2**64 - 1, "numeric(20,0)", Decimal(2**64 - 1)),
    (ColumnType.UINT64, 0, "numeric(20,0)", Decimal(0)),
    (ColumnType.FLOAT32, 0.1, "real", 0.1),
    (ColumnType.FLOAT64, 3, "double precision", 3.0),
    (ColumnType.FLOAT64, -1.7976931348623157e308, "double precision", -1.7976931348623157e308),
    (ColumnType.BINARY, b"\0\xff", "bytea", b"\0\xff"),
    (ColumnType.STRING, "1.0 é 🎉", "text", "1.0 é 🎉"),
    (ColumnType.STRING, "", "text", ""),
    (ColumnType.STRING, "\\u0000 and \\N", "text", "\\u0000 and \\N"),
    (ColumnType.DICTIONARY, "red", "text", "red"),
    (ColumnType.DECIMAL128, Decimal("-1.10"), "numeric", Decimal("-1.10")),
    (ColumnType.DECIMAL128, Decimal("1E+30"), "numeric", Decimal(10**30)),
    (ColumnType.DECIMAL128, Decimal("0.00000000000000000000000000000000000012"), "numeric", Decimal("1.2E-37")),
    (ColumnType.JSON, {"a": [None, "é\\"]}, "jsonb", '{"a": [null, "é\\\\"]}'),
    (ColumnType.JSON, 1, "jsonb", "1"),
    (ColumnType.JSON, "\\u0000", "jsonb", '"\\\\u0000"'),
    (ColumnType.LIST, [1, "é"], "jsonb", '[1, "é"]'),
    (ColumnType.STRUCT, {"a": 1}, "jsonb", '{"a": 1}'),
    (ColumnType.VECTOR, [1, 0.25], "real[]", [1.0, 0.25]),
    (ColumnType.VECTOR, [], "real[]", []),
    (ColumnType.DATE, date(1970, 1, 3), "date", date(1970, 1, 3)),
    (ColumnType.DATE, date.min, "date", date.min),
    (ColumnType.DATETIME, NOON, TIMESTAMP, NOON),
    (ColumnType.TIMESTAMP_SECOND, NOON, TIMESTAMP, NOON_S),
    (ColumnType.TIMESTAMP_MILLISECOND, NOON, TIMESTAMP, NOON_MS),
    (ColumnType.TIMESTAMP_MICROSECOND, NOON, TIMESTAMP, NOON),
    (ColumnType.TIMESTAMP_NANOSECOND, 1_709_208_000_123_456_789, TIMESTAMP, NOON),
    (ColumnType.TIMESTAMP_NANOSECOND, -1, TIMESTAMP, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    (ColumnType.TIME_SECOND, time(12), TIME, time(12)),
    (ColumnType.TIME_MILLISECOND, time(12, 0, 0, 999_999), TIME, time(12, 0, 0, 999_000)),
    (ColumnType.TIME_MICROSECOND, time.max, TIME, time.max),
    (ColumnType.TIME_NANOSECOND, 1_999, TIME, time(0, 0, 0, 1)),
    (ColumnType.INTERVAL_YEAR_MONTH, 14, "interval", timedelta(days=365 + 2 * 30)),
    (ColumnType.INTERVAL_DAY_TIME, timedelta(days=1, milliseconds=5), "interval", timedelta(days=1, milliseconds=5)),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, (0, -2, 3_999), "interval", timedelta(days=-2, microseconds=3)),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, timedelta(microseconds=-1), "interval", timedelta(microseconds=-1)),
]


def test_every_column_type_is_stored_somehow() -> None:
    assert set(STORED) == set(ColumnType)
    assert {kind for kind, *_ in CONVERSIONS} == set(ColumnType)


async def test_each_column_type_is_stored_as_documented(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    schema = [ColumnSchema(f"c{i}", kind) for i, (kind, *_) in enumerate(CONVERSIONS)]
    values = tuple(value for _, value, *_ in CONVERSIONS)

    empty_values = (None,) * len(values)

    await handler.handle(batch(event(columns=schema, values=values), event(columns=schema, values=empty_values)))

    full, empty = (row[4:] for row in database.rows("SELECT * FROM events ORDER BY id"))
    assert list(database.declared().values())[4:] == [kind for _, _, kind, _ in CONVERSIONS]
    assert [(type(value), value) for value in full] == [
        (type(value), value if kind is not ColumnType.FLOAT32 else pytest.approx(value, rel=1e-6))
        for kind, _, _, value in CONVERSIONS
    ]
    assert set(empty) == {None}


async def test_interval_of_a_day_and_one_of_24_hours_stay_what_they_are(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    schema = [
        ColumnSchema("exact", ColumnType.INTERVAL_DAY_TIME),
        ColumnSchema("parts", ColumnType.INTERVAL_MONTH_DAY_NANO),
    ]

    await handler.handle(batch(event(columns=schema, values=(timedelta(days=1), (14, 1, 0)))))

    assert database.rows("SELECT exact::text, parts::text FROM events") == [("24:00:00", "1 year 2 mons 1 day")]


async def test_decimals_have_the_precision_that_is_declared(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    schema = [ColumnSchema("price", ColumnType.DECIMAL128, precision=10, scale=2)]

    await handler.handle(batch(event(columns=schema, values=(Decimal("12.5"),))))

    assert database.declared()["price"] == "numeric(10,2)"
    assert database.rows("SELECT price::text FROM events") == [("12.50",)]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20, deadline=None
)
@given(
    values=st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**37), max_value=10**37).filter(
            lambda d: len(d.as_tuple().digits) <= 30 and -30 < int(d.as_tuple().exponent) <= 0
        ),
        min_size=1,
        max_size=20,
    )
)
def test_decimals_are_exact(postgres_server: Any, tmp_path: Path, values: list[Decimal]) -> None:
    # As the server reads them, by a COPY of the test's own: faster than a handler for each example.
    fields = b"".join(b"\0\1" + numeric_field(format(value, "f")) for value in values)
    stream = tmp_path / "stream"
    stream.write_bytes(b"PGCOPY\n\xff\r\n\0" + bytes(8) + fields + b"\xff\xff")

    read = postgres_server.execute(
        "CREATE TEMP TABLE d (n serial, v numeric);\n"
        f"\\copy d (v) FROM '{stream}' (FORMAT binary)\nSELECT v FROM d ORDER BY n"
    )

    assert [Decimal(line) for line in read.splitlines()] == values


# -- what PostgreSQL cannot hold: named, and its neighbours stored

BAD_VALUES: list[tuple[ColumnType, object, str]] = [
    (ColumnType.STRING, "a\0b", r"of kind str \(STRING as text\): it holds a NUL character"),
    (ColumnType.DICTIONARY, "\0", r"of kind str \(DICTIONARY as text\): it holds a NUL character"),
    (ColumnType.JSON, {"a": ["\\", "\0"]}, r"\(JSON as jsonb\): it holds a NUL character \(\\u0000\)"),
    (ColumnType.STRUCT, {"\0": 1}, r"\(STRUCT as jsonb\): it holds a NUL character"),
    (ColumnType.DATE, 2**31 - 1, r"\(DATE as date\): day 2147483647 lies outside of 4713 BC to 5874897"),
    (ColumnType.DATE, -(2**31), "lies outside"),
    (ColumnType.TIMESTAMP_SECOND, 2**62, r"as timestamp with time zone\): 4611686018427387904 lies outside"),
    (ColumnType.DATETIME, -(2**63), "lies outside of 4713 BC to 294276"),
    (ColumnType.INTERVAL_DAY_TIME, 2**62, "microseconds have more than 64 bits"),
]


@pytest.mark.parametrize(("kind", "value", "why"), BAD_VALUES, ids=lambda part: str(part)[:20])
async def test_value_that_does_not_fit_is_named_and_its_neighbours_are_stored(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, kind: ColumnType, value: object, why: str
) -> None:
    first, bad, last = (
        event(n, columns=[ColumnSchema("it", kind)], values=(v,)) for n, v in enumerate([None, value, None])
    )

    with pytest.raises(PermanentError, match=r"1 of 3 records cannot be stored; at offset 1") as caught:
        await handler.handle(batch(first, bad, last))
    before = database.rows("SELECT payload FROM events")
    await handler.handle(batch(first))
    await handler.handle(batch(last, start=1))

    assert list(caught.value.records) == [1]
    caught.match(rf"column 'it' of table 'events' cannot take a value .*{why}")
    assert before == []
    assert database.rows("SELECT payload FROM events ORDER BY id") == [("0",), ("2",)]


async def test_every_bad_value_is_found_at_once_in_whatever_slice(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    texts = [ColumnSchema("t", ColumnType.STRING)]
    events = [event(n, columns=texts, values=("fine",)) for n in range(3 * SLICE)]
    bad = (0, 5, SLICE + 1, 3 * SLICE - 1)
    for n in bad:
        events[n] = event(n, columns=texts, values=("\0",))
    events[7] = event("\0", kind="other")
    events[8] = event({"\\u0000": "\\"}, kind="other")

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(*events))

    assert sorted(caught.value.records) == sorted((*bad, 7))
    assert database.rows("SELECT count(*) FROM events") == [(0,)]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (rb'"\ud800"', "it holds a lone surrogate"),
        (rb'{"a":"\udc00"}', "it holds a lone surrogate"),
        (rb'"\ud83d\u0041"', "it holds a lone surrogate"),
        (rb'"\ud83d x"', "it holds a lone surrogate"),
        (rb'"\ud83d\n\ude00"', "it holds a lone surrogate"),
        (rb'"\\\u0000"', "it holds a NUL character"),
        (b'"\xed\xa0\x80"', r'refuses it: invalid byte sequence for encoding "UTF8": 0xed 0xa0 0x80 \(22021\)'),
        (b'"\0"', r'refuses it: invalid byte sequence for encoding "UTF8": 0x00 \(22021\)'),
        (b"{", r"refuses it: invalid input syntax for type json \(22P02\)"),
        (b'"\xff"', "invalid byte sequence"),
        (b"1e999999", r"refuses it: value overflows numeric format \(22003\)"),
        (b"[" * 100_000 + b"]" * 100_000, r"refuses it: stack depth limit exceeded \(54001\)"),
    ],
    ids=lambda part: str(part)[:24],
)
async def test_payload_that_jsonb_cannot_hold_is_refused_alone_without_bisecting(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, payload: bytes, why: str
) -> None:
    many = [event(n, kind=f"k{n % 3}") for n in range(SLICE + 20)]
    many[-7] = ReceivedEvent("received", payload)

    with pytest.raises(PermanentError, match=why) as caught:
        await handler.handle(batch(*many))
    await handler.handle(batch(event(1)))

    assert list(caught.value.records) == [len(many) - 7]
    assert database.rows("SELECT payload FROM events") == [("1",)]


@pytest.mark.parametrize(
    "payload", [rb'"\ud83d\ude00 \\u0000 \\\\u0000 \u00e9"', rb'"\\ud800"', rb'{"\u0001":"\ud83d\ude00"}']
)
async def test_payload_with_other_escapes_is_stored(
    handler: PostgresHandler, database: Any, batch: Batches, payload: bytes
) -> None:
    await handler.handle(batch(ReceivedEvent("received", payload)))

    assert json_refusal(payload) is None
    assert database.rows("SELECT payload = $1::text::jsonb FROM events", payload.decode()) == [(True,)]


async def test_constraints_of_ones_own_name_the_record(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    database.execute("CREATE UNIQUE INDEX ON events (payload)", "ALTER TABLE events ADD CHECK (type <> 'never')")

    with pytest.raises(PermanentError, match=r"duplicate key value violates unique constraint .*23505") as twice:
        await handler.handle(batch(*(event(n) for n in (1, 2, 3, 2, 4)), start=1))
    with pytest.raises(PermanentError, match=r"violates check constraint .*23514") as never:
        await handler.handle(batch(event(1), event(2, kind="never"), event(3), start=1))
    database.execute("ALTER TABLE events ADD COLUMN owner text NOT NULL DEFAULT 'me'")
    await handler.handle(batch(event(1), start=1))

    assert list(twice.value.records) == [4]
    assert list(never.value.records) == [2]
    # What stands in the row stays there.
    assert "never" not in str(never.value)
    assert "Failing row" not in str(never.value)


async def test_fault_that_the_server_does_not_locate_is_left_to_bisecting(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    wide = ", ".join(f"ADD COLUMN c{n} text DEFAULT repeat('x', 20)" for n in range(500))
    database.execute(f"ALTER TABLE events {wide}")

    with pytest.raises(PermanentError, match=r"row is too big.*54000") as too_big:
        await handler.handle(batch(event(1), event(2), start=1))
    database.execute(
        "CREATE TABLE other (id uuid, type text, timestamp timestamptz, payload jsonb, CHECK (true))",
        "CREATE TABLE known (type text PRIMARY KEY)",
        "ALTER TABLE other ADD FOREIGN KEY (type) REFERENCES known DEFERRABLE INITIALLY DEFERRED",
    )
    with pytest.raises(PermanentError, match="violates foreign key constraint") as deferred:
        await handler.handle(batch(event(1, into="other"), event(2, into="other"), start=1))

    assert too_big.value.records == {}
    assert deferred.value.records == {}
