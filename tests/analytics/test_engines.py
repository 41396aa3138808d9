"""The same events give the same numbers on every database, and equal brute force: random ones, and a made-up year."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventrec import Batch, EventHandler, ReceivedEvent, handler_from_url
from eventrec.analytics import Bucket, Field, Group, Measure, Question, Rollup, RollupPlan, RollupStore, brute_force
from eventrec.events.encoder import Encoder
from eventrec.testing.rollups import RollupCase, assert_same_answer, random_case, stored_event
from eventrec.testing.servers import PostgresServer

pytestmark = pytest.mark.handlers

EXAMPLES: Final = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "12"))
EVENTS: Final = int(os.environ.get("EVENTREC_TEST_YEAR", "1500"))
AFTER: Final = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
LOG: Final = UUID("01990000-0000-7000-8000-000000000001")
BATCH: Final = 5_000

_numbers = count()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'events.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.url(request.getfixturevalue("postgres_database"))


async def store(handler: EventHandler, events: Sequence[ReceivedEvent]) -> None:
    """Deliver `events` as a worker would, in batches."""
    encode = Encoder().encode
    entries: list[Any] = [encode(event) for event in events]
    assert not [refused for refused in entries if isinstance(refused, str)]
    name = f"test-{next(_numbers)}"
    assert handler.checkpoints is not None
    await handler.checkpoints.resume(LOG, name, 0)
    for start in range(0, len(entries), BATCH):
        part = entries[start : start + BATCH]
        end = start + len(part)
        batch = Batch(log_id=LOG, subscription=name, start=start, end=end, offsets=range(start, end), entries=part)
        await handler.handle(batch)


async def compare(rollups: RollupStore, case: RollupCase) -> None:
    """Ask every question of `case`, and for the pages that follow."""
    for asked in case.questions:
        question: Question | None = asked
        while question is not None:
            expected = case.expected(question)
            assert_same_answer(await rollups.answer(question), expected)
            goes_on = expected.cursor is not None and expected.rows
            question = replace(question, cursor=expected.cursor) if goes_on else None


@pytest.mark.slow
@pytest.mark.timeout(240 + 3 * EXAMPLES)
def test_random_rollups_equal_brute_force(url: str) -> None:
    """Also those that are refreshed when some of the events are there, and asked when others wait.

    EVENTREC_TEST_EXAMPLES in the environment says how many there are.
    """

    async def check(seed: int) -> None:
        random = Random(seed)
        case = random_case(random, table=f"events_{next(_numbers)}", laid_out=True)
        handler = handler_from_url(url)
        if case.layout is not None:
            handler.use_layouts({case.layout.table: case.layout})
        await handler.open()
        try:
            known = random.randrange(len(case.events) + 1)
            await store(handler, case.events[:known])
            rollups = handler.rollups()
            assert rollups is not None
            async with rollups:
                is_refreshed = random.random() < 0.5
                if is_refreshed:
                    await rollups.refresh([case.plan], now=AFTER)
                await store(handler, case.events[known:])
                await compare(rollups, case)
                if is_refreshed:
                    await rollups.refresh([case.plan], now=AFTER)
                    await compare(rollups, case)
        finally:
            await handler.close()

    @settings(max_examples=EXAMPLES, phases=[Phase.reuse, Phase.generate])  # a smaller seed is not a smaller case
    @given(st.integers(0, 2**63))
    def run(seed: int) -> None:
        anyio.run(check, seed)

    run()


async def test_rows_are_sorted_by_groups_as_they_are_declared_wherever_their_columns_stand(url: str) -> None:
    groups = tuple(Group(name, Field("payload", (name,), "integer")) for name in ("major", "minor"))
    plan = RollupPlan(
        name="sorted",
        table="sorted_events",
        types=None,
        where=None,
        bucket_name="day",
        bucket=Bucket("day"),
        groups=groups,
        measures=(Measure("number", "count"),),
        column_names=("minor", "number", "day", "major"),
    )
    payloads = ({"major": 1, "minor": 2}, {"major": 2, "minor": 1}, {"minor": 3}, {"major": 3})
    events = [
        ReceivedEvent(
            "t", json.dumps(payload).encode(), timestamp=number * 1_000, table=plan.table, id=bytes([number] * 16)
        )
        for number, payload in enumerate(payloads)
    ]
    case = RollupCase(plan, tuple(events), (Question(plan), Question(plan, limit=1)))
    handler = handler_from_url(url)
    await handler.open()
    try:
        await store(handler, events)
        rollups = handler.rollups()
        assert rollups is not None
        async with rollups:
            await compare(rollups, case)
    finally:
        await handler.close()


@pytest.mark.timeout(3_600)
def test_a_year_of_a_platform_equals_brute_force(url: str, platform_analytics: Any) -> None:
    """In tables of our own, which keep what came twice; test_year.py has those of the platform.

    EVENTREC_TEST_YEAR in the environment says how many events there are: the whole has 1,000,000.
    """
    events = list(platform_analytics.generate.arrivals(number=EVENTS, start=datetime(2025, 1, 1, tzinfo=UTC)))
    rollups: Sequence[type[Rollup]] = platform_analytics.rollups.ROLLUPS

    async def check() -> None:
        handler = handler_from_url(url)
        await handler.open()
        try:
            await store(handler, events)
            answering = handler.rollups()
            assert answering is not None
            async with answering:
                for rollup in rollups:
                    question = Question(rollup)
                    answer = await answering.answer(question)

                    assert_same_answer(answer, brute_force(question, map(stored_event, events)))
                    assert len(answer.rows) >= 12
        finally:
            await handler.close()

    anyio.run(check)
