"""What the handler sends comes back exactly where the receiver is a server of ours."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TypeAlias

import anyio
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, ReceivedEvent, SemanticType
from eventrec.events.encoder import Encoder
from eventrec.ingest.batch_body import BatchReading, elements_in, events_of
from eventrec.ingest.cloud_events import members_of_headers
from eventrec.ingest.members import encode_members
from eventrec.ingest.received import Received
from eventrec.records.column_types import ColumnType as T
from eventrec.testing.conformance.log import Sample
from eventrec_handlers.http.formats import HTTPFormat, Message, messages_of

BatchOf: TypeAlias = Callable[..., Batch]

VALUES: dict[ColumnType, object] = {
    T.BOOLEAN: True,
    T.INT8: -128,
    T.INT16: -(2**15),
    T.INT32: -(2**31),
    T.INT64: -(2**63),
    T.UINT8: 255,
    T.UINT16: 2**16 - 1,
    T.UINT32: 2**32 - 1,
    T.UINT64: 2**64 - 1,
    T.FLOAT32: 0.5,
    T.FLOAT64: 1e-300,
    T.BINARY: b"\0\xff",
    T.STRING: 'é "\n\0',
    T.DATE: -1,
    T.DATETIME: -1,
    T.TIMESTAMP_SECOND: 1,
    T.TIMESTAMP_MILLISECOND: 2,
    T.TIMESTAMP_MICROSECOND: 3,
    T.TIMESTAMP_NANOSECOND: 2**63 - 1,
    T.TIME_SECOND: 1,
    T.TIME_MILLISECOND: 1,
    T.TIME_MICROSECOND: 1,
    T.TIME_NANOSECOND: 1,
    T.INTERVAL_YEAR_MONTH: 14,
    T.INTERVAL_DAY_TIME: 15,
    T.INTERVAL_MONTH_DAY_NANO: (1, 2, 3),
    T.DECIMAL128: Decimal("12345678901234567890.10"),
    T.JSON: {"b": [1.10, None], "a": 10**30},
    T.VECTOR: [1.5, 2.0],
    T.LIST: [1, "x"],
    T.STRUCT: {"s": True},
    T.DICTIONARY: "word",
}
COLUMNS = (
    *(ColumnSchema(f"{kind.name} é", kind) for kind in VALUES if kind is not T.DECIMAL128),
    ColumnSchema("price", T.DECIMAL128, precision=30, scale=2),
    ColumnSchema("tag", T.STRING, SemanticType.TAG),
    ColumnSchema("nothing", T.INT8),
)
ROW = (*(value for kind, value in VALUES.items() if kind is not T.DECIMAL128), VALUES[T.DECIMAL128], "t", None)
AT = 1_709_208_000_123_456_789


def received(message: Message) -> list[Received]:
    """What a server makes of a request, as `server/ingest/batch.py` does."""
    media_type = message.headers["Content-Type"].partition(";")[0]
    if media_type == "application/json":
        members = members_of_headers(((name.lower(), value) for name, value in message.headers.items()), message.body)
        return events_of([encode_members(members)], BatchReading(form="cloudevent"))
    form = {
        "application/cloudevents-batch+json": BatchReading(form="cloudevents"),
        "application/cloudevents+json": BatchReading(form="cloudevent"),
        "application/x-ndjson": BatchReading(form="ndjson"),
    }[media_type]
    return events_of(elements_in(message.body, form), form)


def sent(batch: Batch, format_: HTTPFormat) -> list[Received]:
    messages = anyio.run(partial(messages_of, batch, format_=format_, source="https://example.com/é"))
    return [event for message in messages for event in received(message)]


def test_every_type_of_column_is_tried() -> None:
    assert {column.type for column in COLUMNS} == set(ColumnType)


@pytest.mark.parametrize("format_", ["cloudevents-batch", "cloudevents-structured", "cloudevents-binary"])
def test_type_table_time_payload_context_columns_and_id_come_back(batch: BatchOf, format_: HTTPFormat) -> None:
    events = [
        Sample({"n": 10**30, "é": None}, kind='order "placed" é', into="orders é", at=AT, columns=COLUMNS, values=ROW),
        ReceivedEvent("bytes", b'{ "a" : 1.10 }', -1, "events", b"0123456789abcdef"),
        Sample(None, kind="empty", at=0),
    ]
    context = '{"user": "é", "n": 1.10}'.encode()
    whole = batch(*events, context=context)

    found = sent(whole, format_)

    expected = [said(event, context) for event in events]
    assert [said(event, None) for event in found] == expected
    assert [event.id for event in found if isinstance(event, ReceivedEvent)] == [
        record_id(record.id) for record in whole.records
    ]


def said(event: object, context: bytes | None) -> tuple[object, ...]:
    """All that is kept of an event, but for its id."""
    entry = Encoder(context=lambda: context).encode(event)
    assert isinstance(entry, tuple), entry
    shape, timestamp, payload, around, extras, *_ = entry
    columns = [(each, each.semantic, each.precision, each.scale, each.dimensions) for each in shape.columns]
    return shape.table, shape.type, columns, timestamp, payload, around, extras


def record_id(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def test_lines_come_back_but_for_the_types_of_columns(batch: BatchOf) -> None:
    columns = (ColumnSchema("n", T.INT64), ColumnSchema("s", T.STRING))
    whole = batch(Sample({"n": 1}, kind="k", into="t", at=AT, columns=columns, values=(1, "x")), context=b'{"user":1}')

    (event,) = sent(whole, "ndjson")

    assert event == ReceivedEvent(
        "k",
        b'{"n":1}',
        AT,
        "t",
        record_id(whole.records[0].id),
        context=b'{"user":1}',
        columns=columns,
        rows=((1, "x"),),
    )


def test_an_event_of_several_rows_comes_back_as_one_of_each_row(batch: BatchOf) -> None:
    class Rows(Sample):
        def extra_rows(self) -> list[tuple[int]]:
            return [(1,), (2,)]

    whole = batch(Rows(1, at=AT, columns=(ColumnSchema("n", T.INT64),)))
    ids = [row[0] for request in whole.row_inserts() for row in request.rows]

    events = [event for event in sent(whole, "cloudevents-batch") if isinstance(event, ReceivedEvent)]

    assert [event.rows for event in events] == [((1,),), ((2,),)] or [event.rows for event in events] == [
        ([1],),
        ([2],),
    ]
    assert [event.id for event in events] == [record_id(id_) for id_ in ids]
