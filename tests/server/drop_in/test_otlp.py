from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.testing.account import assert_conserved
from eventrec_handlers.otlp import OTLPHandler

PROTOBUF = "application/x-protobuf"
NOW = 1_767_312_001_000_000_000


def request(*names: str) -> bytes:
    found = ExportLogsServiceRequest()
    records = found.resource_logs.add().scope_logs.add().log_records
    for name in names:
        record = records.add(event_name=name, time_unix_nano=NOW)
        record.body.string_value = "x"
    return found.SerializeToString()


def as_json(*names: str) -> bytes:
    records = [{"eventName": name, "body": {"stringValue": "x"}, "timeUnixNano": str(NOW)} for name in names]
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()


def head(taking: Any, media_type: str = PROTOBUF) -> dict[str, str]:
    return {"Authorization": f"Bearer {taking.token}", "Content_Type": media_type}


def test_records_are_taken_in_either_encoding(taking: Any) -> None:
    binary = taking.post("/v1/logs", request("a", "b"), **head(taking))
    text = taking.post("/v1/logs", as_json("c"), **head(taking, "application/json; charset=utf-8"))
    packed = taking.post("/v1/logs", gzip.compress(request("d")), **head(taking), Content_Encoding="gzip")

    assert (binary.status, binary.headers["content-type"], binary.content) == (200, PROTOBUF, b"")
    assert (text.status, text.headers["content-type"], text.json()) == (200, "application/json", {})
    assert packed.status == 200
    assert [kind for kind, _, _ in taking.values(4)] == ["a", "b", "c", "d"]


def test_request_that_is_sent_again_is_the_same_events(taking: Any) -> None:
    for _ in range(2):
        taking.post("/v1/logs", request("a", "a"), **head(taking))

    assert len({record.id for record in taking.events(4)}) == 2


def test_records_that_are_refused_are_counted_and_the_others_taken(taking: Any) -> None:
    some = taking.post("/v1/logs", request("a", "x" * 300, "y" * 300), **head(taking))
    text = taking.post("/v1/logs", as_json("b", "x" * 300), **head(taking, "application/json"))
    every = taking.post("/v1/logs", request("x" * 300), **head(taking))
    none = taking.post("/v1/logs", b"", **head(taking))

    said = ExportLogsServiceResponse.FromString(some.content).partial_success
    assert (some.status, said.rejected_log_records) == (200, 2)
    assert said.error_message.startswith("record 1: its event name")
    assert text.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    assert ExportLogsServiceResponse.FromString(every.content).partial_success.rejected_log_records == 1
    assert (every.status, none.status, none.content) == (200, 200, b"")
    assert [kind for kind, _, _ in taking.values(2)] == ["a", "b"]


def test_errors_are_a_status_in_the_encoding_of_the_request(start: Callable[..., Any]) -> None:
    taking = start(max_elements=2, max_body_bytes=10_000)
    for content, headers, status, code in (
        (b"\xff", head(taking), 400, 3),
        (request("a", "b", "c"), head(taking), 413, 8),
        (bytes(10_001), head(taking), 413, 8),
        (b"x", {**head(taking), "Content_Encoding": "gzip"}, 400, 3),
        (b"x", {**head(taking), "Content_Encoding": "br"}, 415, 3),
        (request("a"), {"Content_Type": PROTOBUF}, 401, 16),
        (request("a"), {**head(taking), "Authorization": f"Bearer {taking.reader}"}, 403, 7),
    ):
        answer = taking.post("/v1/logs", content, **headers)
        error = Status.FromString(answer.content)
        assert (answer.status, answer.headers["content-type"], error.code) == (status, PROTOBUF, code)
        assert error.message
    text = taking.post("/v1/logs", b"{", **head(taking, "application/json"))
    other = taking.post("/v1/logs", b"", **head(taking, "text/plain"))

    assert (text.status, text.json()["code"]) == (400, 3)
    assert (other.status, other.json()["code"]) == (415, 3)
    assert taking.events(0) == []


def test_client_is_told_to_come_again_where_the_recorder_has_closed(taking: Any) -> None:
    taking.recorder.disable()

    answer = taking.post("/v1/logs", request("a"), **head(taking))

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert Status.FromString(answer.content).code == 14


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
async def test_our_own_handler_delivers_to_it(taking: Any, encoding: Any) -> None:
    handler = OTLPHandler(taking.web.url, encoding=encoding, headers={"Authorization": f"Bearer {taking.token}"})
    recorder = EventRecorder(handler, options=EventRecorderOptions(flush_interval=0.01))
    context = b'{"service":"shop","distinct_id":"ada"}'
    async with recorder:
        recorder.record(ReceivedEvent("opened", b'{"n":1}', NOW, table="orders", context=context))
        assert await recorder.flush(30)
    assert_conserved(recorder.status(), offered=1)

    assert taking.values(1) == [("opened", {"n": 1}, {"service": "shop", "distinct_id": "ada"})]
    assert (taking.memory.records[0].table, taking.memory.records[0].timestamp) == ("orders", NOW)


def test_resource_that_all_records_repeat_counts_as_memory(start: Callable[..., Any]) -> None:
    taking = start(max_body_memory=2_000_000)
    said = ExportLogsServiceRequest()
    logs = said.resource_logs.add()
    logs.resource.attributes.add(key="x").value.string_value = "y" * 100_000
    logs.scope_logs.add().log_records.extend([LogRecord()] * 50)

    for _ in range(3):
        answer = taking.post("/v1/logs", said.SerializeToString(), **head(taking))
        assert answer.status == 413, "alone it is more than there is for all"
        assert "retry-after" not in answer.headers

    assert taking.post("/v1/logs", request("a"), **head(taking)).status == 200, "what it held is free again"
    assert len(taking.events(1)) == 1


def test_a_body_that_comes_too_slowly_is_to_be_sent_again_after_as_long_as_the_option_says(
    start: Callable[..., Any], over_socket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.server.protocol._LINGER_SECONDS", 0.1)
    taking = start(body_timeout="100ms", retry_after=7)
    lines = ["POST /v1/logs HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {taking.token}"]
    lines += [f"Content-Type: {PROTOBUF}", "Content-Length: 3", "", "a"]

    with taking.web.connection() as connection:
        answer = over_socket[0](connection, "\r\n".join(lines).encode())

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 7\r\n" in answer.lower()
