"""What is read back: the newest, a time, and what arrives; whatever other programs do to the tables meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection
from decimal import Decimal
from itertools import count
from typing import Any, Final

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, PauseError, TransientError, reader_from_url
from eventrec.cli import main
from eventrec.cli.exit_codes import ExitCode
from eventrec_handlers.postgres import PostgresHandler, PostgresReader

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

SECOND: Final = 1_000_000_000


@pytest.fixture
async def reader(database: Any) -> AsyncIterator[PostgresReader]:
    reader = PostgresHandler(database.url()).reader()
    await reader.open()
    yield reader
    await reader.close()


async def all_since(
    reader: PostgresReader, cursor: str, *, limit: int = 1_000, types: Collection[str] | None = None
) -> tuple[list[str], str]:
    """The payloads of everything that follows, in the order of the pages, and the cursor behind it."""
    found: list[str] = []
    while True:
        page = await reader.follow(cursor, limit=limit, types=types)
        found += [event.payload for event in page.events]
        cursor = page.cursor
        if len(page.events) < limit:
            return found, cursor


async def test_newest_are_those_of_the_latest_time_in_all_tables(
    handler: PostgresHandler, reader: PostgresReader, event: Events, batch: Batches
) -> None:
    await handler.handle(
        batch(
            event(3, at=3 * SECOND, into="b"),
            event(1, at=SECOND, kind="x"),
            event(4, at=4 * SECOND, kind="y"),
            event(2, at=2 * SECOND, into="b"),
        )
    )

    newest = await reader.latest(limit=3)
    typed = await reader.latest(limit=3, types=["x"])

    assert [(event.table, event.payload, event.timestamp) for event in newest.events] == [
        ("b", "2", 2 * SECOND),
        ("b", "3", 3 * SECOND),
        ("events", "4", 4 * SECOND),
    ]
    assert [event.payload for event in typed.events] == ["1"]
    assert (await reader.latest(limit=0)).events == ()


async def test_event_is_read_as_it_was_stored(
    handler: PostgresHandler, reader: PostgresReader, event: Events, batch: Batches
) -> None:
    columns = [
        ColumnSchema("amount", ColumnType.DECIMAL128, precision=20, scale=3),
        ColumnSchema("blob", ColumnType.BINARY),
        ColumnSchema("day", ColumnType.DATE),
        ColumnSchema("x", ColumnType.STRUCT),
        ColumnSchema('a "b"', ColumnType.INT64),
    ]
    values = (Decimal("12345678901234567.125"), b"\xff", 2_932_897, {"a": 1}, None)
    stored = batch(event({"n": "é"}, at=1_709_208_000_123_456_789, columns=columns, values=values), context=b'{"u":1}')

    await handler.handle(stored)
    (found,) = (await reader.latest(limit=5)).events

    assert found.id == str(next(iter(stored.records)).id)
    assert found.timestamp == 1_709_208_000_123_456_000
    assert (found.type, found.payload, found.context) == ("happening", '{"n": "é"}', '{"u": 1}')
    assert found.columns == {
        "amount": Decimal("12345678901234567.125"),
        "blob": b"\xff",
        "day": "10000-01-01",
        "x": '{"a": 1}',
        'a "b"': None,
    }


@pytest.mark.parametrize(
    "at", [-62_167_219_200_000_001_000, -1_000, 253_402_300_800_123_457_000, 9_000_000_000_000_000_001_000]
)
async def test_times_far_away_are_exact(
    reader: PostgresReader, database: Any, handler: PostgresHandler, at: int
) -> None:
    database.execute(
        "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)",
        "INSERT INTO events SELECT gen_random_uuid(), 't', timestamptz '1970-01-01 00:00:00+00'"
        f" + {at // 1_000_000_000} * interval '1 s' + {at % 1_000_000_000 // 1_000} * interval '1 us', '1'",
    )

    (found,) = (await reader.latest(limit=1)).events

    assert found.timestamp == at
    assert len((await reader.range(at, at + 1, limit=5)).events) == 1
    assert len((await reader.range(at + 1, None, limit=5)).events) == 0
    assert len((await reader.range(None, at, limit=5)).events) == 0


async def test_range_is_read_page_by_page_in_order(
    handler: PostgresHandler, reader: PostgresReader, database: Any, event: Events, batch: Batches
) -> None:
    database.execute("CREATE TABLE plain (id uuid, type text, timestamp timestamptz, payload jsonb)")  # no index
    tables = ("events", "other", "plain")
    await handler.handle(
        batch(*(event(n, at=n // 2 * SECOND, kind=f"k{n % 4}", into=tables[n % 3]) for n in range(60)))
    )

    found: list[int] = []
    page = await reader.range(5 * SECOND, 25 * SECOND, limit=0)
    while page.events or not found:
        page = await reader.range(5 * SECOND, 25 * SECOND, limit=7, cursor=page.cursor)
        found += [int(event.payload) for event in page.events]
    typed = await reader.range(types=["k1"], limit=100)

    assert sorted(found) == list(range(10, 50))
    assert [n // 2 for n in found] == sorted(n // 2 for n in found)
    assert sorted(int(event.payload) for event in typed.events) == list(range(1, 60, 4))


# -- what arrives


async def test_following_gives_each_event_once_in_pages_of_any_size(
    handler: PostgresHandler, reader: PostgresReader, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event("before")))
    start = (await reader.latest(limit=0)).cursor
    for n in range(4):
        await handler.handle(batch(*(event(n * 5 + k, into=f"t{k % 2}", at=-n) for k in range(5)), start=1 + 5 * n))

    whole, end = await all_since(reader, start)
    pages, _ = await all_since(reader, start, limit=3)

    assert sorted(map(int, whole)) == sorted(map(int, pages)) == list(range(20))
    assert await all_since(reader, end) == ([], end)
    assert (await reader.follow(start, limit=0)).cursor == start


async def test_transaction_that_ends_late_is_not_missed(
    handler: PostgresHandler, reader: PostgresReader, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event("seen")))
    row = "INSERT INTO events SELECT gen_random_uuid(), 't', '2001-01-01', '\"%s\"'"
    late = database.session()
    database.run(late.execute("BEGIN; " + row % "late" + "; SAVEPOINT s; " + row % "saved" + "; RELEASE s"))
    await handler.handle(batch(event("early"), start=1))

    newest = await reader.latest(limit=2)
    await handler.handle(batch(event("next"), start=2))
    first, cursor = await all_since(reader, newest.cursor, limit=1)
    database.run(late.execute("COMMIT"))
    database.run(late.close())
    second, cursor = await all_since(reader, cursor, limit=1)
    third, _ = await all_since(reader, cursor)

    assert [event.payload for event in newest.events] == ['"seen"', '"early"']
    assert (first, sorted(second), third) == (['"next"'], ['"late"', '"saved"'], [])


async def test_following_goes_on_whatever_is_done_to_the_tables(
    handler: PostgresHandler, reader: PostgresReader, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n) for n in range(50))))
    cursor = (await reader.latest(limit=0)).cursor
    steps = [
        ("DELETE FROM events", "VACUUM events"),
        ("TRUNCATE events",),
        ("ALTER TABLE events RENAME TO old_events",),
        ("DROP TABLE events, old_events",),
        ("CREATE TABLE more (id uuid, type text, timestamp timestamptz, payload jsonb) PARTITION BY LIST (type)",),
    ]

    for number, step in enumerate(steps):
        database.execute(*step)
        await handler.handle(batch(event(f"new {number}"), start=50 + number))
        found, cursor = await all_since(reader, cursor)
        assert f'"new {number}"' in found


async def test_reader_of_another_server_shows_what_is_there(
    handler: PostgresHandler, reader: PostgresReader, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))

    found, cursor = await all_since(reader, '["pg1","1:1:1",99999999999,[],null]')

    assert found == ["1"]
    assert await all_since(reader, cursor) == ([], cursor)


async def test_partitions_and_children_are_read_with_their_parent(reader: PostgresReader, database: Any) -> None:
    database.execute(
        "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb) PARTITION BY LIST (type)",
        "CREATE TABLE a PARTITION OF events FOR VALUES IN ('a')",
        "CREATE TABLE b PARTITION OF events FOR VALUES IN ('b')",
        "CREATE TABLE kept (id uuid, type text, timestamp timestamptz, payload jsonb)",
        "CREATE TABLE kept_1 () INHERITS (kept)",
    )
    cursor = (await reader.latest(limit=5)).cursor
    for number, table in enumerate(("a", "b", "kept", "kept_1")):
        kind = table[0]
        database.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), '{kind}', now(), '{number}')")

    newest = await reader.latest(limit=9)
    found, _ = await all_since(reader, cursor, limit=1)

    assert [(event.table, event.payload) for event in newest.events] == [
        ("events", "0"),
        ("events", "1"),
        ("kept", "2"),
        ("kept", "3"),
    ]
    assert found == ["0", "1", "2", "3"]


# -- what is not there, and what is not an event


async def test_rows_that_are_not_events_are_passed_over_and_counted(reader: PostgresReader, database: Any) -> None:
    database.execute(
        "CREATE TABLE events (id uuid, type varchar(9), timestamp timestamptz, payload json)",
        "CREATE TABLE accounts (id uuid, type text)",
        "CREATE VIEW seen AS SELECT * FROM events",
    )
    cursor = (await reader.latest(limit=1)).cursor
    database.execute(
        "INSERT INTO events VALUES (NULL, 't', now(), '1'), (gen_random_uuid(), NULL, now(), '1'),"
        " (gen_random_uuid(), 't', NULL, '1'), (gen_random_uuid(), 't', now(), NULL),"
        " (gen_random_uuid(), 't', 'infinity', '1'), (gen_random_uuid(), 't', '-infinity', '1'),"
        " (gen_random_uuid(), 't', now(), '\"event\"')",
    )

    pages = [await reader.latest(limit=1), await reader.range(limit=1), await reader.follow(cursor, limit=1)]

    for page in pages:
        assert [event.payload for event in page.events] == ['"event"']
        assert page.foreign == {"without an id, a type, a timestamp or a payload: events": 6}


async def test_database_without_events_has_none_and_one_that_is_not_there_says_so(database: Any) -> None:
    async with reader_from_url(database.url()) as reader:
        page = await reader.latest(limit=9)
        assert page.events == (await reader.follow(page.cursor, limit=9)).events == ()
        assert (await reader.range(limit=9)).events == ()
    assert database.tables() == set()
    assert database.rows("SELECT FROM pg_class WHERE relname ~ 'eventrec'") == []

    with pytest.raises(PauseError, match="3D000"):
        await reader_from_url(database.server.url("nowhere")).open()
    async with reader_from_url(database.url(namespace="nowhere")) as reader:
        with pytest.raises(PauseError, match="there is no schema 'nowhere'"):
            await reader.latest(limit=1)
    with pytest.raises(TransientError):
        await reader_from_url("postgresql://127.0.0.1:1/d").latest(limit=1)


def test_tail_says_in_one_line_that_the_server_cannot_be_reached(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "postgresql://127.0.0.1:1/d"]) == ExitCode.DESTINATION

    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "postgresql://127.0.0.1:1/d" in err


async def test_right_to_read_is_enough(handler: PostgresHandler, database: Any, event: Events, batch: Batches) -> None:
    await handler.handle(batch(event(1)))
    name = f"looks_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON events TO {name}")
    try:
        async with reader_from_url(database.url(name)) as reader:
            page = await reader.latest(limit=1)
            assert [event.payload for event in page.events] == ["1"]
            assert (await reader.follow(page.cursor, limit=1)).events == ()
            database.execute(f"REVOKE SELECT ON events FROM {name}")
            with pytest.raises(PauseError, match="42501"):
                await reader.latest(limit=1)
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_reader_connects_again_after_its_connection_was_cut(
    handler: PostgresHandler, reader: PostgresReader, database: Any, event: Events, batch: Batches
) -> None:
    cursor = (await reader.latest(limit=1)).cursor
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'eventrec' AND datname = current_database()"
    )

    try:
        await reader.follow(cursor, limit=1)
    except TransientError:
        await reader.follow(cursor, limit=1)


async def test_following_large_tables_leaves_the_server_most_of_its_time(
    handler: PostgresHandler, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    clock = count(step=2)  # seconds: each look at it takes as long
    async with PostgresReader(handler._target, handler._options, clock=lambda: float(next(clock))) as reader:
        cursor = (await reader.latest(limit=0)).cursor
        found: list[list[str]] = []

        for n in range(1, 7):
            await handler.handle(batch(event(n), start=n))
            page = await reader.follow(cursor, limit=9)
            found.append([event.payload for event in page.events])
            cursor = page.cursor

    shown = [payload for page in found for payload in page]
    assert found[0] == ["1"]
    assert [] in found
    assert shown == [str(n) for n in range(1, 1 + len(shown))]


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "[]", "[1]", '["pg1"]', '["pgr1",1,"t","i",1,"c"]', "1" * 5_000, "[" * 9_999),
        *(f'["pg1","s",1,{rest}]' for rest in ("[],5", "[[]],null", "[],null,5", "[],null,[[1,2]]", "[],null,[],[]")),
    ],
)
async def test_cursor_of_others_is_refused(reader: PostgresReader, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor of a reader of PostgreSQL"):
        await reader.follow(cursor, limit=1)
    with pytest.raises(ValueError, match="limit must not be negative"):
        await reader.latest(limit=-1)


async def test_writers_do_not_wait_for_a_reader(
    handler: PostgresHandler, reader: PostgresReader, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    cursor = (await reader.latest(limit=1)).cursor

    before = time.perf_counter()
    for n in range(1, 6):
        columns = [ColumnSchema(f"c{n}", ColumnType.INT64)]
        await handler.handle(batch(event(n, columns=columns, values=(n,)), start=n))
        found, cursor = await all_since(reader, cursor)
        assert found == [str(n)]

    assert time.perf_counter() - before < 10  # `PAUSE` is 4 s, and there are five


async def test_table_that_may_not_be_read_does_not_hide_the_others(database: Any) -> None:
    name = f"app_{database.name}"
    columns = "(id uuid, type text, timestamp timestamptz, payload jsonb)"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"CREATE TABLE open {columns}",
        f"CREATE TABLE secret {columns}",
        f"CREATE TABLE whole {columns} PARTITION BY LIST (type)",
        "CREATE TABLE part PARTITION OF whole FOR VALUES IN ('a')",
        f"GRANT SELECT ON open, part TO {name}",
        *(
            f"INSERT INTO {table} VALUES (gen_random_uuid(), 'a', now(), '\"{table}\"')"
            for table in ("open", "secret", "whole")
        ),
    )
    reader = PostgresHandler(database.url(name)).reader()
    try:
        page = await reader.latest(limit=9)
    finally:
        await reader.close()
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")

    assert sorted(told.payload for told in page.events) == ['"open"', '"whole"']
    assert sorted(page.foreign) == [f"table {one!r} may not be read by this user" for one in ("secret", "whole")]
