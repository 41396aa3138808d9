"""Rollups that ClickHouse keeps by views: each event is counted once, whenever it came, and stays counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import anyio
import pytest
from anyio import to_thread

from eventrec import Batch, ColumnSchema, ColumnType, PauseError, ReceivedEvent, TransientError, default_layout
from eventrec.analytics import Answer, Bucket, Catalogue, Field, Group, Measure, Question, RollupPlan, RollupStore
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec_handlers.clickhouse import ClickHouseHandler, ClickHouseTable
from eventrec_handlers.clickhouse.node import Node
from eventrec_handlers.clickhouse.rollups import Columns, KeptRollup, keeping

pytestmark = pytest.mark.handlers

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Batches = Callable[..., Batch]
Open = Callable[..., Awaitable[ClickHouseHandler]]

HOUR = 3_600 * 1_000_000_000
N = Field("payload", ("n",), "integer")
SHOP = Field("payload", ("shop",), "text")
PLAN = RollupPlan(
    name="sold",
    table="events",
    types=("sold",),
    where=None,
    bucket_name="hour",
    bucket=Bucket("hour"),
    groups=(Group("shop", SHOP),),
    measures=(
        Measure("events", "count"),
        Measure("total", "sum", N),
        Measure("shops", "distinct", SHOP),
        Measure("median", "percentile", N, None, 0.5),
        Measure("newest", "last", N),
    ),
    column_names=("hour", "shop", "events", "total", "shops", "median", "newest"),
)


def events(start: int, end: int, *, kind: str = "sold") -> list[ReceivedEvent]:
    """One a minute; in two shops by turns."""
    return [
        ReceivedEvent(kind, b'{"n":%d,"shop":"%s"}' % (n, b"ab"[n % 2 : n % 2 + 1]), n * HOUR // 60)
        for n in range(start, end)
    ]


def totals(answer: Answer) -> list[tuple[Any, ...]]:
    """Of all hours: shop, events, total."""
    found: dict[Any, list[int]] = {}
    for _, shop, number, total, *_ in answer.rows:
        one = found.setdefault(shop, [0, 0])
        assert isinstance(number, int)
        assert isinstance(total, int)
        one[0] += number
        one[1] += total
    return sorted((shop, *counts) for shop, counts in found.items())


def counted(*ranges: range) -> list[tuple[Any, ...]]:
    numbers = [n for each in ranges for n in each]
    return [
        (shop, len(found), sum(found))
        for shop, found in (("a", [n for n in numbers if not n % 2]), ("b", [n for n in numbers if n % 2]))
    ]


@pytest.fixture
async def store(clickhouse: ClickHouseDatabase) -> AsyncIterator[RollupStore]:
    rollups = ClickHouseHandler(clickhouse.url(), timeout=10).rollups()
    async with rollups:
        yield rollups


@pytest.fixture
def states(asked: Ask) -> Callable[[], Awaitable[list[tuple[Any, ...]]]]:
    """What the view with the rollup's name tells: of all hours shop, events, total."""

    async def read() -> list[tuple[Any, ...]]:
        rows = await asked("SELECT shop, toUInt32(sum(events)), toUInt32(sum(total)) FROM sold GROUP BY shop")
        return sorted(map(tuple, rows))

    return read


async def test_events_from_before_and_after_are_counted_once(
    opened: Open, batch: Batches, store: RollupStore, states: Any
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 100), *events(0, 7, kind="other")))

    done = await store.refresh([PLAN])
    await handler.handle(batch(*events(100, 150), start=107))
    again = await store.refresh([PLAN])

    assert (done.buckets, done.remarks, again.buckets) == (1, (), 0)
    assert await states() == counted(range(150))
    assert totals(await store.answer(Question(PLAN))) == counted(range(150))


async def test_late_events_join_their_buckets(opened: Open, batch: Batches, store: RollupStore, states: Any) -> None:
    handler = await opened()
    await handler.handle(batch(*events(1_000, 1_010)))
    await store.refresh([PLAN])

    await handler.handle(batch(*events(0, 10), start=10))
    await handler.handle(batch(*events(1_000, 1_010), start=20))

    assert await states() == counted(range(10), range(1_000, 1_010), range(1_000, 1_010))


@pytest.mark.parametrize("bucket", [Bucket("hour"), Bucket("week"), Bucket("day", 1, "Europe/Berlin")])
async def test_events_of_years_that_no_view_keeps_are_counted_too(
    opened: Open, batch: Batches, store: RollupStore, bucket: Bucket
) -> None:
    """In one answer, of 1677 to 2262: some of the buckets come from views, and some from the events."""
    plan = replace(PLAN, bucket=bucket)
    years = [-(2**63), *(year * 365 * 24 * HOUR for year in (-200, -70, -1, 50, 137, 270)), 2**63 - 1]
    handler = await opened()
    await handler.handle(batch(*[ReceivedEvent("sold", b'{"n":1,"shop":"a"}', at) for at in years[::2]]))
    await store.refresh([plan])
    await handler.handle(batch(*[ReceivedEvent("sold", b'{"n":1,"shop":"a"}', at) for at in years[1::2]], start=4))

    answer = await store.answer(Question(plan))

    assert [row[:3] for row in answer.rows] == [(bucket.floor(at), "a", 1) for at in years]


