"""Rollups of a SQLite file that are kept in tables: by choice, right at every moment, whatever ends a refresh."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count as numbers
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Batch,
    HandlerURLError,
    Layout,
    LayoutColumn,
    PauseError,
    ReceivedEvent,
    TransientError,
    default_layout,
    handler_from_url,
)
from eventrec.analytics import (
    Answer,
    Catalogue,
    Question,
    Refresh,
    Refreshed,
    Rollup,
    RollupPlan,
    bucket,
    count,
    distinct,
    first,
    group,
    max_of,
    payload,
    percentile,
    plan_of,
    sum_of,
)
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.file import connect, read_table
from eventrec_handlers.sqlite.marks import LATEST
from eventrec_handlers.sqlite.overdue import OverdueRollups
from eventrec_handlers.sqlite.rollups import SqliteRollups, refreshing
from eventrec_handlers.sqlite.rollups import store as store_module
from eventrec_handlers.sqlite.rollups.computing import _types
from eventrec_handlers.sqlite.rollups.fields import Columns
from eventrec_handlers.sqlite.rollups.refreshing import Refreshing
from eventrec_handlers.sqlite.rollups.registry import make_rollup
from eventrec_handlers.sqlite.transactions import writing

pytestmark = pytest.mark.handlers

HOUR: Final = 3_600_000_000_000
NOW: Final = 1_000 * HOUR
SECONDS: Final = 60
"""How long something is waited for that has to come."""

Batches = Callable[..., Batch]


class Hourly(Rollup, name="hourly", events=["request"]):
    hour = bucket("hour")
    path = group(payload("path", kind="text"))
    n = count()
    total = sum_of(payload("ms", kind="integer"))
    slowest = max_of(payload("ms", kind="integer"))
    refresh = Refresh(window="3 days", lag=0, every="1 second")


class Daily(Rollup, name="daily"):
    day = bucket("day", zone="Europe/Berlin")
    path = group(payload("path", kind="text"))
    is_new = group(payload("new", kind="boolean"))
    half = percentile(payload("ms", kind="integer"), 0.5)
    paths = distinct(payload("path", kind="text"))
    opened = first(payload("path", kind="text"))
    refresh = Refresh(window="3 days", lag="1 hour")


PLANS: Final = (plan_of(Hourly), plan_of(Daily))
SHOP: Final = Catalogue(name="shop", rollups=[Hourly, Daily])


def request(at: int, **members: Any) -> ReceivedEvent:
    return ReceivedEvent("request", msgspec.json.encode({"path": "/", "ms": 1, **members}), timestamp=at)


def random_requests(random: Random, number: int, *, newest: int = NOW, hours: int = 60) -> list[ReceivedEvent]:
    return [
        request(
            newest - random.randrange(hours * HOUR), path=random.choice("abc"), ms=random.randrange(9), new=n % 2 > 0
        )
        for n in range(number)
    ]


def rows(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        return connection.execute(sql, parameters).fetchall()


def insert(path: Path, *events: ReceivedEvent, verb: str = "INSERT") -> None:
    """As another program does."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        connection.executemany(
            f"{verb} INTO events (id, type, timestamp, payload) VALUES (?, ?, ?, ?)",
            [(str(number), event.type, event.timestamp, event.payload.decode()) for number, event in enumerate(events)],
        )


def from_events(path: Path, *questions: Question) -> list[Answer]:
    """What a copy of the file answers that was never refreshed."""
    copy = path.with_name(f"{path.name}-copy")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        target.execute("PRAGMA synchronous = OFF")
        source.backup(target)
        for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            target.execute(f"DROP TRIGGER {name}")
        target.execute("DROP TABLE IF EXISTS eventrec_rollups")
        target.commit()

    async def ask() -> list[Answer]:
        async with SqliteRollups(copy, busy_timeout=1) as store:
            return [await store.answer(question) for question in questions]

    try:
        return anyio.run(ask)
    finally:
        copy.unlink()


async def check_same(path: Path, *questions: Question) -> None:
    """Everything is answered as from the events alone."""
    asked = questions or (Question(Hourly), Question(Daily))
    expected = await anyio.to_thread.run_sync(from_events, path, *asked)
    async with SqliteRollups(path, busy_timeout=30) as store:
        for question, answer in zip(asked, expected, strict=True):
            assert await store.answer(question) == answer


def own_tables(path: Path) -> list[str]:
    return [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type <> 'index' ORDER BY name")]


# -- the choice


async def test_without_the_choice_nothing_is_made_for_rollups(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(0)))
    async with handler.rollups() as store:
        await store.answer(Question(Hourly))
        await store.claim_due(PLANS)
        await store.refresh([])

    assert await anyio.to_thread.run_sync(own_tables, path) == [
        "eventrec_checkpoints",
        "eventrec_destination",
        "events",
    ]


