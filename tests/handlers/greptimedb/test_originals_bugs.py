"""What GreptimeDB's own recorder does wrong, or did, tried on ours: each event through a recorder to a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import pytest

from eventrec import (
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    Row,
    Timestamp,
)
from eventrec.testing import assert_conserved

pytestmark = pytest.mark.handlers

IMPATIENT = EventRecorderOptions(flush_interval=0.01, retry={"first": 0.01, "max": 0.02})  # type: ignore[arg-type]


def url(server: Any) -> str:
    return f"greptimedb://127.0.0.1:{server.port}/?timeout=20s"


class Numbered(Event):
    """An event of a type, for a table, and perhaps with columns."""

    def __init__(
        self,
        number: object,
        *,
        kind: str = "numbered",
        into: str = "events",
        schema: Sequence[ColumnSchema] = (),
        rows: Sequence[Row] = ((),),
    ) -> None:
        self.number, self.kind, self.into, self.schema, self.rows = number, kind, into, schema, rows

    @property
    def type(self) -> str:
        return self.kind

    @property
    def table(self) -> str:
        return self.into

    @property
    def payload(self) -> object:
        return {"n": self.number}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.schema

    def extra_rows(self) -> Sequence[Row]:
        return self.rows


REGION = (ColumnSchema("region", ColumnType.UINT64),)


async def test_bug_cancelling_loses_what_is_still_in_the_channel(server: Any) -> None:
    with anyio.CancelScope() as scope:
        async with EventRecorder(url(server), options=EventRecorderOptions.reference()) as recorder:
            recorder.record_many(Numbered(n) for n in range(1_000))
            scope.cancel()

    assert sorted(row["payload"]["n"] for _, row in server.rows) == list(range(1_000))
    assert_conserved(recorder.status(), offered=1_000)


async def test_bug_group_that_fails_sends_the_groups_before_it_again(server: Any) -> None:
    failures = {"b": 3}

    def refuse(request: Any) -> None:
        (insert,) = request.inserts
        if failures.get(insert.table, 0):
            failures[insert.table] -= 1
            raise server.refusal(1003)

    server.refuse = refuse
    async with EventRecorder(url(server), options=IMPATIENT) as recorder:
        recorder.record_many(Numbered(n, into="abc"[n % 3]) for n in range(30))
        assert await recorder.flush(timeout=20)

    assert Counter(row["payload"]["n"] for _, row in server.rows) == Counter(range(30))
    assert failures == {"b": 0}


async def test_bug_retry_and_further_rows_shift_the_time_of_an_event(server: Any) -> None:
    server.acts.extend([_refuse_once(server)] * 2)
    ticks = iter(range(1_000, 9_000))

    async with EventRecorder(url(server), options=IMPATIENT, clock=lambda: next(ticks)) as recorder:
        recorder.record(Numbered(1, schema=REGION, rows=[(1,), (2,), (3,)]))
        assert await recorder.flush(timeout=20)

    sent = [row[2] for received in server.received for row in received.request.inserts[0].rows]
    assert len(sent) == 9
    assert set(sent) == {1_000}


def _refuse_once(server: Any) -> Any:
    def act(_: Any) -> None:
        raise server.refusal(1003)

    return act


async def test_bug_time_of_another_unit_is_stored_as_nanoseconds(server: Any) -> None:
    class Seen(EventModel):
        at: Annotated[datetime, Timestamp()]
        since: Annotated[datetime, Column(ColumnType.TIMESTAMP_MILLISECOND)]

    noon = datetime(2026, 11, 28, 12, 0, 0, 123_456, tzinfo=UTC)
    async with EventRecorder(url(server)) as recorder:
        recorder.record(Seen(at=noon, since=noon))

    ((_, row),) = server.rows
    assert row["timestamp"] == 1_795_867_200_123_456_000
    assert row["since"] == 1_795_867_200_123


async def test_bug_event_without_a_payload_that_can_be_stored_fails_all_types(server: Any) -> None:
    async with EventRecorder(url(server), options=IMPATIENT) as recorder:
        taken = [
            recorder.record(Numbered(1, kind="a")),
            recorder.record(Numbered(object(), kind="b")),
            recorder.record(Numbered(float("nan"), kind="c")),
            recorder.record(Numbered(2**64 + 1, kind="d")),  # JSON, but beyond what the database's JSON can hold
            recorder.record(Numbered(2, kind="e")),
        ]

    (part,) = recorder.status().subscriptions.values()
    assert taken == [True, False, False, True, True]
    assert (part.delivered, part.dead) == (2, 1)
    assert [row["payload"]["n"] for _, row in server.rows] == [1, 2]


async def test_bug_event_goes_to_the_table_of_the_first_one_of_its_type(server: Any) -> None:
    async with EventRecorder(url(server)) as recorder:
        recorder.record_many(Numbered(n, into=("one", "two")[n % 2]) for n in range(6))

    assert sorted((table, row["payload"]["n"]) for table, row in server.rows) == [
        *(("one", n) for n in (0, 2, 4)),
        *(("two", n) for n in (1, 3, 5)),
    ]


async def test_bug_row_that_is_wider_than_its_schema_is_sent(server: Any) -> None:
    given: list[list[Row]] = [[(1,)], [(1, 2)], [()]]

    async with EventRecorder(url(server)) as recorder:
        taken = [recorder.record(Numbered(1, schema=REGION, rows=rows)) for rows in given]

    assert taken == [True, False, False]
    assert [row["region"] for _, row in server.rows] == [1]


async def test_bug_hint_of_the_time_window_is_dropped(server: Any) -> None:
    async with EventRecorder(url(server), options=EventRecorderOptions.reference()) as recorder:
        recorder.record(Numbered(1))

    assert server.tables["events"].options == {
        "ttl": "90d",
        "append_mode": "true",
        "compaction.twcs.time_window": "1day",
    }


async def test_bug_payload_is_a_text_of_json_and_not_json(server: Any) -> None:
    async with EventRecorder(url(server)) as recorder:
        recorder.record(Numbered({"deep": [1]}))

    ((_, row),) = server.rows
    assert row["payload"] == {"n": {"deep": [1]}}


async def test_bug_panic_of_the_handler_ends_the_recorder(server: Any) -> None:
    server.acts.append(lambda _: 1 / 0)  # an answer that tells nothing

    async with EventRecorder(url(server), options=IMPATIENT) as recorder:
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=20)
        recorder.record(Numbered(2))

    assert [row["payload"]["n"] for _, row in server.rows] == [1, 2]


# -- what it does right


async def test_types_are_grouped_and_no_rows_are_no_event(server: Any) -> None:
    async with EventRecorder(url(server)) as recorder:
        recorder.record_many(Numbered(n, kind=kind) for n, kind in enumerate("ABACBAC"))
        recorder.record(Numbered(9, schema=REGION, rows=[]))

    assert Counter(row["type"] for _, row in server.rows) == {"A": 3, "B": 2, "C": 2}
    (received,) = server.received
    assert len(received.request.inserts) == 1


@pytest.mark.parametrize(("types", "expected"), [(None, 3), ([], 0), (["A", "C"], 2)])
async def test_types_are_filtered_before_anything_is_queued(
    server: Any, types: list[str] | None, expected: int
) -> None:
    options = EventRecorderOptions() if types is None else EventRecorderOptions(event_types=types)  # type: ignore[arg-type]

    async with EventRecorder(url(server), options=options) as recorder:
        recorder.record_many(Numbered(n, kind=kind) for n, kind in enumerate("ABC"))

    assert len(server.rows) == expected
    assert len(server.received) == (1 if expected else 0)
