import enum
import math
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import EncodeError
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.extra_rows import decode_rows, encode_rows
from eventrec.records.normalizers import NORMALIZERS
from eventrec.records.schema import ColumnSchema, Shape

T = ColumnType
MOMENT = datetime(2024, 5, 17, 12, 30, 15, 123_456, tzinfo=timezone(timedelta(hours=2)))
NANOSECONDS = 1_715_941_815_123_456_000


class Kind(enum.Enum):
    A = "a"
    ONE = 1


class Number(enum.IntEnum):
    ONE = 1


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


def kept(column_type: ColumnType, value: object, **parameters: Any) -> object:
    """What a record keeps of `value`, after it went into bytes and back."""
    column = ColumnSchema("c", column_type, **parameters)
    ((read,),) = decode_rows(encode_rows(Shape("t", "e", (column,)), [(value,)]))
    return read


def test_numbers_of_the_types_are_those_of_the_wire_protocol() -> None:
    numbers = {kind.name: kind.value for kind in ColumnType}

    assert numbers == {
        "BOOLEAN": 0,
        "INT8": 1,
        "INT16": 2,
        "INT32": 3,
        "INT64": 4,
        "UINT8": 5,
        "UINT16": 6,
        "UINT32": 7,
        "UINT64": 8,
        "FLOAT32": 9,
        "FLOAT64": 10,
        "BINARY": 11,
        "STRING": 12,
        "DATE": 13,
        "DATETIME": 14,
        "TIMESTAMP_SECOND": 15,
        "TIMESTAMP_MILLISECOND": 16,
        "TIMESTAMP_MICROSECOND": 17,
        "TIMESTAMP_NANOSECOND": 18,
        "TIME_SECOND": 19,
        "TIME_MILLISECOND": 20,
        "TIME_MICROSECOND": 21,
        "TIME_NANOSECOND": 22,
        "INTERVAL_YEAR_MONTH": 23,
        "INTERVAL_DAY_TIME": 24,
        "INTERVAL_MONTH_DAY_NANO": 25,
        "DECIMAL128": 30,
        "JSON": 31,
        "VECTOR": 32,
        "LIST": 40,
        "STRUCT": 41,
        "DICTIONARY": 42,
    }
    assert [(kind.name, kind.value) for kind in SemanticType] == [("TAG", 0), ("FIELD", 1), ("TIMESTAMP", 2)]


def test_every_type_has_its_rule() -> None:
    assert set(NORMALIZERS) == set(ColumnType)


@pytest.mark.parametrize("column_type", ColumnType)
def test_null_is_kept_in_every_type(column_type: ColumnType) -> None:
    assert kept(column_type, None) is None


