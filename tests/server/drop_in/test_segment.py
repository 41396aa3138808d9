from __future__ import annotations

import gzip
import json
from base64 import b64encode
from typing import Any

import pytest

BODIES: dict[str, dict[str, Any]] = {
    "track": {"event": "Order Placed", "properties": {"n": 1}},
    "identify": {"traits": {"email": "a@b"}},
    "page": {"name": "Home"},
    "screen": {"name": "Home"},
    "group": {"groupId": "g"},
    "alias": {"previousId": "a-1"},
}
TYPES = ["Order Placed", "$identify", "$pageview", "$screen", "$groupidentify", "$create_alias"]


def basic(token: str) -> str:
    return "Basic " + b64encode(f"{token}:".encode()).decode()


def test_every_message_is_taken_by_its_path_and_in_a_batch(taking: Any) -> None:
    head = {"Authorization": basic(taking.token)}
    answers = [taking.post(f"/v1/{name}", {"userId": "ada", **body}, **head) for name, body in BODIES.items()]
    batch = [{"type": name, "userId": "ada", **body} for name, body in BODIES.items()]
    answers += [taking.post(path, {"batch": batch}, **head) for path in ("/v1/batch", "/v1/import")]

    assert [(answer.status, answer.json()) for answer in answers] == [(200, {"success": True})] * 8
    assert [kind for kind, _, _ in taking.values(18)] == TYPES * 3


@pytest.mark.parametrize("packed", [False, True])
def test_write_key_is_a_token_in_the_header_or_the_body(taking: Any, packed: bool) -> None:  # noqa: FBT001
    batch = [{"type": "track", "userId": "ada", "event": "e", "messageId": "m"}]
    text = json.dumps({"batch": batch, "writeKey": taking.token}).encode()
    head = {"Content_Encoding": "gzip"} if packed else {}
    content = gzip.compress(text) if packed else text

    assert taking.post("/v1/batch", content, **head).status == 200
    assert taking.post("/v1/batch", {"batch": batch}, Authorization=f"Bearer {taking.token}").status == 200
    assert taking.post("/v1/batch", {"batch": batch}).status == 401
    assert taking.post("/v1/batch", {"batch": batch}, Authorization="Basic ???").status == 401
    assert taking.post("/v1/batch", content, **head, Authorization=basic("unknown")).status == 401
    assert taking.post("/v1/track", {"writeKey": taking.reader, **batch[0]}).status == 403
    assert len({record.id for record in taking.events(2)}) == 1


def test_one_that_is_no_message_is_refused_and_the_others_are_taken(taking: Any) -> None:
    good = {"type": "track", "userId": "ada", "event": "e"}
    answer = taking.post("/v1/batch", {"batch": [good, {}, good], "writeKey": taking.token})

    assert answer.status == 400
    assert [error["index"] for error in answer.json()["errors"]] == [1]
    assert len(taking.events(2)) == 2


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"batch":1}', b"\xff", b'{"batch":' + b"[" * 100_000])
def test_hostile_bodies_are_refused(taking: Any, body: bytes) -> None:
    answer = taking.post("/v1/batch", body, Authorization=basic(taking.token))

    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
