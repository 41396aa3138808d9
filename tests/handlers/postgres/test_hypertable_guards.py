"""What hypertables do, done by a plain PostgreSQL: rows in child tables, chunks that are dropped, or refuse.

The TimescaleDB of the tests takes no COPY, so what a COPY meets there is tried here. COPY into hypertables themselves,
also into compressed chunks, is in TimescaleDB's own tests: `test/sql/copy.sql`, `tsl/test/sql/compress_dml_copy.sql`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import pytest

from eventrec import Batch, BatchTooLargeError, Event, PauseError, reader_from_url
from eventrec_handlers.postgres.expiry import Expiry

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

DAY: Final = 86_400 * 1_000_000_000
NOW: Final = time.time_ns() // DAY * DAY

DIVIDED: Final = (
    "CREATE TABLE events (id uuid NOT NULL, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb)",
    "CREATE TABLE chunk_1 (CHECK (timestamp < now() - interval '2 days')) INHERITS (events)",
    "CREATE TABLE chunk_2 (CHECK (timestamp >= now() - interval '2 days')) INHERITS (events)",
    """CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('INSERT INTO %I SELECT ($1).*', CASE WHEN NEW.timestamp < now() - interval '2 days'
            THEN 'chunk_1' ELSE 'chunk_2' END) USING NEW;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER route BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION route()",
)
"""A table whose rows are in children: the old ones in the first. Each place is taken in both."""

REFUSING: Final = (
    """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'cannot % chunk "%" as it is compressed', lower(TG_OP), TG_TABLE_NAME USING ERRCODE = '0A000';
    END $$""",
    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON chunk_1 FOR EACH ROW EXECUTE FUNCTION refuse()",
)
"""The first is compressed, as older versions had it: it refuses every change."""

CATALOG: Final = (
    "CREATE SCHEMA timescaledb_information",
    "CREATE SCHEMA elsewhere",
    (
        "CREATE VIEW timescaledb_information.hypertables AS"
        " SELECT 'public'::name AS hypertable_schema, 'events'::name AS hypertable_name"
    ),
    (
        "CREATE TABLE timescaledb_information.dimensions AS SELECT 'public'::name AS hypertable_schema,"
        " 'events'::name AS hypertable_name, 1::bigint AS dimension_number, 'timestamp'::name AS column_name"
    ),
    "CREATE TABLE timescaledb_information.continuous_aggregates (hypertable_schema name, hypertable_name name)",
    "CREATE TABLE timescaledb_information.jobs (proc_name name, hypertable_schema name, hypertable_name name)",
    (
        "CREATE VIEW timescaledb_information.chunks AS SELECT 'public'::name AS hypertable_schema,"
        " 'events'::name AS hypertable_name, n.range_end FROM (VALUES ('chunk_1', now() - interval '2 days'),"
        " ('chunk_2', now() + interval '1 day')) AS n (name, range_end) WHERE to_regclass(n.name) IS NOT NULL"
    ),
    """CREATE FUNCTION elsewhere.drop_chunks(relation regclass, older_than timestamptz) RETURNS SETOF text
        LANGUAGE plpgsql AS $$ BEGIN
        IF older_than >= now() - interval '2 days' THEN
            DROP TABLE public.chunk_1;
            RETURN NEXT 'chunk_1';
        END IF;
    END $$""",
    (
        "SET allow_system_table_mods = on; INSERT INTO pg_extension SELECT 90001, 'timescaledb', 10, oid, false,"
        " '2.15.0', NULL, NULL FROM pg_namespace WHERE nspname = 'elsewhere'"
    ),
)


