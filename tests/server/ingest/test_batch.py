"""`POST /events/batch`: 200 means written, what is refused is named, and nothing a client sends makes a 500."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import pytest

from eventrec import Batch, Column, EventModel, EventRecorder, PermanentError, TransientError
from eventrec.analytics import Catalogue
from eventrec.errors import LogWriteError
from eventrec.log.log import Log
from eventrec.server import ServerOptions
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import quickly, raising
from eventrec_handlers.memory import MemoryHandler

Serving: TypeAlias = Callable[..., Any]

PATH = "/events/batch"
AT = "2026-01-31T10:00:00.123456789Z"
NS = 1_769_853_600_123_456_789
IDS = [f"6f9619ff-8b86-8011-b42d-00cf4fc9640{n}" for n in range(3)]
LINES = "application/x-ndjson"
ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"


def envelope(n: int = 0, **more: object) -> dict[str, object]:
    return {"timestamp": AT, "event": {"type": "task_created", "n": n}, **more}


def rows(handler: MemoryHandler) -> list[tuple[str, str, str, int, str]]:
    """Id, type, table, timestamp and payload of all that arrived."""
    return [(each.id, each.type, each.table, each.timestamp, each.payload.decode()) for each in handler.records]


class Failing(MemoryHandler):
    """Refuses what `error` says while there is one."""

    error: Exception | None = TransientError("down")

    async def handle(self, batch: Batch) -> None:
        if self.error is not None:
            raise self.error
        await super().handle(batch)


# -- what is taken


async def test_envelopes_are_written_before_200_and_delivered(serving: Serving, tmp_path: Path) -> None:
    handler = MemoryHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    async with serving(recorder) as client:
        answer = await client.post(PATH, [envelope(n, id=IDS[n], hostname="h", environment="e") for n in range(3)])

        assert (answer.status, answer.json) == (200, {"received": 3})
        assert recorder.status().appended == 3
        await recorder.flush(timeout=60)

    assert rows(handler) == [
        (IDS[n], "task_created", "events", NS, json.dumps({"type": "task_created", "n": n}, separators=(",", ":")))
        for n in range(3)
    ]
    assert {each.context for each in handler.records} == {b'{"host":"h","environment":"e"}'}


async def test_without_a_log_200_waits_for_every_destination(serving: Serving) -> None:
    handlers = [MemoryHandler(), MemoryHandler()]
    recorder = EventRecorder(options=quickly())
    for name, handler in zip("ab", handlers, strict=True):
        recorder.register(handler, name=name)
    async with serving(recorder) as client:
        answer = await client.post(PATH, [envelope(), envelope()])

        assert (answer.status, answer.json) == (200, {"received": 2})
        assert [len(handler.records) for handler in handlers] == [2, 2]


@pytest.mark.parametrize("body", [[], "[ ]"])
async def test_nothing_is_received_where_nothing_is_sent(serving: Serving, body: object) -> None:
    async with serving(EventRecorder(options=quickly())) as client:
        answer = await client.post(PATH, body)
        lines = await client.post(PATH, b"", content_type=LINES)

    assert (answer.status, answer.json) == (lines.status, lines.json) == (200, {"received": 0})


async def test_every_form_is_taken(serving: Serving, tmp_path: Path) -> None:
    handler = MemoryHandler()
    cloud = {"specversion": "1.0", "id": "7", "source": "/s", "type": "cloud", "data": {"a": 1}}
    own = {"id": IDS[0], "type": "own", "timestamp": 5, "table": "mine", "payload": {"a": 1}}
    binary = {"ce_specversion": "1.0", "ce_id": "8", "ce_source": "/s", "ce_type": "binary"}
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    async with serving(recorder) as client:
        answers = [
            await client.post(PATH, {"type": "single"}),
            await client.post(PATH, [own, {"type": "foreign"}], content_type="application/json; charset=UTF-8"),
            await client.post(PATH, '{"type":"line"}\n\n{"type":"line"}\n', content_type=LINES),
            await client.post(PATH, cloud, content_type=ONE),
            await client.post(PATH, [cloud, cloud], content_type=MANY),
            await client.post(PATH, b"\x89P", content_type="image/png", **binary),
            await client.post(PATH, b"", content_type=None, **binary),
        ]
        await recorder.flush(timeout=60)

    assert [(answer.status, answer.json["received"]) for answer in answers] == [
        (200, count) for count in (1, 2, 2, 1, 2, 1, 1)
    ]
    kinds = ["single", "own", "foreign", "line", "line", "cloud", "cloud", "cloud", "binary", "binary"]
    assert [each.type for each in handler.records] == kinds
    assert rows(handler)[1] == (IDS[0], "own", "mine", 5, '{"a":1}')
    assert len({each.id for each in handler.records}) == len(kinds) - 3  # a CloudEvent is known by source and id


async def test_events_go_where_the_catalogue_or_the_request_says(serving: Serving, tmp_path: Path) -> None:
    class TaskCreated(EventModel, table="analytics_events"):
        n: Annotated[int, Column()]

    handler = MemoryHandler()
    catalogue = Catalogue(name="c", events=[TaskCreated], aliases={"task_made": "task_created"})
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    async with serving(recorder, catalogue=catalogue) as client:
        await client.post(PATH, [envelope(), {"timestamp": AT, "event": {"type": "task_made"}}, {"type": "other"}])
        await client.post(f"{PATH}?table=elsewhere", [envelope()])
        await recorder.flush(timeout=60)

    assert [(each.type, each.table) for each in handler.records] == [
        ("task_created", "analytics_events"),
        ("task_created", "analytics_events"),
        ("other", "events"),
        ("task_created", "elsewhere"),
    ]


async def test_a_request_that_is_sent_again_with_its_key_brings_the_same_ids(serving: Serving, tmp_path: Path) -> None:
    handler = MemoryHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    async with serving(recorder) as client:
        for key in ("one", "one", "two"):
            await client.post(PATH, [{"type": "a"}, envelope()], idempotency_key=key)
        await recorder.flush(timeout=60)

    ids = [each.id for each in handler.records]
    assert ids[:2] == ids[2:4]
    assert len({*ids}) == 4


# -- what is refused


async def test_what_cannot_be_taken_is_named_by_its_index_and_the_rest_is_taken(
    serving: Serving, tmp_path: Path
) -> None:
    handler = MemoryHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(max_event_bytes=1_000))
    bad = {"timestamp": "secret", "event": {"type": "x"}}
    own = {"id": IDS[0], "type": "own", "timestamp": 5, "table": "t", "payload": 1, "columns": {"n": 2**70}}
    async with serving(recorder) as client:
        answer = await client.post(PATH, [envelope(), bad, 5, {"type": "a", "x": "y" * 2_000}, own, {"type": "b"}])
        await recorder.flush(timeout=60)

    assert answer.status == 200
    assert (answer.json["received"], answer.json["rejected"]) == (2, 4)
    assert [error["index"] for error in answer.json["errors"]] == [1, 2, 3, 4]
    assert answer.headers["eventrec-rejected"] == "4"
    assert b"secret" not in answer.body
    assert [each.type for each in handler.records] == ["task_created", "b"]


async def test_an_event_with_an_id_of_its_own_is_never_stored_as_another_one(serving: Serving, tmp_path: Path) -> None:
    handler = MemoryHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    good = {"id": IDS[0], "type": "own", "timestamp": "2026-01-31t10:00:00", "table": "orders", "payload": {"a": 1}}
    wrong = ({"timestamp": "2026-02-30T10:00:00Z"}, {"id": f"{{{IDS[0]}}}"}, {"table": ""})
    async with serving(recorder) as client:
        answers = [await client.post(PATH, [good, *({**good, **each} for each in wrong)]) for _ in range(2)]
        await recorder.flush(timeout=60)

    assert [[error["index"] for error in answer.json["errors"]] for answer in answers] == [[1, 2, 3]] * 2
    assert rows(handler) == [(IDS[0], "own", "orders", NS // 10**9 * 10**9, '{"a":1}')] * 2


async def test_where_all_are_refused_it_is_422_with_the_first_hundred(serving: Serving, tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly())
    async with serving(recorder) as client:
        answer = await client.post(PATH, [5] * 150)

    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json["rejected"], len(answer.json["errors"])) == (150, 100)
    assert recorder.status().offered == 0


async def test_all_or_none_records_none_where_one_is_refused(serving: Serving, tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly(max_event_bytes=1_000))
    late = {"id": IDS[0], "type": "own", "timestamp": 5, "table": "t", "payload": 1, "context": [1]}
    async with serving(recorder) as client:
        unread = await client.post(f"{PATH}?atomic=true", [envelope(), 5])
        unencodable = await client.post(f"{PATH}?atomic=true", [envelope(), late, envelope()])
        assert recorder.status().appended == 0
        taken = await client.post(f"{PATH}?atomic=true", [envelope(), envelope()])

    assert [error["index"] for error in unread.json["errors"]] == [1]
    assert [error["index"] for error in unencodable.json["errors"]] == [1]
    assert (unread.status, unencodable.status, taken.status) == (422, 422, 200)
    assert recorder.status().appended == 2
    assert_conserved(recorder.status(), offered=5)


@pytest.mark.parametrize(
    ("status", "body", "how"),
    [
        (400, "[{", {}),
        (400, "", {}),
        (400, b'{"a":"\xff}', {}),
        (400, "[]", {"path": f"{PATH}?atomic=perhaps"}),
        (400, "[]", {"path": f"{PATH}?table={'x' * 300}"}),
        (400, "[{}]", {"path": f"{PATH}?atomc=true"}),
        (400, "[{}]", {"path": f"{PATH}?atomic=false&atomic=true"}),
        (400, "[]", {"idempotency_key": "k" * 300}),
        (413, "[{},{},{},{},{},{}]", {}),
        (413, "{}\n" * 6, {"content_type": LINES}),
        (415, "[]", {"content_type": "text/plain"}),
        (415, "[]", {"content_type": None}),
        (415, "[]", {"content_type": "application/json; charset=utf-16"}),
        (422, "5", {}),
        (422, "[]", {"content_type": ONE}),
        (422, "{}", {"content_type": MANY}),
        (422, '[{"a":' + "[" * 300 + "]" * 300 + "}]", {}),
        (422, '{"a":' + "[" * 60_000 + "]" * 60_000 + "}", {}),
        (422, "", {"content_type": None, "ce_specversion": "0.3"}),
        (422, "{", {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}),
    ],
)
async def test_each_refusal_has_its_status(
    serving: Serving, tmp_path: Path, status: int, body: str | bytes, how: dict[str, Any]
) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly())
    async with serving(recorder, options=ServerOptions(max_elements=5)) as client:
        answer = await client.post(**{"path": PATH, "body": body, **how})

    assert answer.status == status, answer.body
    assert answer.json["status"] == status
    assert recorder.status().offered == 0


# -- what cannot be taken now


async def test_a_full_intake_is_429_where_it_takes_none_and_told_of_those_it_does_not_take(serving: Serving) -> None:
    handler = Failing()
    recorder = EventRecorder(handler, options=quickly(queue_events=4, retry={"first": 60}, close_timeout=0.1))
    options = ServerOptions(ingest_timeout=0.05, retry_after=1.5)
    async with serving(recorder, options=options) as client:
        with anyio.fail_after(60):
            while (await client.post(PATH, [envelope()])).status != 429:  # the log in memory is full as well
                pass
        atomic = await client.post(f"{PATH}?atomic=true", [envelope(), envelope()])
        full = await client.post(PATH, [envelope(), envelope()])

    for answer in (atomic, full):
        assert answer.status == 429
        assert answer.headers["retry-after"] == "2"
        assert [(error["index"], error["retry"]) for error in answer.json["errors"]] == [(0, True), (1, True)]
    assert_conserved(recorder.status())


@pytest.mark.parametrize("has_log", [False, True])
@pytest.mark.parametrize("bounds", [{"queue_events": 4}, {"queue_bytes": 2_000, "max_event_bytes": 1_000}])
async def test_all_or_none_of_more_than_the_intake_ever_holds_is_not_to_be_sent_again(
    serving: Serving, tmp_path: Path, bounds: dict[str, int], *, has_log: bool
) -> None:
    recorder = EventRecorder(MemoryHandler(), log=tmp_path if has_log else None, options=quickly(**bounds))
    async with serving(recorder) as client:
        answer = await client.post(f"{PATH}?atomic=true", [envelope(n) for n in range(30)])
        fewer = await client.post(f"{PATH}?atomic=true", [envelope(n) for n in range(2)])

    assert (answer.status, answer.json["rejected"]) == (413, 30)
    assert "retry-after" not in answer.headers
    assert fewer.status == 200
    assert_conserved(recorder.status(), offered=32)


async def test_what_is_taken_and_not_delivered_in_time_is_503(serving: Serving) -> None:
    handler = Failing()
    recorder = EventRecorder(handler, options=quickly())
    async with serving(recorder, options=ServerOptions(ingest_timeout=0.05)) as client:
        answer = await client.post(PATH, [envelope(id=IDS[0])])
        handler.error = None
        again = await client.post(PATH, [envelope(id=IDS[0])])
        while again.status != 200:
            again = await client.post(PATH, [envelope(id=IDS[0])])

    assert answer.status == 503
    assert "taken" in answer.json["detail"]
    assert answer.headers["retry-after"] == "1"
    assert {each.id for each in handler.records} == {IDS[0]}


async def test_what_a_destination_refuses_for_good_is_not_200_where_there_is_no_log(serving: Serving) -> None:
    handler = Failing()
    handler.error = PermanentError("no")
    async with serving(EventRecorder(handler, options=quickly())) as client:
        answer = await client.post(PATH, [envelope()])

    assert answer.status == 503
    assert "1 dead" in answer.json["detail"]


async def test_requests_that_wait_at_once_share_a_flush(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = 0
    flush = EventRecorder.flush

    async def counted(self: EventRecorder, timeout: Any = None) -> Any:  # noqa: ASYNC109 - as it is
        nonlocal flushes
        flushes += 1
        await anyio.wait_all_tasks_blocked()
        return await flush(self, timeout)

    monkeypatch.setattr(EventRecorder, "flush", counted)
    handler = MemoryHandler()
    statuses: list[int] = []
    async with serving(EventRecorder(handler, options=quickly())) as client:

        async def ask() -> None:
            statuses.append((await client.post(PATH, [envelope()])).status)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
        assert len(handler.records) == 20

    assert statuses == [200] * 20
    assert flushes == 2  # the first one's, and that of all who came while it ran


async def test_one_that_flushes_for_others_may_be_cancelled(serving: Serving) -> None:
    handler = Failing()
    statuses: list[int] = []
    async with serving(EventRecorder(handler, options=quickly())) as client, anyio.create_task_group() as tasks:

        async def ask() -> None:
            statuses.append((await client.post(PATH, [envelope()])).status)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as first:
                first.start_soon(client.post, PATH, [envelope()])
                await anyio.wait_all_tasks_blocked()
                for _ in range(3):
                    tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                handler.error = None
                scope.cancel()

    assert statuses == [200] * 3
    assert len(handler.records) == 4


async def test_a_log_that_cannot_be_written_is_503_and_takes_nothing_more(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EventRecorder(log=tmp_path / "secret", options=quickly(close_timeout=0.1))
    async with serving(recorder) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Log, "write", raising(LogWriteError("the disk is ill")))
            answers = [await client.post(PATH, [envelope()]) for _ in range(3)]
            assert recorder.status().offered <= 1

    assert [(answer.status, answer.headers["retry-after"]) for answer in answers] == [(503, "1")] * 3
    assert not any(b"secret" in answer.body or b"ill" in answer.body for answer in answers)
    assert_conserved(recorder.status())


@pytest.mark.parametrize("has_log", [True, False])
async def test_a_recorder_that_closes_or_is_switched_off_is_503(
    serving: Serving, tmp_path: Path, *, has_log: bool
) -> None:
    log = tmp_path if has_log else None
    closed, off = (EventRecorder(MemoryHandler(), log=log, options=quickly()) for _ in range(2))
    async with serving(closed) as client:
        await closed.close()
        late = await client.post(PATH, [envelope()])
    async with serving(off) as client:
        off.disable()
        refused = await client.post(PATH, [envelope()])

    assert (late.status, refused.status) == (503, 503)
    assert "retry-after" in late.headers


async def test_what_a_recorder_does_not_want_is_received_all_the_same(serving: Serving, tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly(event_types=["wanted"]))
    async with serving(recorder) as client:
        answer = await client.post(PATH, [{"type": "wanted"}, {"type": "unwanted"}])

    assert (answer.status, answer.json) == (200, {"received": 2})
    assert recorder.status().refused == {"filtered": 1}


HOSTILE: list[bytes] = [
    b"\x00" * 100,
    b"\xff\xfe[\x00]\x00",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'[{"type":"\xed\xa0\x80"}]',
    b'[{"specversion":"1.0","id":"1","source":"s","type":"t","table":"t","time":"' + AT.encode() + b'","context":5}]',
    b'[{"specversion":"1.0","id":"'
    + IDS[0].encode()
    + b'","source":"s","type":"t","table":"t","time":"'
    + AT.encode()
    + b'","columns":"{\\"a\\":1e999}"}]',
    b'[{"id":"' + IDS[0].encode() + b'","type":"t","timestamp":99999999999999999999,"table":"t","payload":1}]',
    b'[{"id":"' + IDS[0].encode() + b'","type":"t","timestamp":1,"table":"t","payload":1,"context":"\\ud800"}]',
    b'[{"timestamp":1e400,"event":{"type":"x"}}]',
    b'[{"timestamp":' + b"9" * 5_000 + b',"event":{"type":"x"}}]',
    b'[{"timestamp":1,"id":' + b"9" * 5_000 + b',"event":{"type":"x"}}]',
    b'[{"timestamp":1,"event":{"type":"' + b"\\u0000" * 10 + b'"}}]',
    b"[" + b"1," * 200_000 + b"1]",
    b"[" + b'{"":[{}]},' * 60_000 + b"{}]",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:12].decode("latin-1"))
async def test_hostile_bodies_are_taken_or_refused_and_the_next_request_is_answered(
    serving: Serving, tmp_path: Path, body: bytes
) -> None:
    recorder = EventRecorder(MemoryHandler(), log=tmp_path, options=quickly())
    async with serving(recorder) as client:
        answers = [await client.post(PATH, body, content_type=kind) for kind in ("application/json", LINES, ONE, MANY)]
        after = await client.post(PATH, [envelope()])

    assert {answer.status for answer in answers} <= {200, 400, 413, 422}
    assert after.status == 200
    assert_conserved(recorder.status())
