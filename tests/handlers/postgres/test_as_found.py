"""Tables and servers as other people set them up, and as they change them under a handler that is open."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import anyio
import pytest

from eventrec import (
    Backoff,
    Batch,
    BatchTooLargeError,
    ColumnSchema,
    ColumnType,
    Event,
    EventRecorder,
    EventRecorderOptions,
    PauseError,
    PermanentError,
    TransientError,
    reader_from_url,
)
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.catalog import LOCK_MOMENT, LONGEST_LOCK_MOMENT, lock_moment
from eventrec_handlers.postgres.checkpoints import Namespace

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

EVENTS: Final = "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)"
TRIGGER: Final = "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()"


def function(body: str) -> str:
    return f"CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"


def column(kind: ColumnType, name: str = "a", **more: Any) -> tuple[ColumnSchema, ...]:
    return (ColumnSchema(name, kind, **more),)


def stored(database: Any, table: str = "events") -> list[str]:
    return [payload for (payload,) in database.rows(f"SELECT payload FROM {table} ORDER BY id")]


# -- row-level security


@contextmanager
def guarded(database: Any, *policies: str) -> Iterator[str]:
    """A role for which `events` is under row-level security."""
    name = f"app_{database.name}"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON SCHEMA public TO {name}",
        "CREATE TABLE events (n bigint GENERATED ALWAYS AS IDENTITY, id uuid, type varchar(20), timestamp timestamptz,"
        " payload jsonb, UNIQUE (id, type))",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        f"GRANT INSERT ON events TO {name}",
        *policies,
    )
    try:
        yield name
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


ALL: Final = "CREATE POLICY p ON events FOR INSERT WITH CHECK (true)"


async def test_table_under_row_level_security_is_written_by_insert(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    with guarded(database, ALL) as name:
        handler = await opened(database.url(name))

        await handler.handle(batch(*(event(n, kind=f"k{n % 3}") for n in range(450)), event(450, into="free")))
        await handler.handle(batch(event(451), start=451))
        await handler.close()
        free = stored(database, "free")

    assert database.rows("SELECT count(*), min(n), max(n) FROM events") == [(451, 1, 451)]
    assert free == ["450"]


async def test_row_that_a_policy_or_a_constraint_refuses_goes_alone(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    with guarded(database, "CREATE POLICY p ON events WITH CHECK (type <> 'secret')") as name:
        handler = await opened(database.url(name))
        many = [event(n, kind="secret" if n in {3, 40} else "open") for n in range(50)]
        long = [event(n, kind="x" * 21 if n == 7 else "y") for n in range(10)]

        with pytest.raises(PermanentError) as by_policy:
            await handler.handle(batch(*many))
        with pytest.raises(PermanentError) as by_length:
            await handler.handle(batch(*long))
        with pytest.raises(PermanentError) as by_value:
            await handler.handle(batch(event(0), event("\0")))
        await handler.handle(batch(event("fine")))
        await handler.close()

    why = "table 'events' refuses it: new row violates row-level security policy for table \"events\" (42501)"
    assert by_policy.value.records == {3: why, 40: why}
    assert by_length.value.records == {
        7: "table 'events' refuses it: value too long for type character varying(20) (22001)"
    }
    assert list(by_value.value.records) == [1]
    assert stored(database) == ['"fine"']


async def test_policies_that_allow_nothing_hold(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    with guarded(database) as name:
        handler = await opened(database.url(name))

        with pytest.raises(PauseError, match=r"violates row-level security policy .* \(42501\)"):
            await handler.handle(batch(*(event(n) for n in range(50))))
        database.execute(f"REVOKE INSERT ON events FROM {name}")
        with pytest.raises(PauseError, match="permission denied for table events"):
            await handler.handle(batch(event(1)))
        database.execute(
            ALL, f"GRANT INSERT ON events TO {name}", f"REVOKE TEMP ON DATABASE {database.name} FROM PUBLIC"
        )
        with pytest.raises(PauseError, match="permission denied to create temporary tables"):
            await handler.handle(batch(event(1)))
        await handler.close()


async def test_row_level_security_may_come_and_go_under_a_handler(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    with guarded(database, ALL, "ALTER TABLE events DISABLE ROW LEVEL SECURITY") as name:
        handler = await opened(database.url(name))

        for start, mode in enumerate(("DISABLE", "ENABLE", "DISABLE", "ENABLE")):
            database.execute(f"ALTER TABLE events {mode} ROW LEVEL SECURITY")
            await handler.handle(batch(event(start), start=start))
        await handler.close()

    assert stored(database) == ["0", "1", "2", "3"]


# -- columns that become narrower, and names that come to mean another table


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        (ColumnType.DECIMAL128, Decimal("2.269"), "numeric(10,1)"),
        (ColumnType.DATETIME, 1_709_208_000_123_456, "timestamptz(0)"),
        (ColumnType.TIMESTAMP_NANOSECOND, 1_709_208_000_123_456_000, "timestamptz(3)"),
        (ColumnType.TIME_MICROSECOND, 123_456, "time(2)"),
        (ColumnType.INTERVAL_MONTH_DAY_NANO, (1, 2, 3_456_000), "interval(0)"),
        (ColumnType.UINT64, 2**64 - 1, "numeric(22,2)"),
    ],
    ids=str,
)
async def test_value_is_never_rounded_to_what_its_column_became(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, kind: ColumnType, value: Any, becomes: str
) -> None:
    exact = event(1, columns=column(kind), values=(value,))
    await handler.handle(batch(exact))
    before = database.rows("SELECT a::text FROM events")

    database.execute("ALTER TABLE events ADD kept text", "UPDATE events SET kept = a::text")
    database.execute(f"ALTER TABLE events ALTER a TYPE {becomes}")
    with pytest.raises(PermanentError, match="'a' of table 'events' cannot take") as caught:
        await handler.handle(batch(exact, event(2), start=1))
    database.execute("ALTER TABLE events DROP a")
    await handler.handle(batch(exact, event(2), start=1))

    assert list(caught.value.records) == [1]
    assert database.rows("SELECT kept, payload FROM events ORDER BY id") == [
        (before[0][0], "1"),
        (None, "1"),
        (None, "2"),
    ]
    assert database.rows("SELECT a::text FROM events WHERE kept IS NULL AND payload = '1'") == before


async def test_time_of_the_event_itself_is_not_rounded_either(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))

    database.execute("ALTER TABLE events ALTER timestamp TYPE timestamptz(0)")

    with pytest.raises(PermanentError, match=r"declares it timestamp\(0\) with time zone"):
        await handler.handle(batch(event(2), start=1))
    assert stored(database) == ["1"]


async def test_table_that_took_the_name_of_another_is_looked_at_first(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    exact = event(1, columns=column(ColumnType.DECIMAL128), values=(Decimal("1.239"),))
    await handler.handle(batch(exact))

    database.execute("ALTER TABLE events RENAME TO former", EVENTS, "ALTER TABLE events ADD a numeric(10,1)")
    with pytest.raises(PermanentError, match=r"declares it numeric\(10,1\)"):
        await handler.handle(batch(exact, start=1))
    database.execute("DROP TABLE events", EVENTS)
    await handler.handle(batch(exact, start=1))

    assert database.rows("SELECT a::text FROM events") == [("1.239",)]
    assert stored(database, "former") == ["1"]


@pytest.mark.parametrize(
    ("becomes", "why"),
    [
        ("CREATE VIEW events AS SELECT * FROM former", "its name is taken: view"),
        ("CREATE MATERIALIZED VIEW events AS SELECT * FROM former", "its name is taken: materialized view"),
        (
            (
                "CREATE EXTENSION file_fdw; CREATE SERVER s FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE events"
                " (id uuid, type text, timestamp timestamptz, payload jsonb) SERVER s OPTIONS (filename '/dev/null')"
            ),
            "its name is taken: foreign table",
        ),
        (
            EVENTS + "; ALTER TABLE events ADD a bigint GENERATED ALWAYS AS (1) STORED",
            "declares it bigint generated",
        ),
        ("CREATE DOMAIN d AS bigint; " + EVENTS + "; ALTER TABLE events ADD a d", "declares it d"),
        ("CREATE TABLE events (name text)", "it is not one of ours: it lacks 'id', 'type', 'timestamp', 'payload'"),
    ],
    ids=["view", "materialized", "foreign", "generated", "domain", "another"],
)
async def test_what_takes_the_place_of_a_table_is_never_taken_for_it(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, becomes: str, why: str
) -> None:
    valued = event(1, columns=column(ColumnType.INT64), values=(1,))
    await handler.handle(batch(valued))

    database.execute("ALTER TABLE events RENAME TO former", *becomes.split("; "))

    with pytest.raises(PermanentError, match=why):
        await handler.handle(batch(valued, start=1))
    assert stored(database, "former") == ["1"]


# -- columns that cannot be added, or not now


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            EVENTS.replace("events", "whole")
            + " PARTITION BY LIST (type);CREATE TABLE events PARTITION OF whole DEFAULT",
            r"cannot add column to a partition \(42809\)",
        ),
        (
            EVENTS.replace("TABLE events", "TYPE shape AS") + ";CREATE TABLE events OF shape",
            r"cannot add column to typed table \(42809\)",
        ),
    ],
    ids=["partition", "typed"],
)
async def test_column_that_can_never_be_added_holds(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, made: str, why: str
) -> None:
    database.execute(*made.split(";"))
    await handler.handle(batch(event(0)))

    with pytest.raises(PauseError, match=why):
        await handler.handle(batch(event(1, columns=column(ColumnType.INT64), values=(1,)), start=1))
    await handler.handle(batch(event(2), start=1))

    assert stored(database) == ["0", "2"]


async def test_event_trigger_that_forbids_ddl_holds_until_it_is_gone(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        "CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''schema is frozen''; END'",
        "CREATE EVENT TRIGGER frozen ON ddl_command_start EXECUTE FUNCTION frozen()",
    )

    with pytest.raises(PauseError, match=r"schema is frozen \(P0001\)"):
        await handler.handle(batch(event(0)))
    database.execute("DROP EVENT TRIGGER frozen")
    await handler.handle(batch(event(0)))

    assert stored(database) == ["0"]


async def test_readers_are_not_shut_out_while_a_column_waits_behind_a_long_report(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), lock_timeout=3)
    database.execute(
        "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb) PARTITION BY LIST (type)",
        "CREATE TABLE part PARTITION OF events DEFAULT",
    )
    await handler.handle(batch(event(0)))
    report, reader = database.session(), database.session()
    database.run(report.execute("BEGIN; SELECT * FROM part"))  # the lock is had on the parent, not on the partition
    waits: list[float] = []
    ended = threading.Event()

    def seconds(sql: str) -> float:
        before = time.perf_counter()
        database.run(reader.fetch(sql))
        return time.perf_counter() - before

    def read() -> None:
        while not ended.is_set():
            # Beside what a question takes that waits for no lock: the machine may be busy.
            waits.append(seconds("SELECT count(*) FROM events") - seconds("SELECT count(*) FROM pg_class"))
            time.sleep(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    wide = batch(event(1, columns=column(ColumnType.INT64), values=(7,)), start=1)
    with pytest.raises(TransientError, match=r"cannot be changed while others use it: .*lock timeout") as caught:
        await handler.handle(wide)
    ended.set()
    await anyio.to_thread.run_sync(thread.join)
    database.run(report.execute("ROLLBACK"))
    for session in (report, reader):
        database.run(session.close())
    await handler.handle(wide)

    assert max(waits) < 1
    assert sum(wait for wait in waits if abs(wait) > 0.1) < 1.5  # of three seconds
    assert caught.value.retry_after == 3
    assert database.rows("SELECT a FROM events ORDER BY id") == [(None,), (7,)]


async def test_lock_is_waited_for_longer_where_only_a_vacuum_holds_it(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event("x" * 500) for _ in range(400))))
    namespace = Namespace("public", 63, 10_000)
    vacuum = database.session()
    database.run(vacuum.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1"))
    running = asyncio.run_coroutine_threadsafe(vacuum.execute("VACUUM events"), database.loop)
    while not database.rows("SELECT 1 FROM pg_stat_progress_vacuum"):  # noqa: ASYNC110 - the server's state
        await anyio.sleep(0.01)

    async def moment() -> int:
        async with handler._connections.connected() as (connection, _):
            return await lock_moment(connection, namespace, "events")

    behind_vacuum = await handler._calls.run(moment)
    report = database.session()
    database.run(report.execute("BEGIN; SELECT * FROM events"))
    behind_report = await handler._calls.run(moment)
    running.cancel()
    for session in (report, vacuum):
        database.run(session.close())

    assert 1_000 < behind_vacuum <= LONGEST_LOCK_MOMENT
    assert behind_report == LOCK_MOMENT


async def test_column_is_added_as_soon_as_the_report_ends(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    report = database.session()
    database.run(report.execute("BEGIN; SELECT * FROM events"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handler.handle, batch(event(1, columns=column(ColumnType.INT64), values=(7,)), start=1))
        while not database.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
            await anyio.sleep(0.01)
        database.run(report.execute("ROLLBACK"))
    database.run(report.close())

    assert database.rows("SELECT a FROM events ORDER BY id") == [(None,), (7,)]


async def test_partition_that_is_missing_for_now_holds_and_for_another_time_is_the_records_fault(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(EVENTS + " PARTITION BY RANGE (timestamp)")
    now = time.time_ns()

    with pytest.raises(PauseError, match=r"no partition of relation .* \(23514\), nor for one of now"):
        await handler.handle(batch(event(0, at=now), event(1, at=0)))
    database.execute("CREATE TABLE part PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2999-01-01')")
    with pytest.raises(PermanentError, match="no partition of relation") as caught:
        await handler.handle(batch(event(0, at=now), event(1, at=0)))
    await handler.handle(batch(event(0, at=now)))

    assert list(caught.value.records) == [1]
    assert stored(database) == ["0"]


async def test_type_for_which_there_is_no_partition_goes_alone(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(EVENTS + " PARTITION BY LIST (type)", "CREATE TABLE a PARTITION OF events FOR VALUES IN ('a')")

    with pytest.raises(PermanentError, match="no partition of relation") as caught:
        await handler.handle(batch(event(0, kind="a"), event(1, kind="b")))

    assert list(caught.value.records) == [1]


# -- time limits of the server, and of our own


@pytest.mark.parametrize("limit", ["statement_timeout", "transaction_timeout"])
async def test_batch_that_is_too_slow_for_the_server_is_to_be_made_smaller(
    opened: Any, database: Any, event: Events, batch: Batches, limit: str
) -> None:
    # What fits in its time has it many times over: a machine may be busy.
    database.execute(EVENTS, function("PERFORM pg_sleep(0.1); RETURN NEW;"), TRIGGER)
    handler = await opened(database.url(options=f"-c%20{limit}%3D1000"))

    with pytest.raises(BatchTooLargeError, match=r"20 records: .* due to .* timeout"):
        await handler.handle(batch(*(event(n) for n in range(20))))
    await handler.resume(batch(event(0)).log_id, "tested", 0)
    await handler.handle(batch(event(0), event(1)))
    database.execute(function("PERFORM pg_sleep(1.2); RETURN NEW;"))
    with pytest.raises(TransientError):
        await handler.handle(batch(event(2), start=2))

    assert stored(database) == ["0", "1"]


async def test_batch_that_our_own_time_limit_met_twice_is_to_be_made_smaller(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(EVENTS, function("PERFORM pg_sleep(0.2); RETURN NEW;"), TRIGGER)
    handler = await opened(database.url(), timeout=2)
    large = batch(*(event(n) for n in range(20)))

    with pytest.raises(TransientError, match="no answer in time"):
        await handler.handle(large)
    with pytest.raises(BatchTooLargeError, match="no answer in time, twice, for 20 records"):
        await handler.handle(large)
    handler._calls._timeout = 20  # of what goes on, a busy machine
    await handler.handle(batch(event(0)))

    assert stored(database) == ["0"]


# -- what else servers do


async def test_server_that_stays_read_only_holds_and_goes_on_when_it_is_not(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'eventrec' AND datname = current_database()"
    )
    said: list[str] = []

    for _ in range(5):
        try:
            await handler.handle(batch(event(1), start=1))
        except (TransientError, PauseError) as exc:
            said.append(f"{type(exc).__name__}: {exc}")
    database.execute(f"BEGIN READ WRITE; ALTER DATABASE {database.name} RESET ALL; COMMIT")
    for _ in range(2):
        try:
            await handler.handle(batch(event(1), start=1))
            break
        except PauseError:
            pass

    assert said[-1].startswith("PauseError")
    assert "nothing can be stored there: cannot execute" in said[-1]
    assert said[0].startswith("TransientError")
    assert stored(database) == ["0", "1"]


@pytest.mark.parametrize(
    ("found", "used"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply",) * 2]
)
async def test_commit_is_at_least_on_the_disk(  # noqa: PLR0917
    opened: Any, database: Any, event: Events, batch: Batches, found: str, used: str
) -> None:
    database.execute(
        EVENTS,
        "CREATE TABLE seen (setting text)",
        function("INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW;"),
        TRIGGER,
    )

    await (await opened(database.url(options=f"-c%20synchronous_commit%3D{found}"))).handle(batch(event(1)))

    assert database.rows("SELECT setting FROM seen") == [(used,)]


async def test_constraint_that_is_looked_at_when_the_transaction_ends_is_a_records_fault(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0, columns=column(ColumnType.INT64), values=(1,))))
    database.execute("ALTER TABLE events ADD UNIQUE (a) DEFERRABLE INITIALLY DEFERRED")

    with pytest.raises(PermanentError, match="23505"):
        await handler.handle(batch(event(1, columns=column(ColumnType.INT64), values=(1,)), start=1))
    await handler.handle(batch(event(2, columns=column(ColumnType.INT64), values=(2,)), start=1))

    assert stored(database) == ["0", "2"]


async def test_exclusion_constraint_names_its_record(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(EVENTS, "ALTER TABLE events ADD EXCLUDE USING btree (payload WITH =)")

    with pytest.raises(PermanentError, match="23P01") as caught:
        await handler.handle(batch(event(0), event(1), event(1)))

    assert list(caught.value.records) == [2]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_database_of_another_encoding(  # noqa: PLR0917
    opened: Any, database: Any, event: Events, batch: Batches, log_id: UUID, encoding: str
) -> None:
    name = f"{database.name}_other"
    database.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    handler = await opened(database.server.url(name) + "&options=-c%20standard_conforming_strings%3Doff")
    try:
        await handler.handle(batch(event("é"), event("x", kind="a\\'b")))
        with pytest.raises(PermanentError) as caught:
            await handler.handle(batch(event(1), event("\N{SNOWMAN}"), event("\0"), start=2))
        await handler.handle(batch(event(1), start=2))
        assert await handler.resume(log_id, "tested", 0) == 3
    finally:
        await handler.close()
        database.execute(f"DROP DATABASE {name}")

    assert set(caught.value.records) <= {3, 4}


async def test_names_of_others_that_are_not_utf8_are_passed_over(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    name = f"{database.name}_other"
    database.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    url = database.server.url(name) + "&options=-c%20standard_conforming_strings%3Doff"
    try:
        handler = await opened(url)
        await handler.handle(batch(event(1)))
        await handler.close()
        for sql in ('CREATE TABLE "caf\xe9" (a int)', 'ALTER TABLE events ADD "caf\xe9" int, ADD "\xc3\xa9" int'):
            given = f"convert_from(decode('{sql.encode('latin-1').hex()}', 'hex'), 'SQL_ASCII')"
            replace(database, name=name).execute(f"DO $$BEGIN EXECUTE {given}; END$$")
        handler = await opened(url)
        await handler.handle(batch(event(2), start=1))
        await handler.close()
        async with reader_from_url(url) as reader:
            page = await reader.latest(limit=10)
    finally:
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert [list(stored.columns) for stored in page.events] == [["\N{LATIN SMALL LETTER E WITH ACUTE}"]] * 2


async def test_unlogged_published_and_oddly_ordered_tables_are_tables(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        "CREATE UNLOGGED TABLE events (payload jsonb, \"Note\" text DEFAULT 'n', type text, timestamp timestamptz,"
        " n bigint GENERATED BY DEFAULT AS IDENTITY, id uuid)",
        "CREATE PUBLICATION p FOR ALL TABLES",
    )

    await handler.handle(batch(event(0)))
    await handler.handle(batch(event(1, columns=column(ColumnType.INT64), values=(5,)), start=1))

    assert database.rows('SELECT payload, "Note", n, a FROM events ORDER BY id') == [
        ("0", "n", 1, None),
        ("1", "n", 2, 5),
    ]


async def test_trigger_that_keeps_a_row_out_is_not_argued_with(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(EVENTS, function("IF NEW.type = 'x' THEN RETURN NULL; END IF; RETURN NEW;"), TRIGGER)

    await handler.handle(batch(event(0), event(1, kind="x"), event(2)))

    assert stored(database) == ["0", "2"]


async def test_full_table_takes_no_further_column_and_says_so(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    many = ", ".join(f"c{n} int" for n in range(1_596))
    database.execute(f"CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb, {many})")
    handler = await opened(database.url(), max_columns=1_600)

    await handler.handle(batch(event(0)))
    with pytest.raises(PermanentError, match="the table would have 1601 columns") as caught:
        await handler.handle(batch(event(1), event(2, columns=column(ColumnType.INT64), values=(1,)), start=1))

    assert list(caught.value.records) == [2]


# -- how the server is set, and how a table is divided


async def test_names_of_types_may_be_quoted(database: Any, event: Events, batch: Batches, log_id: UUID) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET quote_all_identifiers = on")
    handler = PostgresHandler(database.url())
    for n in range(2):  # once into a table that is made, once into one that is there
        await handler.open()
        await handler.handle(batch(event(n), start=await handler.resume(log_id, "tested", 0)))
        await handler.close()
    reader = handler.reader()
    page = await reader.latest(limit=9)
    await reader.close()

    assert [told.payload for told in page.events] == ["0", "1"]


async def test_text_that_a_column_would_cut_off_is_refused_alone(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(f"{EVENTS[:-1]}, a varchar(3))")
    told = [
        event(n, columns=column(ColumnType.STRING), values=(value,))
        for n, value in enumerate(["abc", "abc  ", "ééé", "é   ", "a  ", None])
    ]

    with pytest.raises(PermanentError, match=r"would cut off blanks at its end") as caught:
        await handler.handle(batch(*told))
    await handler.handle(batch(told[0], told[2], *told[4:]))

    assert sorted(caught.value.records) == [1, 3]
    assert database.rows("SELECT a FROM events ORDER BY id") == [("abc",), ("ééé",), ("a  ",), (None,)]


@pytest.mark.parametrize(
    ("by", "parts", "missing"),
    [
        (
            "LIST (type)",
            [
                "CREATE TABLE a PARTITION OF events FOR VALUES IN ('a')",
                "CREATE TABLE b PARTITION OF events FOR VALUES IN ('b') PARTITION BY RANGE (timestamp)",
            ],
            "CREATE TABLE c PARTITION OF b DEFAULT",
        ),
        ("HASH (type)", [], "CREATE TABLE a PARTITION OF events FOR VALUES WITH (MODULUS 1, REMAINDER 0)"),
    ],
    ids=["below a list", "of a hash"],
)
async def test_partition_that_an_operator_has_yet_to_make_holds(  # noqa: PLR0917
    handler: PostgresHandler,
    database: Any,
    event: Events,
    batch: Batches,
    by: str,
    parts: list[str],
    missing: str,
) -> None:
    database.execute(f"{EVENTS} PARTITION BY {by}", *parts)
    whole = batch(event(0, kind="a"), event(1, kind="b"))

    with pytest.raises(PauseError, match="no partition of relation"):
        await handler.handle(whole)
    database.execute(missing)
    await handler.handle(whole)

    assert stored(database) == ["0", "1"]


async def test_missing_partition_holds_under_row_level_security_too(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    name = f"app_{database.name}"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON SCHEMA public TO {name}",
        f"{EVENTS} PARTITION BY RANGE (timestamp)",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        f"GRANT INSERT ON events TO {name}",
        ALL,
    )
    try:
        handler = await opened(database.url().replace("postgres@", f"{name}@"))
        with pytest.raises(PauseError, match="nor for one of now"):
            await handler.handle(batch(event(0, at=time.time_ns())))
        await handler.close()
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize(
    "body",
    [
        "INSERT INTO nowhere VALUES (1); RETURN NEW;",
        "PERFORM nofunction(); RETURN NEW;",
        "NEW.nocolumn := 1; RETURN NEW;",
        "PERFORM 1 FROM events e JOIN events f ON true WHERE id IS NULL; RETURN NEW;",
    ],
)
async def test_trigger_that_needs_what_is_not_there_holds_delivery_and_nothing_is_lost(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, body: str
) -> None:
    database.execute(EVENTS, function(body), TRIGGER)

    with pytest.raises(PauseError, match=r"\(42"):
        await handler.handle(batch(event(0), event(1)))
    database.execute("DROP TRIGGER t ON events")
    await handler.handle(batch(event(0), event(1)))

    assert stored(database) == ["0", "1"]


async def test_record_that_a_trigger_refuses_in_words_costs_no_neighbour(database: Any, event: Events) -> None:
    database.execute(
        EVENTS, function("IF NEW.type = 'x' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW;"), TRIGGER
    )
    options = EventRecorderOptions(flush_interval=0.01, retry=Backoff(first=0.01, attempts=2))

    async with EventRecorder(database.url(), options=options) as recorder:
        recorder.record_many([event(0), event(1, kind="x"), event(2)])
        await recorder.flush(timeout=20)
        (part,) = recorder.status().subscriptions.values()

    assert sorted(stored(database)) == ["0", "2"]
    assert (part.dead, part.dropped) == (1, {})
