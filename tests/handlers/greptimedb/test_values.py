"""What each column type becomes on the wire, read back by other code than the handler's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from random import Random
from typing import Any, Final

import anyio
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, PermanentError, Record, Row, SemanticType
from eventrec_handlers.greptimedb.columns import JsonForm
from eventrec_handlers.greptimedb.jsonb import JsonbEncoder
from eventrec_handlers.greptimedb.protocol import request
from eventrec_handlers.greptimedb.rows import SLICE, RowEncoder

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

Events = Callable[..., Event]
Batches = Callable[..., Batch]

NOON: Final = datetime(2024, 2, 29, 12, 0, 0, 123_456, tzinfo=UTC)
NOON_US: Final = 1_709_208_000_123_456

CONVERSIONS: list[tuple[ColumnType, object, object]] = [
    (ColumnType.BOOLEAN, True, True),
    (ColumnType.BOOLEAN, False, False),
    (ColumnType.INT8, -128, -128),
    (ColumnType.INT8, 127, 127),
    (ColumnType.INT16, -(2**15), -(2**15)),
    (ColumnType.INT32, -(2**31), -(2**31)),
    (ColumnType.INT64, -(2**63), -(2**63)),
    (ColumnType.INT64, 2**63 - 1, 2**63 - 1),
    (ColumnType.INT64, 0, 0),
    (ColumnType.UINT8, 255, 255),
    (ColumnType.UINT16, 2**16 - 1, 2**16 - 1),
    (ColumnType.UINT32, 2**32 - 1, 2**32 - 1),
    (ColumnType.UINT64, 2**64 - 1, 2**64 - 1),
    (ColumnType.FLOAT32, 0.5, 0.5),
    (ColumnType.FLOAT32, 0.0, 0.0),
    (ColumnType.FLOAT64, 0.1, 0.1),
    (ColumnType.FLOAT64, -1.7976931348623157e308, -1.7976931348623157e308),
    (ColumnType.BINARY, b"\0\xff", b"\0\xff"),
    (ColumnType.BINARY, b"", b""),
    (ColumnType.STRING, "1.0 é 🎉 \0", "1.0 é 🎉 \0"),
    (ColumnType.STRING, "", ""),
    (ColumnType.STRING, "x" * 20_000, "x" * 20_000),
    (ColumnType.DICTIONARY, "red", "red"),
    (ColumnType.DATE, date(1969, 12, 31), -1),
    (ColumnType.DATETIME, NOON, NOON_US),
    (ColumnType.TIMESTAMP_SECOND, NOON, NOON_US // 1_000_000),
    (ColumnType.TIMESTAMP_MILLISECOND, NOON, NOON_US // 1_000),
    (ColumnType.TIMESTAMP_MICROSECOND, NOON, NOON_US),
    (ColumnType.TIMESTAMP_NANOSECOND, NOON, NOON_US * 1_000),
    (ColumnType.TIMESTAMP_NANOSECOND, -1, -1),
    (ColumnType.TIME_SECOND, time(23, 59, 59), 86_399),
    (ColumnType.TIME_MILLISECOND, time(0, 0, 1), 1_000),
    (ColumnType.TIME_MICROSECOND, time(0, 0, 0, 1), 1),
    (ColumnType.TIME_NANOSECOND, time(0, 0, 0, 1), 1_000),
    (ColumnType.INTERVAL_YEAR_MONTH, -14, -14),
    (ColumnType.INTERVAL_DAY_TIME, timedelta(days=3, milliseconds=5), 5 << 32 | 3),
    (ColumnType.INTERVAL_DAY_TIME, timedelta(milliseconds=-1), -1 << 32),
    (ColumnType.INTERVAL_DAY_TIME, -(3 * 86_400_000 + 5), (-5 << 32) | (-3 & 0xFFFF_FFFF)),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, (-1, 2, -3), [-1, 2, -3]),
    (ColumnType.INTERVAL_MONTH_DAY_NANO, (0, 0, 0), [0, 0, 0]),
    (ColumnType.DECIMAL128, Decimal("-1.10"), -1_100_000_000_000_000_000),
    (ColumnType.DECIMAL128, Decimal(0), 0),
    (ColumnType.DECIMAL128, 10**19, 10**37),
    (ColumnType.JSON, {"b": [None, "é\\"], "a": 1.0}, {"a": 1.0, "b": [None, "é\\"]}),
    (ColumnType.JSON, 1, 1),
    (ColumnType.LIST, [1, "é"], [1, "é"]),
    (ColumnType.STRUCT, {"a": 1}, {"a": 1}),
    (ColumnType.VECTOR, [1, 0.25], [1.0, 0.25]),
]


async def sent(fake: Any, batch: Batch, *, json: JsonForm = "binary") -> list[Any]:
    """The inserts that become of `batch`, as other code decodes them."""
    encoder = RowEncoder(id_is_tag=False, json=json)
    inserts = await encoder.inserts(batch)
    encoder.close()
    return [
        fake.decoding.decode_request(request(b"", insert.table, insert.schema, insert.rows)).inserts[0]
        for insert in inserts
    ]


async def sent_rows(fake: Any, batch: Batch) -> list[dict[str, Any]]:
    return [row for insert in await sent(fake, batch) for row in insert.named()]


@pytest.mark.parametrize(("kind", "value", "expected"), CONVERSIONS)
async def test_value_arrives_and_so_does_null(  # noqa: PLR0917 - fixtures and parameters
    fake: Any, batch: Batches, event: Events, kind: ColumnType, value: object, expected: object
) -> None:
    columns = (ColumnSchema("c", kind),)

    rows = await sent_rows(fake, batch(event(columns=columns, values=(value,)), event(columns=columns, values=(None,))))

    assert [row["c"] for row in rows] == [expected, None]


@pytest.mark.parametrize("kind", ColumnType)
async def test_column_has_the_number_of_its_type(fake: Any, batch: Batches, event: Events, kind: ColumnType) -> None:
    column = ColumnSchema("c", kind, dimensions=3 if kind is ColumnType.VECTOR else None)

    (insert,) = await sent(fake, batch(event(columns=(column,), values=(None,))))

    (found,) = [column for column in insert.columns if column.name == "c"]
    stored_otherwise = {ColumnType.LIST: 31, ColumnType.STRUCT: 31, ColumnType.DICTIONARY: 12}
    assert found.datatype == stored_otherwise.get(kind, kind.value)
    assert found.extension == {ColumnType.DECIMAL128: (1, ((1, 38), (2, 18))), ColumnType.VECTOR: (3, ((1, 3),))}.get(
        kind, ()
    )


async def test_base_columns_are_what_they_are_for(fake: Any, batch: Batches, event: Events) -> None:
    (insert,) = await sent(fake, batch(event({"n": 1}), context=b'{"host":"a"}'))

    assert [(column.name, column.datatype, column.semantic) for column in insert.columns] == [
        ("id", 12, 1),
        ("type", 12, 0),
        ("timestamp", 18, 2),
        ("payload", 31, 1),
        ("context", 31, 1),
    ]
    assert insert.named()[0]["context"] == {"host": "a"}


async def test_tag_is_a_tag_and_a_second_time_index_is_a_field(fake: Any, batch: Batches, event: Events) -> None:
    columns = (
        ColumnSchema("customer", ColumnType.STRING, SemanticType.TAG),
        ColumnSchema("seen", ColumnType.TIMESTAMP_SECOND, SemanticType.TIMESTAMP),
    )

    (insert,) = await sent(fake, batch(event(columns=columns, values=("a", 1))))

    assert {column.name: column.semantic for column in insert.columns[4:]} == {"customer": 0, "seen": 1}


async def test_scale_and_precision_are_those_declared(fake: Any, batch: Batches, event: Events) -> None:
    columns = (ColumnSchema("price", ColumnType.DECIMAL128, precision=10, scale=2),)

    (insert,) = await sent(fake, batch(event(columns=columns, values=(Decimal("-3.05"),))))

    assert insert.columns[4].extension == (1, ((1, 10), (2, 2)))
    assert insert.rows[0][4] == -305


class Several(Event):
    """An event of several rows."""

    def __init__(self, *rows: Row) -> None:
        self.rows = rows

    def extra_schema(self) -> tuple[ColumnSchema, ...]:
        return (ColumnSchema("region", ColumnType.UINT64),)

    def extra_rows(self) -> tuple[Row, ...]:
        return self.rows


async def test_event_of_several_rows_has_an_id_for_each_and_one_timestamp(fake: Any, batch: Batches) -> None:
    rows = await sent_rows(fake, batch(Several((1,), (None,), (3,)), Several((4,))))

    assert [row["region"] for row in rows] == [1, None, 3, 4]
    assert len({row["id"] for row in rows}) == 4
    assert len({row["timestamp"] for row in rows[:3]}) == 1
    assert {row["type"] for row in rows} == {"several"}


async def test_event_without_a_payload_is_an_event(fake: Any, batch: Batches) -> None:
    (row,) = await sent_rows(fake, batch(Several((1,))))

    assert row["payload"] is None


MOMENTS: Final = (0, 1, -1, 2**28 - 1, 2**28, 2**42 - 1, 2**63 - 1, -(2**63), 1_795_344_395_123_456_789)


async def test_moment_of_any_year_arrives(fake: Any, batch: Batches, event: Events) -> None:
    rows = await sent_rows(fake, batch(*(event(at=moment) for moment in MOMENTS)))

    assert [row["timestamp"] for row in rows] == list(MOMENTS)


async def test_rows_of_several_slices_stay_in_order(fake: Any, batch: Batches, event: Events) -> None:
    rows = await sent_rows(fake, batch(*(event({"n": n}) for n in range(2 * SLICE + 1))))

    assert [row["payload"]["n"] for row in rows] == list(range(2 * SLICE + 1))


@pytest.mark.parametrize("kind", [ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT])
async def test_json_may_be_sent_as_text(fake: Any, batch: Batches, event: Events, kind: ColumnType) -> None:
    value: Any = {"é": 2**70} if kind is ColumnType.STRUCT else [2**70]
    columns = (ColumnSchema("c", kind),)
    made = batch(
        event({"n": 2**70}, columns=columns, values=(value,)), event(columns=columns, values=(None,)), context=b"{}"
    )

    (insert,) = await sent(fake, made, json="text")

    assert {column.name: (column.datatype, column.extension) for column in insert.columns[3:]} == {
        "payload": (31, ()),
        "context": (31, ()),
        "c": (31, ()),
    }
    assert insert.rows[0][3:] == ({"n": 2**70}, {}, value)
    assert insert.rows[1][3:] == (None, {}, None)


async def test_large_json_is_encoded_beside_the_loop_and_small_json_on_it(
    fake: Any, batch: Batches, event: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, on_the_loop = JsonbEncoder.encode_text, []

    def noted(self: JsonbEncoder, text: bytes) -> bytes:
        on_the_loop.append(threading.current_thread() is threading.main_thread())
        return encode(self, text)

    monkeypatch.setattr(JsonbEncoder, "encode_text", noted)
    columns = (ColumnSchema("c", ColumnType.LIST),)
    small, large = event([{}] * 10), event(columns=columns, values=([{}] * 100_000,))

    rows = await sent_rows(fake, batch(small, large))

    assert rows[1]["c"] == [{}] * 100_000
    assert on_the_loop == [True, False, False]


# -- vectors whose dimensions are not declared


async def test_vector_has_the_dimensions_of_the_others(fake: Any, batch: Batches, event: Events) -> None:
    columns = (ColumnSchema("v", ColumnType.VECTOR),)

    (insert,) = await sent(
        fake, batch(event(columns=columns, values=(None,)), event(columns=columns, values=([1.0, 2.0],)))
    )

    assert insert.columns[4].extension == (3, ((1, 2),))
    assert [row[4] for row in insert.rows] == [None, [1.0, 2.0]]


async def test_vector_that_is_nowhere_is_left_out(fake: Any, batch: Batches, event: Events) -> None:
    columns = (ColumnSchema("v", ColumnType.VECTOR), ColumnSchema("n", ColumnType.INT8))

    (insert,) = await sent(fake, batch(event(columns=columns, values=(None, 7))))

    assert [column.name for column in insert.columns] == ["id", "type", "timestamp", "payload", "n"]
    assert insert.rows[0][4] == 7


# -- what cannot be stored


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        (ColumnSchema("c", ColumnType.DECIMAL128), Decimal("1E-19"), "more than 18 digits after the point"),
        (ColumnSchema("c", ColumnType.DECIMAL128), 10**20, "more than 38 in all"),
        (ColumnSchema("c", ColumnType.INTERVAL_DAY_TIME), 2**63 - 1, "at most 2,147,483,647 days"),
        (ColumnSchema("c", ColumnType.VECTOR), [], "it has 0 dimensions"),
        (ColumnSchema("c", ColumnType.JSON), 2**70 + 1, "more than 64 bits"),
    ],
)
async def test_value_that_cannot_be_stored_is_named_and_its_neighbours_are_not(  # noqa: PLR0917 - likewise
    fake: Any, batch: Batches, event: Events, column: ColumnSchema, value: object, why: str
) -> None:
    bad = event(columns=(column,), values=(value,))

    with pytest.raises(PermanentError, match=why) as raised:
        await sent(fake, batch(event(), bad, event(columns=(column,), values=(None,)), bad))

    assert sorted(raised.value.records) == [1, 3]


async def test_vectors_of_other_dimensions_are_named(fake: Any, batch: Batches, event: Events) -> None:
    columns = (ColumnSchema("v", ColumnType.VECTOR),)
    made = [event(columns=columns, values=(value,)) for value in ([1.0], [1.0, 2.0], [3.0])]

    with pytest.raises(PermanentError, match="it has 2 dimensions, and the column 1") as raised:
        await sent(fake, batch(*made))

    assert list(raised.value.records) == [1]


# -- all types at once

COLUMNS: Final = tuple(
    ColumnSchema(f"c_{kind.name}", kind, dimensions=2 if kind is ColumnType.VECTOR else None) for kind in ColumnType
)


def expected_of(record: Record, row: tuple[Any, ...]) -> dict[str, Any]:
    """What the columns of a row should say, from the form in which the record keeps them."""
    return {
        column.name: None if value is None else _expected(column.type, value)
        for column, value in zip(record.columns, row, strict=True)
    }


def _expected(kind: ColumnType, value: Any) -> Any:
    if kind in {ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT}:
        return json.loads(value)
    if kind is ColumnType.DECIMAL128:
        return int(Decimal(value).scaleb(18, Context(prec=60)))
    if kind is ColumnType.INTERVAL_DAY_TIME:
        days, milliseconds = divmod(abs(value), 86_400_000)
        sign = -1 if value < 0 else 1
        return sign * milliseconds << 32 | sign * days & 0xFFFF_FFFF
    return value


@pytest.mark.parametrize("seed", range(5))
async def test_rows_of_all_types_read_back(fake: Any, samples: Any, batch: Batches, event: Events, seed: int) -> None:
    random = Random(seed)
    rows = [[samples.value(random, column.type) for column in COLUMNS] for _ in range(100)]
    made = batch(*(event(samples.json(random), columns=COLUMNS, values=row) for row in rows))

    found = await sent_rows(fake, made)

    for record, row in zip(made.records, found, strict=True):
        expected = expected_of(record, record.rows[0])
        assert {name: row[name] for name in expected} == expected
        assert row["payload"] == json.loads(record.payload)


async def test_encoding_that_is_cancelled_goes_on_where_it_was(
    fake: Any, batch: Batches, event: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = RowEncoder(id_is_tag=False, json="text")
    made, other = batch(*(event({"n": n}) for n in range(3 * SLICE))), batch(event({"n": -1}))
    encode, begun = encoder._slice, list[int]()

    def noted(request: Any, start: int, *rest: Any) -> bytes:
        begun.append(start)
        return encode(request, start, *rest)

    monkeypatch.setattr(encoder, "_slice", noted)
    for expected in ([0], [0, SLICE]):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await encoder.inserts(made)
        assert begun == expected
    (insert,) = await encoder.inserts(made)

    assert begun == [0, SLICE, 2 * SLICE]
    rows = fake.decoding.decode_request(request(b"", insert.table, insert.schema, insert.rows)).inserts[0].named()
    assert [row["payload"]["n"] for row in rows] == list(range(3 * SLICE))
    assert insert.offsets == list(range(3 * SLICE))

    with anyio.CancelScope() as scope:
        scope.cancel()
        await encoder.inserts(made)
    (insert,) = await encoder.inserts(other)
    assert insert.offsets == [0]
    (insert,) = await encoder.inserts(made)
    assert insert.offsets == list(range(3 * SLICE))
    encoder.close()
