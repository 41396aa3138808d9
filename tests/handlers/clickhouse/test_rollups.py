"""Rollups as ClickHouse's SQL, run by its own engine: the same numbers as brute force."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import (
    CatalogueError,
    ColumnSchema,
    ColumnType,
    Layout,
    ReceivedEvent,
    StoredEvent,
    default_layout,
)
from eventrec.analytics import (
    Answer,
    Bucket,
    Comparison,
    Condition,
    Field,
    Group,
    Measure,
    Membership,
    Not,
    Question,
    RollupPlan,
    brute_force,
    plan_of,
)
from eventrec.testing.clickhouse import ClickHouseEngine
from eventrec_handlers.clickhouse.rollup_columns import columns_of
from eventrec_handlers.clickhouse.rollups import Columns, KeptRollup, answer, answer_kept, create_table, select
from eventrec_handlers.clickhouse.rollups.views import NOTES_TABLE

pytestmark = pytest.mark.handlers

Query = Callable[[str], list[list[Any]]]

SECOND = 1_000_000_000
EXTRA = (
    ColumnSchema("shop", ColumnType.STRING),
    ColumnSchema("amount", ColumnType.INT64),
    ColumnSchema("price", ColumnType.FLOAT64),
    ColumnSchema("paid", ColumnType.BOOLEAN),
)
OF_TABLE = default_layout("events", EXTRA)


def moment(said: str) -> int:
    return (datetime.fromisoformat(said) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


def asked(query: Query, question: Question, layout: Layout) -> Answer:
    """The answer that the engine gives."""

    async def run(sql: str) -> list[list[Any]]:
        return query(sql)

    return anyio.run(answer, question, Columns(layout), run)


def assert_same(found: Answer, expected: Answer) -> None:
    assert len(found.rows) == len(expected.rows)
    for row, wanted in zip(found.rows, expected.rows, strict=True):
        assert [_rounded(value) for value in row] == [_rounded(value) for value in wanted]
    assert (found.columns, found.complete_to, found.cursor) == (expected.columns, expected.complete_to, expected.cursor)


def _rounded(value: object) -> object:
    """Floats but for their last digits."""
    return float(f"{value:.10e}") if isinstance(value, float) and math.isfinite(value) else value


# -- any value, anywhere


def stored(number: int, at: int, payload: Any, *row: Any, kind: str = "sold", context: Any = None) -> StoredEvent:
    values = (*row, *[None] * (len(EXTRA) - len(row)))
    return StoredEvent(
        table="events",
        id=str(UUID(int=number)),
        type=kind,
        timestamp=at,
        payload=payload if isinstance(payload, str) else json.dumps(payload),
        context=None if context is None else json.dumps(context),
        columns={column.name: value for column, value in zip(EXTRA, values, strict=True)},
    )


def keep(engine: ClickHouseEngine, events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """Store events in a table of the default layout."""
    engine.query(create_table(OF_TABLE))
    given = list(events)
    rows = [
        {
            "id": event.id,
            "type": event.type,
            "payload": event.payload,
            "context": event.context,
            **event.columns,
            "timestamp": event.timestamp,
        }
        for event in given
    ]
    engine.insert(OF_TABLE.table, rows)
    return given


VALUES: list[Any] = [
    *(None, True, False, 0, 1, -7, 5.0, 2.5, 1e3, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30, 1e301),
    *("", "5", "true", "null", "a", "A", "ä", "it's", 'say "so"', "a\\b", "\u0001", "😀", "1" * 30),
    *("0B8E2F6E-3C1F-4A57-9D3B-0123456789AB", "0b8e2f6e-3c1f-4a57-9d3b-0123456789ab", [], [1], {}, {"n": 1}),
]
NAMES = ("n", "with space", "ä", 'q"q', "a.b", "$", "back\\slash", "it's")


def every_measure(field: Field) -> list[Measure]:
    functions: tuple[str, ...]
    match field.kind:
        case "integer" | "float":
            functions = ("count", "sum", "min", "max", "avg", "percentile", "first", "last")
        case "text":
            functions = ("count", "distinct", "min", "max", "first", "last")
        case "json":
            functions = ("count",)
        case _:
            functions = ("count", "distinct", "first", "last")
    return [
        Measure(f"m_{function}", function, field, None, 0.95 if function == "percentile" else None)  # type: ignore[arg-type]
        for function in functions
    ]


def plan(*measures: Measure, **said: Any) -> RollupPlan:
    groups: tuple[Group, ...] = said.pop("groups", ())
    names = ("bucket", *(group.name for group in groups), *(measure.name for measure in measures))
    return RollupPlan(
        **{
            "name": "told",
            "table": "events",
            "types": None,
            "where": None,
            "bucket_name": "bucket",
            "bucket": Bucket("hour"),
            "groups": groups,
            "measures": measures,
            "column_names": names,
            **said,
        }
    )


@pytest.mark.parametrize("kind", ["text", "integer", "float", "boolean", "uuid", "json"])
def test_value_counts_only_where_it_is_of_its_kind(query: Query, engine: ClickHouseEngine, kind: Any) -> None:
    """Each value in an hour of its own, at every odd name, and beside others in the hour behind all of them."""
    hour = 3_600 * SECOND
    events = [stored(number, number * hour, dict.fromkeys(NAMES, value)) for number, value in enumerate(VALUES)]
    events += [stored(900 + number, 900 * hour, {"n": value}) for number, value in enumerate(VALUES)]
    events += [stored(1_000 + number, 901 * hour, text) for number, text in enumerate(("[1]", "5", "null", "{", ""))]
    kept = keep(engine, events)

    for name in NAMES:
        question = Question(plan(*every_measure(Field("payload", (name,), kind))))
        assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        *(("shop", "text"), ("shop", "uuid"), ("amount", "integer"), ("amount", "float"), ("amount", "json")),
        *(("price", "float"), ("price", "integer"), ("paid", "boolean"), ("not_there", "text")),
    ],
)
def test_column_counts_only_where_it_is_of_its_kind(
    query: Query, engine: ClickHouseEngine, column: str, kind: Any
) -> None:
    rows = [
        (None, None, None, None),
        ("a", 1, 0.5, True),
        ("0B8E2F6E-3C1F-4A57-9D3B-0123456789AB", 2**63 - 1, 3.0, False),
        ("ä", -5, 1e301, None),
        ("", 2**53 + 1, -2.0, True),
    ]
    kept = keep(engine, [stored(number, number * SECOND, {}, *row) for number, row in enumerate(rows)])

    question = Question(plan(*every_measure(Field("column", (column,), kind))))

    assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


def test_conditions_know_true_false_and_unknown(query: Query, engine: ClickHouseEngine) -> None:
    kept = keep(engine, [stored(number, 0, {"n": value}) for number, value in enumerate(VALUES)])
    text, whole, decimal = (Field("payload", ("n",), kind) for kind in ("text", "integer", "float"))
    said: list[Condition] = [
        *(Comparison(text, operator, "a") for operator in ("==", "!=", "<", "<=", ">", ">=")),
        *(Comparison(whole, operator, 1) for operator in ("==", "!=", "<", "<=", ">", ">=")),
        Comparison(decimal, ">=", 2.5),
        Comparison(text, "==", "it's"),
        Comparison(text, "==", "a\\b"),
        Membership(text, ()),
        Membership(text, ("a", 'say "so"', "😀")),
        Membership(whole, (0, 2**63 - 1)),
        Not(Membership(text, ("a",))),
    ]
    measures = [Measure(f"m_{number}", "count", None, condition) for number, condition in enumerate(said)]

    question = Question(plan(*measures))

    assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"])
@pytest.mark.parametrize(
    ("unit", "every"), [("minute", 15), ("hour", 1), ("hour", 6), ("day", 1), ("week", 1), ("month", 1)]
)
def test_buckets_are_those_of_the_zone(
    query: Query, engine: ClickHouseEngine, zone: str, unit: Any, every: int
) -> None:
    """Around both changes of the clock of a year, each quarter of an hour."""
    days = ("2024-03-31", "2024-10-27", "2024-04-07", "2024-10-06", "2024-11-03", "2024-03-10", "1969-12-31")
    quarter = 15 * 60 * SECOND
    events = [
        stored(1_000 * (number + 1) + step, moment(f"{day}T00:00:00Z") + step * quarter - (step % 3), {})
        for number, day in enumerate(days)
        for step in range(-20, 4 * 26)
    ]
    kept = keep(engine, events)
    told = plan(Measure("events", "count"), bucket=Bucket(unit, every, zone))

    for question in (
        Question(told),
        Question(told, start=moment("2024-03-10T03:07:00Z"), end=moment("2024-10-27T01:30:00Z"), limit=20),
        Question(told, start=moment("2024-10-27T00:00:00Z"), end=moment("2024-10-28T00:00:00Z"), empty_buckets=True),
    ):
        assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


def test_events_are_told_apart_by_groups_that_may_be_absent(query: Query, engine: ClickHouseEngine) -> None:
    payloads = [{"a": a, "b": b} for a in ("x", None, 5) for b in (1, None, True)]
    kept = keep(engine, [stored(number, number, payload) for number, payload in enumerate(payloads)])
    groups = (Group("a", Field("payload", ("a",), "text")), Group("b", Field("payload", ("b",), "integer")))
    told = plan(Measure("events", "count"), groups=groups)

    for asked_for in (None, ("a",), ("b",), ()):
        question = Question(told, groups=asked_for)
        assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


def test_empty_table_has_no_rows(query: Query) -> None:
    query(create_table(OF_TABLE))

    assert asked(query, Question(plan(Measure("events", "count"))), OF_TABLE).rows == ()


def test_field_that_is_not_stored_is_refused() -> None:
    layout = default_layout("events")
    question = Question(plan(Measure("m", "count", Field("column", ("shop",), "text"))))
    assert "NULL" in select(question, Columns(layout), (0, 0)).sql
    narrow = Layout("events", layout.columns[1:3])
    hidden = Question(plan(Measure("m", "count", Field("payload", ("n",), "text"))))

    with pytest.raises(CatalogueError, match=r"'events' does not store payload\.n"):
        select(hidden, Columns(narrow), (0, 0))


LOWEST, HIGHEST = -(2**63), 2**63 - 1
"""The first and the last nanosecond of an event: of 1677 and of 2262."""

YEARS = ("1700", "1899", "1900", "1969", "1970", "2026", "2106", "2107", "2240", "2262")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana"])
@pytest.mark.parametrize(
    ("unit", "every"), [("minute", 30), ("hour", 1), ("hour", 6), ("day", 1), ("week", 1), ("month", 1)]
)
def test_buckets_are_those_of_the_zone_whenever_events_are(
    query: Query, engine: ClickHouseEngine, zone: str, unit: Any, every: int
) -> None:
    """All of them in one question, which has to tell each change of the zone's clock in six centuries."""
    at = [moment(f"{year}-01-01T12:00:00Z") for year in YEARS]
    around = [moment(f"{year}-0{month}-01T{hour:02}:10:00Z") for year in YEARS for month in (3, 4) for hour in range(5)]
    ends = (LOWEST, LOWEST + 1, LOWEST + SECOND, HIGHEST)
    events = [stored(number, each, {}) for number, each in enumerate((*at, *around, *ends))]
    kept = keep(engine, events)
    told = plan(Measure("events", "count"), bucket=Bucket(unit, every, zone))

    for question in (
        Question(told),
        Question(told, end=moment("1970-01-01T00:00:00Z")),
        Question(told, start=moment("2106-01-01T00:00:00Z")),
        Question(told, start=LOWEST, end=HIGHEST),
        Question(told, start=LOWEST - 1, end=HIGHEST + 1),
        Question(told, start=-(2**70), end=2**70),
        Question(told, start=HIGHEST + 1),
    ):
        assert_same(asked(query, question, OF_TABLE), brute_force(question, kept))