def counts(database: Any) -> dict[str, int]:
    tables = [name for (name,) in database.rows("SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1")]
    return {name: database.rows(f"SELECT count(*) FROM ONLY {name}")[0][0] for name in ("events", *tables)}


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: the driver always runs on asyncio."""
    return "asyncio"


@pytest.fixture
def divided(database: Any) -> Any:
    database.execute(*DIVIDED)
    return database


async def test_rows_of_child_tables_are_written_read_and_deleted_each_where_it_stands(
    opened: Any, divided: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(divided.url(), ttl=5 * 86_400)
    handler._expiry = Expiry(None)
    await handler.handle(batch(*(event(n, at=NOW - n % 2 * 9 * DAY) for n in range(10))))
    assert counts(divided) == {"events": 0, "chunk_1": 5, "chunk_2": 5}
    async with reader_from_url(divided.url()) as reader:
        first = await reader.range(limit=4)
        rest = await reader.range(limit=20, cursor=first.cursor)
    handler._expiry = Expiry(5 * 86_400)

    await handler.handle(batch(event("young", at=NOW), start=10))

    assert counts(divided) == {"events": 0, "chunk_1": 0, "chunk_2": 6}
    found = [*first.events, *rest.events]
    assert len({one.id for one in found}) == len(found) == 10
    assert [one.timestamp for one in found] == sorted(one.timestamp for one in found)


async def test_a_chunk_that_is_dropped_meanwhile_fails_the_batch_and_nothing_else(
    opened: Any, divided: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(divided.url())
    await handler.handle(batch(event(0, at=NOW - 9 * DAY), event(1, at=NOW)))
    async with reader_from_url(divided.url()) as reader:
        page = await reader.range(limit=1)
        followed = (await reader.latest(limit=1)).cursor
        divided.execute("DROP TABLE chunk_1")

        rest = await reader.range(limit=5, cursor=page.cursor)
        with pytest.raises(PauseError, match=r"chunk_1.* does not exist"):
            await handler.handle(batch(event(2, at=NOW - 9 * DAY), event(3, at=NOW), start=2))
        divided.execute("CREATE TABLE chunk_1 () INHERITS (events)")
        await handler.handle(batch(event(2, at=NOW - 9 * DAY), event(3, at=NOW), start=2))
        new = await reader.follow(followed, limit=5)

    assert [one.payload for one in rest.events] == ["1"]
    assert sorted(one.payload for one in new.events) == ["2", "3"]
    assert counts(divided) == {"events": 0, "chunk_1": 1, "chunk_2": 2}


async def test_what_a_compressed_chunk_refuses_is_held_until_it_takes_it(
    opened: Any, divided: Any, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = await opened(divided.url())
    divided.execute(*REFUSING)
    copied: list[str] = []
    copy = asyncpg.Connection.copy_to_table

    async def noted(connection: Any, table: str, **options: Any) -> str:
        copied.append(table)
        return str(await copy(connection, table, **options))

    monkeypatch.setattr(asyncpg.Connection, "copy_to_table", noted)
    whole = batch(event(0, at=NOW - 9 * DAY), *(event(n, at=NOW) for n in range(1, 5)))

    for _ in range(2):
        with pytest.raises(PauseError, match=r'cannot insert chunk "chunk_1" as it is compressed \(0A000\)'):
            await handler.handle(whole)
    assert counts(divided) == {"events": 0, "chunk_1": 0, "chunk_2": 0}
    divided.execute("DROP TRIGGER refuse ON chunk_1")
    await handler.handle(whole)
    del copied[:]
    await handler.handle(batch(event(5, at=NOW), start=5))

    assert counts(divided) == {"events": 0, "chunk_1": 1, "chunk_2": 5}
    assert copied == ["events"]  # and not by INSERT, for having tried that


async def test_a_limit_of_rows_decompressed_makes_batches_smaller_and_holds_a_record_alone(
    opened: Any, divided: Any, event: Events, batch: Batches
) -> None:
    divided.execute(
        """CREATE FUNCTION limited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM chunk_1) >= 3 THEN
                RAISE 'tuple decompression limit exceeded by operation' USING ERRCODE = '53400';
            END IF;
            RETURN NULL;
        END $$""",
        "CREATE TRIGGER limited AFTER INSERT ON chunk_1 FOR EACH ROW EXECUTE FUNCTION limited()",
    )
    handler = await opened(divided.url())

    with pytest.raises(BatchTooLargeError, match="decompression limit"):
        await handler.handle(batch(*(event(n, at=NOW - 9 * DAY) for n in range(4))))
    await handler.handle(batch(*(event(n, at=NOW - 9 * DAY) for n in range(2))))
    with pytest.raises(PauseError, match="decompression limit"):
        await handler.handle(batch(event(2, at=NOW - 9 * DAY), start=2))

    assert counts(divided)["chunk_1"] == 2


# -- a catalog like TimescaleDB's: of `events`, and a function that drops its old chunk


async def test_ttl_drops_a_compressed_chunk_and_never_tries_its_rows(
    opened: Any, divided: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(divided.url(), ttl=3_600)
    handler._expiry = Expiry(None)
    old = [event(n, at=NOW - 9 * DAY) for n in range(3)]
    await handler.handle(batch(*old, *(event(n, at=NOW - n * 3_600 * 10**9) for n in range(3, 6))))
    divided.execute(*REFUSING)
    divided.execute(*CATALOG)
    handler._expiry = Expiry(3_600)

    await handler.handle(batch(event(6, at=NOW), start=6))

    # The other chunk has not ended, so its rows stay, however old they are.
    assert counts(divided) == {"events": 0, "chunk_2": 4}
    assert handler.remarks == ()


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ("UPDATE timescaledb_information.dimensions SET column_name = 'arrived_at'", "divided by 'arrived_at'"),
        (
            "INSERT INTO timescaledb_information.continuous_aggregates VALUES ('public', 'events')",
            "continuous aggregates: give it a policy of retention",
        ),
        ("INSERT INTO timescaledb_information.jobs VALUES ('policy_retention', 'public', 'events')", None),
    ],
)
async def test_ttl_drops_no_chunk_that_is_another_ones_to_drop(
    opened: Any, divided: Any, event: Events, batch: Batches, *, change: str, remark: str | None
) -> None:
    handler = await opened(divided.url(), ttl=3_600)
    divided.execute(*CATALOG)
    divided.execute(change)

    await handler.handle(batch(event(0, at=NOW - 9 * DAY)))

    assert counts(divided)["chunk_1"] == 1
    assert [remark in said for said in handler.remarks] == ([] if remark is None else [True])


async def test_pages_of_a_hypertable_go_on_where_a_chunk_was_dropped(
    opened: Any, divided: Any, event: Events, batch: Batches
) -> None:
    divided.execute(*CATALOG)
    handler = await opened(divided.url())
    await handler.handle(batch(*(event(n, at=NOW - n % 2 * 9 * DAY) for n in range(10))))
    async with reader_from_url(divided.url()) as reader:
        page = await reader.range(limit=3)
        divided.execute("DROP TABLE chunk_1")
        rest = await reader.range(limit=20, cursor=page.cursor)
        latest = await reader.latest(limit=2)
        await handler.handle(batch(event(10, at=NOW), start=10))
        new = await reader.follow(latest.cursor, limit=5)

    assert [one.payload for one in page.events] == ["1", "3", "5"]
    assert [one.payload for one in rest.events] == ["0", "2", "4", "6", "8"]
    assert [one.payload for one in new.events] == ["10"]