async def test_a_handler_that_refreshes_keeps_rollups_in_tables(path: Path, batch: Batches, log_id: UUID) -> None:
    handler = SqliteHandler(path, refresh=True, catalogue=SHOP)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    an_hour_ago = time.time_ns() - HOUR

    await handler.handle(batch(request(an_hour_ago, ms=3), request(an_hour_ago, path="/a")))
    await until(path, "SELECT coalesce(sum(n), 0) = 2 FROM hourly")
    await handler.handle(batch(request(an_hour_ago, ms=2**62), start=2))
    await until(path, "SELECT sum(n) = 3 FROM hourly")
    remarks = handler.remarks
    await handler.close()

    assert remarks == ()
    assert not [thread for thread in threading.enumerate() if "eventrec-sqlite-refresh" in thread.name]
    assert await anyio.to_thread.run_sync(rows, path, "SELECT path, n, total, slowest FROM hourly ORDER BY path") == [
        ("/", 2, 2**62 + 3, 2**62),
        ("/a", 1, 1, 1),
    ]


async def until(path: Path, sql: str) -> None:
    """Wait until `sql` gives true."""

    def look() -> bool:
        with suppress(sqlite3.OperationalError):  # the table is not there yet
            return rows(path, sql) == [(1,)]
        return False

    with anyio.fail_after(SECONDS):
        while not await anyio.to_thread.run_sync(look):  # noqa: ASYNC110 - the file's
            await anyio.sleep(0.02)


async def test_a_handler_that_cannot_refresh_stores_batches_and_says_so(
    path: Path, batch: Batches, log_id: UUID
) -> None:
    handler = SqliteHandler(path, refresh=True, catalogue="no_such_module:catalogue")
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    with anyio.fail_after(SECONDS):
        while not handler.remarks:  # noqa: ASYNC110 - it is not told
            await anyio.sleep(0.02)
    await handler.handle(batch(request(0)))
    (remark,) = handler.remarks
    await handler.close()

    assert remark.startswith("rollups are not refreshed: ")
    assert "no module 'no_such_module'" in remark
    assert await anyio.to_thread.run_sync(rows, path, "SELECT count(*) FROM events") == [(1,)]


async def test_closing_ends_a_refresh_that_waits_for_a_lock(path: Path, batch: Batches, log_id: UUID) -> None:
    handler = SqliteHandler(path, refresh=True, catalogue=SHOP, busy_timeout=SECONDS)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(request(0)))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)) as other:
        await anyio.to_thread.run_sync(other.execute, "BEGIN IMMEDIATE")

        with anyio.fail_after(SECONDS / 2):
            await handler.close()


def test_the_options_of_a_url() -> None:
    handler = handler_from_url("sqlite:///x.db?refresh=true&catalogue=shop:catalogue")

    assert isinstance(handler, SqliteHandler)
    assert handler._refresher is not None
    assert handler_from_url("sqlite:///x.db")._refresher is None  # type: ignore[attr-defined]
    with pytest.raises(HandlerURLError, match="refresh"):
        handler_from_url("sqlite:///x.db?refresh=perhaps")


# -- right at every moment


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_answers_are_those_of_the_events_before_during_and_after_each_refresh(
    anyio_backend: str, handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    random = Random(7)
    questions = [
        *(Question(rollup) for rollup in (Hourly, Daily)),
        *(Question(Hourly, limit=limit, newest_first=newest) for limit in (0, 1, 4) for newest in (True, False)),
        Question(Hourly, groups=()),
        Question(Hourly, groups=(), limit=2, newest_first=True),
        Question(Hourly, start=NOW - 20 * HOUR, end=NOW - 3 * HOUR, empty_buckets=True),
        Question(Daily, groups=("is_new",)),
    ]
    at = 0
    async with handler.rollups() as store:
        for turn in range(3):
            newest = NOW + turn * 24 * HOUR
            events = random_requests(random, 40, newest=newest)
            await handler.handle(batch(*events, start=at))
            at += len(events)
            await check_same(path, *questions)
            await store.refresh(PLANS, now=newest)
            await check_same(path, *questions)

            page: Question | None = Question(Hourly, limit=3, newest_first=turn % 2 > 0)
            found: list[Any] = []
            while page is not None:
                answer = await store.answer(page)
                found += answer.rows
                page = (
                    Question(Hourly, limit=3, newest_first=turn % 2 > 0, cursor=answer.cursor)
                    if answer.cursor
                    else None
                )
            assert found == list((await store.answer(Question(Hourly, newest_first=turn % 2 > 0))).rows)


async def test_what_has_ended_is_answered_from_the_table_and_no_event_is_read(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR), request(NOW - 3 * HOUR), request(NOW)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(rows, path, "UPDATE hourly SET n = n + 100")

        answer = await store.answer(Question(Hourly))
        page = await store.answer(Question(Hourly, limit=1))

    assert [row[2] for row in answer.rows] == [101, 101, 1]
    assert (page.rows, answer.complete_to, answer.pending) == (answer.rows[:1], NOW, 0)


async def test_rows_of_another_program_count_also_when_it_updates_them(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR), request(NOW - 30 * HOUR)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)

        await anyio.to_thread.run_sync(insert, path, request(NOW - 5 * HOUR, ms=7), request(NOW - 9 * HOUR))
        await check_same(path)
        await anyio.to_thread.run_sync(
            rows, path, "UPDATE events SET timestamp = timestamp - ? WHERE payload LIKE '%7%'", 2 * HOUR
        )
        await check_same(path)
        done = await store.refresh(PLANS, now=NOW)
        await check_same(path)

    # Three hours, one of which has none left. Their day has not ended.
    assert (done.buckets, done.remaining) == (3, 1)


