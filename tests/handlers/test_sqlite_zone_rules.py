"""Rollups in a SQLite file, and zones whose rules change: an update of tzdata, machines that have different ones."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.rollups import SqliteRollups

pytestmark = [pytest.mark.handlers, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


def execute(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
async def store(
    handler: SqliteHandler, path: Path, batch: Callable[..., Batch], zone_rules: Callable[..., None]
) -> AsyncIterator[SqliteRollups]:
    """Rollups of 40 days of events, refreshed by a machine that has the old rules."""
    zone_rules(ZONE, *OLD)
    await handler.handle(batch(*happened(*HOURS)))
    async with SqliteRollups(path, busy_timeout=5) as store:
        await store.refresh(PLANS, now=nanoseconds(NOW))
        yield store


@pytest.mark.parametrize("rules", [NEW, LATER, NEVER], ids=["ahead", "behind", "from the first day on"])
async def test_after_an_update_of_tzdata_every_answer_is_that_of_the_new_rules(
    anyio_backend: str,
    *,
    store: SqliteRollups,
    handler: SqliteHandler,
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
    anyio_backend: str,
    *,
    store: SqliteRollups,
    path: Path,
    handler: SqliteHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
) -> None:
    zone_rules(ZONE, *NEW)
    await store.refresh(PLANS, now=nanoseconds(NOW))
    table = execute(path, "SELECT * FROM daily ORDER BY day")
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
    assert execute(path, "SELECT * FROM daily ORDER BY day") == table
    zone_rules(ZONE, *NEW)
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS + late) for r in ROLLUPS]
    assert (await store.refresh(PLANS, now=nanoseconds(NOW))).buckets < 30
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS + late) for r in ROLLUPS]


async def test_rules_that_were_replaced_fill_the_tables_again_once_nothing_refreshes_them_by_the_others(
    anyio_backend: str, store: SqliteRollups, path: Path, zone_rules: Callable[..., None]
) -> None:
    zone_rules(ZONE, *NEW)
    await store.refresh(PLANS, now=nanoseconds(NOW))
    zone_rules(ZONE, *OLD)
    two_days_on = time.time_ns() + 2 * 86_400 * 1_000_000_000

    async with SqliteRollups(path, busy_timeout=5, now=lambda: two_days_on) as later:
        done = await later.refresh(PLANS, now=nanoseconds(NOW))

    assert len(done.remarks) == 4
    assert done.remarks[0].startswith("rollup 'daily' is counted again")
    assert (await store.answer(Question(Daily))).remarks == ()
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, HOURS) for r in ROLLUPS]


async def test_a_rollup_that_nothing_declares_any_more_does_not_keep_the_others_from_what_arrives(
    anyio_backend: str,
    *,
    store: SqliteRollups,
    path: Path,
    handler: SqliteHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
) -> None:
    zone_rules(ZONE, *NEW)
    await handler.handle(batch(*happened(NOW), start=len(HOURS)))
    two_days_on = time.time_ns() + 2 * 86_400 * 1_000_000_000

    held = await store.refresh([plan_of(Everywhere)], now=nanoseconds(NOW + timedelta(days=1)))
    async with SqliteRollups(path, busy_timeout=5, now=lambda: two_days_on) as later:
        done = await later.refresh([plan_of(Everywhere)], now=nanoseconds(NOW + timedelta(days=1)))

    assert (held.remaining, done.remaining) == (0, 0)
    assert execute(path, "SELECT sum(n) FROM everywhere") == [(len(HOURS) + 1,)]
    assert [await counted(store, rollup) for rollup in ROLLUPS] == [by_brute_force(r, [*HOURS, NOW]) for r in ROLLUPS]


@pytest.mark.parametrize("rules", [NEW, LATER, NEVER], ids=["ahead", "behind", "from the first day on"])
async def test_what_retention_has_removed_stays_counted_once(
    anyio_backend: str,
    *,
    store: SqliteRollups,
    path: Path,
    handler: SqliteHandler,
    batch: Callable[..., Batch],
    zone_rules: Callable[..., None],
    rules: tuple[object, ...],
) -> None:
    async with SqliteRollups(path, busy_timeout=5, layouts={"events": KEPT}) as keeping:
        await keeping.refresh(PLANS, now=nanoseconds(NOW))
        (oldest,) = execute(path, "SELECT min(timestamp) FROM events")[0]
        assert isinstance(oldest, int)
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
    anyio_backend: str, store: SqliteRollups, path: Path, zone_rules: Callable[..., None]
) -> None:
    execute(path, "DROP TABLE eventrec_zones")
    zone_rules(ZONE, *NEW)
    before = [await counted(store, rollup) for rollup in ROLLUPS]

    async with SqliteRollups(path, busy_timeout=5, may_make=False) as strict:
        with pytest.raises(PauseError, match="rollup 'daily' has no table there: migrate first"):
            await strict.refresh(PLANS, now=nanoseconds(NOW))
        in_utc = await strict.refresh([plan_of(Everywhere)], now=nanoseconds(NOW))
    done = await store.refresh(PLANS, now=nanoseconds(NOW))
    again = await store.refresh(PLANS, now=nanoseconds(NOW))

    assert before == [by_brute_force(rollup, HOURS) for rollup in ROLLUPS]
    assert before == [await counted(store, rollup) for rollup in ROLLUPS]
    assert (in_utc.buckets, again.buckets, again.remarks) == (0, 0, ())
    assert len(done.remarks) == 4
    assert done.remarks[0].endswith("the rules of its zone America/Asuncion by which it was counted are not known")