@pytest.mark.parametrize("declared", ["DateTime64(3)", "DateTime64(0)", "DateTime64(6, 'Asia/Tokyo')", "DateTime"])
@pytest.mark.parametrize("bucket", [Bucket("hour"), Bucket("week", 1, "Europe/Berlin")])
def test_time_may_be_coarser_and_of_no_event_at_all(
    query: Query, engine: ClickHouseEngine, declared: str, bucket: Bucket
) -> None:
    """From the events and from a view; what another program stores that no event can be does not count."""
    query(f"CREATE TABLE events (id UUID, type String, timestamp {declared}, payload String, shop String)" + AS_EVENTS)
    beyond = "toDateTime64('2290-01-01 00:00:00', 3, 'UTC')"
    rows = "SELECT generateUUIDv4(), 'sold', {}, '{{}}', 'a' FROM numbers({})"
    columns = columns_of("events", {"timestamp": declared, "shop": "String"}, None)
    shop, at = Field("column", ("shop",), "text"), Field("timestamp", (), "timestamp")
    told = plan(Measure("events", "count"), Measure("at", "max", at), groups=(Group("shop", shop),), bucket=bucket)
    if declared != "DateTime":
        query("INSERT INTO events " + rows.format(beyond, 2))
    query("INSERT INTO events " + rows.format("toDateTime(1000 + number)", 2))
    make_view(query, KeptRollup(told, columns))
    query("INSERT INTO events " + rows.format("toDateTime(2000 + number)", 3))
    if declared != "DateTime":
        query("INSERT INTO events " + rows.format(beyond, 2))

    async def run(sql: str) -> list[list[Any]]:
        return query(sql)

    from_events = anyio.run(answer, Question(told), columns, run)
    kept = anyio.run(answer_kept, Question(told), KeptRollup(told, columns), [1], run)

    expected = ((bucket.floor(0), "a", 5, 2_002 * SECOND),)
    assert from_events.rows == kept.rows == expected
    assert from_events.complete_to == kept.complete_to == 2_002 * SECOND


