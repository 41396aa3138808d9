"""Random rollups of random events give on TimescaleDB what brute force computes, refreshed or not."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random
from typing import Any, Final
from uuid import UUID

import anyio
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from eventrec import Batch, EventHandler, ReceivedEvent, handler_from_url, migration_target_from_url
from eventrec.analytics import Catalogue, MigrationRunner, RollupStore
from eventrec.events.encoder import Encoder
from eventrec.testing.rollup_events import random_layout
from eventrec.testing.rollups import RollupCase, assert_same_answer, random_case

EXAMPLES: Final = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "5"))
LOG: Final = UUID("01990000-0000-7000-8000-000000000003")
SINCE: Final = 946_684_800 * 1_000_000_000
"""The year 2000: from then on buckets are compared with those of `time_bucket`."""

AFTER: Final = 1_750_000_000 * 1_000_000_000

pytestmark = [
    pytest.mark.handlers,
    pytest.mark.xdist_group("timescale"),
    pytest.mark.timeout(300 + 10 * EXAMPLES),  # it is fetched
]


async def store(handler: EventHandler, events: tuple[ReceivedEvent, ...], start: int) -> None:
    encode = Encoder().encode
    entries: list[Any] = [encode(event) for event in events]
    assert handler.checkpoints is not None
    await handler.checkpoints.resume(LOG, "random", start)
    end = start + len(entries)
    if entries:
        await handler.handle(
            Batch(log_id=LOG, subscription="random", start=start, end=end, offsets=range(start, end), entries=entries)
        )


async def compare(rollups: RollupStore, case: RollupCase) -> None:
    for question in case.questions:
        assert_same_answer(await rollups.answer(question), case.expected(question))


def test_random_rollups_equal_brute_force(schema: Any) -> None:
    """EVENTREC_TEST_EXAMPLES in the environment says how many there are."""

    async def check(seed: int) -> None:
        random = Random(seed)
        case = random_case(random)
        layout = replace(random_layout(random, case.plan.table), partition="month")
        case = replace(case, events=tuple(event for event in case.events if event.payload.startswith(b"{")))
        declared = Catalogue(name="random", layouts=[layout], rollups=[case.plan])
        async with migration_target_from_url(schema.url()) as target:
            await MigrationRunner(target, catalogue=declared).run()
        handler = handler_from_url(schema.url())
        handler.use_layouts({layout.table: layout})
        await handler.open()
        try:
            known = random.randrange(len(case.events) + 1)
            await store(handler, case.events[:known], 0)
            rollups = handler.rollups()
            assert rollups is not None
            async with rollups:
                await rollups.refresh([case.plan], now=AFTER)
                await store(handler, case.events[known:], known)
                await compare(rollups, case)
                await rollups.refresh([case.plan], now=AFTER)
                await compare(rollups, case)
        finally:
            await handler.close()

    @settings(max_examples=EXAMPLES, phases=[Phase.reuse, Phase.generate])  # a smaller seed is not a smaller case
    @given(st.integers(0, 2**63))
    def run(seed: int) -> None:
        assume(all((event.timestamp or 0) >= SINCE for event in random_case(Random(seed)).events))
        schema.execute(f"DROP SCHEMA IF EXISTS {schema.name} CASCADE", f"CREATE SCHEMA {schema.name}")
        anyio.run(check, seed)

    run()