@pytest.mark.parametrize(
    ("column_type", "value", "expected"),
    [
        (T.BOOLEAN, True, True),
        (T.INT8, Number.ONE, 1),
        (T.FLOAT32, 3, 3.0),
        (T.FLOAT32, 3.4028234663852886e38, 3.4028234663852886e38),
        (T.FLOAT64, 1.7976931348623157e308, 1.7976931348623157e308),
        (T.FLOAT64, -0.0, -0.0),
        (T.BINARY, b"\x00\xff", b"\x00\xff"),
        (T.BINARY, bytearray(b"a"), b"a"),
        (T.BINARY, memoryview(b"abcd")[::2], b"ac"),
        (T.STRING, "ä\0", "ä\0"),
        (T.STRING, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (T.STRING, Kind.A, "a"),
        (T.STRING, Loud("as it is"), "as it is"),
        (T.DICTIONARY, Kind.A, "a"),
        (T.DATE, date(1969, 12, 31), -1),
        (T.DATE, 19_860, 19_860),
        (T.DATETIME, MOMENT, NANOSECONDS // 1_000),
        (T.TIMESTAMP_SECOND, MOMENT, NANOSECONDS // 1_000_000_000),
        (T.TIMESTAMP_MILLISECOND, MOMENT, NANOSECONDS // 1_000_000),
        (T.TIMESTAMP_MICROSECOND, MOMENT, NANOSECONDS // 1_000),
        (T.TIMESTAMP_NANOSECOND, MOMENT, NANOSECONDS),
        (T.TIMESTAMP_NANOSECOND, 5, 5),
        (T.TIMESTAMP_SECOND, datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), -1),
        (T.TIMESTAMP_SECOND, datetime.min.replace(tzinfo=UTC), -62_135_596_800),
        (T.TIME_SECOND, time(23, 59, 59, 999_999), 86_399),
        (T.TIME_MILLISECOND, time(0, 0, 1), 1_000),
        (T.TIME_MICROSECOND, time(0, 0, 0, 7), 7),
        (T.TIME_NANOSECOND, time(0, 0, 0, 7), 7_000),
        (T.INTERVAL_YEAR_MONTH, -14, -14),
        (T.INTERVAL_DAY_TIME, timedelta(seconds=1.5), 1_500),
        (T.INTERVAL_DAY_TIME, timedelta.max, 86_399_999_999_999_999),
        (T.INTERVAL_MONTH_DAY_NANO, timedelta(days=-1, microseconds=3), [0, -1, 3_000]),
        (T.INTERVAL_MONTH_DAY_NANO, (1, 2, 3), [1, 2, 3]),
        (T.DECIMAL128, Decimal("1.50"), "1.50"),
        (T.DECIMAL128, -7, "-7"),
        (T.DECIMAL128, Decimal("1E+37"), "1" + "0" * 37),
        (T.DECIMAL128, Decimal("1E-38"), "0." + "0" * 37 + "1"),
        (T.DECIMAL128, Decimal("-0E+999999"), "0"),
        (T.JSON, {"a": [1, None]}, b'{"a":[1,null]}'),
        (T.JSON, "text", b'"text"'),
        (T.LIST, ("a", 1), b'["a",1]'),
        (T.STRUCT, {"a": 1}, b'{"a":1}'),
        (T.VECTOR, (1, 2.5), [1.0, 2.5]),
        (T.VECTOR, [], []),
    ],
)
def test_values_are_kept_in_one_plain_form(column_type: ColumnType, value: object, expected: object) -> None:
    read = kept(column_type, value)

    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("column_type", "low", "high"),
    [
        *[(ColumnType[f"INT{bits}"], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)],
        *[(ColumnType[f"UINT{bits}"], 0, 2**bits - 1) for bits in (8, 16, 32, 64)],
        (T.DATE, -(2**31), 2**31 - 1),
        (T.DATETIME, -(2**63), 2**63 - 1),
        (T.TIMESTAMP_SECOND, -(2**63), 2**63 - 1),
        (T.TIMESTAMP_NANOSECOND, -(2**63), 2**63 - 1),
        (T.TIME_SECOND, 0, 86_399),
        (T.TIME_MILLISECOND, 0, 86_399_999),
        (T.TIME_MICROSECOND, 0, 86_399_999_999),
        (T.TIME_NANOSECOND, 0, 86_399_999_999_999),
        (T.INTERVAL_YEAR_MONTH, -(2**31), 2**31 - 1),
        (T.INTERVAL_DAY_TIME, -(2**63), 2**63 - 1),
    ],
)
def test_integers_are_bounded_by_their_type(column_type: ColumnType, low: int, high: int) -> None:
    assert (kept(column_type, low), kept(column_type, high)) == (low, high)
    for beyond in (low - 1, high + 1, 10**5_000):
        with pytest.raises(EncodeError, match=rf"'c': .* kind int .* {column_type.name}: allowed are {low} to {high}$"):
            kept(column_type, beyond)


WRONG: dict[ColumnType, list[object]] = {
    T.BOOLEAN: [1, "true", 0.0],
    T.FLOAT32: ["1", True, Decimal(1), math.nan, math.inf, 3.5e38, -(10**400)],
    T.FLOAT64: ["1", False, b"1", math.nan, -math.inf, 10**400],
    T.BINARY: ["a", 1, [1]],
    T.STRING: [1, b"a", Kind.ONE, Number.ONE, None.__class__, ["a"]],
    T.DICTIONARY: [1, b"a", Kind.ONE],
    T.DATE: [MOMENT, "2024-05-17", True, 1.5],
    T.DATETIME: [datetime(2024, 5, 17), "now", date(2024, 5, 17), 1.5, True],  # noqa: DTZ001 - naive on purpose
    T.TIME_SECOND: [time(1, tzinfo=UTC), MOMENT, "12:00", 1.5],
    T.INTERVAL_YEAR_MONTH: [timedelta(1), 1.5, True],
    T.INTERVAL_DAY_TIME: [1.5, "1 day", True],
    T.INTERVAL_MONTH_DAY_NANO: [(1, 2), 5, "abc", {1, 2, 3}],
    T.DECIMAL128: [
        *(1.5, "1.5", True, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), 10**38, 10**5_000),
        *(Decimal("1E+999999999999999999"), Decimal("1E-39"), Decimal("100000000000000000000.0000000000000000001")),
    ],
    T.JSON: [math.nan, b"a", object(), {"a": math.inf}, {b"a": 1}],
    T.LIST: [{"a": 1}, "abc", 1, [math.nan]],
    T.STRUCT: [[1], "abc", 1, {"a": b"x"}],
    T.VECTOR: ["abc", 1.5, {1.0}, b"abc"],
}
for column_type in (T.INT8, T.INT64, T.UINT8, T.UINT64):
    WRONG[column_type] = [True, 1.0, "1", Decimal(1), b"1"]
for column_type in (T.TIMESTAMP_SECOND, T.TIMESTAMP_NANOSECOND):
    WRONG[column_type] = WRONG[T.DATETIME]


@pytest.mark.parametrize(
    ("column_type", "value"),
    [(kind, value) for kind, values in WRONG.items() for value in values],
    ids=lambda each: each.name if isinstance(each, ColumnType) else type(each).__name__,
)
def test_refusal_names_column_kind_of_value_and_type(column_type: ColumnType, value: object) -> None:
    expected = f"column 'c': a value of kind {type(value).__name__} does not fit {column_type.name}"

    with pytest.raises(EncodeError) as refused:
        kept(column_type, value)

    assert str(refused.value).startswith(expected)


@pytest.mark.parametrize(
    ("column_type", "value", "kind"),
    [
        (T.VECTOR, [1, "a"], "str"),
        (T.VECTOR, [True], "bool"),
        (T.VECTOR, [1.0, math.nan], "float"),
        (T.VECTOR, (1e39,), "float"),
        (T.INTERVAL_MONTH_DAY_NANO, (1, 2, 3.5), "float"),
        (T.INTERVAL_MONTH_DAY_NANO, (2**31, 0, 0), "int"),
        (T.INTERVAL_MONTH_DAY_NANO, [0, -(2**31) - 1, 0], "int"),
        (T.INTERVAL_MONTH_DAY_NANO, [0, 0, 2**63], "int"),
    ],
)
def test_refusal_of_a_part_names_the_kind_of_the_part(column_type: ColumnType, value: object, kind: str) -> None:
    with pytest.raises(EncodeError, match=f"column 'c': a value of kind {kind} does not fit {column_type.name}"):
        kept(column_type, value)


@pytest.mark.parametrize("column_type", [T.STRING, T.DICTIONARY])
def test_lone_surrogate_is_refused_with_the_column(column_type: ColumnType) -> None:
    shape = Shape("t", "e", (ColumnSchema("a", T.STRING), ColumnSchema("b", column_type)))

    with pytest.raises(EncodeError, match=rf"column b {column_type.name}: .* kind str .* Unicode"):
        encode_rows(shape, [("fine", "fine"), ("fine", "x\ud800")])


def test_nanoseconds_of_a_moment_out_of_64_bit_are_refused() -> None:
    with pytest.raises(EncodeError, match="'c': a value of kind datetime does not fit TIMESTAMP_NANOSECOND: allowed"):
        kept(T.TIMESTAMP_NANOSECOND, datetime(2300, 1, 1, tzinfo=UTC))


def test_zone_that_knows_no_offset_is_refused_as_naive() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    with pytest.raises(EncodeError, match="must carry a time zone"):
        kept(T.DATETIME, datetime(2024, 5, 17, tzinfo=Nowhere()))


@pytest.mark.parametrize(
    ("value", "precision", "scale", "fits"),
    [
        ("123.45", 5, 2, True),
        ("123.4500", 5, 2, True),
        ("1234.5", 5, 2, False),
        ("1.234", 5, 2, False),
        ("0.12", 2, 2, True),
        ("1", 2, 2, False),
        ("99999", 5, None, True),
        ("0.00001", 5, None, True),
        ("100000", 5, None, False),
        ("0.000001", 5, None, False),
        ("1E+4", 5, 0, True),
        ("0.000", 1, 0, True),
    ],
)
def test_decimal_is_exact_or_refused(value: str, precision: int, scale: int | None, fits: bool) -> None:  # noqa: FBT001 - a table
    if fits:
        assert Decimal(str(kept(T.DECIMAL128, Decimal(value), precision=precision, scale=scale))) == Decimal(value)
        return

    with pytest.raises(EncodeError, match=rf"kind Decimal does not fit DECIMAL128: allowed are .* {precision} in all"):
        kept(T.DECIMAL128, Decimal(value), precision=precision, scale=scale)


def test_vector_has_the_dimensions_it_was_declared_with() -> None:
    assert kept(T.VECTOR, [1, 2, 3], dimensions=3) == [1.0, 2.0, 3.0]

    with pytest.raises(EncodeError, match="kind list does not fit VECTOR of 3 dimensions: it has 2"):
        kept(T.VECTOR, [1, 2], dimensions=3)


VALUES: dict[ColumnType, st.SearchStrategy[object]] = {
    T.BOOLEAN: st.booleans(),
    **{ColumnType[f"INT{bits}"]: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{ColumnType[f"UINT{bits}"]: st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    T.FLOAT32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    T.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
    T.BINARY: st.binary(),
    T.STRING: st.text(),
    T.DICTIONARY: st.text(),
    T.DATE: st.integers(-(2**31), 2**31 - 1),
    **dict.fromkeys(
        [T.DATETIME, T.TIMESTAMP_SECOND, T.TIMESTAMP_MILLISECOND, T.TIMESTAMP_MICROSECOND, T.TIMESTAMP_NANOSECOND],
        st.integers(-(2**63), 2**63 - 1),
    ),
    **{kind: st.integers(0, 86_399) for kind in (T.TIME_SECOND, T.TIME_MILLISECOND, T.TIME_MICROSECOND)},
    T.TIME_NANOSECOND: st.integers(0, 86_399_999_999_999),
    T.INTERVAL_YEAR_MONTH: st.integers(-(2**31), 2**31 - 1),
    T.INTERVAL_DAY_TIME: st.integers(-(2**63), 2**63 - 1),
    T.INTERVAL_MONTH_DAY_NANO: st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-(2**63), 2**63 - 1)),
    T.DECIMAL128: st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20),
    T.JSON: st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    T.LIST: st.lists(st.integers()),
    T.STRUCT: st.dictionaries(st.text(), st.booleans()),
    T.VECTOR: st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)),
}
SHAPE = Shape("t", "e", tuple(ColumnSchema(kind.name.lower(), kind) for kind in ColumnType))
rows = st.tuples(*(st.none() | VALUES[column.type] for column in SHAPE.columns))


@given(st.lists(rows, max_size=3))
def test_what_a_record_keeps_reads_back_the_same(given_rows: list[tuple[object, ...]]) -> None:
    expected = [
        [None if value is None else keep(value) for keep, value in zip(SHAPE.normalizers, row, strict=True)]
        for row in given_rows
    ]

    read = decode_rows(encode_rows(SHAPE, given_rows))

    assert read == expected