AS_EVENTS = " ENGINE = MergeTree ORDER BY type SETTINGS enable_block_number_column = 1, enable_block_offset_column = 1"


# -- the platform's


def platform_rows(events: Sequence[ReceivedEvent]) -> list[dict[str, Any]]:
    rows = []
    for event in events:
        said = json.loads(event.payload)
        rows.append(
            {
                "event_type": event.type,
                "service": said.get("service") or "unknown",
                "user_id": said.get("user_id"),
                "data": json.dumps({"type": event.type, **said}),
                "timestamp": event.timestamp,
            }
        )
    return rows


def as_stored(events: Sequence[ReceivedEvent]) -> list[StoredEvent]:
    return [
        StoredEvent(event.table, str(number), event.type, event.timestamp or 0, event.payload.decode())
        for number, event in enumerate(events)
    ]


def make_view(query: Query, kept: KeptRollup) -> None:
    """What keeps a rollup, and the view with its name, with what is there already."""
    for statement in (NOTES_TABLE, *kept.make()):
        query(statement)
    ((block,),) = query(
        "SELECT toInt32(max(max_block_number)) FROM system.parts"
        f" WHERE active AND database = currentDatabase() AND table = '{kept.plan.table}'"
    )
    query(kept.fill(1, (block, block), None, None))
    query(kept.view([1]))


