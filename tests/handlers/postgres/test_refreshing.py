"""Rollups that the handler refreshes itself: beside its batches, once among processes, and said where it cannot."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from itertools import count as numbers
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from eventrec import (
    Batch,
    Event,
    EventModel,
    HandlerURLError,
    PauseError,
    TransientError,
    handler_from_url,
    migration_target_from_url,
)
from eventrec.analytics import (
    Catalogue,
    MigrationError,
    MigrationRunner,
    Question,
    Refresh,
    Refreshed,
    Rollup,
    Statement,
    bucket,
    count,
    group,
    payload,
)
from eventrec_handlers._sql.refresher import ACCIDENTS, LONGEST_PAUSE, Refresher
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.ddl import PostgresDdl
from eventrec_handlers.postgres.rollups.overdue import OverdueRollups

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

HOUR: Final = 3_600_000_000_000
SECONDS: Final = 30
"""How long something is waited for that has to come."""


class Happened(EventModel, table="events"):
    pass


class Hourly(Rollup, name="hourly", table="events"):
    hour = bucket("1 hour")
    happened = count()
    refresh = Refresh(window="3 days", lag=0, every="1 hour")


class Minutely(Rollup, name="minutely", table="events"):
    minute = bucket("1 minute")
    said = group(payload("said", kind="text"))
    happened = count()
    refresh = Refresh(window="3 days", lag=0, every="1 second")


SHOP: Final = Catalogue(name="shop", rollups=[Hourly, Minutely])


async def until(database: Any, sql: str) -> None:
    """Wait until `sql` gives true."""
    with anyio.fail_after(SECONDS):
        while (await anyio.to_thread.run_sync(database.rows, sql)) != [(True,)]:  # noqa: ASYNC110 - the server's
            await anyio.sleep(0.02)


@pytest.mark.parametrize("options", ["", "&options=-c%20standard_conforming_strings%3Doff"])
async def test_rollups_are_refreshed_while_batches_are_stored(
    opened: Any, database: Any, event: Events, batch: Batches, options: str
) -> None:
    handler = await opened(database.url() + options, refresh=True, catalogue=SHOP)
    an_hour_ago = time.time_ns() - HOUR

    await handler.handle(batch(event("a", at=an_hour_ago), event("b", at=an_hour_ago)))
    await until(database, "SELECT to_regclass('minutely') IS NOT NULL")
    await until(database, "SELECT coalesce(sum(happened), 0) = 2 FROM minutely")
    await handler.handle(batch(event("late", at=an_hour_ago), start=2))
    await until(database, "SELECT sum(happened) = 3 FROM minutely")

    assert handler.remarks == ()


async def test_a_rollup_is_refreshed_by_one_process_in_its_time(database: Any, event: Events, batch: Batches) -> None:
    plan = Hourly.rollup_plan
    database.execute("CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)")
    async with PostgresHandler(database.url()).rollups() as one, PostgresHandler(database.url()).rollups() as other:
        new = [await one.claim_due([plan]), await other.claim_due([plan])]
        await one.refresh([plan])
        again = [await one.claim_due([plan]), await other.claim_due([plan])]
        database.execute("UPDATE eventrec_rollups SET refreshed_at = now() - interval '61 minutes'")
        claims: list[list[Any]] = []

        async def claim(store: PostgresRollups) -> None:
            claims.append(await store.claim_due([plan]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim, one)
            tasks.start_soon(claim, other)

    assert new == [[plan], [plan]]
    assert again == [[], []]
    assert sorted(map(len, claims)) == [0, 1]


async def test_a_rollup_that_is_not_filled_yet_is_everybodys(database: Any) -> None:
    plan = Hourly.rollup_plan
    database.execute("CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)")
    async with PostgresHandler(database.url()).rollups() as store:
        await store.refresh([plan])
        database.execute("UPDATE eventrec_rollups SET todo_from = now(), todo_to = now()")

        assert await store.claim_due([plan]) == [plan]


EARLIER: Final = (
    "CREATE TABLE eventrec_dirty (table_name text NOT NULL, since timestamptz NOT NULL, rows bigint NOT NULL)",
    "CREATE TABLE eventrec_pending (rollup text NOT NULL, bucket timestamptz NOT NULL, rows bigint NOT NULL)",
    "CREATE INDEX eventrec_pending_bucket ON eventrec_pending (rollup, bucket)",
    (
        "CREATE TABLE eventrec_rollups (name text PRIMARY KEY, table_name text NOT NULL, fingerprint text NOT NULL,"
        " unit text NOT NULL, every integer NOT NULL, zone text NOT NULL, todo_from timestamptz, todo_to timestamptz,"
        " late_rows bigint NOT NULL DEFAULT 0)"
    ),
    (
        "CREATE TABLE eventrec_floors (table_name text PRIMARY KEY, kept_from timestamptz NOT NULL"
        " DEFAULT '0003-01-01 00:00:00+00')"
    ),
)
"""Our own tables beside rollups as the first version of them was."""
EVENTS: Final = "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)"


@pytest.fixture
async def earlier(database: Any) -> Any:
    """A database with a rollup that the first version made and filled, and an event that waits."""
    database.execute(EVENTS)
    async with PostgresHandler(database.url()).rollups() as store:
        await store.refresh([Hourly.rollup_plan])
    database.execute(
        "CREATE TABLE kept AS SELECT name, table_name, fingerprint, unit, every, zone, todo_from, todo_to, late_rows"
        " FROM eventrec_rollups",
        "DROP TABLE eventrec_dirty, eventrec_pending, eventrec_rollups, eventrec_floors",
        *EARLIER,
        "INSERT INTO eventrec_rollups SELECT * FROM kept",
        "INSERT INTO eventrec_floors (table_name) VALUES ('events')",
        "INSERT INTO events (type, timestamp) VALUES ('a', now() - interval '3 hours')",
    )
    return database


async def test_what_the_first_version_knew_of_rollups_is_brought_up_to_date_by_a_refresh(earlier: Any) -> None:
    async with PostgresHandler(earlier.url(), schema="strict").rollups() as strict:
        with pytest.raises(PauseError, match="table 'eventrec_rollups' is of an earlier version: migrate first"):
            await strict.refresh([Hourly.rollup_plan])
        with pytest.raises(PauseError, match="migrate first"):
            await strict.claim_due([Hourly.rollup_plan])
        assert (await strict.answer(Question(Hourly))).rows[0][1] == 1
    async with PostgresHandler(earlier.url()).rollups() as store:
        claimed = await store.claim_due([Hourly.rollup_plan])
        await store.refresh([Hourly.rollup_plan])

    assert claimed == []
    assert earlier.rows("SELECT happened FROM hourly") == [(1,)]
    assert earlier.rows("SELECT refreshed_at IS NULL, refresh_every FROM eventrec_rollups") == [(False, 3_600.0)]


async def test_what_the_first_version_knew_of_rollups_is_brought_up_to_date_by_a_migration(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def migrate() -> int:
        async with migration_target_from_url(database.url()) as target:
            catalogue = Catalogue(name="shop", rollups=[Hourly], events=[Happened])
            return len(await MigrationRunner(target, catalogue=catalogue).run())

    made_now = PostgresDdl.own_statements

    def made_then(ddl: PostgresDdl, name: str) -> tuple[Statement, ...]:
        now = made_now(ddl, name)
        return now if name != "eventrec_rollups" else (*map(Statement, EARLIER), *now[-2:])  # the trigger's function

    with monkeypatch.context() as first_version:
        first_version.setattr(PostgresDdl, "own_statements", made_then)
        first = await migrate()
    assert database.rows("SELECT count(*) FROM pg_attribute WHERE attname = 'refresh_every'") == [(0,)]
    async with PostgresHandler(database.url(), schema="strict").rollups() as strict:
        with pytest.raises(PauseError, match="migrate first"):
            await strict.refresh([Hourly.rollup_plan])
        second, third = await migrate(), await migrate()
        await strict.refresh([Hourly.rollup_plan])

    assert (first, second, third) == (2, 1, 0)
    assert database.rows("SELECT refresh_every FROM eventrec_rollups") == [(3_600.0,)]


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (
            "CREATE VIEW hourly AS SELECT now() AS hour, 1 AS happened",
            "a view has its name: .* give the URL as timescale:",
        ),
        ("CREATE MATERIALIZED VIEW hourly AS SELECT 1 AS happened", "a materialized view has its name: rename it"),
        ("CREATE SEQUENCE hourly", "a sequence has its name: rename it"),
        ("CREATE TABLE hourly (hour timestamptz)", "another program's table has its name, without a column 'happened'"),
    ],
)
@pytest.mark.parametrize("was_made", [False, True])
async def test_what_has_the_name_of_a_rollup_and_is_not_its_table_holds_it(
    database: Any, theirs: str, why: str, *, was_made: bool
) -> None:
    database.execute(EVENTS, *([] if was_made else [theirs]))
    async with PostgresHandler(database.url()).rollups() as store:
        if was_made:
            await store.refresh([Hourly.rollup_plan])
            database.execute(
                "DROP TABLE hourly",
                "INSERT INTO events (type, timestamp) VALUES ('a', now() - interval '1 day')",
                theirs,
            )

        with pytest.raises(PauseError, match=why) as caught:
            await store.refresh([Hourly.rollup_plan])

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("was_made", [False, True])
async def test_a_table_of_another_program_with_the_name_of_a_rollup_is_not_touched(
    database: Any, *, was_made: bool
) -> None:
    event = "INSERT INTO events (type, timestamp) VALUES ('a', now() - interval '{} hours')"
    theirs = (
        "CREATE TABLE hourly (hour timestamptz, happened bigint, note text)",
        "INSERT INTO hourly SELECT now() - n * interval '1 hour', 1000, 'theirs' FROM generate_series(0, 200) AS n",
    )
    database.execute(EVENTS, event.format(3), *([] if was_made else theirs))
    async with PostgresHandler(database.url()).rollups() as store:
        if was_made:
            await store.refresh([Hourly.rollup_plan])
            database.execute("DROP TABLE hourly", *theirs)
        database.execute(event.format(100))

        with pytest.raises(PauseError, match="a table 'hourly' that is not ours, and it is not touched: rename one of"):
            await store.refresh([Hourly.rollup_plan])
        answer = await store.answer(Question(Hourly))

    assert [row[1] for row in answer.rows] == [1, 1]
    assert database.rows("SELECT count(*), count(note), sum(happened)::int FROM hourly") == [(201, 201, 201_000)]
    assert database.rows("SELECT count(*) FROM pg_indexes WHERE tablename = 'hourly'") == [(0,)]


async def test_a_migration_adopts_no_table_of_another_program_as_a_rollup(database: Any) -> None:
    database.execute("CREATE TABLE hourly (hour timestamptz, happened bigint)", "INSERT INTO hourly VALUES (now(), 7)")
    async with migration_target_from_url(database.url()) as target:
        runner = MigrationRunner(target, catalogue=Catalogue(name="shop", rollups=[Hourly], events=[Happened]))

        with pytest.raises(MigrationError, match="rollup hourly: what has its name is not ours, and it is not touched"):
            await runner.run()

    assert database.rows("SELECT happened FROM hourly") == [(7,)]
    assert database.rows("SELECT obj_description('hourly'::regclass, 'pg_class')") == [(None,)]


@pytest.mark.parametrize("is_said", [False, True])
async def test_a_table_of_a_rollup_is_ours_by_its_note_or_by_what_stands_at_it(database: Any, *, is_said: bool) -> None:
    """Tables that an early version made say nothing; notes may be lost."""
    database.execute(EVENTS, "INSERT INTO events (type, timestamp) VALUES ('a', now() - interval '3 hours')")
    async with PostgresHandler(database.url()).rollups() as store:
        await store.refresh([Hourly.rollup_plan])
        lost = "DROP TABLE eventrec_rollups" if is_said else "COMMENT ON TABLE hourly IS NULL"
        database.execute(lost, "INSERT INTO events (type, timestamp) VALUES ('a', now() - interval '3 hours')")

        await store.refresh([Hourly.rollup_plan])

    assert database.rows("SELECT sum(happened)::int FROM hourly") == [(2,)]


async def test_a_handler_that_cannot_refresh_stores_batches_and_says_so(  # noqa: PLR0917
    opened: Any,
    database: Any,
    event: Events,
    batch: Batches,
    caplog: pytest.LogCaptureFixture,
    said_by: Callable[[str], list[logging.LogRecord]],
) -> None:
    with caplog.at_level(logging.INFO, "eventrec.postgres"):
        handler = await opened(database.url(), refresh=True, catalogue="no_such_module:catalogue")
        with anyio.fail_after(SECONDS):
            while not handler.remarks:  # noqa: ASYNC110 - it is not told
                await anyio.sleep(0.02)
        await handler.handle(batch(event("a")))

    assert "no module 'no_such_module'" in handler.remarks[0]
    assert database.rows("SELECT count(*) FROM events") == [(1,)]
    assert len([record for record in said_by("eventrec.postgres") if "not refreshed" in record.message]) == 1


async def test_closing_ends_a_refresh_that_waits_and_leaves_no_connection(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), refresh=True, catalogue=SHOP)
    await handler.handle(batch(event("a")))
    await until(database, "SELECT to_regclass('minutely') IS NOT NULL")
    blocker = await anyio.to_thread.run_sync(database.session)
    await anyio.to_thread.run_sync(
        database.run, blocker.execute("BEGIN; LOCK TABLE minutely, eventrec_pending IN ACCESS EXCLUSIVE MODE")
    )
    await handler.handle(batch(event("b"), start=1))
    await until(database, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    with anyio.fail_after(SECONDS):
        await handler.close()

    await anyio.to_thread.run_sync(database.run, blocker.close())
    assert await anyio.to_thread.run_sync(database.connections_left) == 0


# -- rounds, without a server


class Store:
    """What a refresher is given instead of a database: `says` is asked what each refresh comes to."""

    def __init__(self, says: Callable[[str], Refreshed]) -> None:
        self._says = says
        self.asked: list[str] = []

    async def claim_due(self, plans: Any) -> Any:
        self.asked.append("claim")
        return plans

    async def refresh(self, plans: Any) -> Refreshed:
        self.asked.append(",".join(plan.name for plan in plans))
        return self._says(self.asked[-1])

    async def close(self) -> None:
        self.asked.append("close")


async def rounds(says: Callable[[str], Refreshed], number: int, note: Callable[[Refresher], object]) -> Any:
    """What is asked of the store, and the pauses, of so many rounds; `note` is called after each."""
    store, pauses = Store(says), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        note(refresher)
        if len(pauses) == number:
            ended.set()
            await anyio.sleep_forever()

    ended = anyio.Event()
    refresher = Refresher(SHOP, lambda _: store, database="postgres", sleep=sleep)
    await refresher.start()
    try:
        with anyio.fail_after(SECONDS):
            await ended.wait()
    finally:
        await refresher.stop()
    return store.asked, pauses


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_rollup_that_cannot_be_refreshed_keeps_no_other_from_it(
    anyio_backend: str, caplog: pytest.LogCaptureFixture, said_by: Callable[[str], list[logging.LogRecord]]
) -> None:
    remarks: list[tuple[str, ...]] = []
    is_well = iter((False, False, True, True))

    def says(asked: str) -> Refreshed:
        if asked == "hourly" and not next(is_well):
            raise PauseError("declared otherwise")
        return Refreshed()

    with caplog.at_level(logging.INFO, "eventrec.postgres"):
        asked, pauses = await rounds(says, 4, lambda refresher: remarks.append(refresher.remarks))

    of_one = ["", "hourly", "minutely", "close"]
    # What was claimed in vain is refreshed without being claimed again.
    assert asked == ["claim", *of_one, *of_one, *of_one, "claim", *of_one]
    assert pauses == [2, 4, 1, 1]
    said = "rollups are not refreshed: declared otherwise"
    assert remarks == [(said,), (said,), (), ()]
    assert [record.levelname for record in said_by("eventrec.postgres")] == ["WARNING", "INFO"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_pauses_grow_and_an_accident_is_not_said(
    anyio_backend: str, said_by: Callable[[str], list[logging.LogRecord]]
) -> None:
    remarks: list[tuple[str, ...]] = []

    def says(asked: str) -> Refreshed:
        raise TransientError("no connection")

    _, pauses = await rounds(says, 14, lambda refresher: remarks.append(refresher.remarks))

    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == LONGEST_PAUSE
    assert [bool(each) for each in remarks] == [False] * (ACCIDENTS - 1) + [True] * (15 - ACCIDENTS)
    assert len(said_by("eventrec.postgres")) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_left_undone_again_and_again_is_said(anyio_backend: str) -> None:
    remarks: list[tuple[str, ...]] = []
    left = iter((("busy",), ("busy",), ("busy",), ("busy",), (), ()))

    def says(asked: str) -> Refreshed:
        return Refreshed(remarks=next(left) if asked == "" else ())

    await rounds(says, 5, lambda refresher: remarks.append(refresher.remarks))

    assert remarks == [(), (), ("busy",), ("busy",), ()]


# -- remarks, where nothing refreshes


async def test_an_operator_is_told_that_nothing_refreshes(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler: PostgresHandler = await opened(database.url())
    clock = numbers(step=1_000)
    handler._overdue = OverdueRollups(clock=lambda: float(next(clock)))  # always due
    await handler.handle(batch(event("a")))
    without_rollups = handler.remarks
    async with handler.rollups() as rollups:
        await rollups.refresh([Hourly.rollup_plan])
        await handler.handle(batch(event("b"), start=1))
        in_time = handler.remarks
        database.execute("UPDATE eventrec_rollups SET refreshed_at = now() - interval '3 hours'")
        await handler.handle(batch(event("c"), start=2))
        (overdue,) = handler.remarks
        await rollups.refresh([Hourly.rollup_plan])
        await handler.handle(batch(event("d"), start=3))

        assert (without_rollups, in_time, handler.remarks) == ((), (), ())
        assert re.match(r"rollup 'hourly' was not refreshed for 180 minutes, and events wait for it", overdue)
        assert sum(int(row[1] or 0) for row in (await rollups.answer(Question(Hourly))).rows) == 4


async def test_those_who_may_not_look_store_all_the_same(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    owner = await opened(database.url())
    await owner.handle(batch(event("a")))
    async with owner.rollups() as rollups:
        await rollups.refresh([Hourly.rollup_plan])
    user = f"writer_of_{database.name}"
    database.execute(
        f"CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA public TO {user}; GRANT SELECT, INSERT ON events TO {user};"
        f" GRANT ALL ON eventrec_checkpoints, eventrec_destination TO {user}"
    )
    handler = await opened(database.url(user=user), schema="strict")
    clock = numbers(step=100)
    handler._overdue = OverdueRollups(clock=lambda: float(next(clock)))

    await handler.handle(batch(event("b"), start=1))
    await handler.handle(batch(event("c"), start=2))

    assert (database.rows("SELECT count(*) FROM events"), handler.remarks) == ([(3,)], ())
    database.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


# -- options


def test_options_of_a_url() -> None:
    handler = handler_from_url("postgresql://host/shop?refresh=true&catalogue=shop:catalogue")

    assert isinstance(handler, PostgresHandler)
    assert handler._options.refresh
    assert handler._options.catalogue == "shop:catalogue"
    assert not handler_from_url("postgresql://host/shop")._options.refresh  # type: ignore[attr-defined]


def test_timescaledb_refreshes_itself() -> None:
    with pytest.raises(HandlerURLError, match="by policies"):
        handler_from_url("timescale://host/shop?refresh=true")
