"""Payloads with other members: what is changed is what is asked for, and the rest stays byte for byte."""

from __future__ import annotations

import pytest

from eventrec.sessions.payloads import flattened, with_flat_properties, with_members, with_session

NEW = b'"new"'


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"{}", b'{"a":1}'),
        (b" { } ", b'{"a":1}'),
        (b'{"b":[1.0, 2]}', b'{"b":[1.0, 2],"a":1}'),
        (b'{"b":1 }\n', b'{"b":1,"a":1}'),
        (b'{"a":"old"}', b'{"a":1}'),
        (b'{"b":{"a":2}}', b'{"b":{"a":2},"a":1}'),
        (b'{"b":"\\"a\\":"}', b'{"b":"\\"a\\":","a":1}'),
        (b'{"\\u0061":2}', b'{"a":1}'),
        (b'{"b":"\\u00fc"}', b'{"b":"\\u00fc","a":1}'),
        ('{"ü":10000000000000000000000}'.encode(), '{"ü":10000000000000000000000,"a":1}'.encode()),
    ],
)
def test_a_member_is_added_or_replaced(payload: bytes, expected: bytes) -> None:
    assert with_members(payload, {"a": b"1"}) == expected


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b'"a"', b"5", b'["a"]', b'{"a":'])
def test_what_is_not_an_object_gets_no_member(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        with_members(payload, {"a": b"1"})


@pytest.mark.parametrize(
    ("payload", "old", "expected"),
    [
        (b'{"x":1}', b'""', b'{"x":1,"s":"new"}'),
        (b'{"x":1} ', b'""', b'{"x":1,"s":"new"}'),
        (b'{"s":"","x":1}', b'""', b'{"s":"new","x":1}'),
        (b'{"s": "" ,"x":1}', b'""', b'{"s":"new","x":1}'),
        (b'{"s":"old","x":{"s":"old"}}', b'"old"', b'{"s":"new","x":{"s":"old"}}'),
        (b'{"x":{"s":""}}', b'""', b'{"x":{"s":""},"s":"new"}'),
        (b'{"x":{"s":""},"\\u0073":""}', b'""', b'{"x":{"s":""},"s":"new"}'),
        (b'{"x\\"s":"","y":1}', b'""', b'{"x\\"s":"","y":1,"s":"new"}'),
        (b'{"x":"s"}', b'""', b'{"x":"s","s":"new"}'),
        (b'{"s":null}', b'""', b'{"s":"new"}'),
        (b'{"s":7}', b'"7"', b'{"s":"new"}'),
    ],
)
def test_a_session_is_put_where_it_belongs(payload: bytes, old: bytes, expected: bytes) -> None:
    assert with_session(payload, b'"s"', old, NEW) == expected


def test_nested_values_are_flattened_with_dots_and_become_texts() -> None:
    value = {"a": {"b": [1, {"c": True}], "d": None}, "e.f": 1.5, "g": "x", "h": {}}

    assert flattened(value) == {"a.b.0": "1", "a.b.1.c": "true", "e.f": "1.5", "g": "x"}


def test_values_that_are_nested_deep_are_flattened_too() -> None:
    value: object = 1
    for _ in range(5_000):
        value = [value]

    assert list(flattened(value).values()) == ["1"]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a":[1],"properties":{"n":{"m":1},"t":"x"}}', b'{"a":[1],"properties":{"n.m":"1","t":"x"}}'),
        (b'{"properties":{"t":"x"}, "b":1}', b'{"properties":{"t":"x"}, "b":1}'),
        (b'{"properties":[]}', b'{"properties":{}}'),
        (b'{"propert\\u0069es":{"n":1}}', b'{"properties":{"n":"1"}}'),
        (b'{"properties":null}', b'{"properties":null}'),
        (b'{"properties":"x"}', b'{"properties":"x"}'),
        (b'{"a":{"properties":{"n":1}}}', b'{"a":{"properties":{"n":1}}}'),
        (b'{"properties":{"n":1}', b'{"properties":{"n":1}'),
        (b"null", b"null"),
    ],
)
def test_properties_become_flat_and_the_rest_stays(payload: bytes, expected: bytes) -> None:
    assert with_flat_properties(payload) == expected
