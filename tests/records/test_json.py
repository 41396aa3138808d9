import collections
import dataclasses
import enum
import json
import math
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import EncodeError
from eventrec.records.json import encode_json, encode_struct_json, refuse_constants

NAN = math.nan


def shown(value: object) -> str:
    """An id for `value` that every process gives alike: without the address of an object."""
    return repr(value).partition(" at 0x")[0]


@dataclasses.dataclass
class Point:
    x: object


@attrs.frozen
class Spot:
    x: object


class Place(msgspec.Struct):
    x: object
    y: object = None


class Level(float, enum.Enum):
    NONE = NAN
    ONE = 1.0


class Kind(enum.Enum):
    A = "a"
    RAW = b"raw"
    NONE = NAN
    ONE = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


class Number(int):
    pass


class Ratio(float):
    pass


class Fields(dict[Any, Any]):
    pass


Pair = collections.namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - of either kind

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_any_json_value_reads_back_as_it_was(value: object) -> None:
    encoded = encode_json(value)

    assert json.loads(encoded) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1, "b": "x", "c": None, "d": True}, b'{"a":1,"b":"x","c":null,"d":true}'),
        ({"a": 1.5, "b": None}, b'{"a":1.5,"b":null}'),
        ({"a": {"b": [1.5, None, {"c": ()}]}}, b'{"a":{"b":[1.5,null,{"c":[]}]}}'),
        ("text", b'"text"'),
        (None, b"null"),
        ({}, b"{}"),
        (Fields(a=[1]), b'{"a":[1]}'),
        (Pair(1, "b"), b'[1,"b"]'),
        ({1: "a", "b": 2}, b'{"1":"a","b":2}'),
        ({Kind.A: 1}, b'{"a":1}'),
        (Point(Spot(Place(1))), b'{"x":{"x":{"x":1,"y":null}}}'),
        ([Kind.A, Kind.ONE, Level.ONE], b'["a",1,1.0]'),
        (frozenset({1}), b"[1]"),
        ({"at": datetime(2024, 5, 17, tzinfo=UTC)}, b'{"at":"2024-05-17T00:00:00Z"}'),
        ([UUID(int=1), Decimal("1.10")], b'["00000000-0000-0000-0000-000000000001","1.10"]'),
        ({"a": msgspec.Raw(b'{"b":1}')}, b'{"a":{"b":1}}'),
        (Place(msgspec.UNSET), b'{"y":null}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_written_as_json_says_them(value: object, expected: bytes) -> None:
    assert encode_json(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a":1} x',
        b"NaN",
        b'{"a":-Infinity}',
        b"[1,]",
        b'"\xff"',
        b'"\n"',
        b'"\\ud800"',
        b"01",
        b"[" * 100_000,
    ],
    ids=lambda text: text[:8].decode(errors="replace") or "nothing",
)
def test_raw_that_is_not_json_is_refused_wherever_it_stands(text: bytes) -> None:
    raw = msgspec.Raw(text)

    for value in (raw, {"a": raw}, {"a": {"b": [1, raw]}}, [raw], {"a": (raw,)}, {"a": Place(raw)}):
        with pytest.raises(EncodeError, match="not JSON text"):
            encode_json(value)
    with pytest.raises(EncodeError, match="not JSON text"):
        encode_struct_json(Place(raw))
    with pytest.raises(EncodeError, match="not JSON text"):
        encode_struct_json(Place([raw]))


@pytest.mark.parametrize("value", [Text("a"), Number(5), Ratio(0.5)], ids=lambda value: type(value).__name__)
def test_subclass_of_a_builtin_is_written_like_the_builtin(value: object) -> None:
    encoded = encode_json({"a": value, "b": [value]})

    assert json.loads(encoded) == {"a": value, "b": [value]}


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        {"a": math.inf},
        {"a": 1.5, "b": NAN},
        {"a": None, "b": -math.inf},
        {"a": {"b": [1, (2, NAN)]}},
        {"a": {NAN}},
        Ratio(NAN),
        [Ratio(NAN)],
        Fields(a=NAN),
        Pair(1, NAN),
        Point(NAN),
        Spot([NAN]),
        Place(NAN),
        {"a": Place(1, {"b": NAN})},
        Level.NONE,
        [Kind.NONE],
        {NAN: 1},
        {"a": {math.inf: 1}},
        {Kind.NONE: 1},
    ],
    ids=shown,
)
def test_nan_and_infinity_are_refused_wherever_they_are(value: object) -> None:
    with pytest.raises(EncodeError, match=r"nan|inf|key of kind"):
        encode_json(value)


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        {"a": b"x"},
        {"a": [bytearray(b"x")]},
        {"a": {"b": memoryview(b"x")}},
        {b"a": 1},
        {"a": {b"a": 1}},
        {"a": 1.5, b"b": 1},
        Fields({b"a": 1}),
        Point(b"x"),
        Place(b"x"),
        [Place({b"a": 1})],
        Kind.RAW,
        {Kind.RAW: 1},
    ],
    ids=shown,
)
def test_bytes_are_refused_wherever_they_are(value: object) -> None:
    with pytest.raises(EncodeError, match=r"bytes|bytearray|memoryview|Kind"):
        encode_json(value)


