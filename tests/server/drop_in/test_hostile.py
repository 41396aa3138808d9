"""Whatever is sent to an endpoint for clients of others: it is answered, and never by a failure of the server."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest

PATHS = (
    *("/batch/", "/capture/?compression=base64", "/e/?compression=gzip-js", "/i/v0/e/?_=x&sent_at=y", "/flags/?v=4"),
    *("/i/v1/analytics/events", "/v1/batch", "/v1/track", "/v1/group", "/v1/alias", "/v1/logs"),
)
TYPES = ("application/json", "application/x-protobuf", "application/x-www-form-urlencoded", "text/plain", "", "x/y; z")
WORDS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"-1e999", b"1e400", b'"\\ud800"', b"\xff", b"\0", b"data="),
    *(
        b'"batch"',
        b'"event":"e"',
        b'"distinct_id":"a"',
        b'"properties":{}',
        b'"type":"track"',
        b'"userId":1',
        b'"$set":1',
    ),
    *(
        b'"timestamp":"9999-99-99"',
        b'"sent_at":{}',
        b'"uuid":[]',
        b'"resourceLogs":[{}]',
        b"\x0a\x05",
        b"\x12",
        b"\x80" * 9,
    ),
)


@pytest.mark.parametrize("path", PATHS)
def test_random_bodies_are_answered(taking: Any, path: str) -> None:
    chance = random.Random(path)
    head = {"Authorization": f"Bearer {taking.token}"}
    for _ in range(25):
        body = b"".join(chance.choice(WORDS) for _ in range(chance.randrange(12)))
        media_type = chance.choice(TYPES)
        packed = {"Content_Encoding": "gzip"} if chance.random() < 0.2 else {}
        answer = taking.post(path, gzip.compress(body) if packed else body, **head, **packed, Content_Type=media_type)
        assert answer.status in {200, 400, 413, 415, 422}, (body, media_type)


@pytest.mark.parametrize("path", PATHS)
def test_values_of_other_types_are_answered(taking: Any, path: str) -> None:
    head = {"Authorization": f"Bearer {taking.token}"}
    odd: list[Any] = [None, True, 0, -1, 1e308, 10**400, "", "x", "\0", [], {}, [[]], {"a": {}}, "9" * 100]
    names = (
        "event",
        "distinct_id",
        "properties",
        "uuid",
        "timestamp",
        "type",
        "userId",
        "messageId",
        "context",
        "traits",
    )
    for value in odd:
        one = dict.fromkeys(names, value)
        for body in (
            {"batch": [one], "sent_at": value, "sentAt": value, "context": value},
            [one],
            one,
            {"batch": value, "resourceLogs": value},
            {"resourceLogs": [{"resource": value, "scopeLogs": [{"scope": value, "logRecords": [{"body": value}]}]}]},
        ):
            answer = taking.post(path, json.dumps(body).encode(), **head, Content_Type="application/json")
            assert answer.status in {200, 400, 422}, body
