from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventrec.events.encoder import Encoder
from eventrec.events.event import Event, ReceivedEvent
from eventrec.records.batch import Batch
from eventrec.records.column_types import ColumnType
from eventrec.records.entry import Entry, Record
from eventrec.records.ids import Ids
from eventrec.records.schema import ColumnSchema, Row

LOG_ID = UUID("0190f3a2-5b7e-7c4d-9a1b-2c3d4e5f6a7b")
COLUMNS = (ColumnSchema("region", ColumnType.UINT64),)


class Migrated(Event):
    @property
    def payload(self) -> object:
        return {"a": 1}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return COLUMNS

    def extra_rows(self) -> Sequence[Row]:
        return [(1,), (2,)]


def make_batch(*events: object, context: bytes | None = None, **settings: Any) -> Batch:
    """A batch of `events` at offsets 10, 12, 14, …: the records between them were filtered."""
    encoder = Encoder(now=lambda: 7, context=lambda: context)
    entries: list[Entry] = [entry for entry in map(encoder.encode, events) if isinstance(entry, tuple)]
    offsets = range(10, 10 + 2 * len(entries), 2)
    return Batch(
        log_id=LOG_ID, subscription="db", start=9, end=20, offsets=offsets, entries=entries, generation=3, **settings
    )


def test_token_names_log_subscription_range_and_generation() -> None:
    batch = make_batch(Migrated())

    assert batch.token == f"{LOG_ID}:db:9-20:3"
    assert repr(batch) == f"<Batch {LOG_ID}:db:9-20:3 records=1>"


def test_length_is_the_number_of_records_not_of_rows_or_offsets() -> None:
    assert len(make_batch(Migrated(), ReceivedEvent("a", b"1"))) == 2


def test_records_are_decoded_for_handlers_that_write_no_rows() -> None:
    explicit = bytes(range(16))
    batch = make_batch(Migrated(), ReceivedEvent("a", b'{"b":2}', table="t", id=explicit), context=b'{"user":1}')

    records = batch.records

    assert records == [
        Record(
            offset=10,
            id=Ids(LOG_ID).as_text(10, 0, None),
            type="migrated",
            table="events",
            timestamp=7,
            payload=b'{"a":1}',
            context=b'{"user":1}',
            columns=COLUMNS,
            rows=((1,), (2,)),
        ),
        Record(
            offset=12,
            id=str(UUID(bytes=explicit)),
            type="a",
            table="t",
            timestamp=7,
            payload=b'{"b":2}',
            context=b'{"user":1}',
            columns=(),
            rows=((),),
        ),
    ]


def test_static_context_is_in_records_and_rows() -> None:
    batch = make_batch(Migrated(), static_context=b'{"service":"shop"}')

    (record,), (request,) = batch.records, batch.row_inserts()

    assert record.context == b'{"service":"shop"}'
    assert [row[4] for row in request.rows] == [b'{"service":"shop"}'] * 2


def test_row_inserts_are_one_request_per_table_and_shape_in_the_order_of_their_first_record() -> None:
    batch = make_batch(
        ReceivedEvent("b", b"1"), Migrated(), ReceivedEvent("b", b"2"), ReceivedEvent("b", b"3", table="t")
    )

    requests = batch.row_inserts()

    assert [(request.table, request.type, request.offsets) for request in requests] == [
        ("events", "b", [10, 14]),
        ("events", "migrated", [12, 12]),
        ("t", "b", [16]),
    ]


def test_row_inserts_are_the_same_each_time_and_as_ids_of_both_forms() -> None:
    batch = make_batch(Migrated())

    first, again, as_bytes = batch.row_inserts(), batch.row_inserts(), batch.row_inserts(id_form="bytes")

    assert first == again
    assert [row[0] for row in first[0].rows] == [str(UUID(bytes=row[0])) for row in as_bytes[0].rows]
