from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.posthog_body import FORM, PostHogBody, UnreadCompressionError, is_gzip, posthog_body, unwrapped

EVENT: dict[str, Any] = {"event": "opened", "distinct_id": "ada", "properties": {}}


def read(body: Any, media_type: str = "application/json", **query: str) -> PostHogBody:
    text = unzipped(body if isinstance(body, bytes) else json.dumps(body).encode())
    text = unzipped(unwrapped(text, query=query, media_type=media_type))
    return posthog_body(text, query=query, max_elements=100)


def unzipped(text: bytes) -> bytes:
    """As the server unpacks it."""
    try:
        return gzip.decompress(text) if is_gzip(text) else text
    except (OSError, EOFError, zlib.error) as exc:
        raise BodyError from exc


def events(body: PostHogBody) -> list[Any]:
    return [json.loads(element) for element in body.elements]


def test_batch_has_a_key_and_events_and_says_when_it_was_sent() -> None:
    found = read({"api_key": "phc_1", "batch": [EVENT, EVENT], "sent_at": "2026-01-02T00:00:01+00:00"})

    assert (found.key, found.sent_at, events(found)) == ("phc_1", 1_767_312_001_000_000_000, [EVENT, EVENT])
    assert "phc_1" not in repr(found), "a key is a secret"


def test_one_event_is_a_batch_of_itself() -> None:
    found = read({"api_key": "phc_1", **EVENT})

    assert found.key == "phc_1"
    assert events(found) == [{"api_key": "phc_1", **EVENT}]


@pytest.mark.parametrize(
    "body",
    [
        {"token": "phc_1", "batch": []},
        {"$token": "phc_1", **EVENT},
        [{**EVENT, "token": "phc_1"}, {**EVENT, "api_key": "phc_1"}],
        [{**EVENT, "properties": {"token": "phc_1"}}, EVENT],
        {"batch": [{**EVENT, "properties": {"api_key": "phc_1"}}]},
        {**EVENT, "properties": {"token": "phc_1"}},
    ],
)
def test_key_is_found_wherever_clients_put_it(body: Any) -> None:
    assert read(body).key == "phc_1"


def test_key_of_the_query_counts_where_the_body_has_none() -> None:
    for name in ("token", "api_key"):
        assert read([EVENT], **{name: "phc_1"}).key == "phc_1"
        assert read({"api_key": "phc_2", "batch": []}, **{name: "phc_1"}).key == "phc_2"
    assert read([EVENT]).key is None


def test_events_are_so_many_at_most() -> None:
    with pytest.raises(BodyTooLargeError):
        read([EVENT] * 101)


def test_events_of_several_projects_are_refused() -> None:
    with pytest.raises(BodyError, match="several projects"):
        read([{**EVENT, "token": "phc_1"}, {**EVENT, "token": "phc_2"}])


@pytest.mark.parametrize("compression", [{}, {"compression": "gzip"}, {"compression": "gzip-js"}])
def test_gzip_is_found_by_its_first_bytes(compression: dict[str, str]) -> None:
    found = read(gzip.compress(json.dumps([EVENT]).encode()), "text/plain", **compression)

    assert events(found) == [EVENT]


@pytest.mark.parametrize("said", [b"", b"&compression=base64"])
@pytest.mark.parametrize("media_type", [FORM, "text/plain", ""])
def test_form_of_an_old_client_is_read(said: bytes, media_type: str) -> None:
    text = json.dumps([EVENT]).encode()
    for packed in (b64encode(text), text, b64encode(gzip.compress(text))):
        found = read(b"data=" + quote_from_bytes(packed).encode() + said, media_type, _="1767312001000")

        assert events(found) == [EVENT]
        assert found.sent_at == 1_767_312_001_000_000_000


def test_base64_that_lost_its_plus_signs_and_padding_is_read() -> None:
    event = {**EVENT, "event": "\u00be\u00fb\u00ef>>>~~"}
    packed = b64encode(json.dumps([event], ensure_ascii=False).encode())
    assert b"+" in packed

    assert events(read(packed.rstrip(b"=").replace(b"+", b" "), compression="base64")) == [event]


def test_lz_string_is_said_to_be_unread() -> None:
    with pytest.raises(UnreadCompressionError):
        read(b"data=NobwRAdghgtgpmAXGA", FORM, compression="lz64")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"{",
        b"[",
        b'{"batch":{}}',
        b'{"batch":[}',
        b'{"api_key":"\xff","batch":[]}',
        b"data=",
        b"data",
        b"data=%ff%fe",
        b"&".join([b"data=e30="] * 100),
        gzip.compress(b"hello", mtime=0),
        b"[" * 10_000,
        b'{"a":' * 10_000,
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(BodyError):
        read(body, FORM if body.startswith(b"data") else "application/json")


@given(st.binary(), st.sampled_from(["", FORM, "application/json"]), st.sampled_from(["", "base64", "gzip-js", "lz64"]))
def test_any_bytes_are_read_or_refused(body: bytes, media_type: str, compression: str) -> None:
    for start in (b"", b"data=", b"[{", b'{"batch":[', b"\x1f\x8b\x08\0"):
        try:
            read(start + body, media_type, compression=compression, sent_at="x", _="y")
        except (BodyError, UnreadCompressionError):
            continue