def test_cycles_are_refused() -> None:
    around: dict[str, object] = {"a": 1}
    around["b"] = [around]

    with pytest.raises(EncodeError, match="RecursionError"):
        encode_json(around)


def test_nesting_deeper_than_the_interpreter_goes_is_refused() -> None:
    deep: list[object] = []
    for _ in range(sys.getrecursionlimit() * 200):
        deep = [deep]

    with pytest.raises(EncodeError, match="RecursionError"):
        encode_json(deep)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**4_000], ids=["2**64", "-2**63-1", "10**4000"])
def test_integers_of_any_size_are_kept_exactly(value: int) -> None:
    assert encode_json({"a": value}) == b'{"a":%s}' % str(value).encode()


def test_integer_of_more_digits_than_the_interpreter_converts_is_refused() -> None:
    with pytest.raises(EncodeError, match="4300 digits"):
        encode_json({"a": 10**5_000})


@pytest.mark.parametrize("value", ["\ud800", {"a": "x\udfff"}, {"\ud800": 1}, [Text("\ud800")]], ids=shown)
def test_lone_surrogates_are_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="surrogates"):
        encode_json(value)


@pytest.mark.parametrize(
    "value", [object(), {"a": object()}, {"a": range(3)}, [iter([])], type, {(1, 2): 3}, {None: 1}], ids=shown
)
def test_objects_that_are_no_json_value_are_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="not a JSON value: TypeError"):
        encode_json(value)


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, {"a": {Kind.A: 1, "a": 2}}, {1.5: 1, "1.5": 2}], ids=shown)
def test_keys_that_json_writes_alike_are_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="2 keys, of which JSON can tell 1 apart"):
        encode_json(value)


class Answer(enum.Enum):
    YES = True


@pytest.mark.parametrize("value", [{True: 1}, {"a": [{"b": 1, False: 2}]}, {Answer.YES: 1}], ids=shown)
def test_keys_that_are_true_or_false_are_refused(value: object) -> None:
    with pytest.raises(EncodeError, match=r"not a JSON value: a key of kind (bool: (True|False)|Answer: <Answer.YES)"):
        encode_json(value)
    with pytest.raises(EncodeError, match="a key of kind"):
        encode_struct_json(Place(value))


def test_struct_is_written_with_its_own_names() -> None:
    class Renamed(msgspec.Struct, rename="camel", tag=True, omit_defaults=True):
        first_name: str
        last_name: str = ""

    encoded = encode_struct_json(Renamed("a"))

    assert encoded == b'{"type":"Renamed","firstName":"a"}'


@pytest.mark.parametrize(
    "inside", [NAN, b"x", [NAN], {"a": b"x"}, Place(NAN), Point(b"x"), object(), "\ud800"], ids=shown
)
def test_struct_hides_nothing_that_json_cannot_say(inside: object) -> None:
    with pytest.raises(EncodeError, match="not a JSON value"):
        encode_struct_json(Place(inside))


@pytest.mark.parametrize("payload", [b'{"a":NaN}', b"[-Infinity]", b'{"Infinity":Infinity}'])
def test_constants_as_values_are_refused(payload: bytes) -> None:
    with pytest.raises(EncodeError, match="NaN or infinity"):
        refuse_constants(payload)


@pytest.mark.parametrize("payload", [b'{"a":"NaN"}', b'{"Infinity":"-Infinity"}', b'["\\"NaN",1e400]', b'"I am Nan"'])
def test_constants_inside_texts_pass(payload: bytes) -> None:
    refuse_constants(payload)
