from __future__ import annotations

import json
import tracemalloc
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.ingest.elements import (
    BodyError,
    BodyTooLargeError,
    elements_of,
    is_deeper,
    members_of,
    stable_id,
)
from eventrec.ingest.received import EventTooLargeError, LineError

NAMESPACE = UUID("00000000-0000-0000-0000-000000000001")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def depth(value: Any) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


@given(st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=4))
def test_elements_are_the_bytes_that_they_were(objects: list[dict[str, Any]]) -> None:
    text = json.dumps(objects).encode()

    assert [json.loads(each) for each in elements_of(text, limit=100)] == objects
    assert all(each in text for each in elements_of(text, limit=100))


@pytest.mark.parametrize("text", [b"[1,2,3]", b"[{},{},{}]", b'[{"a":1,"b":2},{}]', b"[[],[]]"])
def test_elements_are_at_most_so_many(text: bytes) -> None:
    with pytest.raises(BodyError):
        elements_of(text, limit=1)


def test_as_many_elements_as_are_allowed_are_taken_whatever_they_hold() -> None:
    text = b'[{"a":[1,2,3,4],"b":",,,,"},{"c":{"d":1,"e":2}}]'

    assert len(elements_of(text, limit=2)) == 2
    with pytest.raises(BodyTooLargeError, match="more than 1 elements"):
        elements_of(text, limit=1)


@pytest.mark.parametrize("element", [b"{}", b"1", b"[]", b'""'])
def test_millions_of_elements_take_no_memory_before_they_are_refused(element: bytes) -> None:
    text = b"[" + b",".join([element] * 300_000) + b"]"

    tracemalloc.start()
    with pytest.raises(BodyError):
        elements_of(text, limit=1_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < len(text) + (2 << 20)


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b"[{}", b"[{},]", b"null", b"[{}] x", b"[" * 5_000])
def test_what_is_not_an_array_is_refused(text: bytes) -> None:
    with pytest.raises(BodyError):
        elements_of(text, limit=10)


@pytest.mark.parametrize(
    "element",
    [b"", b"1", b"[]", b"{", b'{"a":}', b'{"a":"\xff"}', b'{"\xff":1}', rb'{"a":"\ud800"}', b'{"a":' * 5_000, b"{} {}"],
)
def test_what_is_not_an_object_is_no_element(element: bytes) -> None:
    with pytest.raises(LineError):
        members_of(element, max_bytes=1 << 20, max_depth=100)


def test_element_that_no_event_fits_is_not_looked_at() -> None:
    with pytest.raises(EventTooLargeError):
        members_of(b"{" + b" " * 300, max_bytes=100, max_depth=100)


@given(values, st.integers(0, 6))
def test_depth_is_that_of_lists_and_objects_outside_of_texts(value: Any, limit: int) -> None:
    assert is_deeper(json.dumps(value).encode(), limit) == (depth(value) > limit)
    assert not is_deeper(json.dumps("[{" * 50 + '\\"').encode(), 0)


@given(st.lists(st.binary(), min_size=1, max_size=4), st.lists(st.binary(), min_size=1, max_size=4))
def test_stable_ids_are_equal_where_their_parts_are(one: list[bytes], two: list[bytes]) -> None:
    assert (stable_id(NAMESPACE, *one) == stable_id(NAMESPACE, *two)) == (one == two)
    assert UUID(bytes=stable_id(NAMESPACE, *one)).version == 5
