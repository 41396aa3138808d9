"""Declaring rollups: what a plan says, and what is an error where the class is defined."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, field_serializer
from pydantic import Field as ModelField

from eventrec import CatalogueError, Column, ColumnType, Event, EventModel, EventStruct, Hashed, Redacted
from eventrec.analytics import (
    And,
    Bucket,
    Comparison,
    Field,
    IsNull,
    Membership,
    Not,
    Or,
    Reference,
    Refresh,
    Rollup,
    avg,
    bucket,
    column,
    context,
    count,
    distinct,
    event_timestamp,
    event_type,
    f,
    first,
    group,
    is_type,
    last,
    max_of,
    min_of,
    payload,
    percentile,
    plan_of,
    sum_of,
)


class ApiRequest(EventModel, table="analytics_events"):
    service: str
    endpoint: str
    status_code: int
    duration_ms: int
    user_id: UUID | None = None


class TaskCompleted(EventModel, table="analytics_events"):
    task_id: UUID
    duration_ms: int


class TaskFailed(EventModel, table="analytics_events"):
    task_id: UUID
    duration_ms: int | None = None
    error: str


class AuthLoginAttempt(EventModel, table="analytics_events"):
    success: bool
    user_id: UUID | None = None


class ApplicationError(EventModel, table="analytics_events"):
    service: str
    error_type: str
    error_message: str
    context: dict[str, Any] | None = None


# -- what can be said -------------------------------------------------------------------------------------------------


def test_a_class_reads_as_the_table_it_becomes() -> None:
    class ApiLatencyHourly(Rollup, name="analytics_api_latency_hourly", events=[ApiRequest]):
        hour = bucket("1 hour")
        service = group("service")
        endpoint = group(payload("endpoint"))
        request_count = count()
        p95_duration_ms = percentile("duration_ms", 0.95)
        error_5xx_count = count(where=f("status_code") >= 500)
        error_4xx_count = count(where=(f("status_code") >= 400) & (f("status_code") < 500))
        refresh = Refresh(window="3 days", lag="1 hour", every="30m")
        retention = "2 years"

    plan = ApiLatencyHourly.rollup_plan

    assert (plan.name, plan.table, plan.types) == (
        "analytics_api_latency_hourly",
        "analytics_events",
        ("api_request",),
    )
    assert plan.column_names == (
        *("hour", "service", "endpoint", "request_count"),
        *("p95_duration_ms", "error_5xx_count", "error_4xx_count"),
    )
    assert (plan.bucket_name, plan.bucket) == ("hour", Bucket("hour", 1, "UTC"))
    assert [each.field for each in plan.groups] == [
        Field("payload", ("service",), "text"),
        Field("payload", ("endpoint",), "text"),
    ]
    status = Field("payload", ("status_code",), "integer")
    wheres = [measure.where for measure in plan.measures]
    assert wheres[2:] == [
        Comparison(status, ">=", 500),
        And((Comparison(status, ">=", 400), Comparison(status, "<", 500))),
    ]
    assert (plan.refresh.window, plan.refresh.lag, plan.refresh.every) == (3 * 86_400, 3_600, 1_800)
    assert plan.retention == 2 * 365 * 86_400


def test_any_event_with_a_user_is_counted_without_naming_a_class() -> None:
    class DailyActiveUsers(Rollup, table="t", where=payload("user_id", kind="uuid").is_not_null()):
        day = bucket("day")
        active_users = distinct(payload("user_id", kind="uuid"))
        total_events = count()

    plan = plan_of(DailyActiveUsers)

    user = Field("payload", ("user_id",), "uuid")
    assert plan.name == "daily_active_users"
    assert plan.types is None
    assert plan.where == Not(IsNull(user))
    assert plan.measures[0].field == user


def test_events_are_counted_by_type_and_by_their_flags() -> None:
    class Daily(Rollup, events=[TaskCompleted, TaskFailed, AuthLoginAttempt, "legacy_type"], table="t"):
        day = bucket("1 day", zone="Europe/Berlin")
        completed = count(where=is_type(TaskCompleted, "legacy_type"))
        good = count(where=is_type(AuthLoginAttempt) & f("success").is_true())
        bad = count(where=f("success").is_false() | ~f("success").is_null())
        slow = avg("duration_ms", where=is_type(TaskCompleted))

    plan = Daily.rollup_plan

    success = Field("payload", ("success",), "boolean")
    kind = Field("type", (), "text")
    assert plan.types == ("task_completed", "task_failed", "auth_login_attempt", "legacy_type")
    assert [measure.where for measure in plan.measures] == [
        Membership(kind, ("task_completed", "legacy_type")),
        And((Membership(kind, ("auth_login_attempt",)), Comparison(success, "==", value=True))),
        Or((Comparison(success, "==", value=False), Not(IsNull(success)))),
        Membership(kind, ("task_completed",)),
    ]
    assert plan.bucket == Bucket("day", 1, "Europe/Berlin")


def test_every_measure_says_the_kind_of_its_column() -> None:
    class All(Rollup, events=[ApplicationError, TaskFailed]):
        hour = bucket("15 minutes")
        kind = group(event_type)
        where_ = group(context("service"))
        n = count("error")
        m = distinct("error_type")
        total = sum_of("duration_ms")
        low = min_of("error_message")
        seen = max_of(event_timestamp)
        mean = avg("duration_ms")
        half = percentile("duration_ms", 0.5)
        sample = first("error_message")
        newest = last("duration_ms", where=f("duration_ms").is_in([1, 2]))

    plan = All.rollup_plan

    assert {name: plan.kind_of(name) for name in plan.column_names} == {
        **dict.fromkeys(("hour", "seen"), "timestamp"),
        **dict.fromkeys(("kind", "where_", "low", "sample"), "text"),
        **dict.fromkeys(("n", "m", "total", "newest"), "integer"),
        **dict.fromkeys(("mean", "half"), "float"),
    }


def test_a_class_inherits_columns_and_may_replace_them() -> None:
    class ByHour:
        hour = bucket("hour")
        total = count()

    class Requests(ByHour, Rollup, events=[ApiRequest]):
        mean = avg("duration_ms")

    class ByDay(Requests, events=[ApiRequest]):
        hour = bucket("day")
        _private = 5

        def note(self) -> None:
            """A method declares no column."""

    assert Requests.rollup_plan.column_names == ("hour", "total", "mean")
    assert ByDay.rollup_plan.column_names == ("total", "mean", "hour")
    assert ByDay.rollup_plan.bucket.unit == "day"


def test_an_index_is_called_as_it_is_said_and_tells_nothing_else() -> None:
    class Named(Rollup, name="per_day", table="events", index="idx_day"):
        day = bucket("1 day")
        events = count()

    class Plain(Rollup, name="per_day", table="events"):
        day = bucket("1 day")
        events = count()

    assert Named.rollup_plan.index == "idx_day"
    assert Plain.rollup_plan.index is None
    assert Named.rollup_plan.fingerprint == Plain.rollup_plan.fingerprint
    for index in ("", "a\0b", "ä" * 32):
        with pytest.raises(CatalogueError, match="a name is a text of 1 to 63 bytes"):

            class Odd(Rollup, name="per_day", table="events", index=index):
                day = bucket("1 day")
                events = count()


def test_equal_declarations_have_equal_plans_and_what_differs_has_another_fingerprint() -> None:
    def declared(**changed: Any) -> type[Rollup]:
        body = {"hour": bucket("hour"), "n": count(where=f("status_code") >= 500), "m": sum_of("duration_ms")}
        return type("Same", (Rollup,), {**body, **changed}, events=[ApiRequest])

    plan = declared().rollup_plan
    others = [
        declared(n=count(where=f("status_code") > 500)),
        declared(n=count(where=~(f("status_code") >= 500))),
        declared(hour=bucket("hour", zone="Asia/Kolkata")),
        declared(m=min_of("duration_ms")),
        declared(more=count()),
    ]

    assert plan == declared().rollup_plan
    assert hash(plan) == hash(declared().rollup_plan)
    assert plan.fingerprint == declared(retention="1 day", refresh=Refresh(every=60)).rollup_plan.fingerprint
    assert len({plan.fingerprint, *(other.rollup_plan.fingerprint for other in others)}) == 6


# -- where a field is found -------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Address(BaseModel):
    city: str
    lines: list[str] | None = None


class Wide(EventModel, table="wide"):
    model_config = ConfigDict(serialize_by_alias=True)

    colour: Colour = Colour.RED
    level: Level = Level.LOW
    either: Literal["a", "b"] = "a"
    number: int | float = 1
    mixed: int | str = 1
    anything: Any = None
    price: Decimal = Decimal(1)
    day: date = date(2024, 1, 1)
    address: Address | None = None
    tags: dict[str, int] | None = None
    camel: int = ModelField(1, serialization_alias="camelCase")
    masked: int = 1
    hidden: Annotated[int | None, Redacted()] = None
    hashed: Annotated[int, Hashed()] = 1
    shop: Annotated[str, Column()] = "s"
    owner: Annotated[UUID, Column(name="owner_id")] = UUID(int=1)
    small: Annotated[int, Column(ColumnType.INT16)] = 1
    binary: Annotated[bytes, Column()] = b""

    @field_serializer("masked")
    def _mask(self, value: int) -> str:
        return "*"


class Quick(EventStruct, rename="camel"):
    table: ClassVar[str] = "wide"
    shop_size: int
    ratio: float | None
    shop: Annotated[str, Column()]


@pytest.mark.parametrize(
    ("event", "reference", "field"),
    [
        (Wide, f("colour"), Field("payload", ("colour",), "text")),
        (Wide, f("level"), Field("payload", ("level",), "integer")),
        (Wide, f("level", kind="float"), Field("payload", ("level",), "float")),
        (Wide, f("either"), Field("payload", ("either",), "text")),
        (Wide, f("number"), Field("payload", ("number",), "float")),
        (Wide, f("mixed", kind="integer"), Field("payload", ("mixed",), "integer")),
        (Wide, f("anything", kind="boolean"), Field("payload", ("anything",), "boolean")),
        (Wide, f("price"), Field("payload", ("price",), "text")),
        (Wide, f("day"), Field("payload", ("day",), "text")),
        (Wide, payload("address", "city"), Field("payload", ("address", "city"), "text")),
        (Wide, payload("address", "lines"), Field("payload", ("address", "lines"), "json")),
        (Wide, payload("tags", "x"), Field("payload", ("tags", "x"), "integer")),
        (Wide, f("camel"), Field("payload", ("camelCase",), "integer")),
        (Wide, payload("camelCase"), Field("payload", ("camelCase",), "integer")),
        (Wide, f("masked", kind="text"), Field("payload", ("masked",), "text")),
        (Wide, f("hashed"), Field("payload", ("hashed",), "text")),
        (Wide, f("shop"), Field("column", ("shop",), "text")),
        (Wide, f("owner"), Field("column", ("owner_id",), "uuid")),
        (Wide, column("owner_id"), Field("column", ("owner_id",), "uuid")),
        (Wide, f("small"), Field("column", ("small",), "integer")),
        (Wide, f("binary"), Field("column", ("binary",), "json")),
        (Wide, column("of_a_layout", kind="text"), Field("column", ("of_a_layout",), "text")),
        (Wide, context("service"), Field("context", ("service",), "text")),
        (Quick, f("shop_size"), Field("payload", ("shopSize",), "integer")),
        (Quick, payload("ratio"), Field("payload", ("ratio",), "float")),
        (Quick, f("shop"), Field("column", ("shop",), "text")),
        ("of_another_program", payload("x", kind="integer"), Field("payload", ("x",), "integer")),
    ],
)
def test_a_field_is_looked_up_in_its_class(event: Any, reference: Reference, field: Field) -> None:
    class Found(Rollup, events=[event]):
        day = bucket("day")
        n = count(reference)

    assert Found.rollup_plan.measures[0].field == field


def test_classes_that_have_a_field_agree_on_it_and_others_may_lack_it() -> None:
    class Fine(Rollup, events=[ApiRequest, TaskFailed, AuthLoginAttempt]):
        day = bucket("day")
        total = sum_of("duration_ms")

    assert Fine.rollup_plan.measures[0].field == Field("payload", ("duration_ms",), "integer")


# -- what is an error -------------------------------------------------------------------------------------------------


class Textual(EventModel):
    duration_ms: str


class Plain(Event):
    @property
    def type(self) -> str:
        return "plain"


def refused(body: dict[str, Any], **keywords: Any) -> str:
    with pytest.raises(CatalogueError) as caught:
        type("Wrong", (Rollup,), {"day": bucket("day"), **body}, **{"events": [ApiRequest], **keywords})
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "keywords", "said"),
    [
        ({"n": sum_of("nope")}, {}, "rollup 'wrong': column 'n': field.nope is not a field of ApiRequest"),
        ({"n": sum_of("service")}, {}, "column 'n': payload.service is of kind text, but sum takes: integer, float"),
        ({"g": group("nope"), "n": count()}, {}, "column 'g': field.nope is not a field"),
        (
            {"n": sum_of("duration_ms")},
            {"events": [ApiRequest, Textual], "table": "t"},
            "is not the same in all events",
        ),
        ({"n": count("duration_ms", where=f("status_code") == "200")}, {}, "cannot be compared with '200'"),
        ({"n": count(where=f("status_code") == None)}, {}, "ask is_null()"),  # noqa: E711 - the mistake
        ({"n": count(where=f("user_id") == "me")}, {}, "of kind uuid cannot be compared with 'me'"),
        ({"n": count(where=f("user_id") < UUID(int=1))}, {}, "it is not < another"),
        ({"n": count(where=event_timestamp > datetime(2024, 1, 1))}, {}, "cannot be compared"),  # noqa: DTZ001 - likewise
        ({"n": count(where=f("status_code") == 2**63)}, {}, "cannot be compared"),
        ({"n": count(where=f("service") == "a\0")}, {}, "cannot be compared"),
        ({"n": count(where=5)}, {}, "where= is a condition"),  # type: ignore[arg-type]
        ({"n": count()}, {"where": "status_code > 5"}, "where= is a condition"),
        ({"n": count(where=(f("status_code") == 1) & 5)}, {}, "combined with a condition"),  # type: ignore[operator]
        ({"n": percentile("duration_ms", 95)}, {}, "fraction is 0 to 1, got 95"),
        ({"n": avg("user_id")}, {}, "of kind uuid, but avg takes"),
        ({"n": min_of("user_id")}, {}, "of kind uuid, but min takes"),
        ({"n": first(payload("context"))}, {"events": [ApplicationError]}, "of kind json, but first takes"),
        ({"g": group(payload("x", kind="float")), "n": count()}, {"events": None}, "but a group is of"),
        ({"n": count("status_code")}, {"events": None}, "cannot be looked up"),
        ({"n": count(payload("x"))}, {"events": ["named"]}, "say its kind="),
        ({"n": count(payload("x", kind="number"))}, {"events": None}, "kinds are text"),  # type: ignore[arg-type]
        ({"n": count(payload("x", kind="timestamp"))}, {"events": None}, "the event's own"),
        ({"n": count(f("mixed"))}, {"events": [Wide]}, "may be of several kinds"),
        ({"n": count(f("masked"))}, {"events": [Wide]}, "may be of several kinds"),
        ({"n": count(f("price", kind="float"))}, {"events": [Wide]}, "is of kind text in its event, not float"),
        (
            {"n": count(payload("address", "street"))},
            {"events": [Wide]},
            "payload.address.street is not a field",
        ),
        ({"n": count(payload("shop"))}, {"events": [Wide]}, "payload.shop is not a field of Wide"),
        ({"n": count(payload())}, {}, "a field has a name"),
        ({"n": count(payload("a\0", kind="text"))}, {}, "without NUL"),
        ({"n": count(payload("\ud800", kind="text"))}, {}, "a text that is not empty"),
        ({}, {}, "a rollup has a measure"),
        ({"day": None, "n": count()}, {}, "column 'day': is neither a bucket"),
        ({"hour": bucket("hour"), "n": count()}, {}, "a rollup has one bucket, got day, hour"),
        ({"n": 5}, {}, "column 'n': is neither a bucket, nor a group, nor a measure"),
        ({"n": count(), "N": count()}, {}, "differ in nothing but their case"),
        ({"n" * 64: count()}, {}, "a name is a text of 1 to 63 bytes"),
        ({"n": count()}, {"name": "eventrec_x"}, "are reserved"),
        ({"n": count()}, {"name": ""}, "a name is a text"),
        ({"n": count()}, {"name": 5}, "a name is a text"),
        ({"n": count()}, {"version": 0}, "a version is a whole number"),
        ({"n": count()}, {"events": []}, "names at least one event"),
        ({"n": count()}, {"events": "api_request"}, "events= is a list"),
        ({"n": count()}, {"events": ApiRequest}, "events= is a list"),
        ({"n": count()}, {"events": [5]}, "an event is a class"),
        ({"n": count()}, {"events": [""]}, "type must be 1 to 255 bytes"),
        ({"n": count()}, {"events": [Plain]}, "each instance says its type"),
        ({"n": count()}, {"events": [ApiRequest, Textual]}, "its events are not in one table"),
        ({"n": count(), "retention": "soon"}, {}, "retention: 'soon' is not a duration"),
        ({"n": count(), "retention": float("inf")}, {}, "a duration has an end"),
        ({"day": bucket("day", zone="Europe/Atlantis"), "n": count()}, {}, "no time zone 'Europe/Atlantis'"),
        ({"day": bucket("day", zone="../../etc/passwd"), "n": count()}, {}, "no time zone"),
        ({"day": bucket("day", zone="localtime"), "n": count()}, {}, "'localtime' that is the same everywhere"),
        ({"day": bucket("day", zone="right/UTC"), "n": count()}, {}, "'right/UTC' that is the same everywhere"),
        ({"day": bucket("7 minutes"), "n": count()}, {}, "a bucket of minutes has 1, 2, 3"),
        ({"day": bucket("2 days"), "n": count()}, {}, "a bucket of days has 1 of them"),
        ({"day": bucket("0 hours"), "n": count()}, {}, "got 0"),
    ],
)
def test_what_does_not_fit_is_named_where_the_class_is_defined(
    body: dict[str, Any], keywords: dict[str, Any], said: str
) -> None:
    message = refused(body, **keywords)

    assert said in message
    assert message.startswith("rollup ")


@pytest.mark.parametrize("said", ["", "fortnight", "1 fortnight", "-1 day", "1.5 hours", "every hour"])
def test_a_bucket_is_said_in_few_words(said: str) -> None:
    with pytest.raises(CatalogueError, match="a bucket is said as"):
        bucket(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": "1 hour", "lag": "1 day"}, "longer than its lag"),
        ({"every": 0}, "happens every so many"),
        ({"every": "often"}, "every: 'often' is not a duration"),
        ({"lag": -1}, "not a duration"),
    ],
)
def test_a_refresh_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        Refresh(**options)


def test_conditions_are_not_combined_by_words() -> None:
    with pytest.raises(TypeError, match=r"combined with & \| ~"):
        bool((f("a") == 1) and (f("b") == 2))
    with pytest.raises(TypeError, match=r"combined with & \| ~"):
        bool(400 <= f("status_code") < 500)


def test_what_is_not_a_rollup_is_said() -> None:
    class Abstract(Rollup):
        total = count()

    for other in (Abstract, Rollup, 5):
        with pytest.raises(CatalogueError, match="is not a rollup"):
            plan_of(other)  # type: ignore[arg-type]


def test_constants_are_kept_in_the_form_of_their_kind() -> None:
    class Kept(Rollup, events=[ApiRequest]):
        day = bucket("day")
        a = count(where=f("user_id") == UUID("0B8E2F6E-3C1F-4A57-9D3B-0123456789AB"))
        b = count(where=event_timestamp >= datetime(2024, 1, 1, tzinfo=UTC))
        c = count(where=f("duration_ms", kind="float") > 1)

    values = [measure.where.value for measure in Kept.rollup_plan.measures if isinstance(measure.where, Comparison)]

    assert values == ["0b8e2f6e-3c1f-4a57-9d3b-0123456789ab", 1_704_067_200_000_000_000, 1.0]
    assert isinstance(values[2], float)
