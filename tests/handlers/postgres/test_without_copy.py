"""A server that takes no COPY at all: each row is written by INSERT, and holds what a COPY would have written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import Batch, ColumnSchema, ColumnType, Event, Layout, PermanentError, ReceivedEvent
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.columns import STORED, numeric_field
from eventrec_handlers.postgres.field_texts import field_texts

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]
FLOATS = [0.1, -1.7976931348623157e308, 5e-324, float(2**53)]
DAYS = [date.min, date(1969, 12, 31), date(1999, 12, 31), date(2000, 2, 29), date.max]
MICROSECONDS = [-62_135_596_800_000_000, -1, 0, 946_684_799_999_999, 1_709_208_000_123_456, 253_402_300_799_999_999]
YEARS_AWAY = [-210_866_803_200_000_000, -62_198_755_200_000_000, -62_135_596_800_000_001, 9_223_371_331_000_000_000]
"""Microseconds: 4713 BC, the leap year 1 BC, the last moment of it, and the year 294247."""

VALUES: list[tuple[ColumnType, list[Any]]] = [
    (ColumnType.BOOLEAN, [True, False]),
    (ColumnType.INT8, [-128, 127]),
    (ColumnType.INT32, [-(2**31), 2**31 - 1]),
    (ColumnType.INT64, [-(2**63), 2**63 - 1]),
    (ColumnType.UINT64, [0, 9_999, 10_000, 2**64 - 1]),
    (ColumnType.FLOAT32, [0.1, -3.4028234663852886e38]),
    (ColumnType.FLOAT64, FLOATS),
    (ColumnType.BINARY, [b"", b"\0\xff\\", b"\\x41"]),
    (ColumnType.STRING, ["", "NULL", '{"a",\\N}', "é 🎉\n\t'\\"]),
    (ColumnType.DECIMAL128, [Decimal("-1.10"), Decimal("1E+30"), Decimal("0.00000000000000000012"), Decimal(0)]),
    (ColumnType.JSON, [{"a": [None, "é\\"]}, "\\u0041", 1.5, [], "NULL"]),
    (ColumnType.VECTOR, [[], [1, 0.25], [0.1] * 5]),
    (ColumnType.DATE, [*DAYS, -2_440_000, 2_000_000_000]),
    (ColumnType.DATETIME, [*MICROSECONDS, *YEARS_AWAY]),
    (ColumnType.TIME_MICROSECOND, [0, 1, 86_399_999_999]),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, [(0, 0, 0), (-14, 3, -1_000), (1, -2, 90_061_000_001_000)]),
    (ColumnType.INTERVAL_YEAR_MONTH, [-13, 14]),
]


@pytest.fixture
def without_copy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """From then on the server refuses every COPY; the tables it was asked for are in the list."""

    def begin() -> list[str]:
        asked: list[str] = []

        async def refuse(_: Any, table: str, **__: Any) -> None:
            asked.append(table)
            raise asyncpg.FeatureNotSupportedError("COPY FROM STDIN is not supported here")

        monkeypatch.setattr(asyncpg.Connection, "copy_to_table", refuse)
        return asked

    return begin


async def test_each_value_is_what_a_copy_writes(
    handler: PostgresHandler,
    database: Any,
    event: Events,
    batch: Batches,
    without_copy: Callable[[], list[str]],
) -> None:
    columns = [ColumnSchema(f"c{i}", kind) for i, (kind, _) in enumerate(VALUES)]
    longest = max(len(values) for _, values in VALUES)
    rows = [tuple(values[n] if n < len(values) else None for _, values in VALUES) for n in range(longest)]

    def events(into: str) -> list[Event]:
        return [event(n, columns=columns, values=row, into=into, at=n) for n, row in enumerate(rows)]

    await handler.handle(batch(*events("copied")))
    asked = without_copy()
    await handler.handle(batch(*events("inserted"), start=longest))
    await handler.handle(batch(*events("inserted"), start=2 * longest))

    await handler.handle(batch(*(event(n, into=f"table_{n}") for n in range(5)), start=3 * longest))

    assert asked == ["inserted", "eventrec_rows"]  # and is never asked again
    names = ", ".join(column.name for column in columns)
    compared = f"SELECT type, timestamp, payload, {names} FROM"
    assert database.rows(f"{compared} copied EXCEPT ALL {compared} inserted") == []
    assert database.rows("SELECT count(*) FROM inserted") == [(2 * longest,)]


async def test_a_table_with_a_layout_is_written_too(
    handler: PostgresHandler,
    database: Any,
    batch: Batches,
    reference: Layout,
    without_copy: Callable[[], list[str]],
) -> None:
    def received(n: int) -> ReceivedEvent:
        return ReceivedEvent(
            "seen", b'{"user":%d}' % n, timestamp=n * 1_000, table=reference.table, id=(n % 250).to_bytes(16)
        )

    handler.use_layouts({reference.table: reference})
    without_copy()

    await handler.handle(batch(*map(received, range(450))))

    assert database.rows("SELECT count(*), min(id), max(id) FROM analytics_events") == [(250, 1, 250)]
    assert database.rows("SELECT data::text FROM analytics_events WHERE id = 7") == [('{"type": "seen", "user": 6}',)]


async def test_a_record_that_the_table_refuses_goes_alone(
    handler: PostgresHandler,
    database: Any,
    event: Events,
    batch: Batches,
    without_copy: Callable[[], list[str]],
) -> None:
    await handler.handle(batch(event(0)))
    database.execute("ALTER TABLE events ADD CHECK (payload <> '7')")
    without_copy()

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(*(event(n) for n in range(1, 50)), start=1))
    with pytest.raises(PermanentError) as by_value:
        await handler.handle(batch(*(event(n) for n in range(50)), event("\0"), start=1))

    assert list(caught.value.records) == [7]
    assert list(by_value.value.records) == [51]
    assert database.rows("SELECT count(*) FROM events") == [(1,)]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**38), max_value=10**38))
def test_a_number_keeps_every_digit(value: Decimal) -> None:
    digits = f"{value:f}"

    ((text,),) = field_texts((1).to_bytes(2) + numeric_field(digits), ["numeric"])

    assert Decimal(str(text)) == value
    assert str(text).partition(".")[2] == digits.partition(".")[2]


@given(st.integers(-210_866_803_200_000_000, 9_223_371_331_199_999_999))
def test_a_moment_keeps_every_microsecond(value: int) -> None:
    field = STORED[ColumnType.DATETIME][1](value)
    ((text,),) = field_texts((1).to_bytes(2) + field, ["timestamp(6) with time zone"])

    days, within = divmod(value, 86_400_000_000)
    assert str(text).split("+")[0].endswith(f"{within % 1_000_000:06d}")
    if date.min.toordinal() <= days + 719_163 <= date.max.toordinal():
        assert str(text).startswith(date.fromordinal(days + 719_163).isoformat())
