"""Rollups on TimescaleDB: continuous aggregates by policies, answers equal to brute force, and retention."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    CatalogueError,
    Layout,
    LayoutColumn,
    LayoutCompression,
    LayoutIndex,
    StoredEvent,
    from_payload,
)
from eventrec.analytics import (
    Answer,
    Bucket,
    Question,
    Refresh,
    Rollup,
    avg,
    brute_force,
    bucket,
    column,
    count,
    distinct,
    event_type,
    first,
    group,
    payload,
    percentile,
    sum_of,
)
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.target import Target
from eventrec_handlers.timescale import TimescaleHandler, TimescaleRollups, from_url
from eventrec_handlers.timescale.ddl import continuous_aggregate, hypertable

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("timescale"), pytest.mark.timeout(300)]  # it is fetched

DAY = 86_400_000_000_000
LAYOUT = Layout(
    "analytics_events",
    (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("service", from_payload("service"), "varchar", length=100, nullable=False, default="unknown"),
        LayoutColumn("data", EVENT, "jsonb"),
    ),
    primary_key=("timestamp", "id"),
    indexes=(LayoutIndex("by_type", ("event_type", "timestamp"), ("timestamp",)),),
    partition="day",
    retention="90d",
    compression=LayoutCompression("7d", ("event_type", "service"), ("timestamp",), ("timestamp",)),
)
TABLE = (
    "CREATE TABLE analytics_events (id bigserial, timestamp timestamptz NOT NULL DEFAULT now(),"
    " event_type varchar(100) NOT NULL, service varchar(100) NOT NULL DEFAULT 'unknown', data jsonb NOT NULL,"
    " PRIMARY KEY (timestamp, id))"
)


class Latency(Rollup, name="latency_hourly", table="analytics_events", events=["api_request"]):
    hour = bucket("1 hour")
    service = group(column("service", kind="text"))
    endpoint = group(payload("endpoint", kind="text"))
    request_count = count()
    avg_duration_ms = avg(payload("duration_ms", kind="integer"))
    p95_duration_ms = percentile(payload("duration_ms", kind="integer"), 0.95)
    error_count = count(where=payload("status_code", kind="integer") >= 500)
    sample = first(payload("message", kind="text"))
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


class PerDay(Rollup, name="per_day", table="analytics_events"):
    day = bucket("day", zone="Europe/Berlin")
    kind = group(event_type)
    users = distinct(payload("user", kind="integer"))
    total = sum_of(payload("duration_ms", kind="float"))
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


class Sixths(Rollup, name="sixths", table="analytics_events"):
    """Has no continuous aggregate: of the hours around a change of the clock, `time_bucket` has others."""

    part = bucket("4 hours", zone="Europe/Berlin")
    events = count()


PLANS = (Latency.rollup_plan, PerDay.rollup_plan, Sixths.rollup_plan)
NOW = int(datetime.now(UTC).timestamp()) * 1_000_000_000


def events(seed: int, number: int, *, days: float, since: float = 0) -> list[StoredEvent]:
    random = Random(seed)
    made = []
    for n in range(number):
        at = NOW - random.randrange(int(since * DAY), int(days * DAY), 1_000)
        said = {
            "service": random.choice(("web", "api")),
            "endpoint": random.choice(("/a", "/b", None, 5)),
            "duration_ms": random.choice((random.randrange(1000), "5", None, 1.5)),
            "status_code": random.choice((200, 404, 500, 503)),
            "message": random.choice((None, "x", "Y", "ä")),
            "user": random.randrange(6),
        }
        made.append(
            StoredEvent(
                table="analytics_events",
                id=f"{seed}:{n}",
                type=random.choice(("api_request", "other")),
                timestamp=at,
                payload=json.dumps(said),
                columns={"service": said["service"]},
            )
        )
    return made


class Events:
    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.stored: list[StoredEvent] = []

    def insert(self, given: list[StoredEvent]) -> None:
        self.stored += given
        rows = ", ".join(
            f"('{datetime.fromtimestamp(0, UTC) + timedelta(microseconds=event.timestamp // 1_000)}',"
            f" '{event.type}', '{event.columns['service']}', '{event.payload}')"
            for event in given
        )
        self.schema.execute(f"INSERT INTO analytics_events (timestamp, event_type, service, data) VALUES {rows}")

    def expected(self, plan: Any) -> Answer:
        return brute_force(Question(plan), self.stored)


@pytest.fixture
def known(schema: Any) -> Events:
    schema.execute(TABLE, *hypertable(LAYOUT))
    return Events(schema)


@pytest.fixture
async def rollups(schema: Any) -> Any:
    target = Target(schema.server.url(scheme="postgresql"))
    async with TimescaleRollups(target, Options(namespace=schema.name), layouts={"analytics_events": LAYOUT}) as store:
        yield store


def same(one: Answer, other: Answer) -> None:
    assert [column.name for column in one.columns] == [column.name for column in other.columns]
    assert len(one.rows) == len(other.rows)
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        assert mine == tuple(pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for value in theirs)
    assert one.complete_to == other.complete_to


async def test_answers_are_those_of_brute_force_whatever_was_refreshed(
    known: Events, rollups: TimescaleRollups, schema: Any
) -> None:
    known.insert(events(1, 150, days=8))
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    schema.execute(*(sql for plan in PLANS for sql in continuous_aggregate(plan, Columns.of(LAYOUT))))
    assert schema.run_jobs("policy_refresh_continuous_aggregate") == 2
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))

    known.insert(events(2, 30, days=8))  # some of them for hours that were counted, or are beyond the policy's window
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    done = await rollups.refresh(PLANS)

    assert done.buckets > 8
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    ((counted,),) = schema.rows("SELECT sum(request_count)::int FROM latency_hourly")
    assert counted == sum(event.type == "api_request" for event in known.stored)


async def test_rows_that_retention_has_removed_stay_in_the_rollup_whatever_is_refreshed(
    known: Events, rollups: TimescaleRollups, schema: Any
) -> None:
    known.insert(events(3, 10, days=97, since=93))
    known.insert(events(4, 20, days=2))
    same(await rollups.answer(Question(PerDay)), known.expected(PerDay))
    schema.execute(*continuous_aggregate(PerDay.rollup_plan, Columns.of(LAYOUT)))
    schema.execute("CALL refresh_continuous_aggregate('per_day', NULL, NULL)")
    before = await rollups.answer(Question(PerDay))

    assert schema.run_jobs("policy_retention") == 1
    assert schema.rows("SELECT count(*) FROM analytics_events") == [(20,)]
    known.insert(events(5, 3, days=96, since=94))  # late, for days that are gone
    assert schema.run_jobs("policy_refresh_continuous_aggregate") == 1
    await rollups.refresh([PerDay.rollup_plan])
    await rollups.backfill(PerDay.rollup_plan)

    assert (await rollups.answer(Question(PerDay))).rows == before.rows


class Kolkata(Rollup, name="kolkata", table="analytics_events"):
    hour = bucket("1 hour", zone="Asia/Kolkata")
    events = count()


async def test_a_single_bucket_that_begins_off_the_hour_is_refreshed(
    known: Events, rollups: TimescaleRollups, schema: Any
) -> None:
    known.insert(events(12, 1, days=3, since=2.9))

    done = await rollups.refresh([Kolkata.rollup_plan])

    assert done.buckets == 1
    assert schema.rows("SELECT count(*), sum(events)::int FROM kolkata") == [(1, 1)]
    same(await rollups.answer(Question(Kolkata)), known.expected(Kolkata))


class Minutes(Rollup, name="minutes", table="analytics_events"):
    minute = bucket("1 minute")
    events = count()


async def test_an_event_of_1970_is_refreshed_and_answered_without_the_minutes_between(
    known: Events, rollups: TimescaleRollups, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    after = Bucket.after

    def noted(self: Bucket, start: int) -> int:
        steps.append(start)
        assert len(steps) < 20_000, "buckets are listed that hold no event"
        return after(self, start)

    monkeypatch.setattr(Bucket, "after", noted)
    schema.execute("SELECT remove_retention_policy('analytics_events')")
    unset_clock = [replace(events(13, 1, days=1)[0], timestamp=0)]
    known.insert(events(14, 3, days=3, since=2))
    same(await rollups.answer(Question(Minutes)), known.expected(Minutes))
    assert (await rollups.refresh([Minutes.rollup_plan])).buckets > 0
    known.insert(unset_clock)

    waiting = await rollups.answer(Question(Minutes))
    done = await rollups.refresh([Minutes.rollup_plan])
    again = await rollups.refresh([Minutes.rollup_plan])

    same(waiting, known.expected(Minutes))
    assert 0 < done.buckets <= 2 * 64
    assert again.buckets <= 64
    assert schema.rows("SELECT sum(events)::int FROM minutes") == [(4,)]
    same(await rollups.answer(Question(Minutes)), known.expected(Minutes))


class LookingFar(Rollup, name="looking_far", table="analytics_events"):
    day = bucket("day")
    users = distinct(payload("user", kind="integer"))
    refresh = Refresh(window="200 days", lag="1 hour", every="1 hour")


async def test_a_policy_never_looks_to_where_events_were_removed(
    known: Events, rollups: TimescaleRollups, schema: Any
) -> None:
    known.insert(events(9, 10, days=97, since=93))
    known.insert(events(10, 20, days=2))
    schema.execute(*continuous_aggregate(LookingFar.rollup_plan, Columns.of(LAYOUT)))
    schema.execute("CALL refresh_continuous_aggregate('looking_far', NULL, NULL)")
    before = await rollups.answer(Question(LookingFar))

    assert schema.run_jobs("policy_retention") == 1
    known.insert(events(11, 3, days=96, since=94))  # late, for days that are gone
    assert schema.run_jobs("policy_refresh_continuous_aggregate") == 1

    assert (await rollups.answer(Question(LookingFar))).rows == before.rows


def test_a_rollup_whose_buckets_outlast_their_events_is_refused() -> None:
    class Months(Rollup, name="months", table="analytics_events"):
        month = bucket("month")
        events = count()

    columns = Columns.of(replace(LAYOUT, retention="40d"))

    with pytest.raises(CatalogueError, match=r"'months': .* keeps its events for 40 days, .* needs them for 62"):
        list(continuous_aggregate(Months.rollup_plan, columns))


async def test_a_view_without_real_time_says_how_far_it_is_complete(
    known: Events, rollups: TimescaleRollups, schema: Any
) -> None:
    known.insert(events(6, 30, days=2))
    schema.execute(*continuous_aggregate(Latency.rollup_plan, Columns.of(LAYOUT), is_real_time=False))
    schema.run_jobs("policy_refresh_continuous_aggregate")
    known.insert(events(7, 5, days=0.03))

    answer = await rollups.answer(Question(Latency))

    assert answer.complete_to is not None
    late = [event for event in known.stored if event.type == "api_request" and event.timestamp > answer.complete_to]
    assert answer.pending == len(late) > 0
    counted = sum(int(row[3] or 0) for row in answer.rows)
    assert counted == sum(event.type == "api_request" for event in known.stored) - len(late)


def test_policies_say_what_the_layout_says(known: Events, schema: Any) -> None:
    schema.execute(*continuous_aggregate(Latency.rollup_plan, Columns.of(LAYOUT)))

    jobs = dict(
        schema.rows(
            "SELECT proc_name::text, schedule_interval || ' ' || (config - 'hypertable_id' - 'mat_hypertable_id')::text"
            " FROM timescaledb_information.jobs WHERE hypertable_schema = $1",
            schema.name,
        )
    )

    assert jobs == {
        "policy_compression": '12:00:00 {"compress_after": "7 days"}',
        "policy_retention": '1 day {"drop_after": "90 days"}',
        "policy_refresh_continuous_aggregate": '01:00:00 {"end_offset": "01:00:00", "start_offset": "3 days"}',
    }
    settings = dict(
        schema.rows(
            "SELECT attname::text, coalesce(segmentby_column_index, -orderby_column_index)::int"
            " FROM timescaledb_information.compression_settings WHERE hypertable_schema = $1",
            schema.name,
        )
    )
    assert settings.keys() == {"event_type", "service", "timestamp"}


def test_compressed_days_are_smaller_and_take_late_events(known: Events, schema: Any) -> None:
    schema.execute(
        "INSERT INTO analytics_events (timestamp, event_type, service, data) SELECT now() - interval '10 days'"
        " + n * interval '1 second', 'api_request', 'web', jsonb_build_object('type', 'api_request', 'endpoint', '/a',"
        " 'duration_ms', n % 100) FROM generate_series(1, 2000) AS n"
    )

    assert schema.run_jobs("policy_compression") == 1

    ((before, after),) = schema.rows(
        "SELECT sum(before_compression_total_bytes)::bigint, sum(after_compression_total_bytes)::bigint"
        " FROM hypertable_compression_stats('analytics_events')"
    )
    assert after < 0.5 * before
    known.insert(events(8, 5, days=10, since=9.5))
    assert schema.rows("SELECT count(*) FROM analytics_events") == [(2005,)]


def test_what_is_made_twice_is_made_once(known: Events, schema: Any) -> None:
    statements = (*hypertable(LAYOUT), *continuous_aggregate(Latency.rollup_plan, Columns.of(LAYOUT)))
    schema.execute(*statements)

    schema.execute(*statements)

    jobs = schema.rows("SELECT 1 FROM timescaledb_information.jobs WHERE hypertable_schema = $1", schema.name)
    assert len(jobs) == 3


def test_a_url_of_timescale_is_that_of_postgresql() -> None:
    handler = from_url("timescale://user:secret@host:5433/base?pool_size=2&sslmode=disable")

    assert isinstance(handler, TimescaleHandler)
    assert isinstance(handler.rollups(), TimescaleRollups)
    assert repr(handler) == "<TimescaleHandler 'postgresql://host:5433/base' closed>"