async def test_batch_that_comes_again_is_not_counted_again(
    opened: Open, batch: Batches, store: RollupStore, states: Any
) -> None:
    handler = await opened(chunk_rows=7)
    await handler.handle(batch(*events(0, 10)))
    await store.refresh([PLAN])
    sent = batch(*events(10, 50), start=10)

    for _ in range(3):
        await (await opened(chunk_rows=7)).handle(sent)

    assert await states() == counted(range(50))
    assert handler.remarks == ()


async def test_inserts_around_the_making_are_counted_once(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any
) -> None:
    """Rows of inserts that began before the view and ended after others that it has seen."""
    handler = await opened()
    await handler.handle(batch(*events(0, 10)))
    made = list(KeptRollup(PLAN, Columns(default_layout("events"))).make())
    notes = "CREATE TABLE eventrec_rollup_notes (rollup String, key String, tables String, kind LowCardinality(String),"
    await asked(f"{notes} said String, noted_at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = MergeTree ORDER BY key")
    for statement in made[:-1]:
        await asked(statement)
    await handler.handle(batch(*events(10, 20), *events(10, 12), start=10))  # noted as not begun, and not seen
    await asked(made[-1])
    await handler.handle(batch(*events(20, 30), start=22))  # seen

    await store.refresh([PLAN])
    await handler.handle(batch(*events(30, 40), start=32))

    assert await states() == counted(range(40), range(10, 12))


async def test_what_is_removed_from_the_events_stays_counted(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 100)))
    await store.refresh([PLAN])

    await asked("TRUNCATE TABLE events")
    await handler.handle(batch(*events(100, 110), start=100))

    assert totals(await store.answer(Question(PLAN))) == counted(range(110))


