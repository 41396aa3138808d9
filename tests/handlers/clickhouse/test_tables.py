"""Tables: made, extended, given by others; values that they take exactly, or refuse by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from eventrec import (
    ID,
    TIMESTAMP,
    TYPE,
    Batch,
    ColumnSchema,
    ColumnType,
    Layout,
    LayoutColumn,
    LayoutError,
    PermanentError,
    ReceivedEvent,
    TransientError,
    from_payload,
)
from eventrec_handlers.clickhouse import ClickHouseHandler, ClickHouseIndex, ClickHouseTable

pytestmark = pytest.mark.handlers

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Batches = Callable[..., Batch]
Open = Callable[..., Awaitable[ClickHouseHandler]]

AT = 1_700_000_000_123_456_789


async def test_columns_are_added_as_events_need_them(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()

    await handler.handle(batch(ReceivedEvent("e", b"1", AT)))
    await handler.handle(
        batch(ReceivedEvent("f", b"2", AT, columns=(ColumnSchema("n", ColumnType.INT64),), rows=[(5,)]), start=1)
    )
    await handler.handle(batch(ReceivedEvent("e", b"3", AT, context=b'{"a":1}'), start=2))

    described = await asked(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'events'"
    )
    assert dict(map(tuple, described)) == {
        "id": "UUID",
        "type": "LowCardinality(String)",
        "timestamp": "DateTime64(9, 'UTC')",
        "payload": "String",
        "context": "Nullable(String)",
        "n": "Nullable(Int64)",
    }
    rows = await asked(
        "SELECT payload, n, context, toString(toUnixTimestamp64Nano(timestamp)) FROM events ORDER BY payload"
    )
    assert rows == [["1", None, None, str(AT)], ["2", 5, None, str(AT)], ["3", None, '{"a":1}', str(AT)]]


async def test_every_column_type_is_kept_exactly(opened: Open, asked: Ask, batch: Batches) -> None:
    values: dict[ColumnType, tuple[Any, Any]] = {
        ColumnType.BOOLEAN: (True, "true"),
        ColumnType.INT8: (-128, "-128"),
        ColumnType.INT64: (-(2**63), str(-(2**63))),
        ColumnType.UINT64: (2**64 - 1, str(2**64 - 1)),
        ColumnType.FLOAT32: (0.5, "0.5"),
        ColumnType.FLOAT64: (0.1, "0.1"),
        ColumnType.BINARY: (b"\x00\x01", "\x00\x01"),
        ColumnType.STRING: ("a\0ü", "a\0ü"),
        ColumnType.DICTIONARY: ("d", "d"),
        ColumnType.DATE: (date(1900, 1, 1), "1900-01-01"),
        ColumnType.DATETIME: (datetime.fromisoformat("2299-12-31T23:59:59.999999Z"), "2299-12-31 23:59:59.999999"),
        ColumnType.TIMESTAMP_SECOND: (1, "1970-01-01 00:00:01"),
        ColumnType.TIMESTAMP_NANOSECOND: (AT, "2023-11-14 22:13:20.123456789"),
        ColumnType.TIME_MICROSECOND: (time(1, 2, 3, 4), "3723.000004"),
        ColumnType.INTERVAL_YEAR_MONTH: (14, "14"),
        ColumnType.INTERVAL_DAY_TIME: (timedelta(seconds=-1.5), "-1.5"),
        ColumnType.INTERVAL_MONTH_DAY_NANO: ((1, 2, 3), "[1,2,3]"),
        ColumnType.DECIMAL128: (Decimal("0." + "1" * 38), "0." + "1" * 38),
        ColumnType.JSON: ({"a": [1.5]}, '{"a":[1.5]}'),
        ColumnType.LIST: ([1, "x"], '[1,"x"]'),
        ColumnType.STRUCT: ({"b": None}, '{"b":null}'),
    }
    columns = tuple(ColumnSchema(kind.name.lower(), kind) for kind in values)
    handler = await opened()

    await handler.handle(
        batch(
            ReceivedEvent("e", b"1", 1, columns=columns, rows=[tuple(given for given, _ in values.values())]),
            ReceivedEvent("e", b"2", 2, columns=columns, rows=[(None,) * len(columns)]),
        )
    )

    listed = ", ".join(f"toString({column.name})" for column in columns)
    assert await asked(f"SELECT {listed} FROM events ORDER BY payload") == [
        [said for _, said in values.values()],
        [None] * len(columns),
    ]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ColumnType.DATE, date(1899, 12, 31)),
        (ColumnType.DATETIME, datetime.fromisoformat("1899-12-31T00:00:00Z")),
        (ColumnType.TIMESTAMP_SECOND, 2**62),
    ],
)
async def test_value_that_a_column_cannot_hold_is_refused_by_name(
    opened: Open, asked: Ask, batch: Batches, kind: ColumnType, value: Any
) -> None:
    handler = await opened()
    columns = (ColumnSchema("when", kind),)

    with pytest.raises(PermanentError, match=r"'when'.*1900 to 2299") as found:
        await handler.handle(
            batch(ReceivedEvent("e", b"1", 1), ReceivedEvent("e", b"2", 2, columns=columns, rows=[(value,)]))
        )

    assert set(found.value.records) == {1}
    assert await asked("SELECT toUInt32(count()) FROM events") == [[0]]


@pytest.mark.parametrize(
    ("declared", "unit", "moments"),
    [
        ("DateTime64(9)", 1, [-(2**63), -1, AT]),
        ("DateTime64(6)", 10**3, [-1, AT]),
        ("DateTime64(3)", 10**6, [-2_208_988_800 * 10**9 + 1, -1, AT]),
        ("DateTime", 10**9, [1, AT]),
    ],
)
async def test_moment_that_is_finer_than_its_column_is_cut_off_towards_the_past(
    opened: Open, asked: Ask, batch: Batches, declared: str, *, unit: int, moments: list[int]
) -> None:
    """As in a timestamptz: the one kind of value that is not refused where a column cannot hold it exactly."""
    await asked(f"CREATE TABLE events (id UUID, type String, timestamp {declared}, payload String) {ORDERED}")
    handler = await opened()

    await handler.handle(batch(*[ReceivedEvent("e", b"{}", at) for at in moments]))

    async with handler.reader() as reader:
        page = await reader.range(limit=9)
    assert [event.timestamp for event in page.events] == [at // unit * unit for at in moments]


ORDERED = "ENGINE = MergeTree ORDER BY timestamp"


async def test_one_column_declared_in_two_ways_takes_the_one_that_the_table_has(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    handler = await opened()
    number, text = (ColumnSchema("x", ColumnType.INT64),), (ColumnSchema("x", ColumnType.STRING),)

    with pytest.raises(PermanentError, match="declares it Nullable") as found:
        await handler.handle(
            batch(
                ReceivedEvent("a", b"1", 1, columns=number, rows=[(1,)]),
                ReceivedEvent("b", b"2", 2, columns=text, rows=[("t",)]),
            )
        )

    assert set(found.value.records) == {1}


@pytest.mark.parametrize("name", ["ta.ble", "we`ird", "back\\slash", "Ünïcødé ☃", "a'b\"c", "select", "{x}%s"])
async def test_names_from_events_are_quoted(opened: Open, batch: Batches, name: str) -> None:
    handler = await opened()
    columns = (ColumnSchema(name, ColumnType.STRING),)

    await handler.handle(
        batch(
            ReceivedEvent(name, b'"%s"' % name.encode().hex().encode(), 5, table=name, columns=columns, rows=[(name,)])
        )
    )

    async with handler.reader() as reader:
        page = await reader.latest(limit=5)
    assert [(event.table, event.type, event.columns[name]) for event in page.events] == [(name, name, name)]


@pytest.mark.parametrize("name", ["ü" * 100, "a" * 255, "eventrec_x", ".inner.x"])
async def test_table_that_cannot_be_made_is_the_fault_of_its_records(
    opened: Open, asked: Ask, batch: Batches, name: str
) -> None:
    handler = await opened()

    with pytest.raises(PermanentError, match=r"too long|reserved") as found:
        await handler.handle(batch(ReceivedEvent("e", b"1", AT), ReceivedEvent("e", b"2", AT, table=name)))

    assert set(found.value.records) == {1}


@pytest.mark.parametrize("name", ["_block_number", "_row_exists", "_part_offset"])
async def test_column_that_every_table_has_by_itself_is_refused_by_name(
    opened: Open, asked: Ask, batch: Batches, name: str
) -> None:
    handler = await opened()
    columns = (ColumnSchema(name, ColumnType.STRING),)

    with pytest.raises(PermanentError, match=f"'{name}'") as found:
        await handler.handle(
            batch(ReceivedEvent("e", b"1", AT), ReceivedEvent("e", b"2", AT, columns=columns, rows=[("v",)]))
        )

    assert set(found.value.records) == {1}


async def test_columns_that_differ_in_case_alone_are_two(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()
    names = ("userId", "userid", "ID")
    events = [ReceivedEvent("e", b"1", AT, columns=(ColumnSchema(n, ColumnType.STRING),), rows=[(n,)]) for n in names]

    await handler.handle(batch(*events))

    assert await asked("SELECT userId, userid, ID FROM events ORDER BY ALL") == [
        ["userId", None, None],
        [None, "userid", None],
        [None, None, "ID"],
    ]


async def test_table_may_be_ordered_by_what_events_may_lack(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(tables={"events": ClickHouseTable(order_by=("customer", "timestamp"))})
    columns = (ColumnSchema("customer", ColumnType.STRING),)

    await handler.handle(
        batch(ReceivedEvent("e", b"1", AT, columns=columns, rows=[("ada",)]), ReceivedEvent("f", b"2", AT))
    )

    assert await asked("SELECT customer, payload FROM events ORDER BY payload") == [["ada", "1"], [None, "2"]]


async def test_strict_schema_makes_nothing(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(schema="strict")

    with pytest.raises(PermanentError, match="no such table"):
        await handler.handle(batch(ReceivedEvent("e", b"1", 1)))

    assert await asked("SHOW TABLES") == []


async def test_table_of_others_is_written_as_it_is_and_given_a_window(opened: Open, asked: Ask, batch: Batches) -> None:
    await asked(
        "CREATE TABLE events (id UUID, type String, timestamp DateTime64(9), payload String, more UInt8 DEFAULT 7)"
        " ENGINE = MergeTree ORDER BY timestamp"
    )
    handler, sent = await opened(), batch(ReceivedEvent("e", b"1", AT))

    await handler.handle(sent)
    await (await opened()).handle(sent)

    assert await asked("SELECT type, payload, more FROM events") == [["e", "1", 7]]
    assert handler.remarks == ()


async def test_table_that_keeps_no_tokens_is_a_remark(opened: Open, asked: Ask, batch: Batches) -> None:
    await asked("CREATE TABLE events (id UUID, type String, timestamp DateTime64(9), payload String) ENGINE = Memory")
    handler = await opened()

    await handler.handle(batch(ReceivedEvent("e", b"1", AT)))

    assert len(handler.remarks) == 1
    assert "Memory keeps no tokens" in handler.remarks[0]


async def test_table_that_is_dropped_meanwhile_is_made_again(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()
    await handler.handle(batch(ReceivedEvent("e", b"1", 1)))
    await asked("DROP TABLE events SYNC")

    await handler.handle(batch(ReceivedEvent("e", b"2", 2), start=1))

    assert await asked("SELECT payload FROM events") == [["2"]]


async def test_table_that_was_mended_meanwhile_refuses_nothing(opened: Open, asked: Ask, batch: Batches) -> None:
    columns = (ColumnSchema("n", ColumnType.INT64),)
    handler = await opened()
    await handler.handle(batch(ReceivedEvent("e", b"1", 1, columns=columns, rows=[(1,)])))
    await asked("DROP TABLE events SYNC")
    await asked("CREATE TABLE events (id String, type String) ENGINE = MergeTree ORDER BY id")
    sent = batch(ReceivedEvent("e", b"2", 2), start=1)

    with pytest.raises(TransientError, match="changed meanwhile"):
        await handler.handle(sent)
    with pytest.raises(PermanentError, match="not one of ours"):
        await handler.handle(sent)
    await asked("DROP TABLE events SYNC")
    await handler.handle(sent)

    assert await asked("SELECT payload FROM events") == [["2"]]


async def test_ttl_of_the_handler_or_the_recorder_is_that_of_its_tables(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    handler = await opened(ttl=3_600)
    await handler.handle(batch(ReceivedEvent("e", b"1", 1)))
    inheriting = await opened()
    inheriting.inherit_ttl(60)
    await inheriting.handle(batch(ReceivedEvent("e", b"1", 1, table="others"), start=1))

    found = dict(
        map(tuple, await asked("SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"))
    )
    assert "greatest(toInt64(timestamp), 0) + 3600" in found["events"]
    assert "+ 60" in found["others"]


@pytest.mark.parametrize("years", [100, 10_000])
async def test_ttl_beyond_what_a_datetime_can_tell_drops_nothing(
    opened: Open, asked: Ask, batch: Batches, years: int
) -> None:
    handler = await opened(ttl=years * 365 * 86_400.0)

    await handler.handle(batch(*(ReceivedEvent("e", b"1", at) for at in (AT, -(2**63), 2**63 - 1))))
    await asked("OPTIMIZE TABLE events FINAL")

    assert await asked("SELECT toUInt32(count()) FROM events") == [[3]]


# -- layouts: the tables of an existing system


def column(name: str, type_: Any, **members: Any) -> LayoutColumn:
    return LayoutColumn(name, from_payload(name), type_, **members)


EVENTS = Layout(
    "events",
    [
        LayoutColumn("id", ID, "uuid"),
        LayoutColumn("name", TYPE, "text"),
        LayoutColumn("created_at", TIMESTAMP, "timestamptz"),
        *(column(name, "text") for name in ("sdk_name", "device_id", "project_id", "session_id", "path", "origin")),
        column("groups", "jsonb"),
        column("revenue", "bigint"),
        column("duration", "bigint"),
        column("properties", "jsonb"),
        column("country", "text"),
        column("longitude", "real"),
        column("imported_at", "timestamptz"),
    ],
)
EVENTS_TABLE = ClickHouseTable(
    order_by=("project_id", "toDate(created_at)", "created_at", "name"),
    partition_by="toYYYYMM(created_at)",
    types={
        "created_at": "DateTime64(3)",
        **dict.fromkeys(("name", "sdk_name"), "LowCardinality(String)"),
        **dict.fromkeys(("device_id", "project_id", "session_id", "path", "origin"), "String"),
        "groups": "Array(String)",
        "revenue": "UInt64",
        "duration": "UInt64",
        "properties": "Map(String, String)",
        "country": "LowCardinality(FixedString(2))",
        "longitude": "Nullable(Float32)",
        "imported_at": "Nullable(DateTime)",
    },
    defaults={"id": "generateUUIDv4()", "groups": "[]"},
    codecs={
        "created_at": "DoubleDelta, ZSTD(3)",
        "path": "ZSTD(3)",
        "session_id": "LZ4",
        "duration": "Delta(4), LZ4",
        "properties": "ZSTD(3)",
        "longitude": "Gorilla, LZ4",
        "imported_at": "Delta(4), LZ4",
    },
    indexes=[
        ClickHouseIndex("idx_name", "name", "bloom_filter"),
        ClickHouseIndex("idx_bounce", "properties['__bounce']", "set(3)"),
        ClickHouseIndex("idx_origin", "origin", "bloom_filter(0.05)"),
    ],
    settings={"index_granularity": 8192},
)
SESSIONS = Layout(
    "sessions",
    [
        column("id", "text"),
        column("project_id", "text"),
        LayoutColumn("created_at", TIMESTAMP, "timestamptz"),
        column("duration", "integer"),
        column("sign", "smallint"),
        column("version", "bigint"),
    ],
)
SESSIONS_TABLE = ClickHouseTable(
    engine="VersionedCollapsingMergeTree(sign, version)",
    order_by=("project_id", "toDate(created_at)", "created_at"),
    types={
        "id": "String",
        "project_id": "String",
        "created_at": "DateTime64(3)",
        "duration": "UInt32",
        "sign": "Int8",
        "version": "UInt64",
    },
)
PROFILES = Layout(
    "profiles",
    [column("id", "text"), column("project_id", "text"), LayoutColumn("created_at", TIMESTAMP, "timestamptz")],
)
PROFILES_TABLE = ClickHouseTable(
    engine="ReplacingMergeTree(created_at)",
    order_by=("project_id", "id"),
    types={"id": "String", "project_id": "String", "created_at": "DateTime64(3)"},
)
TABLES = {"events": EVENTS_TABLE, "sessions": SESSIONS_TABLE, "profiles": PROFILES_TABLE}


async def test_table_of_events_has_exactly_its_columns_and_is_read_back(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    handler = await opened(layouts=[EVENTS], tables=TABLES)
    full = (
        b'{"project_id":"p","path":"/","groups":["a","b"],"revenue":18,"duration":5,"country":"SE","longitude":1.5,'
        b'"properties":{"__bounce":"true","n":1.50},"imported_at":"2024-01-01T00:00:00Z"}'
    )

    await handler.handle(batch(ReceivedEvent("screen_view", full, AT), ReceivedEvent("bare", b"{}", AT)))

    described = await asked(
        "SELECT name, type, compression_codec FROM system.columns"
        " WHERE database = currentDatabase() AND table = 'events'"
    )
    assert [name for name, *_ in described] == [each.name for each in EVENTS.columns]
    assert {name: kind for name, kind, _ in described}["country"] == "LowCardinality(FixedString(2))"
    assert {name: codec for name, _, codec in described}["created_at"] == "CODEC(DoubleDelta, ZSTD(3))"
    found = await asked(
        "SELECT name, toString(created_at, 'UTC'), groups, revenue, properties, toStringCutToZero(country), longitude,"
        " toString(imported_at, 'UTC') FROM events ORDER BY name DESC"
    )
    assert found == [
        [
            "screen_view",
            "2023-11-14 22:13:20.123",
            ["a", "b"],
            18,
            {"__bounce": "true", "n": "1.50"},
            "SE",
            1.5,
            "2024-01-01 00:00:00",
        ],
        ["bare", "2023-11-14 22:13:20.123", [], 0, {}, "", None, None],
    ]
    other = await opened()
    async with other.reader() as reader:
        page = await reader.latest(limit=5)
    assert [event.type for event in sorted(page.events, key=lambda event: event.type)] == ["bare", "screen_view"]
    assert {event.timestamp for event in page.events} == {AT // 1_000_000 * 1_000_000}
    assert '"groups":["a","b"]' in next(event.payload for event in page.events if event.type == "screen_view")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b'{"revenue":-1}', "revenue.*it is not from 0"),
        (b'{"country":"SWE"}', "country.*3 bytes"),
        (b'{"properties":{"a":{"b":1}}}', "properties.*where a text belongs"),
        (b'{"groups":[null]}', "groups.*null"),
        (b'{"groups":"x"}', "groups"),
        (b'{"imported_at":"1969-01-01T00:00:00Z"}', "imported_at.*1970 to 2106"),
        (b'{"revenue":9223372036854775808}', "revenue"),
    ],
)
async def test_what_a_table_of_others_cannot_hold_is_refused_by_name(
    opened: Open, batch: Batches, payload: bytes, why: str
) -> None:
    handler = await opened(layouts=[EVENTS], tables=TABLES)

    with pytest.raises(PermanentError, match=why):
        await handler.handle(batch(ReceivedEvent("e", payload, AT)))


async def test_collapsing_and_replacing_tables_are_read_as_they_merge(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(layouts=[SESSIONS, PROFILES], tables=TABLES)

    def session(duration: int, sign: int, version: int) -> ReceivedEvent:
        payload = b'{"id":"s","project_id":"p","duration":%d,"sign":%d,"version":%d}' % (duration, sign, version)
        return ReceivedEvent("sessions", payload, AT, table="sessions")

    def profile(at: int) -> ReceivedEvent:
        return ReceivedEvent("profiles", b'{"id":"x","project_id":"p"}', at, table="profiles")

    await handler.handle(batch(session(1, 1, 1), profile(AT)))
    await handler.handle(batch(session(1, -1, 1), session(9, 1, 2), profile(AT + 10**9), start=2))

    async with handler.reader() as reader:
        page = await reader.range(limit=10)
    assert [(event.table, event.columns.get("duration")) for event in page.events] == [
        ("sessions", 9),
        ("profiles", None),
    ]
    assert await asked("SELECT toUInt32(count()) FROM sessions") == [[3]]


@pytest.mark.parametrize(
    "members",
    [
        {"engine": "MergeTree; DROP TABLE x"},
        {"engine": "MergeTree("},
        {"order_by": "id"},
        {"order_by": ("a -- b",)},
        {"types": {"id": "String)"}},
        {"types": {"nothing": "String"}},
        {"codecs": {"id": ""}},
        {"settings": {"a b": 1}},
    ],
)
def test_table_that_cannot_be_is_refused_where_it_is_declared(members: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        ClickHouseHandler("clickhouse://h", tables={"profiles": ClickHouseTable(**members)}).use_layouts(
            {"profiles": PROFILES}
        )
