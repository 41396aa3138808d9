"""The same rows through the official client and through the handler: a server decodes the same from both.

With `json="text"` the rows are the same to the last byte. In its binary form, JSON is the same value: the client sends
text, which the server encodes. Headers differ in that the handler names catalog and schema beside the database.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any, Final

import anyio.to_thread
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, Record, SemanticType
from eventrec_handlers.greptimedb import EventHandlerOptions

pytestmark = [
    pytest.mark.handlers,
    pytest.mark.skipif(
        importlib.util.find_spec("greptimedb_ingester") is None,
        reason="the official client, greptimedb-ingester, has no wheel for this platform",
    ),
]

Batches = Callable[..., Batch]
Events = Callable[..., Event]

EVENTS: Final = 500
SCALE: Final = 9
PASSWORD: Final = "right"

SHARED: Final = (
    ColumnType.BOOLEAN,
    ColumnType.INT8,
    ColumnType.INT16,
    ColumnType.INT32,
    ColumnType.INT64,
    ColumnType.UINT8,
    ColumnType.UINT16,
    ColumnType.UINT32,
    ColumnType.UINT64,
    ColumnType.FLOAT32,
    ColumnType.FLOAT64,
    ColumnType.BINARY,
    ColumnType.STRING,
    ColumnType.DATE,
    ColumnType.TIMESTAMP_SECOND,
    ColumnType.TIMESTAMP_MILLISECOND,
    ColumnType.TIMESTAMP_MICROSECOND,
    ColumnType.TIMESTAMP_NANOSECOND,
    ColumnType.TIME_SECOND,
    ColumnType.TIME_MILLISECOND,
    ColumnType.TIME_MICROSECOND,
    ColumnType.TIME_NANOSECOND,
    ColumnType.DECIMAL128,
    ColumnType.JSON,
)
"""The types that the client has."""

COLUMNS: Final = (
    ColumnSchema("tag", ColumnType.STRING, SemanticType.TAG),
    *(
        ColumnSchema(f"c_{kind.name}", kind, precision=38, scale=SCALE)
        if kind is ColumnType.DECIMAL128
        else ColumnSchema(f"c_{kind.name}", kind)
        for kind in SHARED
    ),
)


def by_the_client(server: Any, records: Sequence[Record]) -> None:
    """Insert what the handler is given."""
    import greptimedb_ingester as peer  # noqa: PLC0415 - it is not everywhere

    def column(schema: ColumnSchema) -> Any:
        semantic = getattr(peer.SemanticType, schema.semantic.name)
        more = {} if schema.scale is None else {"precision": schema.precision, "scale": schema.scale}
        return peer.Column(schema.name, getattr(peer.ColumnDataType, schema.type.name), semantic, **more)

    base = (
        ColumnSchema("id", ColumnType.STRING),
        ColumnSchema("type", ColumnType.STRING, SemanticType.TAG),
        ColumnSchema("timestamp", ColumnType.TIMESTAMP_NANOSECOND, SemanticType.TIMESTAMP),
        ColumnSchema("payload", ColumnType.JSON),
    )
    client = peer.Client([f"127.0.0.1:{server.port}"], database="public", username="me", password=PASSWORD)
    client.insert(
        "events",
        columns=[column(schema) for schema in (*base, *COLUMNS)],
        rows=[
            [
                record.id,
                record.type,
                record.timestamp,
                record.payload.decode(),
                *(map(_given, record.columns, record.rows[0])),
            ]
            for record in records
        ],
        hints=[("ttl", "90d"), ("append_mode", "true"), ("compaction.twcs.time_window", "1day")],
    )


def _given(column: ColumnSchema, value: Any) -> Any:
    """What the client takes for a value that a record keeps."""
    if value is None:
        return None
    if column.type is ColumnType.JSON:
        return value.decode()
    return Decimal(value) if column.type is ColumnType.DECIMAL128 else value


def _said(row: Sequence[Any]) -> str:
    """Its values to the last bit: -0.0 is not 0.0, nor 1 the same as 1.0. The order of keys is none of JSON's."""
    return json.dumps([repr(value) if isinstance(value, bytes) else value for value in row], sort_keys=True)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("form", ["binary", "text"])
async def test_server_decodes_the_same_rows_from_the_official_client(  # noqa: PLR0917 - fixtures
    make_server: Any, fake: Any, opened: Any, samples: Any, batch: Batches, event: Events, *, form: str
) -> None:
    random = Random(20_261_128)
    given = batch(
        *(
            event(
                samples.json(random),
                kind=random.choice(("usual", "ünüsual", "日本", "a b,c=d")),
                at=samples.whole(random, -(2**63), 2**63 - 1),
                columns=COLUMNS,
                values=[samples.value(random, column.type, scale=SCALE) for column in COLUMNS],
            )
            for _ in range(EVENTS)
        )
    )
    server = make_server(user=("me", PASSWORD))
    options = EventHandlerOptions(ttl="90d", append_mode=True)
    handler = await opened(server, database="public", identity=f"me:{PASSWORD}@", options=options, json=form)

    await handler.handle(given)
    kinds = list(dict.fromkeys(record.type for record in given.records))
    records = sorted(given.records, key=lambda record: kinds.index(record.type))  # as the handler: type by type
    await anyio.to_thread.run_sync(by_the_client, server, records)

    ours, theirs = server.received
    ((our_insert,), (their_insert,)) = ours.request.inserts, theirs.request.inserts
    assert our_insert.table == their_insert.table
    assert our_insert.columns == their_insert.columns
    assert len(our_insert.rows) == EVENTS
    assert list(map(_said, our_insert.rows)) == list(map(_said, their_insert.rows))
    for part in ("dbname", "basic"):
        assert ours.request.header[part] == theirs.request.header[part]
    assert ours.metadata["x-greptime-hints"] == theirs.metadata["x-greptime-hints"]
    if form == "text":
        assert fake.decoding.message(ours.content)[6] == fake.decoding.message(theirs.content)[6]