async def test_what_another_program_deletes_stays_counted_until_its_bucket_is_computed_again(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR), request(NOW - 4 * HOUR)))
    async with handler.rollups() as store:
        await store.refresh([PLANS[0]], now=NOW)
        await anyio.to_thread.run_sync(rows, path, "DELETE FROM events")
        kept = (await store.answer(Question(Hourly))).rows
        await anyio.to_thread.run_sync(insert, path, request(NOW - 4 * HOUR), request(NOW - 4 * HOUR))
        after = (await store.answer(Question(Hourly))).rows

    assert [row[2] for row in kept] == [1, 1]
    assert [row[2] for row in after] == [1, 2]


async def test_what_is_no_event_or_in_no_bucket_of_a_table_keeps_no_other_program_from_writing(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(-5), request(LATEST + 5), request(-LATEST - 5)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        for moment in ("'yesterday'", "2.5", "x'00'", str(2**63 - 1), str(-(2**63) + 10**18)):
            sql = (
                f"INSERT OR REPLACE INTO events (id, type, timestamp, payload) VALUES (1, 'request', {moment}, '{{}}')"
            )
            await anyio.to_thread.run_sync(rows, path, sql)
        await anyio.to_thread.run_sync(insert, path, request(-5), request(-5))
        await check_same(path)
        await store.refresh(PLANS, now=NOW)

        await check_same(path)


async def test_a_sum_beyond_64_bits_is_kept_exactly(handler: SqliteHandler, path: Path, batch: Batches) -> None:
    most = 2**63 - 1
    await handler.handle(batch(*(request(0, ms=most) for _ in range(3)), request(HOUR, path="b", ms=1)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(rows, path, "DELETE FROM events")

        answer = await store.answer(Question(Hourly))
        in_all = await store.answer(Question(Hourly, groups=()))

    assert [row[3] for row in answer.rows] == [3 * most, 1]
    assert [row[2] for row in in_all.rows] == [3 * most, 1]


async def test_one_late_event_costs_its_own_bucket(handler: SqliteHandler, path: Path, batch: Batches) -> None:
    await handler.handle(batch(*random_requests(Random(1), 200)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        again = await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(insert, path, request(NOW - 40 * HOUR))
        late = await store.refresh(PLANS, now=NOW)

    assert (again, late.buckets) == (Refreshed(), 2)


async def test_progress_is_told_of_a_backfill(
    handler: SqliteHandler, path: Path, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "MAX_SET", 24)
    await handler.handle(batch(*random_requests(Random(1), 200)))
    told: list[tuple[int, int]] = []
    async with handler.rollups() as store:
        done = await store.backfill(PLANS[0], progress=lambda *numbers: told.append(numbers))
        answer = await store.answer(Question(Hourly))

    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == done.buckets == len({row[0] for row in answer.rows})
    assert len(told) >= 3


async def test_a_rollup_keeps_its_rows_as_long_as_its_own_retention_says(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    class Short(Rollup, name="short"):
        hour = bucket("hour")
        n = count()
        retention = "10 hours"

    await handler.handle(batch(*(request(NOW - n * HOUR) for n in range(20))))
    async with handler.rollups() as store:
        await store.refresh([plan_of(Short)], now=NOW)

    kept = await anyio.to_thread.run_sync(rows, path, "SELECT min(hour), max(hour) FROM short")
    assert kept == [(NOW - 10 * HOUR, NOW - 2 * HOUR)]


# -- killed, and several at once


class KilledError(BaseException):
    """The process has ended."""


class Ending:
    """A connection whose process ends before one of its statements."""

    def __init__(self, connection: sqlite3.Connection, left: Iterator[int]) -> None:
        self._connection = connection
        self._left = left
        self._is_over = False

    @property
    def text_factory(self) -> Any:
        return self._connection.text_factory

    @text_factory.setter
    def text_factory(self, made: Any) -> None:
        self._connection.text_factory = made

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in {"execute", "executemany"}:
            return found

        def call(*arguments: Any) -> Any:
            self._is_over = self._is_over or next(self._left) == 0
            if self._is_over:
                raise KilledError
            return found(*arguments)

        return call


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_refresh_that_is_killed_before_any_of_its_statements_leaves_right_answers_and_can_be_repeated(
    anyio_backend: str,
    handler: SqliteHandler,
    path: Path,
    batch: Batches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refreshing, "SET", 60)
    await handler.handle(batch(*random_requests(Random(3), 30)))
    async with handler.rollups() as store:
        await store.refresh([PLANS[0]], now=NOW - 20 * HOUR)
    late = random_requests(Random(4), 4)
    await anyio.to_thread.run_sync(insert, path, *late)
    await handler.close()
    questions = (Question(Hourly), Question(Daily))
    expected = await anyio.to_thread.run_sync(from_events, path, *questions)
    content = path.read_bytes()
    killed, at = path.with_name("killed.db"), 0

    is_over, opened = False, []
    while not is_over:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{killed}{suffix}").unlink(missing_ok=True)
        killed.write_bytes(content)
        left = iter(range(at, -(10**9), -1))

        def ending(path: Path, seconds: float, left: Iterator[int] = left) -> Any:
            connection = connect(path, seconds)
            connection.execute("PRAGMA synchronous = OFF")
            opened.append(connection)
            return Ending(connection, left)

        monkeypatch.setattr(store_module, "connect", ending)
        try:
            await SqliteRollups(killed, busy_timeout=1).refresh(PLANS, now=NOW)
            is_over = True
        except KilledError:
            at += 1
        opened.pop().close()
        monkeypatch.setattr(store_module, "connect", connect)
        async with SqliteRollups(killed, busy_timeout=1) as store:
            assert [await store.answer(question) for question in questions] == expected, at
            if at % 4 == 0 or is_over:
                await store.refresh(PLANS, now=NOW)
                assert [await store.answer(question) for question in questions] == expected, at
                counted = rows(killed, "SELECT sum(n) FROM hourly")
                assert counted == [(sum(int(row[2] or 0) for row in expected[0].rows if int(row[0] or 0) < NOW),)], at

    assert at > 40


EXAMPLES: Final = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "10"))


class Quarterly(Rollup, name="quarterly", events=["request"]):
    quarter = bucket("15 minutes", zone="Asia/Kathmandu")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


@pytest.mark.slow
@pytest.mark.timeout(240 + 3 * EXAMPLES)
def test_random_histories_are_answered_as_from_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in order and late ones, updates, deletions at the end, refreshes whole, of one rollup, and killed."""

    def run(seed: int) -> None:
        random, path, now = Random(seed), tmp_path / f"{seed}.db", NOW
        for name, values in {"SET": (1, 3, 24), "MAX_SET": (2, 64), "ARRIVED": (1, 3, 10_000)}.items():
            monkeypatch.setattr(refreshing, name, random.choice(values))
        columns = "id TEXT NOT NULL, type TEXT NOT NULL, timestamp INTEGER NOT NULL, payload TEXT NOT NULL"
        rows(path, "PRAGMA journal_mode = WAL")
        rows(path, f"CREATE TABLE events ({columns})")
        if random.random() < 0.7:
            rows(path, "CREATE INDEX by_type ON events (type, timestamp DESC)")
        for _ in range(random.randrange(3, 12)):
            verb = random.choice(("store", "store", "late", "update", "delete", "refresh", "refresh", "one", "kill"))
            if verb in {"refresh", "one", "kill"}:
                plans = [random.choice(ALL)] if verb == "one" else random.sample(ALL, len(ALL))
                left = iter(range(random.randrange(80) if verb == "kill" else 10**9, -(10**9), -1))
                anyio.run(refreshed, path, plans, now, left)
            else:
                now += random.randrange(5) * HOUR if verb == "store" else 0
                change(random, path, verb, now)
            anyio.run(check_same, path, *QUESTIONS)

    async def refreshed(path: Path, plans: list[RollupPlan], now: int, left: Iterator[int]) -> None:
        opened: list[sqlite3.Connection] = []

        def ending(path: Path, seconds: float) -> Any:
            opened.append(connect(path, seconds))
            opened[0].execute("PRAGMA synchronous = OFF")
            return Ending(opened[0], left)

        monkeypatch.setattr(store_module, "connect", ending)
        with suppress(KilledError):
            await SqliteRollups(path, busy_timeout=5).refresh(plans, now=now)
        monkeypatch.setattr(store_module, "connect", connect)
        for connection in opened:
            connection.close()

    @settings(max_examples=EXAMPLES, phases=[Phase.reuse, Phase.generate])  # a smaller seed is not a smaller history
    @given(st.integers(0, 2**63))
    def histories(seed: int) -> None:
        run(seed)

    histories()


def change(random: Random, path: Path, verb: str, now: int) -> None:
    """What another program does to the events."""
    match verb:
        case "store":
            insert(path, *random_requests(random, random.randrange(1, 12), newest=now, hours=2))
        case "late":
            insert(path, *random_requests(random, random.randrange(1, 6), newest=now))
        case "update":
            moved = "UPDATE events SET timestamp = timestamp - ? WHERE rowid % 3 = ?"
            rows(path, moved, random.randrange(40) * HOUR, random.randrange(3))
        case _:
            # What is deleted stays counted until something arrives for its bucket.
            last = "(SELECT rowid FROM events ORDER BY rowid DESC LIMIT 3)"
            gone = rows(path, f"SELECT timestamp FROM events WHERE rowid IN {last}")
            rows(path, f"DELETE FROM events WHERE rowid IN {last}")
            insert(path, *(request(at, path="z") for (at,) in gone))


ALL: Final = (*PLANS, plan_of(Quarterly))
QUESTIONS: Final = (
    *(Question(rollup) for rollup in (Hourly, Daily, Quarterly)),
    Question(Quarterly, limit=2, newest_first=True),
    Question(Hourly, groups=()),
)


REFRESHER: Final = """
import sys, anyio
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_sqlite_refreshing as tests
from eventrec_handlers.sqlite.rollups import SqliteRollups, refreshing
refreshing.SET = refreshing.MAX_SET = 2

async def main():
    async with SqliteRollups(Path(sys.argv[1]), busy_timeout=60) as store:
        for turn in range(3):
            for plan in tests.PLANS:
                await store.backfill(plan, progress=lambda *_: print(flush=True))
            await store.refresh(tests.PLANS, now=tests.NOW)

anyio.run(main)
"""


def started(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", REFRESHER, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_processes_refresh_beside_each_other_and_one_that_is_killed_is_not_missed(
    anyio_backend: str, handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(*random_requests(Random(5), 300)))

    def run() -> list[int]:
        killed, *others = processes = [started(path) for _ in range(3)]
        assert killed.stdout is not None
        for _ in range(7):
            killed.stdout.readline()
        killed.kill()
        insert(path, *random_requests(Random(6), 50))
        for each in processes:
            each.communicate()
        return [each.returncode for each in others]

    codes = await anyio.to_thread.run_sync(run)
    await check_same(path)
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)

        await check_same(path)
        answer = await store.answer(Question(Hourly))

    assert codes == [0, 0]
    counted = await anyio.to_thread.run_sync(rows, path, "SELECT sum(n) FROM hourly")
    assert counted == [(sum(int(row[2] or 0) for row in answer.rows),)] == [(350,)]


async def test_a_slower_process_does_not_replace_what_a_quicker_one_has_computed_later(
    handler: SqliteHandler, path: Path, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "SET", 100)
    await handler.handle(batch(*random_requests(Random(5), 30)))
    late = request(NOW - 9 * HOUR, path="late")
    plan, overtaken = PLANS[0], 0

    async def refresh() -> None:
        async with SqliteRollups(path, busy_timeout=5) as store:
            await store.refresh([plan], now=NOW)

    class Slow(Refreshing):
        """One whose first snapshot is old by the time it stores what it has computed."""

        def _store(self, computed: Any) -> Any:
            nonlocal overtaken
            if store_module.Refreshing is not Slow:  # type: ignore[attr-defined]
                return super()._store(computed)
            monkeypatch.setattr(store_module, "Refreshing", Refreshing)
            insert(path, late)
            anyio.run(refresh)
            overtaken += 1
            return super()._store(computed)

    for turn in range(2):  # the table is filled; then one bucket waits
        if turn:
            await anyio.to_thread.run_sync(insert, path, late)
        monkeypatch.setattr(store_module, "Refreshing", Slow)
        with anyio.fail_after(SECONDS):
            await refresh()
        await check_same(path)
        await refresh()
        await check_same(path)

    assert overtaken == 2


async def test_a_rollup_is_refreshed_by_one_process_in_its_time(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    clock = [NOW]
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    one, other = (SqliteRollups(path, busy_timeout=5, now=lambda: clock[0]) for _ in range(2))
    async with one, other:
        new = [list(await store.claim_due(PLANS)) for store in (one, other)]
        await one.refresh(PLANS, now=NOW)
        again = [list(await store.claim_due(PLANS)) for store in (one, other)]
        clock[0] += HOUR
        later = [list(await store.claim_due(PLANS)) for store in (one, other)]

    assert new == [[*PLANS], [*PLANS]]
    assert again == [[], []]
    # The daily one has no hour left that it could be filled to.
    assert later == [[*PLANS], [PLANS[0]]] or later == [[*PLANS], []]


async def test_writers_are_not_held_up_while_a_long_bucket_is_computed(
    handler: SqliteHandler, path: Path, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    written: list[int] = []

    class Long(Refreshing):
        def _rows(self, spans: Any) -> Any:
            with closing(sqlite3.connect(path, timeout=0)) as writer, writer:
                written.append(writer.execute("UPDATE eventrec_checkpoints SET next = next").rowcount)
            return super()._rows(spans)

    monkeypatch.setattr(store_module, "Refreshing", Long)
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)

    assert written
    assert set(written) == {1}


# -- what is declared otherwise, and what is not ours


class Renewed(Rollup, name="hourly", events=["request"], version=2):
    hour = bucket("hour")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


async def test_a_rollup_that_is_declared_otherwise_is_answered_from_the_events_and_has_to_be_migrated(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    async with handler.rollups() as store:
        await store.refresh([PLANS[0]], now=NOW)

        assert (await store.answer(Question(Renewed))).rows == ((NOW - 5 * HOUR, 1),)
        with pytest.raises(PauseError, match="'hourly' is declared otherwise here than in the file: migrate it first"):
            await store.refresh([plan_of(Renewed)], now=NOW)


async def test_a_table_of_another_program_with_the_name_of_a_rollup_is_not_touched(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    await anyio.to_thread.run_sync(rows, path, "CREATE TABLE Hourly (hour, path, n, total, slowest)")
    async with handler.rollups() as store:
        with pytest.raises(PauseError, match="a table 'hourly' that is not ours, and it is not touched"):
            await store.refresh([PLANS[0]], now=NOW)
        answer = await store.answer(Question(Hourly))

    assert len(answer.rows) == 1
    assert await anyio.to_thread.run_sync(rows, path, "SELECT count(*) FROM hourly") == [(0,)]
    assert "eventrec_rollups" not in await anyio.to_thread.run_sync(own_tables, path)


async def test_a_table_of_ours_that_another_program_has_made_is_said(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    await anyio.to_thread.run_sync(rows, path, "CREATE TABLE eventrec_pending (a)")
    async with handler.rollups() as store:
        with pytest.raises(PauseError, match="eventrec_pending is a table of another program"):
            await store.refresh([PLANS[0]], now=NOW)
        assert len((await store.answer(Question(Hourly))).rows) == 1


@pytest.mark.parametrize("rewritten", ["tail", "middle", "all", "vacuum", "restore", "replace"])
async def test_rows_that_get_numbers_of_deleted_ones_are_noticed(
    handler: SqliteHandler, path: Path, batch: Batches, rewritten: str
) -> None:
    await handler.handle(batch(*random_requests(Random(1), 20)))
    statements = {
        "tail": ("DELETE FROM events WHERE rowid > 15 AND rowid < 19", "DELETE FROM events WHERE rowid > 18"),
        "middle": ("DELETE FROM events WHERE rowid = 20", "DELETE FROM events WHERE rowid BETWEEN 3 AND 18"),
        "all": ("DELETE FROM events",),
        "vacuum": (
            "DELETE FROM events WHERE rowid BETWEEN 3 AND 9",
            "DROP INDEX eventrec_events_type_timestamp",
            "VACUUM",
        ),
        "restore": (
            "CREATE TABLE restored AS SELECT * FROM events WHERE rowid % 3 > 0 ORDER BY timestamp",
            "DROP TABLE events",
            "CREATE TABLE events (id TEXT, type TEXT, timestamp INTEGER, payload TEXT)",
            "INSERT INTO events SELECT id, type, timestamp, payload FROM restored",
        ),
        "replace": (
            "CREATE UNIQUE INDEX by_id ON events (id)",
            "INSERT OR REPLACE INTO events SELECT * FROM events WHERE rowid > 17",
        ),
    }
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        for statement in statements[rewritten]:
            await anyio.to_thread.run_sync(rows, path, statement)
        added = [request(NOW - n * 3 * HOUR, path=f"/{n}") for n in range(1, 9)]
        # What was deleted stays counted: only hours that have new rows are compared.
        await anyio.to_thread.run_sync(insert, path, *added)
        for _ in range(2):
            expected = await anyio.to_thread.run_sync(from_events, path, Question(Hourly))
            hours = {event.timestamp // HOUR * HOUR for event in added if event.timestamp}
            found = (await store.answer(Question(Hourly))).rows
            assert [row for row in found if row[0] in hours] == [row for row in expected[0].rows if row[0] in hours]
            await store.refresh(PLANS, now=NOW)


async def test_a_row_with_a_number_that_another_program_has_chosen_is_noticed(
    path: Path, batch: Batches, log_id: UUID
) -> None:
    layout = Layout(
        "events",
        [
            LayoutColumn("number", GENERATED, "bigint"),
            LayoutColumn("type", TYPE, "text"),
            LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
    )
    handler = SqliteHandler(path)
    handler.use_layouts({"events": layout})
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(*random_requests(Random(1), 20)))
    await handler.close()
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        for number in (-7, 3, 20, 900):
            data = f'{{"path": "{number}"}}'
            sql = "INSERT OR REPLACE INTO events VALUES (?, 'request', ?, ?)"
            await anyio.to_thread.run_sync(rows, path, sql, number, NOW - 9 * HOUR, data)
            found = [row for row in (await store.answer(Question(Hourly))).rows if row[0] == NOW - 9 * HOUR]
            assert str(number) in [row[1] for row in found]
            if number > 3:
                await store.refresh(PLANS, now=NOW)


@pytest.mark.parametrize("dropped", ["DROP TABLE hourly", "DROP TRIGGER eventrec_mark_deleted_events"])
async def test_what_another_program_drops_is_made_again_and_answers_stay_right(
    handler: SqliteHandler, path: Path, batch: Batches, dropped: str
) -> None:
    await handler.handle(batch(*random_requests(Random(1), 20)))
    async with handler.rollups() as store:
        await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(rows, path, dropped)
        await anyio.to_thread.run_sync(insert, path, request(NOW - 9 * HOUR))
        await check_same(path)
        await store.refresh(PLANS, now=NOW)
        await check_same(path)

    assert await anyio.to_thread.run_sync(rows, path, "SELECT sum(n) FROM hourly") == [(21,)]


async def test_a_view_of_events_is_answered_and_not_refreshed(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    class Seen(Rollup, name="seen", table="viewed"):
        hour = bucket("hour")
        n = count()

    await handler.handle(batch(request(0)))
    await anyio.to_thread.run_sync(rows, path, "CREATE VIEW viewed AS SELECT * FROM events")
    async with handler.rollups() as store:
        done = await store.refresh([plan_of(Seen)])
        answer = await store.answer(Question(Seen))

    assert done.remarks == ("'viewed' is a view: its rollups are answered from its events, and not refreshed",)
    assert answer.rows == ((0, 1),)


async def test_columns_that_only_the_case_of_their_names_tells_apart_are_said(
    handler: SqliteHandler, batch: Batches
) -> None:
    plan = replace(PLANS[0], name="twins", column_names=("hour", "path", "n", "total", "N"))
    plan = replace(plan, measures=(*plan.measures[:2], replace(plan.measures[2], name="N")))
    await handler.handle(batch(request(0)))
    async with handler.rollups() as store:
        with pytest.raises(PauseError, match="rollup 'twins' cannot be kept in a table: duplicate column name: N"):
            await store.refresh([plan])


async def test_a_file_that_may_only_be_read_is_said_in_one_line(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(0)))
    await handler.close()
    await anyio.to_thread.run_sync(path.chmod, 0o444)
    await anyio.to_thread.run_sync(path.parent.chmod, 0o555)
    store = SqliteRollups(path, busy_timeout=0.1)
    try:
        if not await anyio.to_thread.run_sync(_may_write, path):
            with pytest.raises((PauseError, TransientError)) as caught:
                await store.refresh(PLANS)
            assert "\n" not in str(caught.value)
        assert len((await store.answer(Question(Hourly))).rows) == 1
    finally:
        await anyio.to_thread.run_sync(path.parent.chmod, 0o755)
        await anyio.to_thread.run_sync(path.chmod, 0o644)
        await store.close()


def _may_write(path: Path) -> bool:
    try:
        with path.open("ab"):
            return True  # root's
    except OSError:
        return False


async def test_a_locked_file_is_an_error_that_may_pass_and_changes_nothing(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(0)))
    store = SqliteRollups(path, busy_timeout=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match="locked"):
            await store.refresh(PLANS)
        other.execute("ROLLBACK")
    done = await store.refresh(PLANS)
    await store.close()

    assert done.buckets == 2


async def test_a_full_disk_is_an_error_that_may_pass_and_answers_stay_right(
    handler: SqliteHandler, path: Path, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handler.handle(batch(*random_requests(Random(1), 200)))

    def full(path: Path, seconds: float) -> sqlite3.Connection:
        connection = connect(path, seconds)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        return connection

    monkeypatch.setattr(store_module, "connect", full)
    async with SqliteRollups(path, busy_timeout=1) as store:
        with pytest.raises(TransientError, match="full"):
            await store.refresh(PLANS, now=NOW)
        await check_same(path)


async def test_a_strict_handler_makes_no_tables(path: Path, handler: SqliteHandler, batch: Batches) -> None:
    await handler.handle(batch(request(0)))
    async with SqliteHandler(path, schema="strict").rollups() as store:
        with pytest.raises(PauseError, match="rollup 'hourly' has no table there: migrate first"):
            await store.refresh(PLANS)


async def test_an_operator_is_told_that_nothing_refreshes(handler: SqliteHandler, path: Path, batch: Batches) -> None:
    clock = numbers(step=1_000)
    handler._overdue = OverdueRollups(clock=lambda: float(next(clock)))  # always due
    await handler.handle(batch(request(NOW)))
    without_rollups = handler.remarks
    async with handler.rollups() as store:
        await store.refresh([PLANS[0]])
        await handler.handle(batch(request(NOW), start=1))
        in_time = handler.remarks
        await anyio.to_thread.run_sync(
            rows, path, "UPDATE eventrec_rollups SET refreshed_at = refreshed_at - ?", 3 * HOUR
        )
        await handler.handle(batch(request(NOW), start=2))
        (overdue,) = handler.remarks
        await store.refresh([PLANS[0]])
        await handler.handle(batch(request(NOW), start=3))

    assert (without_rollups, in_time, handler.remarks) == ((), (), ())
    assert re.match(r"rollup 'hourly' was not refreshed for 180 minutes, and events wait for it", overdue)


def test_a_rollup_of_any_type_is_found_by_the_index_of_types(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (type TEXT, timestamp INTEGER)")
        connection.execute("CREATE INDEX by_type ON events (type, timestamp DESC)")
        connection.executemany("INSERT INTO events VALUES (?, 1)", [("b",), ("a",), ("b",), (None,), (5,), (b"c",)])

        assert _types(connection, '"events"', '"type"') == ("5", "a", "b")


async def test_a_table_that_takes_the_place_of_one_that_was_renamed_is_noticed(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    def rotated() -> None:
        rows(path, "ALTER TABLE events RENAME TO events_before")
        rows(
            path, "CREATE TABLE events (id TEXT PRIMARY KEY, type TEXT, timestamp INTEGER, payload TEXT, context TEXT)"
        )
        insert(path, request(NOW - 9 * HOUR))

    async with handler.rollups() as store:
        await handler.handle(batch(*random_requests(Random(1), 20)))
        await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(rotated)
        await store.refresh(PLANS, now=NOW)
        again = await store.refresh(PLANS, now=NOW)
        await anyio.to_thread.run_sync(rows, path, 'UPDATE events SET payload = \'{"path": "/moved", "ms": 1}\'')
        answer = await store.answer(Question(Hourly, start=NOW - 9 * HOUR, end=NOW - 8 * HOUR))
        await anyio.to_thread.run_sync(rows, path, "DELETE FROM events_before")

    assert again.buckets == 0
    assert [row[1] for row in answer.rows] == ["/moved"]


async def test_a_claim_from_a_time_that_has_not_come_holds_no_process(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    """The clock has been ahead."""
    plans = [plan_of(Daily)]
    await handler.handle(batch(*random_requests(Random(1), 20)))
    ahead = SqliteRollups(path, busy_timeout=1, now=lambda: NOW + 9_000 * HOUR)
    now = SqliteRollups(path, busy_timeout=1, now=lambda: NOW)
    async with ahead, now:
        await ahead.refresh(plans, now=NOW + 9_000 * HOUR)
        claims = [await now.claim_due(plans), await now.claim_due(plans)]

    assert claims == [plans, []]


async def test_a_process_that_comes_second_to_make_a_rollup_has_nothing_counted_again(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    """It has seen that there is none, and then waited for the lock."""
    plan = plan_of(Hourly)

    def second() -> None:
        with closing(connect(path, 1)) as connection, writing(connection, 1):
            make_rollup(connection, plan, Columns.of(default_layout("events"), read_table(connection, "events")))

    await handler.handle(batch(*random_requests(Random(1), 20)))
    async with handler.rollups() as store:
        first_time = await store.refresh([plan], now=NOW)
        await anyio.to_thread.run_sync(second)
        again = await store.refresh([plan], now=NOW)

    assert first_time.buckets > 0
    assert again.buckets == 0
