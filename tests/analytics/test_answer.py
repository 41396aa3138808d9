"""Questions and answers: their order, pages, and empty buckets; and what brute force makes of single values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest

from eventrec import StoredEvent
from eventrec.analytics import (
    Answer,
    Bucket,
    Field,
    Group,
    Kind,
    Measure,
    Question,
    RollupPlan,
    brute_force,
    interpolated,
)

HOUR: Final = 3_600_000_000_000

VALUE = Field("payload", ("v",), "integer")
PLAN = RollupPlan(
    name="hourly",
    table="events",
    types=None,
    where=None,
    bucket_name="hour",
    bucket=Bucket("hour"),
    groups=(Group("g", Field("payload", ("g",), "text")), Group("h", Field("payload", ("h",), "integer"))),
    measures=(Measure("n", "count"), Measure("total", "sum", VALUE)),
    column_names=("g", "hour", "n", "h", "total"),
)


def event(hour: int, table: str = "events", kind: str = "a", **members: Any) -> StoredEvent:
    return StoredEvent(table, "1", kind, hour * HOUR + 1, json.dumps(members))


EVENTS = (
    event(0, g="b", h=1, v=5),
    event(0, g="b", h=1, v=7),
    event(0, g="a"),
    event(0, v=1),
    event(3, g="b", h=1),
    event(3, g="ä", h=-1, v=2),
    event(9, table="others", g="b"),
)


def test_rows_are_sorted_by_bucket_then_by_groups_without_a_value_first() -> None:
    answer = brute_force(Question(PLAN), EVENTS)

    assert [column.name for column in answer.columns] == ["g", "hour", "n", "h", "total"]
    assert answer.rows == (
        (None, 0, 1, None, 1),
        ("a", 0, 1, None, None),
        ("b", 0, 2, 1, 12),
        ("b", 3 * HOUR, 1, 1, None),
        ("ä", 3 * HOUR, 1, -1, 2),
    )
    assert answer.complete_to == 3 * HOUR + 1


def test_the_newest_bucket_comes_first_and_its_groups_as_before() -> None:
    answer = brute_force(Question(PLAN, newest_first=True), EVENTS)

    assert [(row[1], row[0]) for row in answer.rows] == [
        (3 * HOUR, "b"),
        (3 * HOUR, "ä"),
        (0, None),
        (0, "a"),
        (0, "b"),
    ]


def test_fewer_groups_are_computed_again_not_added_up() -> None:
    answer = brute_force(Question(PLAN, groups=("h",)), EVENTS)

    assert [column.name for column in answer.columns] == ["hour", "n", "h", "total"]
    assert answer.rows == ((0, 2, None, 1), (0, 2, 1, 12), (3 * HOUR, 1, -1, 2), (3 * HOUR, 1, 1, None))


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("empty_buckets", [False, True])
def test_pages_are_the_whole_answer(*, newest_first: bool, empty_buckets: bool) -> None:
    def asked(limit: int | None, cursor: str | None) -> Answer:
        question = Question(PLAN, newest_first=newest_first, empty_buckets=empty_buckets, limit=limit, cursor=cursor)
        return brute_force(question, EVENTS)

    whole = asked(None, None)
    rows: list[Any] = []
    cursor: str | None = None
    while True:
        page = asked(2, cursor)
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            break

    assert tuple(rows) == whole.rows
    assert whole.cursor is None


def test_buckets_without_events_are_there_when_asked_for() -> None:
    answer = brute_force(Question(PLAN, groups=(), empty_buckets=True), EVENTS)
    longer = brute_force(Question(PLAN, groups=(), start=-HOUR, end=2 * HOUR, empty_buckets=True), EVENTS)
    grouped = brute_force(Question(PLAN, groups=("g",), empty_buckets=True), EVENTS)
    nothing = brute_force(Question(PLAN, groups=(), empty_buckets=True), ())
    none_yet = brute_force(Question(PLAN, groups=(), start=0, end=2 * HOUR, empty_buckets=True), ())

    assert answer.rows == ((0, 4, 13), (HOUR, 0, None), (2 * HOUR, 0, None), (3 * HOUR, 2, 2))
    assert longer.rows == ((-HOUR, 0, None), (0, 4, 13), (HOUR, 0, None))
    assert len(grouped.rows) == 4 * 4
    assert nothing.rows == ()
    assert none_yet.rows == ((0, 0, None), (HOUR, 0, None))


def test_empty_buckets_of_a_long_time_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match="over 1000000 rows"):
        brute_force(Question(PLAN, start=0, end=10**7 * HOUR, groups=(), empty_buckets=True), EVENTS)


FIFTY_YEARS = 50 * 365 * 86_400 * 1_000_000_000


def per_minute(zone: str) -> RollupPlan:
    return replace(
        PLAN,
        bucket_name="minute",
        bucket=Bucket("minute", zone=zone),
        groups=PLAN.groups[:1],
        measures=PLAN.measures[:1],
        column_names=("minute", "g", "n"),
    )


def few(plan: RollupPlan, rows: list[tuple[Any, ...]], **options: Any) -> Answer:
    """The answer, in which no more than a few hundred buckets were looked at."""
    made = 0
    real = Bucket.after

    def counting(self: Bucket, start: int) -> int:
        nonlocal made
        made += 1
        assert made < 300
        return real(self, start)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Bucket, "after", counting)
        return Answer.of(Question(plan, empty_buckets=True, **options), rows)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_of_fifty_years_of_minutes_only_those_that_are_shown_are_made(zone: str) -> None:
    plan = per_minute(zone)
    minute, far = 60_000_000_000, FIFTY_YEARS - 7 * 60_000_000_000
    rows: list[tuple[Any, ...]] = [(far, "b", 3), (0, "a", 2), (2 * minute, None, 1)]

    first = few(plan, rows, limit=4)
    second = few(plan, rows, limit=4, cursor=first.cursor)
    newest = few(plan, rows, limit=2, newest_first=True, end=FIFTY_YEARS)
    summed = few(plan, [(0, 2)], limit=2, groups=(), end=FIFTY_YEARS)

    assert first.rows == ((0, None, 0), (0, "a", 2), (0, "b", 0), (minute, None, 0))
    assert second.rows == ((minute, "a", 0), (minute, "b", 0), (2 * minute, None, 1), (2 * minute, "a", 0))
    assert newest.rows == ((FIFTY_YEARS - minute, None, 0), (FIFTY_YEARS - minute, "a", 0))
    assert summed.rows == ((0, 2), (minute, 0))
    with pytest.raises(ValueError, match="over 1000000 rows: ask for less time, for no groups, or for a limit"):
        few(plan, rows)
    with pytest.raises(ValueError, match="over 1000000 rows"):
        few(plan, rows, limit=2_000_000)


@pytest.mark.parametrize("newest_first", [False, True])
def test_rows_of_buckets_that_begin_elsewhere_are_shown_too(*, newest_first: bool) -> None:
    rows = [(0, 1, 1), (HOUR + 7, 2, 2), (2 * HOUR, 3, 3)]

    answer = Answer.of(Question(PLAN, groups=(), empty_buckets=True, newest_first=newest_first), rows)

    shown = [(0, 1, 1), (HOUR, 0, None), (HOUR + 7, 2, 2), (2 * HOUR, 3, 3)]
    assert answer.rows == tuple(shown[::-1] if newest_first else shown)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("end", [None, 9 * HOUR])
@pytest.mark.parametrize("start", [None, -2 * HOUR])
def test_pages_without_groups_need_the_rows_of_the_page_alone(
    *, newest_first: bool, start: int | None, end: int | None
) -> None:
    every: list[tuple[Any, ...]] = [(at * HOUR, at, at) for at in (0, 1, 4, 5, 7)]
    options: dict[str, Any] = {"groups": (), "newest_first": newest_first, "start": start, "end": end}
    whole = Answer.of(Question(PLAN, empty_buckets=True, **options), every)
    in_order = sorted(every, reverse=newest_first)
    rows: list[Any] = []
    cursor: str | None = None

    for _ in range(10):
        question = Question(PLAN, empty_buckets=True, limit=2, cursor=cursor, **options)
        after = question.after()
        behind = [
            row for row in in_order if after is None or (row[0] < after[0] if newest_first else row[0] > after[0])
        ]
        page = Answer.of(question, behind[:3])
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            break

    assert tuple(rows) == whole.rows
    assert len(rows) == len(range((start or 0) // HOUR, 8 if end is None else 9))


def test_the_time_says_where_buckets_begin_and_not_which_events_are_in_them() -> None:
    answer = brute_force(Question(PLAN, start=1, end=3 * HOUR + 1, groups=()), EVENTS)

    assert answer.rows == ((3 * HOUR, 2, 2),)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": ("nope",)},
        {"limit": -1},
        {"limit": 2**63},
        {"cursor": "nonsense"},
        {"cursor": "[1]"},
        {"cursor": "[0,[1]]"},
        {"cursor": '[0,["a",1,2]]'},
        {"cursor": '[0,["a",true]]'},
        {"cursor": '[0,["a",9223372036854775808]]'},
        {"cursor": "[0,[1,1]]"},
        {"cursor": "\ud800"},
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        Question(PLAN, **options)


# -- single values ----------------------------------------------------------------------------------------------------

UUID_TEXT = "0B8E2F6E-3C1F-4A57-9D3B-0123456789AB"


@pytest.mark.parametrize(
    ("kind", "given", "counted"),
    [
        ("integer", 5, 5),
        ("integer", 5.0, 5),
        ("integer", 5.5, None),
        ("integer", "5", None),
        ("integer", True, None),
        ("integer", None, None),
        ("integer", 2**63 - 1, 2**63 - 1),
        ("integer", 2**63, None),
        ("integer", -(2**63), -(2**63)),
        ("integer", 1e300, None),
        ("float", 5, 5.0),
        ("float", 2.5, 2.5),
        ("float", 1e301, None),
        ("float", 10**400, None),
        ("float", False, None),
        ("boolean", True, True),
        ("boolean", 1, None),
        ("boolean", "true", None),
        ("text", "", ""),
        ("text", 5, None),
        ("uuid", UUID_TEXT, UUID_TEXT.lower()),
        ("uuid", UUID_TEXT[:-1], None),
        ("uuid", UUID_TEXT.replace("-", ""), None),
        ("uuid", UUID_TEXT + "\n", None),
    ],
)
def test_a_value_of_another_kind_is_absent(kind: Kind, given: object, counted: object) -> None:
    plan = RollupPlan(
        name="one",
        table="events",
        types=None,
        where=None,
        bucket_name="hour",
        bucket=Bucket("hour"),
        groups=(),
        measures=(Measure("first", "first", Field("payload", ("v",), kind)),),
        column_names=("hour", "first"),
    )

    ((_, found),) = brute_force(Question(plan), [event(0, v=given)]).rows

    assert found == counted
    assert type(found) is type(counted)


@pytest.mark.parametrize("payload", ["", "not json", "[" * 100_000, '{"v": NaN}', "[1]", "5", "null"])
def test_a_payload_that_is_not_an_object_has_no_fields(payload: str) -> None:
    answer = brute_force(Question(PLAN), [StoredEvent("events", "1", "a", 0, payload)])

    assert answer.rows == ((None, 0, 1, None, None),)


def test_percentiles_lie_between_two_values() -> None:
    assert interpolated([1, 2, 3, 4], 0.5) == 2.5
    assert interpolated([1, 2, 3, 4], 0.95) == pytest.approx(3.85)
    assert interpolated([7], 0.99) == 7.0
    assert (interpolated([1, 9], 0.0), interpolated([1, 9], 1.0)) == (1.0, 9.0)


def test_the_first_and_last_do_not_depend_on_the_order_of_arrival_nor_on_doubles() -> None:
    text = Field("payload", ("g",), "text")
    plan = RollupPlan(
        name="ends",
        table="events",
        types=None,
        where=None,
        bucket_name="hour",
        bucket=Bucket("hour"),
        groups=(),
        measures=(Measure("first", "first", text), Measure("last", "last", text)),
        column_names=("hour", "first", "last"),
    )
    events = [event(0, g="b"), event(0, g="a"), event(0, g="c"), event(0, g=None), event(0, g="b")]

    assert brute_force(Question(plan), events).rows == ((0, "a", "c"),)
    assert brute_force(Question(plan), reversed(events)).rows == ((0, "a", "c"),)
