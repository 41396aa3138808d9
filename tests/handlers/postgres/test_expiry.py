from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest

from eventrec import Batch, Event
from eventrec_handlers.postgres.expiry import ACCIDENTS, Expiry

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


Events = Callable[..., Event]
Batches = Callable[..., Batch]

HOUR: Final = 3_600 * 1_000_000_000


def stored(database: Any, table: str = "events") -> list[str]:
    return [payload for (payload,) in database.rows(f"SELECT payload FROM {table} ORDER BY id")]


async def test_what_is_older_than_the_ttl_is_deleted(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    handler = await opened(database.url(), ttl=3_600)
    now = time.time_ns()

    await handler.handle(
        batch(
            event("old", kind="a", at=now - 2 * HOUR),
            event("young", kind="a", at=now),
            event("old", kind="b", at=now - 3 * HOUR),
            event("young", kind="c", at=now - HOUR // 2),
            event("future", kind="c", at=now + HOUR),
        )
    )

    assert stored(database) == ['"young"', '"young"', '"future"']


async def test_only_tables_that_are_written_to_are_looked_at(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    forever = await opened(database.url())
    await forever.handle(batch(event("old", at=0, into="kept"), event("old", at=0, into="swept")))
    handler = await opened(database.url(), ttl=3_600)
    clock = count(step=1_000)
    handler._expiry = Expiry(3_600, clock=lambda: float(next(clock)))  # always due

    for start in range(2, 5):
        await handler.handle(batch(event("young", into="swept"), start=start))

    assert stored(database, "kept") == ['"old"']
    assert stored(database, "swept") == ['"young"'] * 3


async def test_deleting_goes_on_in_slices_with_pauses_between_them(
    opened: Any, database: Any, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.postgres.expiry.SLICE", 10)
    handler = await opened(database.url(), ttl=3_600)
    clock = [0.0]
    handler._expiry = Expiry(3_600, clock=lambda: clock[0])

    async def old_ones_after(start: int) -> int:
        await handler.handle(batch(event("young"), start=start))
        ((left,),) = database.rows("SELECT count(*) FROM events WHERE payload <> '\"young\"'")
        return int(left)

    await handler.handle(batch(*(event(n, kind=f"k{n % 4}", at=0) for n in range(25))))
    left = [await old_ones_after(25), await old_ones_after(26), await old_ones_after(27)]
    # Nothing more is old: it is time to look again only after a hundredth of the time to live.
    await handler.handle(batch(event("old", at=0), start=28))
    left.append(await old_ones_after(29))
    clock[0] = 37
    left.append(await old_ones_after(30))

    assert left == [5, 0, 0, 1, 0]


EVENTS: Final = "CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)"
FUNCTION: Final = "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$"
TRIGGER: Final = "CREATE TRIGGER t BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION f()"
OLD: Final = (
    "INSERT INTO {} SELECT gen_random_uuid(), 'old', timestamptz '2020-01-01' + n * interval '1 day', to_jsonb(n)"
    " FROM generate_series(1, {}) AS n"
)


@pytest.mark.parametrize(
    "made",
    [
        (
            EVENTS + " PARTITION BY RANGE (timestamp)",
            "CREATE TABLE past PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2024-01-01')",
            "CREATE TABLE fresh PARTITION OF events FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
        ),
        (
            # As extensions keep their chunks: rows of the parent are written to a child.
            EVENTS,
            "CREATE TABLE past () INHERITS (events)",
            "CREATE TABLE fresh () INHERITS (events)",
            FUNCTION.format("INSERT INTO fresh SELECT NEW.*; RETURN NULL;"),
            "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()",
        ),
    ],
    ids=["partitions", "children"],
)
@pytest.mark.parametrize("index", ["CREATE INDEX ON events (type, timestamp DESC)", "SELECT 1"], ids=["index", "plain"])
async def test_only_what_is_old_is_deleted_where_a_table_has_parts(  # noqa: PLR0917
    opened: Any, database: Any, event: Events, batch: Batches, made: tuple[str, ...], index: str
) -> None:
    database.execute(*made, index, OLD.format("past", 60))
    handler = await opened(database.url(), ttl=3_600)
    clock = count(step=1_000)
    handler._expiry = Expiry(3_600, clock=lambda: float(next(clock)))  # always due
    now = time.time_ns()

    # Each in the same places of its part as an old row in another.
    await handler.handle(batch(*(event(n, at=now) for n in range(50))))
    await handler.handle(batch(event(50, at=now), start=50))

    assert database.rows("SELECT count(*), count(*) FILTER (WHERE type = 'old') FROM events") == [(51, 0)]
    assert database.rows("SELECT count(*) FROM fresh") == [(51,)]


async def test_slice_is_a_slice_of_a_table_with_parts_too(
    opened: Any, database: Any, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.postgres.expiry.SLICE", 10)
    database.execute(EVENTS + " PARTITION BY HASH (id)")
    for part in range(3):
        database.execute(f"CREATE TABLE p{part} PARTITION OF events FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
    database.execute(OLD.format("events", 45))
    handler = await opened(database.url(), ttl=3_600)
    handler._expiry = Expiry(3_600, clock=lambda: 0.0)

    left = []
    for start in range(6):
        handler._expiry._not_before = 0.0
        await handler.handle(batch(event("young"), start=start))
        ((old,),) = database.rows("SELECT count(*) FROM events WHERE type = 'old'")
        left.append(old)

    assert left == [35, 25, 15, 5, 0, 0]


@pytest.mark.parametrize(
    ("broken", "mended", "why", "times"),
    [
        (
            ("CREATE PUBLICATION p FOR ALL TABLES",),
            ("DROP PUBLICATION p",),
            "does not have a replica identity and publishes deletes (55000)",
            1,
        ),
        ((FUNCTION.format("RAISE 'kept';"), TRIGGER), ("DROP TRIGGER t ON events",), "kept (P0001)", 1),
        (
            (FUNCTION.format("RETURN NULL;"), TRIGGER),
            ("DROP TRIGGER t ON events",),
            "the server deletes none of them: see its triggers and policies",
            ACCIDENTS,
        ),
        (
            ("CREATE RULE r AS ON DELETE TO events DO INSTEAD NOTHING",),
            ("DROP RULE r ON events",),
            'cannot perform DELETE RETURNING on relation "events" (0A000)',
            1,
        ),
        (
            (FUNCTION.format("PERFORM pg_sleep(2); RETURN OLD;"), TRIGGER),
            ("DROP TRIGGER t ON events",),
            "statement timeout (57014)",
            ACCIDENTS,
        ),
    ],
    ids=["published", "raising", "keeping", "rule", "slow"],
)
async def test_what_cannot_be_deleted_is_said_once_and_its_end_too(  # noqa: PLR0917
    opened: Any,
    database: Any,
    event: Events,
    batch: Batches,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said_by: Callable[[str], list[logging.LogRecord]],
    broken: tuple[str, ...],
    mended: tuple[str, ...],
    why: str,
    times: int,
) -> None:
    caplog.set_level(logging.INFO, "eventrec")
    monkeypatch.setattr("eventrec_handlers.postgres.expiry.PATIENCE", 100)
    database.execute(EVENTS, OLD.format("events", 5), *broken)
    handler = await opened(database.url(), ttl=3_600)
    clock = [0.0]
    handler._expiry = Expiry(3_600, clock=lambda: clock[0])
    said: list[int] = []

    for start in range(times + 2):
        await handler.handle(batch(event("young"), start=start))
        said.append(len(said_by("eventrec.postgres")))
        clock[0] += 4_000
    remarks = handler.remarks
    database.execute(*mended)
    await handler.handle(batch(event("young"), start=times + 2))

    assert said == [0] * (times - 1) + [1, 1, 1]
    assert [record.levelname for record in said_by("eventrec.postgres")] == ["WARNING", "INFO"]
    first, last = (record.getMessage() for record in said_by("eventrec.postgres"))
    assert first.startswith("expired rows are not deleted table=events error=")
    assert why in first
    assert last == "expired rows are deleted again table=events"
    assert len(remarks) == 1
    assert remarks[0].startswith("expired rows of table 'events' are not deleted: ")
    assert handler.remarks == ()
    assert database.rows("SELECT count(*) FROM events WHERE type = 'old'") == [(0,)]


async def test_table_that_fails_is_tried_after_growing_pauses_and_keeps_no_other_from_its_turn(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        EVENTS,
        EVENTS.replace("events", "other"),
        FUNCTION.format("PERFORM nextval('tries'); RAISE 'kept';"),
        "CREATE SEQUENCE tries",
        TRIGGER,
        OLD.format("events", 1),
    )
    handler = await opened(database.url(), ttl=60)
    clock = [0.0]
    handler._expiry = Expiry(60, clock=lambda: clock[0])

    for start in range(0, 100, 2):
        clock[0] += 1
        database.execute(OLD.format("other", 1))
        await handler.handle(batch(event(1), event(2, into="other"), start=start))

    ((tries,),) = database.rows("SELECT last_value FROM tries")
    ((others,),) = database.rows("SELECT count(*) FROM other WHERE type = 'old'")
    assert 4 <= tries <= 6  # in 50 seconds: after 2, 4, 8, 16 … seconds
    assert others <= 2


@pytest.mark.parametrize(
    ("rights", "shown", "why"),
    [
        ("ALL", "true", "see its triggers and policies"),
        ("ALL", "false", "its policies let none of its rows be seen"),
        ("SELECT, INSERT", "true", "permission denied"),
    ],
)
async def test_policy_that_lets_no_row_go_and_right_that_is_missing_are_said(  # noqa: PLR0917
    opened: Any,
    database: Any,
    event: Events,
    batch: Batches,
    caplog: pytest.LogCaptureFixture,
    said_by: Callable[[str], list[logging.LogRecord]],
    rights: str,
    shown: str,
    why: str,
) -> None:
    name = f"app_{database.name}"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON SCHEMA public TO {name}",
        EVENTS,
        OLD.format("events", 5),
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY w ON events FOR INSERT WITH CHECK (true)",
        f"CREATE POLICY r ON events FOR SELECT USING ({shown})",
        f"GRANT {rights} ON events TO {name}",
    )
    try:
        handler = await opened(database.url(name), ttl=3_600)
        clock = count(step=4_000)
        handler._expiry = Expiry(3_600, clock=lambda: float(next(clock)))
        for start in range(ACCIDENTS + 1):
            await handler.handle(batch(event("young"), start=start))
        await handler.close()
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")

    assert len(said_by("eventrec.postgres")) == 1
    assert why in caplog.text


async def test_a_sweep_that_fails_is_no_batchs_failure(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), ttl=3_600)
    await handler.handle(batch(event("young")))
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$",
        "CREATE TRIGGER t BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION no()",
    )
    handler._expiry = Expiry(3_600)

    await handler.handle(batch(event("old", at=0), start=1))
    handler._expiry = Expiry(3_600)
    await handler.handle(batch(event("young"), start=2))

    assert stored(database) == ['"young"', '"old"', '"young"']


async def test_a_sweep_waits_for_no_lock(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    handler = await opened(database.url(), ttl=3_600)
    handler._expiry = Expiry(None)
    await handler.handle(batch(event("old", at=0)))
    other = database.session()
    database.run(other.execute("BEGIN; SELECT FROM events FOR UPDATE"))
    handler._expiry = Expiry(3_600)

    before = time.perf_counter()
    await handler.handle(batch(event("young"), start=1))
    took = time.perf_counter() - before
    database.run(other.close())
    handler._expiry = Expiry(3_600)
    await handler.handle(batch(event("young"), start=2))

    assert took < 20  # else it waits for the other session
    assert stored(database) == ['"young"', '"young"']
