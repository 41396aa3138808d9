"""Requests that bring more events than the intake ever holds: taken in parts, whoever's client sent them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from eventrec import EventRecorder
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import quickly
from eventrec_handlers.memory import MemoryHandler

COUNT = 30

BODIES: dict[str, Any] = {
    "/events/batch": [{"type": "opened", "number": n} for n in range(COUNT)],
    "/batch/": {
        "api_key": "any",
        "batch": [{"event": "opened", "distinct_id": "ada", "uuid": str(uuid4())} for _ in range(COUNT)],
    },
    "/i/v1/analytics/events": {
        "created_at": "2026-01-02T03:20:01Z",
        "batch": [
            {"event": "opened", "distinct_id": "ada", "uuid": str(uuid4()), "timestamp": "2026-01-02T03:20:01Z"}
            for _ in range(COUNT)
        ],
    },
    "/v1/batch": {"batch": [{"type": "track", "userId": "ada", "event": "opened"} for _ in range(COUNT)]},
    "/v1/logs": {
        "resourceLogs": [
            {"scopeLogs": [{"logRecords": [{"eventName": "opened", "body": {"stringValue": "x"}}] * COUNT}]}
        ]
    },
}

Serving: TypeAlias = Any


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("has_log", [False, True])
@pytest.mark.parametrize("bounds", [{"queue_events": 4}, {"queue_bytes": 2_000, "max_event_bytes": 1_000}])
async def test_more_events_than_the_intake_ever_holds_are_taken_in_parts(
    serving: Serving, tmp_path: Path, path: str, bounds: dict[str, int], *, has_log: bool
) -> None:
    handler = MemoryHandler()
    recorder = EventRecorder(handler, log=tmp_path if has_log else None, options=quickly(**bounds))

    async with serving(recorder) as client:
        answer = await client.post(path, BODIES[path])
        assert await recorder.flush(timeout=20)

    assert answer.status == 200, answer.body
    assert b"retry" not in answer.body
    assert len(handler.records) == COUNT
    assert recorder.status().refused == {}
    assert_conserved(recorder.status(), offered=COUNT)
