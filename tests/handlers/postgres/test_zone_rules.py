"""Rollups in PostgreSQL, and zones whose rules change: an update of tzdata, machines that have different ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventrec import Batch, PauseError
from eventrec.analytics import Question, plan_of
from eventrec.records.times import nanoseconds
from eventrec.testing.zoned_rollups import (
    HOURS,
    KEPT,
    LATER,
    NEVER,
    NEW,
    NOW,
    OLD,
    PLANS,
    ROLLUPS,
    ZONE,
    Daily,
    Everywhere,
    by_brute_force,
    counted,
    happened,
)
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.target import Target

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


@pytest.fixture
async def store(
    handler: PostgresHandler, database: Any, batch: Callable[..., Batch], zone_rules: Callable[..., None]
) -> AsyncIterator[PostgresRollups]:
    """Rollups of 40 days of events, refreshed by a machine that has the old rules."""
    zone_rules(ZONE, *OLD)
    await handler.handle(batch(*happened(*HOURS)))
    async with PostgresRollups(Target(database.url()), Options()) as store:
        await store.refresh(PLANS, now=nanoseconds(NOW))
        yield store


@pytest.mark.parametrize("rules", [NEW, LATER, NEVER], ids=["ahead", "behind", "from the first day on"])
async def test_after_an_update_of_tzdata_every_answer_is_that_of_the_new_rules(
    *,
    store: PostgresRollups,
    handler: PostgresHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
    rules: tuple[object, ...],
) -> None:
    zone_rules(ZONE, *rules)
    before = [await counted(store, rollup) for rollup in ROLLUPS]
    remarks = [(await store.answer(Question(rollup))).remarks for rollup in ROLLUPS]

    done = await store.refresh(PLANS, now=nanoseconds(NOW))
    after = [await counted(store, rollup) for rollup in ROLLUPS]
    late = [datetime(2026, 3, 12, 3, 30, tzinfo=UTC), datetime(2026, 3, 9, 4, 30, tzinfo=UTC)]
    await handler.handle(batch(*happened(*late), start=len(HOURS)))
    waiting = [await counted(store, rollup) for rollup in ROLLUPS]
    again = await store.refresh(PLANS, now=nanoseconds(NOW))

    assert before == after == [by_brute_force(rollup, HOURS) for rollup in ROLLUPS]
    assert waiting == [await counted(store, rollup) for rollup in ROLLUPS]
    assert waiting == [by_brute_force(rollup, HOURS + late) for rollup in ROLLUPS]
    assert [len(said) for said in remarks] == [1, 1, 1, 1, 0]
    assert remarks[0][0].startswith("rollup 'daily' was counted by other rules of its zone America/Asuncion")
    assert done.remarks[0] == "rollup 'daily' is counted again: the rules of its zone America/Asuncion have changed"
    assert (len(done.remarks), again.remarks, again.remaining) == (4, (), 0)


async def test_of_two_machines_with_different_tzdata_one_refreshes_and_the_other_answers_from_the_events(
    *,
    store: PostgresRollups,
    database: Any,
    handler: PostgresHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
) -> None:
    zone_rules(ZONE, *NEW)
    await store.refresh(PLANS, now=nanoseconds(NOW))
    table = database.rows("SELECT * FROM daily ORDER BY day")
    late = [datetime(2026, 3, 12, 3, 30, tzinfo=UTC)]
    await handler.handle(batch(*happened(*late), start=len(HOURS)))

    zone_rules(ZONE, *OLD)
    due = await store.claim_due(PLANS)
    left = await store.refresh(PLANS, now=nanoseconds(NOW))
    answers = [await counted(store, rollup) for rollup in ROLLUPS]

    assert answers == [by_brute_force(rollup, HOURS + late) for rollup in ROLLUPS]
    assert set(PLANS[:4]) <= set(due)
    assert len(left.remarks) == 4
    assert left.remarks[0].endswith("not refreshed by it: update tzdata here, and restart")
    assert database.rows("SELECT * FROM daily ORDER BY day") == table
    zone_rules(ZONE, *NEW)
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS + late) for r in ROLLUPS]
    assert (await store.refresh(PLANS, now=nanoseconds(NOW))).buckets < 30
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS + late) for r in ROLLUPS]


async def test_rules_that_were_replaced_fill_the_tables_again_once_nothing_refreshes_them_by_the_others(
    anyio_backend: str, store: PostgresRollups, database: Any, zone_rules: Callable[..., None]
) -> None:
    zone_rules(ZONE, *NEW)
    await store.refresh(PLANS, now=nanoseconds(NOW))
    zone_rules(ZONE, *OLD)
    database.execute("UPDATE eventrec_rollups SET refreshed_at = now() - interval '2 days'")

    done = await store.refresh(PLANS, now=nanoseconds(NOW))

    assert len(done.remarks) == 4
    assert done.remarks[0].startswith("rollup 'daily' is counted again")
    assert (await store.answer(Question(Daily))).remarks == ()
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS) for r in ROLLUPS]


async def test_a_rollup_that_nothing_declares_any_more_does_not_keep_the_others_from_what_arrives(
    *,
    store: PostgresRollups,
    database: Any,
    handler: PostgresHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
) -> None:
    zone_rules(ZONE, *NEW)
    await handler.handle(batch(*happened(NOW), start=len(HOURS)))

    held = await store.refresh([plan_of(Everywhere)], now=nanoseconds(NOW + timedelta(days=1)))
    database.execute("UPDATE eventrec_rollups SET refreshed_at = now() - interval '2 days'")
    done = await store.refresh([plan_of(Everywhere)], now=nanoseconds(NOW + timedelta(days=1)))

    assert (held.remaining, done.remaining) == (0, 0)
    assert database.rows("SELECT sum(n) FROM everywhere") == [(len(HOURS) + 1,)]
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, [*HOURS, NOW]) for r in ROLLUPS]


@pytest.mark.parametrize("rules", [NEW, LATER, NEVER], ids=["ahead", "behind", "from the first day on"])
async def test_what_retention_has_removed_stays_counted_once(
    *,
    store: PostgresRollups,
    database: Any,
    handler: PostgresHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
    rules: tuple[object, ...],
) -> None:
    async with PostgresRollups(Target(database.url()), Options(), layouts={"events": KEPT}) as keeping:
        await keeping.refresh(PLANS, now=nanoseconds(NOW))
        ((first,),) = database.rows("SELECT min(timestamp) FROM events")
        oldest = nanoseconds(first)
        counts = [await counted(keeping, rollup) for rollup in ROLLUPS]
        before = [[row for row in found if row[0] < oldest] for found in counts]

        zone_rules(ZONE, *rules)
        kept = [await counted(keeping, rollup) for rollup in ROLLUPS]
        await keeping.refresh(PLANS, now=nanoseconds(NOW))
        after = [await counted(keeping, rollup) for rollup in ROLLUPS]
        await handler.handle(batch(*happened(NOW), start=len(HOURS)))
        await keeping.refresh(PLANS, now=nanoseconds(NOW + timedelta(days=40)))
        at_last = [await counted(keeping, rollup) for rollup in ROLLUPS]
        zone_rules(ZONE, *OLD)
        back = [await counted(keeping, rollup) for rollup in ROLLUPS]

    assert oldest > nanoseconds(NOW - timedelta(days=32))
    assert kept == after
    for found, rollup, stays in zip(after, ROLLUPS, before, strict=True):
        assert found[: len(stays)] == stays
        assert sum(n for _, n in found) == len(HOURS)
        assert len({start for start, _ in found}) == len(found)
        whole = stays[-1][0] + 32 * 86_400 * 1_000_000_000
        assert [row for row in found if row[0] >= whole] == [
            row for row in by_brute_force(rollup, HOURS) if row[0] >= whole
        ]
    assert [sum(n for _, n in found) for found in at_last] == [len(HOURS) + 1] * len(ROLLUPS)
    assert [sum(n for _, n in found) for found in back] == [len(HOURS) + 1] * len(ROLLUPS)


async def test_a_file_of_an_earlier_version_is_counted_again_once_and_not_what_is_in_utc(
    anyio_backend: str, store: PostgresRollups, database: Any, zone_rules: Callable[..., None]
) -> None:
    database.execute("ALTER TABLE eventrec_rollups DROP COLUMN rules, DROP COLUMN kept_to")
    zone_rules(ZONE, *NEW)
    before = [await counted(store, rollup) for rollup in ROLLUPS]

    async with PostgresRollups(Target(database.url()), Options(schema="strict")) as strict:
        with pytest.raises(PauseError, match="table 'eventrec_rollups' is of an earlier version: migrate first"):
            await strict.refresh(PLANS, now=nanoseconds(NOW))
    done = await store.refresh(PLANS, now=nanoseconds(NOW))
    again = await store.refresh(PLANS, now=nanoseconds(NOW))

    assert before == [by_brute_force(rollup, HOURS) for rollup in ROLLUPS]
    assert before == [await counted(store, rollup) for rollup in ROLLUPS]
    assert (again.buckets, again.remarks) == (0, ())
    assert len(done.remarks) == 4
    assert done.remarks[0].endswith("the rules of its zone America/Asuncion by which it was counted are not known")
