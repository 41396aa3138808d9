"""Times are kept exactly, or refused: subclasses that hold nanoseconds, offsets that hold seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import EncodeError
from eventrec.records.column_types import ColumnType
from eventrec.records.extra_rows import decode_rows, encode_rows
from eventrec.records.json import encode_json, encode_struct_json
from eventrec.records.schema import ColumnSchema, Shape
from eventrec.records.times import nanoseconds

ODD = timezone(timedelta(hours=1, seconds=15))
WHEN = datetime(2024, 1, 31, 10, 0, 0, 123_456, tzinfo=UTC)
WHEN_NS = 1_706_695_200_123_456_000


class Fine(datetime):
    """As pandas' Timestamp is: a datetime with nanoseconds beside its microseconds."""

    nanosecond: Any = 789


class FineSpan(timedelta):
    nanoseconds: Any = 7


class NoTime(datetime):
    """As pandas' NaT is."""

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = datetime.__hash__


def kept(column_type: ColumnType, value: object) -> object:
    shape = Shape("t", "k", (ColumnSchema("c", column_type),))
    return decode_rows(encode_rows(shape, [(value,)]))[0][0]


def fine(**changes: Any) -> Fine:
    moment = Fine(2024, 1, 31, 10, 0, 0, 123_456, tzinfo=UTC)
    for name, value in changes.items():
        setattr(moment, name, value)
    return moment


@pytest.mark.parametrize(
    ("column_type", "expected"),
    [
        (ColumnType.TIMESTAMP_NANOSECOND, WHEN_NS + 789),
        (ColumnType.TIMESTAMP_MICROSECOND, WHEN_NS // 1_000),
        (ColumnType.TIMESTAMP_SECOND, WHEN_NS // 1_000_000_000),
        (ColumnType.DATETIME, WHEN_NS // 1_000),
    ],
)
def test_nanoseconds_of_a_datetime_subclass_are_kept_to_the_unit_of_the_column(
    column_type: ColumnType, expected: int
) -> None:
    assert kept(column_type, fine()) == expected


def test_nanoseconds_of_a_timedelta_subclass_are_kept() -> None:
    span = FineSpan(days=-2, microseconds=5)

    assert kept(ColumnType.INTERVAL_MONTH_DAY_NANO, span) == [0, -2, 5_007]
    assert kept(ColumnType.INTERVAL_DAY_TIME, FineSpan(days=-1, milliseconds=3)) == -86_399_997


@pytest.mark.parametrize("finer", [1_000, -1, "789", 0.5, None])
def test_subclass_whose_nanoseconds_cannot_be_read_is_refused(finer: object) -> None:
    with pytest.raises(EncodeError, match="beyond microseconds is unknown"):
        kept(ColumnType.TIMESTAMP_NANOSECOND, fine(nanosecond=finer))


def test_what_is_not_a_time_is_refused() -> None:
    with pytest.raises(EncodeError, match="it is not a time"):
        kept(ColumnType.TIMESTAMP_NANOSECOND, NoTime(2024, 1, 1, tzinfo=UTC))


@given(st.datetimes(), st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
def test_instant_is_the_same_whatever_the_offset(local: datetime, offset: timedelta) -> None:
    moment = local.replace(tzinfo=timezone(offset))

    since = local - datetime(1970, 1, 1) - offset  # noqa: DTZ001 - the arithmetic by hand
    assert nanoseconds(moment) == since // timedelta(microseconds=1) * 1_000
    assert kept(ColumnType.DATE, date(1969, 12, 31)) == -1


class Holder(msgspec.Struct):
    v: object


@dataclasses.dataclass
class Plain:
    v: object


class Member(Enum):
    ODD = datetime(2024, 1, 1, tzinfo=ODD)


PLACES: list[Callable[[object], object]] = [
    lambda value: value,
    lambda value: {"a": value},
    lambda value: [{"a": (value,)}],
    lambda value: {value: 1},
    lambda value: {"a": {value}},
    Holder,
    Plain,
    lambda value: {"a": Plain([Holder(value)])},
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "odd",
    [
        datetime(2024, 1, 1, tzinfo=ODD),
        datetime(1883, 1, 1, tzinfo=timezone(-timedelta(hours=4, minutes=56, seconds=2))),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        time(12, tzinfo=ODD),
    ],
    ids=str,
)
def test_payload_never_says_another_instant(place: Callable[[object], object], odd: object) -> None:
    with pytest.raises(EncodeError, match="UTC offset"):
        encode_json(place(odd))


def test_payload_of_an_enum_never_says_another_instant() -> None:
    with pytest.raises(EncodeError, match="UTC offset"):
        encode_json([Member.ODD])


def test_payload_of_a_struct_never_says_another_instant() -> None:
    with pytest.raises(EncodeError, match="UTC offset"):
        encode_struct_json(Holder([datetime(2024, 1, 1, tzinfo=ODD)]))


@pytest.mark.parametrize("value", [fine(), FineSpan(1)])
def test_payload_never_loses_the_nanoseconds_of_a_subclass(value: object) -> None:
    with pytest.raises(EncodeError, match="not a JSON value"):
        encode_json({"a": value})


@pytest.mark.parametrize("offset", [timedelta(), timedelta(hours=14), -timedelta(hours=9, minutes=30)])
def test_offsets_of_whole_minutes_pass(offset: timedelta) -> None:
    moment = WHEN.astimezone(timezone(offset))

    assert datetime.fromisoformat(msgspec.json.decode(encode_json([moment]))[0]) == WHEN


def test_pandas_times_are_exact_or_refused() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    moment = pandas.Timestamp("2024-01-31T10:00:00.123456789Z")
    span = pandas.Timedelta(days=1, nanoseconds=7)

    assert kept(ColumnType.TIMESTAMP_NANOSECOND, moment) == WHEN_NS + 789
    assert kept(ColumnType.INTERVAL_MONTH_DAY_NANO, span) == [0, 1, 7]
    for value in (pandas.NaT, moment.to_datetime64(), span.to_timedelta64(), pandas.NA):
        with pytest.raises(EncodeError):
            kept(ColumnType.TIMESTAMP_NANOSECOND, value)
        with pytest.raises(EncodeError):
            encode_json({"a": value})