async def test_fill_that_is_killed_after_each_statement_counts_each_event_once(  # noqa: PLR0917 - fixtures
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices of 20 rows; the first time after the first statement, then after the second, and so on."""
    monkeypatch.setattr(keeping, "FILL_ROWS", 20)
    handler = await opened()
    await handler.handle(batch(*events(0, 60)))
    run, left, stored = Node.run, 0, 60

    async def dying(self: Node, sql: str) -> None:
        nonlocal left
        await run(self, sql)
        left -= 1
        if not left:
            raise OSError("killed")

    monkeypatch.setattr(Node, "run", dying)
    for at in count(1):
        left = at
        try:
            await store.refresh([PLAN])
        except OSError:
            monkeypatch.setattr(Node, "run", run)
            await handler.handle(batch(*events(stored, stored + 1), start=stored))
            stored += 1
            monkeypatch.setattr(Node, "run", dying)
        else:
            break

    monkeypatch.setattr(Node, "run", run)
    assert stored > 70
    assert await states() == counted(range(stored))
    left_over = await asked("SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%see%'")
    assert left_over == []


async def refuse_fills(clickhouse: ClickHouseDatabase, code: int, *, times: int) -> None:
    """The next statements that fill."""
    refuse = clickhouse.server.refuse
    said = "too much at once"
    await to_thread.run_sync(lambda: refuse(code, holding="/* eventrec_fill", times=times, message=said))


@pytest.mark.parametrize("code", [159, 241])
async def test_slice_that_takes_too_long_is_halved_until_it_goes_through(  # noqa: PLR0917 - fixtures
    opened: Open,
    batch: Batches,
    clickhouse: ClickHouseDatabase,
    store: RollupStore,
    states: Any,
    asked: Ask,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    monkeypatch.setattr(keeping, "FILL_ROWS", 40)
    handler = await opened()
    await handler.handle(batch(*events(0, 60)))
    told: list[tuple[int, int]] = []
    await refuse_fills(clickhouse, code, times=3)

    done = await store.backfill(PLAN, progress=lambda *at: told.append(at))
    await handler.handle(batch(*events(60, 70), start=60))

    assert done.buckets == 5  # of two slices, one halved three times
    assert told[-1] == (5, 5)
    assert await states() == counted(range(70))
    await handler.handle(batch(*events(70, 80), start=70))
    assert (await store.refresh([PLAN])).buckets == 0
    assert totals(await store.answer(Question(PLAN))) == counted(range(80))


async def test_halved_slice_is_gone_on_with_by_whoever_comes_next(
    opened: Open, batch: Batches, clickhouse: ClickHouseDatabase, store: RollupStore, states: Any
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 60)))
    for _ in range(4):
        await refuse_fills(clickhouse, 159, times=1)
        run, left = Node.run, [3]

        async def dying(self: Node, sql: str, run: Any = run, left: list[int] = left) -> None:
            await run(self, sql)
            left[0] -= "'sliced'" in sql or "'filled'" in sql
            if not left[0]:
                raise OSError("killed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Node, "run", dying)
            try:
                await store.refresh([PLAN])
            except OSError:
                continue
            break
    await refuse_fills(clickhouse, 159, times=0)

    await store.refresh([PLAN])

    assert await states() == counted(range(60))


async def test_slice_of_one_time_that_takes_too_long_is_said(
    opened: Open, batch: Batches, clickhouse: ClickHouseDatabase, store: RollupStore
) -> None:
    handler = await opened()
    await handler.handle(batch(*(events(7, 8) * 5)))
    await refuse_fills(clickhouse, 159, times=1)

    with pytest.raises(TransientError, match="too much at once"):
        await store.refresh([PLAN])


async def test_two_processes_that_fill_at_once_count_each_event_once(
    opened: Open, batch: Batches, clickhouse: ClickHouseDatabase, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FILL_ROWS", 25)
    handler = await opened()
    await handler.handle(batch(*events(0, 100)))

    async def refresh() -> None:
        async with ClickHouseHandler(clickhouse.url()).rollups() as one:
            await one.refresh([PLAN])

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(refresh)
        for at in range(100, 130, 10):
            await handler.handle(batch(*events(at, at + 10), start=at))

    assert await states() == counted(range(130))


async def test_later_version_is_counted_beside_and_the_older_one_is_kept(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 40)))
    await store.refresh([PLAN])
    await asked("ALTER TABLE events DELETE WHERE timestamp < '1970-01-01 00:10:00' SETTINGS mutations_sync = 1")
    second = replace(PLAN, version=2, bucket=Bucket("day"))

    before = await store.answer(Question(second))
    await store.refresh([second])
    await handler.handle(batch(*events(40, 50), start=40))

    assert totals(before) == counted(range(10, 40))
    assert await states() == counted(range(10, 50))
    assert await asked("SELECT toUInt32(sum(events)) FROM sold_v1") == [[40]]
    with pytest.raises(PauseError, match="version 2, and is declared 1"):
        await store.refresh([PLAN])


async def test_other_declaration_of_one_version_is_refused(opened: Open, batch: Batches, store: RollupStore) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 4)))
    await store.refresh([PLAN])

    with pytest.raises(PauseError, match="declare version=2"):
        await store.refresh([replace(PLAN, bucket=Bucket("day"))])


async def test_column_that_appears_later_is_counted_from_the_beginning(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore
) -> None:
    plan = replace(PLAN, groups=(Group("shop", Field("column", ("shop",), "text")),))
    handler = await opened()
    await handler.handle(batch(*events(0, 4)))
    await store.refresh([plan])
    columns = (ColumnSchema("shop", ColumnType.STRING),)
    await handler.handle(batch(ReceivedEvent("sold", b"{}", 5, columns=columns, rows=(("x",),)), start=4))

    before = await store.answer(Question(plan))
    await store.refresh([plan])
    after = await store.answer(Question(plan))

    assert [(row[1], row[2]) for row in before.rows] == [(None, 4), ("x", 1)]
    assert after.rows == before.rows
    assert (
        len(
            await asked(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE 'eventrec_states%'"
            )
        )
        == 1
    )


async def test_view_that_another_program_has_made_again_is_not_believed(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 10)))
    await store.refresh([PLAN])
    ((name, query),) = await asked(
        "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() AND name LIKE '%feed%'"
    )
    await asked(f"DROP VIEW {name}")
    await handler.handle(batch(*events(10, 20), start=10))
    await asked(query)

    assert totals(await store.answer(Question(PLAN))) == counted(range(20))
    await store.refresh([PLAN])
    await handler.handle(batch(*events(20, 30), start=20))
    assert await states() == counted(range(30))


@pytest.mark.parametrize("away", ["RENAME TABLE events TO events_of_before", "DROP TABLE events"])
async def test_events_in_another_table_of_the_name_are_not_left_out(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, away: str
) -> None:
    """ClickHouse leaves the view with the table that it was made for, and says nothing."""
    handler = await opened()
    await handler.handle(batch(*events(0, 40)))
    await store.refresh([PLAN])
    await asked(away)
    await handler.handle(batch(*events(0, 20), start=40))

    answer = await store.answer(Question(PLAN))
    await store.refresh([PLAN])
    await handler.handle(batch(*events(20, 30), start=60))

    assert totals(answer) == counted(range(20))
    assert totals(await store.answer(Question(PLAN))) == counted(range(30))


async def test_rollup_without_its_notes_is_counted_from_the_beginning(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 10)))
    await store.refresh([PLAN])
    await handler.handle(batch(*events(10, 20), start=10))
    await asked("DROP TABLE eventrec_rollup_notes")

    await store.refresh([PLAN])

    assert await states() == counted(range(20))


async def test_rows_that_were_seen_and_taken_away_are_not_counted_twice(  # noqa: PLR0917 - fixtures
    opened: Open, asked: Ask, batch: Batches, store: RollupStore, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 10)))

    async def killed(*_: Any, **__: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(keeping, "_settle", killed)
        with pytest.raises(OSError, match="killed"):
            await store.refresh([PLAN])
    await handler.handle(batch(*events(10, 20), start=10))
    with monkeypatch.context() as patched:
        patched.setattr(keeping, "_slice", killed)
        with pytest.raises(OSError, match="killed"):
            await store.refresh([PLAN])
    ((seen,),) = await asked(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%_seen_%'"
    )
    await asked(f"DROP TABLE {seen}")

    await store.refresh([PLAN])

    assert await states() == counted(range(20))


async def test_broken_rollup_whose_events_are_gone_is_left(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 100)))
    await store.refresh([PLAN])
    ((name,),) = await asked(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%feeding%'"
    )
    await asked(f"DROP VIEW {name}")
    await asked("TRUNCATE TABLE events")

    with pytest.raises(PauseError, match="no longer stored"):
        await store.refresh([PLAN])


@pytest.mark.parametrize(
    ("engine", "bucket", "why"),
    [
        ("ReplacingMergeTree", Bucket("hour"), "drops rows that were counted"),
        ("MergeTree", Bucket("hour", 6, "Europe/Berlin"), "no buckets of 6 hours in Europe/Berlin"),
        ("MergeTree", Bucket("day", 1, "America/Havana"), "where the zone's clock was changed"),
    ],
)
async def test_what_cannot_be_kept_is_said_and_answered_from_the_events(  # noqa: PLR0917 - fixtures
    opened: Open, batch: Batches, store: RollupStore, engine: str, bucket: Bucket, why: str
) -> None:
    plan = replace(PLAN, bucket=bucket)
    handler = await opened(tables={"events": ClickHouseTable(engine=engine, order_by=["type", "timestamp", "id"])})
    await handler.handle(batch(*events(0, 40)))

    done = await store.refresh([plan])

    assert len(done.remarks) == 1
    assert why in done.remarks[0]
    assert totals(await store.answer(Question(plan))) == counted(range(40))


async def test_retention_of_a_rollup_follows_its_declaration(
    opened: Open, asked: Ask, batch: Batches, store: RollupStore
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 4)))
    ttls = []
    for retention in (None, 86_400.0 * 365_000, None):
        await store.refresh([replace(PLAN, retention=retention)])
        ((made,),) = await asked(
            "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name LIKE 'eventrec_states%'"
        )
        ttls.append(" TTL " in made)

    assert ttls == [False, True, False]


async def test_handler_makes_the_rollups_of_its_catalogue(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    await (await opened()).handle(batch(*events(0, 10)))
    handler = await opened(refresh=True, catalogue=Catalogue(name="shop", rollups=[PLAN]))
    kept = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name = 'sold'"

    with anyio.fail_after(30):
        while not await asked(kept):  # noqa: ASYNC110 - the server tells no one
            await anyio.sleep(0.05)
    await handler.handle(batch(*events(10, 20), start=10))

    assert await asked("SELECT toUInt32(sum(events)) FROM sold") == [[20]]
    assert handler.remarks == ()


async def test_names_of_an_event_that_are_ours_too_confuse_nothing(
    opened: Open, batch: Batches, store: RollupStore
) -> None:
    names = ("er_0", "er_1", "er_bucket", "er_time", "er_row", "er_part", "er_group_0")
    columns = tuple(ColumnSchema(name, ColumnType.INT64) for name in names)
    measures = tuple(Measure(f"m_{name}", "sum", Field("column", (name,), "integer")) for name in names)
    plan = replace(
        PLAN,
        groups=(),
        types=None,
        measures=measures,
        column_names=("hour", *(measure.name for measure in measures)),
    )
    sent = [ReceivedEvent("e", b"{}", n, columns=columns, rows=(tuple(range(n, n + 7)),)) for n in range(10)]
    handler = await opened()
    await handler.handle(batch(*sent[:5]))
    await store.refresh([plan])
    await handler.handle(batch(*sent[5:], start=5))

    answer = await store.answer(Question(plan))

    assert answer.rows == ((0, *(45 + 10 * at for at in range(7))),)
