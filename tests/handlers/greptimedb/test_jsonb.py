from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventrec_handlers.greptimedb.jsonb import JsonbEncoder

pytestmark = pytest.mark.handlers

VECTORS: list[tuple[object, str]] = [
    (None, "2000000000000000"),
    ({"procedure_id": "1234567890"}, "400000011000000c1000000a70726f6365647572655f696431323334353637383930"),
    (
        {"a": [1, -1, {"b": None}], "c": 1.5},
        (
            "400000021000000110000001500000212000000961638000000320000002200000025000000d"
            "500140ff40000001100000010000000062603ff8000000000000"
        ),
    ),
    ([], "80000000"),
    ({}, "40000000"),
    ("", "2000000010000000"),
    (True, "2000000040000000"),
    (False, "2000000030000000"),
]

NUMBERS = [
    (0, "00"),
    (1, "5001"),
    (255, "50ff"),
    (256, "500100"),
    (65_535, "50ffff"),
    (65_536, "5000010000"),
    (2**32 - 1, "50ffffffff"),
    (2**32, "500000000100000000"),
    (2**64 - 1, "50ffffffffffffffff"),
    (-1, "40ff"),
    (-128, "4080"),
    (-129, "40ff7f"),
    (-32_769, "40ffff7fff"),
    (-(2**31) - 1, "40ffffffff7fffffff"),
    (-(2**63), "408000000000000000"),
    (0.0, "600000000000000000"),
    (-0.0, "608000000000000000"),
    (1.5, "603ff8000000000000"),
    (2**64, "6043f0000000000000"),
    (math.nan, "10"),
    (math.inf, "20"),
    (-math.inf, "30"),
]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(("value", "expected"), VECTORS)
def test_value_has_the_bytes_of_the_library(value: object, expected: str) -> None:
    assert JsonbEncoder().encode(value).hex() == expected
    assert JsonbEncoder().encode_text(msgspec.json.encode(value)).hex() == expected


@pytest.mark.parametrize(("value", "expected"), NUMBERS)
def test_number_takes_the_shortest_form_of_its_kind(value: float, expected: str) -> None:
    head = f"20000000{0x2000_0000 | len(expected) // 2:08x}"

    assert JsonbEncoder().encode(value).hex() == head + expected


@given(JSON)
@settings(deadline=None)
def test_any_value_reads_back(fake: Any, value: object) -> None:
    encoder = JsonbEncoder()

    first, again = encoder.encode(value), encoder.encode_text(msgspec.json.encode(value))

    assert first == again
    assert repr(fake.decoding.decode_jsonb(first)) == repr(_sorted(value))


@given(st.lists(JSON, min_size=1, max_size=4))
@settings(deadline=None)
def test_objects_with_the_same_keys_are_encoded_at_once_as_each_by_itself(values: list[Any]) -> None:
    encoder = JsonbEncoder()
    texts = [msgspec.json.encode({"b": value, "a": values[0], "": None}) for value in values]

    assert encoder.encode_texts(texts) == [encoder.encode_text(text) for text in texts]


@pytest.mark.parametrize(
    "texts",
    [
        [b'{"a":1}', b'{"b":1}'],
        [b'{"a":1,"b":2}', b'{"b":2,"a":1}'],
        [b'{"a":1}', b"[1]"],
        [b"1", b"2"],
        [b'{"a":1}', b"no JSON"],
        [b'{"a":1}', b'{"a":"\xff"}'],
        [b'{"a":1}', b'{"a":18446744073709551617}'],
        [b'{"a":1}', b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"],
    ],
)
def test_what_differs_or_cannot_be_stored_is_left_to_be_encoded_by_itself(texts: list[bytes]) -> None:
    assert JsonbEncoder().encode_texts(texts) is None


def test_objects_without_keys_are_encoded_at_once() -> None:
    assert JsonbEncoder().encode_texts([b"{}", b"{}"]) == [bytes.fromhex("40000000")] * 2


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value, key=str.encode)}
        case list():
            return [_sorted(part) for part in value]
        case _:
            return value


def test_keys_stand_in_the_order_of_their_bytes_whatever_the_order_given(fake: Any) -> None:
    encoder = JsonbEncoder()
    # In UTF-16 the last two would be the other way round.
    text = '{"\U0001f600": 1, "\ufb01": 2, "é": 3, "z": 4, "Z": 5, "": 6}'.encode()

    once, twice = encoder.encode_text(text), encoder.encode_text(text)

    assert once == twice
    assert list(fake.decoding.decode_jsonb(once)) == ["", "Z", "z", "é", "\ufb01", "\U0001f600"]


def test_of_a_key_that_stands_twice_the_last_value_counts(fake: Any) -> None:
    assert fake.decoding.decode_jsonb(JsonbEncoder().encode_text(b'{"a":1,"b":2,"a":3}')) == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not a JSON value"),
        (b'{"no": JSON}', "not a JSON value"),
        (b'"\xff"', "not a JSON value"),
        (b'"\\ud800"', "not a JSON value"),
        (b"1e400", "not a JSON value"),
        (b"18446744073709551617", "more than 64 bits"),
        (b"-9223372036854775809", "more than 64 bits"),
        (b"[" + b"9" * 400 + b"]", "more than 64 bits"),
        (b"[" * 5_000 + b"]" * 5_000, "nested too deep"),
    ],
)
def test_text_that_cannot_be_stored_is_refused_with_its_reason(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        JsonbEncoder().encode_text(text)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, [object()], {"a": (1, 2)}])
def test_value_that_is_not_of_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not JSON's"):
        JsonbEncoder().encode(value)


def test_value_that_is_too_long_for_its_entry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec_handlers.greptimedb.jsonb.MAX_BYTES", 1_000)

    with pytest.raises(ValueError, match="no value has more than 1000"):
        JsonbEncoder().encode(["x" * 1_000])
    assert JsonbEncoder().encode_texts([msgspec.json.encode({"a": "x" * 1_000})]) is None


def test_what_it_remembers_of_objects_is_bounded() -> None:
    encoder = JsonbEncoder()

    for number in range(5_000):
        encoder.encode({f"key {number}": number})
    encoder.encode({"k" * 100_000: 1})

    assert len(encoder._plans) <= 1_000
    assert sum(len(head) + len(keys) for head, keys, _ in encoder._plans.values()) < 1_000 * 4_096
