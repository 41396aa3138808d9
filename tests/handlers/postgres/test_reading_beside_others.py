"""A table that cannot be read, of another program say, hides no event of the others, and none of it is missed later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest

from eventrec import Batch, Event, EventPage, PermanentError, TransientError, reader_from_url
from eventrec.cli import main
from eventrec.cli.exit_codes import ExitCode
from eventrec_handlers.postgres import PostgresHandler, PostgresReader
from eventrec_handlers.postgres.cursor import Arrival

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]
Store = Callable[[int], Awaitable[None]]

COLUMNS: Final = "id uuid, type text, timestamp timestamptz, payload jsonb"
ROW: Final = "gen_random_uuid(), 'x', now(), '\"other\"'"

FAILING: Final = "CREATE FUNCTION bad(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN 1 / 0 > 0; END $$"
MISSING: Final = (
    "CREATE FUNCTION bad(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT true FROM gone); END $$"
)
BEHIND_A_POLICY: Final = (
    f"CREATE TABLE audit ({COLUMNS})",
    f"INSERT INTO audit VALUES ({ROW})",
    "ALTER TABLE audit ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY looks ON audit USING (bad(type))",
)
FOREIGN: Final = (
    "CREATE EXTENSION postgres_fdw",
    "CREATE SERVER dead FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1')",
    f"CREATE TABLE audit ({COLUMNS}) PARTITION BY LIST (type)",
    "CREATE FOREIGN TABLE away PARTITION OF audit FOR VALUES IN ('y') SERVER dead",
)

LET_IN: Final = "CREATE USER MAPPING FOR PUBLIC SERVER dead OPTIONS (user 'x', password_required 'false')"

TABLES: Final = {
    "a generated column": (
        "22012",
        f"CREATE TABLE audit ({COLUMNS}, n int, r int GENERATED ALWAYS AS (1 / n) VIRTUAL)",
        f"INSERT INTO audit VALUES ({ROW}, 0)",
    ),
    "a policy that fails": ("22012", FAILING, *BEHIND_A_POLICY),
    "a policy whose table is gone": ("42P01", MISSING, *BEHIND_A_POLICY),
    "a server that is down": ("08001", *FOREIGN, LET_IN),
    "a server that asks who it is": ("42704", *FOREIGN),
}


@pytest.fixture
async def app(database: Any, handler: PostgresHandler, event: Events, batch: Batches) -> AsyncIterator[str]:
    """A role that may read what there is, where two events of ours are stored."""
    await handler.handle(batch(event(1), event(2)))
    name = f"reads_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN", f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {name}")
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    yield name
    database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture
def store(handler: PostgresHandler, event: Events, batch: Batches) -> Store:
    """Stores an event of ours: its number is its payload, and they come in that order."""

    async def stored(number: int) -> None:
        await handler.handle(batch(event(number), start=number - 1))

    return stored


@pytest.fixture
async def reader(database: Any, app: str) -> AsyncIterator[PostgresReader]:
    reader = PostgresHandler(database.url(app)).reader()
    yield reader
    await reader.close()


def payloads(page: EventPage) -> list[str]:
    return [event.payload for event in page.events]


@pytest.mark.parametrize("name", TABLES)
async def test_table_that_fails_hides_no_other_and_is_named(
    name: str, reader: PostgresReader, store: Store, database: Any
) -> None:
    code, *statements = TABLES[name]
    cursor = (await reader.latest(limit=0)).cursor
    database.execute(*statements)
    await store(3)

    pages = [await reader.latest(limit=9), await reader.range(limit=9), await reader.follow(cursor, limit=9)]

    assert [payloads(page) for page in pages] == [["1", "2", "3"], ["1", "2", "3"], ["3"]]
    for page in pages:
        (why,) = page.foreign
        assert why.startswith("table 'audit' cannot be read: ")
        assert why.endswith(f"({code})")


async def test_byte_that_is_not_text_hides_no_other(database: Any, home: Any) -> None:
    name = f"{database.name}_ascii"
    home.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        ascii_ = type(database)(name, database.server, database.loop)
        ascii_.execute(f"CREATE TABLE audit ({COLUMNS})", f"CREATE TABLE events ({COLUMNS})")
        ascii_.execute("INSERT INTO audit VALUES (gen_random_uuid(), E'\\xff', now(), '{}')")
        ascii_.execute("INSERT INTO events VALUES (gen_random_uuid(), 'x', now(), '1')")
        async with reader_from_url(ascii_.url()) as reader:
            page = await reader.latest(limit=9)
    finally:
        home.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert payloads(page) == ["1"]
    assert "22021" in next(iter(page.foreign))


@pytest.mark.parametrize("limit", [1, 2, 9])
async def test_what_arrives_in_a_table_meanwhile_is_shown_once_it_can_be_read(
    limit: int, reader: PostgresReader, store: Store, database: Any
) -> None:
    database.execute(f"CREATE TABLE audit ({COLUMNS}, n int, r int GENERATED ALWAYS AS (1 / n) VIRTUAL)")
    cursor = (await reader.latest(limit=9)).cursor
    found: list[str] = []

    async def follow() -> None:
        nonlocal cursor
        while (page := await reader.follow(cursor, limit=limit)).events:
            found.extend(payloads(page))
            cursor = page.cursor
        cursor = page.cursor

    await store(3)
    database.execute(f"INSERT INTO audit (id, type, timestamp, payload, n) VALUES ({ROW}, 0), ({ROW}, 1), ({ROW}, 1)")
    await follow()
    await store(4)
    database.execute(f"INSERT INTO audit (id, type, timestamp, payload, n) VALUES ({ROW}, 1)")
    await follow()
    before = list(found)
    database.execute("UPDATE audit SET n = 1 WHERE n = 0")
    await store(5)
    await follow()
    await store(6)
    database.execute(f"INSERT INTO audit (id, type, timestamp, payload, n) VALUES ({ROW}, 1)")
    await follow()

    assert before == ["3", "4"]
    assert sorted(found) == ['"other"'] * 5 + ["3", "4", "5", "6"]
    assert Arrival.of(cursor).behind == {}
    assert (await reader.follow(cursor, limit=9)).foreign == {}


async def test_locked_table_hides_no_other_and_is_named_after_a_bounded_time(
    reader: PostgresReader, store: Store, database: Any
) -> None:
    database.execute(f"CREATE TABLE audit ({COLUMNS})", f"CREATE TABLE more ({COLUMNS})")
    cursor = (await reader.latest(limit=0)).cursor
    await store(3)
    other = database.session()
    database.run(other.execute(f"BEGIN; LOCK TABLE audit, more; INSERT INTO audit VALUES ({ROW})"))
    begun = time.monotonic()

    pages = [await reader.latest(limit=9), await reader.range(limit=9), await reader.follow(cursor, limit=9)]
    again = await reader.follow(pages[-1].cursor, limit=9)

    took = time.monotonic() - begun
    database.run(other.execute("COMMIT"))
    database.run(other.close())
    after = await reader.follow(again.cursor, limit=9)
    assert [payloads(page) for page in (*pages, again, after)] == [
        ["1", "2", "3"],
        ["1", "2", "3"],
        ["3"],
        [],
        ['"other"'],
    ]
    for page in (*pages, again):
        assert len(page.foreign) == 2
        assert all("cannot be read: " in why and "(55P03)" in why for why in page.foreign)
    assert after.foreign == {}
    assert took < 10  # it waits 2 s for each of the two, once; a call may last 60


async def test_only_table_is_waited_for_and_where_none_can_be_read_it_is_said(
    reader: PostgresReader, database: Any
) -> None:
    database.execute("ALTER TABLE events ADD n int DEFAULT 0, ADD r int GENERATED ALWAYS AS (1 / n) VIRTUAL")

    with pytest.raises(PermanentError, match="22012"):
        await reader.latest(limit=1)

    database.execute(f"CREATE TABLE audit ({COLUMNS})")
    assert (await reader.latest(limit=1)).events == ()


async def test_server_that_ends_connections_is_not_taken_for_a_table(
    reader: PostgresReader, database: Any, app: str
) -> None:
    database.execute(
        "CREATE FUNCTION ends(text) RETURNS bool LANGUAGE sql SECURITY DEFINER AS"
        " $$ SELECT pg_terminate_backend(pg_backend_pid()) $$",
        f"CREATE TABLE audit ({COLUMNS})",
        f"INSERT INTO audit VALUES ({ROW})",
        "ALTER TABLE audit ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY looks ON audit USING (ends(type))",
    )

    with pytest.raises(TransientError):
        await reader.latest(limit=1)
    database.execute("DROP TABLE audit")
    assert payloads(await reader.latest(limit=1)) == ["2"]


def test_tail_shows_events_beside_a_table_that_fails(database: Any, capfd: pytest.CaptureFixture[str]) -> None:
    database.execute(f"CREATE TABLE events ({COLUMNS})", f"INSERT INTO events VALUES ({ROW}), ({ROW})")
    database.execute(*TABLES["a generated column"][1:])

    assert main(["tail", database.url(), "--json"]) == ExitCode.OK

    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert "passed over" in err
    assert "table 'audit' cannot be read: division by zero (22012)" in err
    assert len(err.splitlines()) == 1


async def test_what_arrives_while_a_right_is_missing_is_shown_once_it_is_there(
    reader: PostgresReader, app: str, store: Store, database: Any
) -> None:
    database.execute(f"CREATE TABLE audit ({COLUMNS})")
    page = await reader.latest(limit=9)
    shown: list[str] = []
    for right, other, number in (
        ("REVOKE SELECT ON audit FROM", "before", 3),
        ("GRANT SELECT ON audit TO", "after", 4),
    ):
        database.execute(f"{right} {app}", f"INSERT INTO audit VALUES ({ROW.replace('other', other)})")
        await store(number)
        page = await reader.follow(page.cursor, limit=9)
        shown += payloads(page)
        page = await reader.follow(page.cursor, limit=9)
        shown += payloads(page)

    assert sorted(shown) == ['"after"', '"before"', "3", "4"]