@pytest.mark.parametrize("number", range(9))
def test_each_rollup_of_the_platform_is_right(
    query: Query, engine: ClickHouseEngine, platform_analytics: Any, number: int
) -> None:
    """Answered from the events; and by a view with its name and columns, made when some were there already."""
    layout = replace(platform_analytics.layout.ANALYTICS_EVENTS, retention=None)  # they are past
    rollup = plan_of(platform_analytics.catalogue.catalogue.rollups[number])
    events = list(platform_analytics.generate.arrivals(days=40, number=2_000, users=50))
    columns = Columns(layout)
    query(create_table(layout))
    rows = platform_rows(events)

    engine.insert(layout.table, rows[:700])
    make_view(query, KeptRollup(rollup, columns))
    engine.insert(layout.table, rows[700:1_500])
    engine.insert(layout.table, rows[1_500:])

    question = Question(rollup)
    expected = brute_force(question, as_stored(events))
    assert len(expected.rows) > 1
    assert_same(asked(query, question, layout), expected)
    names = [f"`{name}`" for name in rollup.column_names]
    names[0] = f"toUnixTimestamp64Nano({names[0]})"
    reader = select(question, columns, (0, 0))
    found = query(f"SELECT {', '.join(names)} FROM `{rollup.name}`")
    assert_same(Answer.of(question, map(reader.row, found), complete_to=expected.complete_to, pending=0), expected)


@pytest.mark.parametrize("unit", ["hour", "day", "week", "month"])
def test_view_has_the_buckets_of_a_zone(query: Query, engine: ClickHouseEngine, unit: Any) -> None:
    told = plan(Measure("events", "count"), bucket=Bucket(unit, 1, "Europe/Berlin"))
    columns = Columns(OF_TABLE)
    hours = range(0, 24 * 365, 7)
    kept = keep(engine, [stored(hour, moment("2024-01-01T00:30:00Z") + hour * 3_600 * SECOND, {}) for hour in hours])
    make_view(query, KeptRollup(told, columns))

    found = query("SELECT toUnixTimestamp64Nano(bucket), events FROM told")

    expected = brute_force(Question(told), kept)
    assert sorted((int(at), int(number)) for at, number in found) == list(expected.rows)


def test_view_with_buckets_that_the_calendar_lacks_is_refused() -> None:
    told = plan(Measure("events", "count"), bucket=Bucket("hour", 6, "Europe/Berlin"))

    with pytest.raises(CatalogueError, match="has no buckets of 6 hours in Europe/Berlin"):
        KeptRollup(told, Columns(OF_TABLE)).check()


def test_rows_of_a_view_and_of_events_may_go_after_a_time(query: Query, platform_analytics: Any) -> None:
    layout = platform_analytics.layout.ANALYTICS_EVENTS
    told = plan(Measure("events", "count"), table=layout.table, retention=86_400.0)
    query(create_table(layout))
    make_view(query, KeptRollup(told, Columns(layout)))

    made = dict(query("SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"))

    assert "+ 7776000" in made[layout.table]
    assert "PARTITION BY toDate(timestamp)" in made[layout.table]
    assert any("+ 86400" in text for name, text in made.items() if name != layout.table)
