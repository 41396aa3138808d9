from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import grpc
import pytest

from eventrec import (
    TYPE,
    Batch,
    BatchTooLargeError,
    ColumnSchema,
    ColumnType,
    Event,
    EventRecorder,
    EventRecorderOptions,
    Layout,
    LayoutColumn,
    PartialError,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
    handler_from_url,
)
from eventrec.testing import assert_conserved
from eventrec_handlers.greptimedb import EventHandlerOptions, GreptimeDBHandler, UnknownStatusError

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Events = Callable[..., Event]

NUMBER = (ColumnSchema("n", ColumnType.INT64),)


async def test_a_batch_is_one_call_for_each_table_and_set_of_columns(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server)

    await handler.handle(
        batch(
            event(kind="a"),
            event(kind="b"),
            event(kind="a", into="others"),
            event(kind="a", columns=NUMBER, values=(1,)),
            event(kind="c"),
        )
    )

    sent = [
        (insert.table, len(insert.columns), [row[1] for row in insert.rows])
        for received in server.received
        for insert in received.request.inserts
    ]
    assert sorted(sent) == [("events", 4, ["a", "b", "c"]), ("events", 5, ["a"]), ("others", 4, ["a"])]


async def test_tables_are_written_at_once_and_one_table_in_order(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    """Two calls that would make the same table at once may stumble over each other."""
    pair = threading.Barrier(2, timeout=30)  # each call waits for one into the other table
    under_way: list[str] = []
    at_once: list[list[str]] = []

    def note(request: Any) -> None:
        under_way.append(request.inserts[0].table)
        pair.wait()
        at_once.append(sorted(under_way))
        pair.wait()
        under_way.remove(request.inserts[0].table)
        pair.wait()

    server.refuse = note
    handler = await opened(server)

    await handler.handle(
        batch(
            event(into="a"),
            event(into="b"),
            event(into="a", columns=NUMBER, values=(1,)),
            event(into="b", columns=NUMBER, values=(1,)),
        )
    )

    assert at_once == [["a", "b"]] * 4


async def test_hints_go_in_one_header_and_become_options_of_the_table(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server, options=EventHandlerOptions(ttl="90d", append_mode=True))

    await handler.handle(batch(event()))

    (received,) = server.received
    assert received.metadata["x-greptime-hints"] == "ttl=90d,append_mode=true,compaction.twcs.time_window=1day"
    assert server.tables["events"].options == {
        "ttl": "90d",
        "append_mode": "true",
        "compaction.twcs.time_window": "1day",
    }


async def test_ttl_is_the_recorders_where_the_handler_has_none(server: Any) -> None:
    url = f"greptimedb://127.0.0.1:{server.port}/?timeout=20s"
    async with EventRecorder(url, options=EventRecorderOptions(ttl="36h")) as recorder:
        recorder.record(Simple())
    async with EventRecorder(f"{url}&ttl=7d", options=EventRecorderOptions(ttl="36h")) as recorder:
        recorder.record(Simple())

    assert [received.metadata["x-greptime-hints"].partition(",")[0] for received in server.received] == [
        "ttl=1d 12h",
        "ttl=7d",
    ]


class Simple(Event):
    """A type alone."""


async def test_without_a_database_rows_go_to_the_private_one(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    for database in ("", "public", "their-metrics", "greptime-public"):
        handler = await opened(server, database=database)
        await handler.handle(batch(event()))

    assert [received.request.header for received in server.received] == [
        {"catalog": "greptime", "schema": "greptime_private", "dbname": "greptime_private"},
        {"catalog": "greptime", "schema": "public", "dbname": "public"},
        {"catalog": "their", "schema": "metrics", "dbname": "their-metrics"},
        {"catalog": "greptime", "schema": "public", "dbname": "public"},
    ]


async def test_a_repeat_carries_the_same_ids(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    handler = await opened(server)
    made = batch(event({"n": 1}), event({"n": 2}))

    await handler.handle(made)
    await handler.handle(made)

    ids = [row["id"] for _, row in server.rows]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


async def test_without_append_mode_a_repeat_overwrites_and_equal_times_do_not(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server, options=EventHandlerOptions(append_mode=False))
    made = batch(event({"n": 1}, at=7), event({"n": 2}, at=7))

    await handler.handle(made)
    await handler.handle(made)

    assert [row["payload"]["n"] for _, row in server.rows] == [1, 2]


async def test_batch_that_was_prepared_is_not_encoded_again(
    server: Any, opened: Any, batch: Batches, event: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = await opened(server)
    made, other = batch(event({"n": 1})), batch(event({"n": 2}), start=1)
    await handler.prepare(made)
    encode = handler._rows.inserts
    encoded: list[Batch] = []

    async def noted(batch: Batch) -> Any:
        encoded.append(batch)
        return await encode(batch)

    monkeypatch.setattr(handler._rows, "inserts", noted)
    await handler.handle(made)
    await handler.prepare(made)
    await handler.handle(other)

    assert encoded == [made, other]
    assert [row["payload"]["n"] for _, row in server.rows] == [1, 2]


async def test_record_that_cannot_be_sent_is_named_before_anything_is(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server)

    with pytest.raises(PermanentError, match="not a JSON value") as raised:
        await handler.handle(batch(event(into="a"), ReceivedEvent("bad", b'{"no": JSON}'), event(into="b")))

    assert list(raised.value.records) == [1]
    assert server.received == []


# -- part of a batch


def parts(batch: Batches, event: Events) -> Batch:
    """A batch for three tables."""
    return batch(*(event({"n": n}, into="abc"[n % 3]) for n in range(9)))


@pytest.mark.parametrize("code", [1004, 1003, 1000, 7002])
async def test_what_went_through_is_not_sent_again_because_another_table_failed(
    server: Any, opened: Any, batch: Batches, event: Events, code: int
) -> None:
    handler = await opened(server)
    server.refusals["b"] = server.refusal(code, "staged")

    with pytest.raises(PartialError) as raised:
        await handler.handle(parts(batch, event))

    assert sorted(raised.value.errors) == [1, 4, 7]
    assert {type(error) for error in raised.value.errors.values()} == {PauseError if code == 7002 else TransientError}
    assert {table for table, _ in server.rows} == {"a", "c"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [(1004, PermanentError), (1003, TransientError), (1000, UnknownStatusError), (7002, PauseError)],
)
async def test_where_nothing_went_through_the_failure_has_its_own_name(
    server: Any, opened: Any, batch: Batches, event: Events, *, code: int, expected: type[Exception]
) -> None:
    handler = await opened(server)
    server.refusals["a"] = server.refusal(code, "staged")

    with pytest.raises(expected, match=str(code)):
        await handler.handle(batch(event(into="a"), event(into="a")))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((1004, 1003, 7002), PauseError),
        ((1004, 1003, 1000), TransientError),
        ((1004, 1000, 1004), UnknownStatusError),
        ((1004, 1004, 1004), PermanentError),
    ],
)
async def test_of_several_failures_the_one_that_stops_the_most_is_raised(
    server: Any, opened: Any, batch: Batches, event: Events, *, codes: tuple[int, ...], expected: type[Exception]
) -> None:
    handler = await opened(server)
    for table, code in zip("abc", codes, strict=True):
        server.refusals[table] = server.refusal(code, "staged")

    with pytest.raises(expected):
        await handler.handle(parts(batch, event))


async def test_recorder_sets_aside_what_one_table_refuses_and_sends_the_rest_once(server: Any) -> None:
    server.refusals["b"] = server.refusal(1004, "type conflict")
    options = EventRecorderOptions(flush_interval=0.01, retry={"first": 0.01, "max": 0.05})  # type: ignore[arg-type]

    async with EventRecorder(f"greptimedb://127.0.0.1:{server.port}/?timeout=20s", options=options) as recorder:
        recorder.record_many(InTable("abc"[n % 3]) for n in range(30))

    (part,) = recorder.status().subscriptions.values()
    assert (part.delivered, part.dead, part.pending) == (20, 10, 0)
    assert sorted(table for table, _ in server.rows) == ["a"] * 10 + ["c"] * 10
    assert_conserved(recorder.status(), offered=30)


class InTable(Event):
    """An event for a table of the test's choice."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def table(self) -> str:
        return self.name


# -- the command


def test_lines_of_a_file_are_recorded_by_the_command(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"type": "seen", "n": {n}}}\n' for n in range(2_500)), encoding="utf-8")
    url = f"greptimedb://127.0.0.1:{server.port}/public?ttl=7d&timeout=20s"

    done = subprocess.run(
        [sys.executable, "-m", "eventrec", "record", path, "--to", url], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert sorted(row["payload"]["n"] for _, row in server.rows) == list(range(2_500))
    assert server.tables["events"].options["ttl"] == "7d"


# -- size


async def test_part_above_the_bound_is_split_by_the_worker(server: Any) -> None:
    url = f"greptimedb://127.0.0.1:{server.port}/?timeout=20s&max_request_bytes=5000"
    async with EventRecorder(url) as recorder:
        recorder.record_many(Large() for _ in range(20))

    (part,) = recorder.status().subscriptions.values()
    assert (part.delivered, part.dead) == (20, 0)
    assert len(server.rows) == 20
    assert len(server.received) >= 5


class Large(Event):
    """A kilobyte."""

    @property
    def payload(self) -> object:
        return "x" * 1_000


async def test_part_that_the_server_finds_too_large_is_named_so(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(make_server(max_message=200_000))

    with pytest.raises(BatchTooLargeError, match="larger than max"):
        await handler.handle(batch(event("x" * 300_000)))


# -- opened and closed


async def test_closed_handler_sends_nothing(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    handler = await opened(server)
    await handler.close()

    with pytest.raises(RuntimeError, match="closed"):
        await handler.handle(batch(event()))

    assert server.received == []


async def test_close_is_quick_while_the_server_hangs(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    handler = await opened(server, timeout=60)
    server.acts.append(server.hang)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handler.handle, batch(event()))
            await anyio.to_thread.run_sync(server.hangs.wait, 10)
            tasks.cancel_scope.cancel()
        await handler.close()

    assert repr(handler).endswith("closed>")


async def test_recorder_closes_within_its_time_while_the_server_hangs(server: Any) -> None:
    server.acts.extend([server.hang] * 5)

    with anyio.fail_after(120):
        async with EventRecorder(
            f"greptimedb://127.0.0.1:{server.port}", options=EventRecorderOptions(close_timeout=0.2)
        ) as recorder:
            recorder.record(Simple())

    (part,) = recorder.status().subscriptions.values()
    assert part.delivered == 0


def test_password_is_shown_nowhere() -> None:
    handler = handler_from_url("greptimedb://me:secret@127.0.0.1:1/db")

    assert isinstance(handler, GreptimeDBHandler)
    assert "secret" not in f"{handler!r} {handler._target!r} {handler._target}"
    assert repr(handler) == "<GreptimeDBHandler 'greptimedb://127.0.0.1:1/db' closed>"


async def test_error_names_the_place_and_no_password(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    handler = await opened(server, identity="me:secret@")
    server.refuse_all(message="who are you?", status=grpc.StatusCode.UNAUTHENTICATED)

    with pytest.raises(PauseError) as raised:
        await handler.handle(batch(event()))

    assert str(raised.value) == f"greptimedb://127.0.0.1:{server.port}/greptime_private: UNAUTHENTICATED: who are you?"


async def test_a_layout_is_not_used_and_that_is_remarked(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server)
    handler.use_layouts({name: Layout(name, [LayoutColumn("kind", TYPE, "text")]) for name in ("visits", "never")})
    await handler.handle(batch(event(into="others")))
    assert handler.remarks == ()

    await handler.handle(batch(event(into="visits")))

    (remark,) = handler.remarks
    assert "it makes 'visits' of the records' own columns" in remark
