"""Rollups on PostgreSQL by texts of any length: longer than an entry of an index may be."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from eventrec import EventModel, StoredEvent, migration_target_from_url
from eventrec.analytics import (
    Catalogue,
    MigrationRunner,
    Question,
    Refresh,
    Rollup,
    brute_force,
    bucket,
    count,
    group,
    payload,
)
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups, ddl

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


TABLE = (
    "CREATE TABLE events (id uuid, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb, context jsonb)"
)
DAY = 86_400_000_000_000


class Paths(Rollup, name="paths", table="events"):
    day = bucket("day")
    path = group(payload("path", kind="text"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class PathsOfCountries(Rollup, name="paths_of_countries", table="events", index="paths_by_day"):
    day = bucket("day")
    country = group(payload("country", kind="text"))
    status = group(payload("status", kind="integer"))
    path = group(payload("path", kind="text"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Countries(PathsOfCountries, name="countries", table="events"):
    day = bucket("day")
    country = group(payload("country", kind="text"))
    path = group(payload("path", kind="text"))
    status = group(payload("status", kind="integer"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


ROLLUPS = (Paths, PathsOfCountries, Countries)
PLANS = [rollup.rollup_plan for rollup in ROLLUPS]


def incompressible(characters: int, *, seed: int = 0) -> str:
    """Of three bytes each, so that a tree cannot take many of them, and no two alike."""
    digits = "".join(hashlib.sha256(b"%d %d" % (seed, n)).hexdigest() for n in range(characters // 16 + 1))
    return "".join(chr(0x4E00 + int(digits[at : at + 4], 16) % 0x5000) for at in range(0, 4 * characters, 4))


LONG = incompressible(3_010)
PATHS = ("/a", "/b", LONG, LONG + "b", LONG + "a", "é" * 400, "é" * 401, LONG[:400], LONG[:399] + "z", None, "")
COUNTRIES = ("de", LONG, None, LONG + "x")


def events(number: int, *, since: int = 0) -> list[StoredEvent]:
    made = []
    for n in range(since, since + number):
        said = ", ".join(
            f'"{name}": {"null" if value is None else value if isinstance(value, int) else chr(34) + value + chr(34)}'
            for name, value in (
                ("path", PATHS[n % len(PATHS)]),
                ("country", COUNTRIES[n % len(COUNTRIES)]),
                ("status", (404, None)[n % 2]),
            )
        )
        made.append(
            StoredEvent(table="events", id=str(n), type="visited", timestamp=n % 3 * DAY, payload=f"{{{said}}}")
        )
    return made


def store(database: Any, given: Sequence[StoredEvent]) -> None:
    for each in given:
        database.rows(
            "INSERT INTO events (type, timestamp, payload) VALUES ($1, to_timestamp($2), $3::text::jsonb)",
            each.type,
            each.timestamp // 1_000_000_000,
            each.payload,
        )


@pytest.fixture
async def rollups(database: Any) -> AsyncIterator[PostgresRollups]:
    database.execute(TABLE, "CREATE INDEX ON events (type, timestamp DESC)")
    async with PostgresHandler(database.url()).rollups() as opened:
        yield opened


def as_earlier_versions_made_it(database: Any) -> None:
    """The indexes of the tables are of whole texts."""
    database.execute(
        "DROP INDEX paths_by_bucket",
        'CREATE INDEX paths_by_bucket ON paths (day, path COLLATE "C" NULLS FIRST)',
        "DROP INDEX paths_by_day",
        "CREATE INDEX paths_by_day ON paths_of_countries (day DESC, country, status, path)",
    )


async def paged(opened: PostgresRollups, rollup: type[Rollup], **asked: Any) -> tuple[Any, ...]:
    rows: list[Any] = []
    cursor: str | None = None
    while True:
        page = await opened.answer(Question(rollup, limit=3, cursor=cursor, **asked))
        rows += page.rows
        if (cursor := page.cursor) is None:
            return tuple(rows)


@pytest.mark.parametrize("is_earlier", [False, True], ids=["new", "made by an earlier version"])
async def test_an_event_with_a_long_text_is_counted_as_any_other(
    rollups: PostgresRollups, database: Any, *, is_earlier: bool
) -> None:
    stored = [each for each in events(30) if len(each.payload) < 100]
    store(database, stored)
    await rollups.refresh(PLANS)
    if is_earlier:
        as_earlier_versions_made_it(database)
    store(database, events(40, since=30))
    stored += events(40, since=30)

    done = await rollups.refresh(PLANS)

    assert done.remaining == 0
    for rollup in ROLLUPS:
        name = rollup.rollup_plan.name
        assert database.rows(f"SELECT sum(n)::int FROM {name}") == [(len(stored),)]
        for newest_first in (False, True):
            for groups in (None, ("path",), ()):
                asked: dict[str, Any] = {"newest_first": newest_first, "groups": groups}
                expected = brute_force(Question(rollup, **asked), stored).rows
                assert (await rollups.answer(Question(rollup, **asked))).rows == expected
                assert await paged(rollups, rollup, **asked) == expected


async def test_a_rollup_is_filled_with_long_texts(rollups: PostgresRollups, database: Any) -> None:
    store(database, events(40))

    await rollups.refresh(PLANS)

    for rollup in ROLLUPS:
        assert (await rollups.answer(Question(rollup))).rows == brute_force(Question(rollup), events(40)).rows
    assert (await rollups.refresh(PLANS)).buckets == 0


async def test_an_index_that_takes_no_long_texts_is_replaced_once_and_by_none_who_may_not(
    rollups: PostgresRollups, database: Any
) -> None:
    def index() -> list[Any]:
        found: list[Any] = database.rows(
            "SELECT indexrelid::int, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'paths'::regclass"
        )
        return found

    store(database, events(1))
    await rollups.refresh(PLANS)
    made = index()
    as_earlier_versions_made_it(database)
    earlier = index()
    async with PostgresHandler(database.url(), schema="strict").rollups() as strict:
        await strict.refresh(PLANS)
    kept = index()
    await rollups.refresh(PLANS)
    replaced = index()
    await rollups.refresh(PLANS)

    assert kept == earlier
    assert [each[1:] for each in replaced] == [each[1:] for each in made]
    assert index() == replaced


async def test_a_role_that_does_not_own_the_tables_refreshes_them_as_before(
    rollups: PostgresRollups, database: Any
) -> None:
    store(database, events(1))
    await rollups.refresh(PLANS)
    as_earlier_versions_made_it(database)
    role = f"refreshes_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )
    try:
        store(database, events(1))
        async with PostgresHandler(database.url(user=role)).rollups() as other:
            await other.refresh(PLANS)

        assert database.rows("SELECT sum(n)::int FROM paths") == [(2,)]
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


class Noted:
    """A connection that remembers what was asked for one row, with its parameters."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetchrow(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return await self._connection.fetchrow(*asked)


async def test_a_page_costs_a_page_not_its_bucket(rollups: PostgresRollups, database: Any) -> None:
    database.execute(
        "INSERT INTO events (type, timestamp, payload) SELECT 'visited', '2026-01-05 12:00+00'::timestamptz,"
        " jsonb_build_object('path', '/' || n) FROM generate_series(1, 20000) AS n",
        "ANALYZE events",
    )
    await rollups.refresh([Paths.rollup_plan])
    database.execute("ANALYZE paths")
    noted = Noted(rollups._single._connection)
    rollups._single._connection = noted

    page = await rollups.answer(Question(Paths, limit=5))

    assert len(page.rows) == 5
    (asked,) = (asked for asked in noted.asked if '"paths"' in asked[0])
    lines = [line for (line,) in database.rows(f"EXPLAIN (ANALYZE, TIMING OFF) {asked[0]}", *asked[1:])]
    (read,) = (line for line in lines if "paths_by_bucket" in line)
    assert int(read.partition("actual rows=")[2].split(".")[0].split()[0]) < 1_000, lines


class Visited(EventModel, table="visited"):
    path: str


class Visits(Rollup, events=[Visited]):
    day = bucket("day")
    path = group("path")
    n = count()


class VisitsAlone(Rollup, events=[Visited]):
    day = bucket("day")
    n = count()


async def test_a_migration_replaces_the_index_that_takes_no_long_texts_and_no_other(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue(name="c", events=[Visited], rollups=[Visits, VisitsAlone])

    async def migrate() -> list[str]:
        async with migration_target_from_url(database.url()) as target:
            return [str(each) for each in await MigrationRunner(target, catalogue=catalogue).run()]

    with monkeypatch.context() as earlier:
        earlier.setattr(ddl, "prefix_of", lambda _plan: None)
        assert len(await migrate()) == 2
    made = database.dump()
    database.execute(
        "DROP INDEX visits_by_bucket", 'CREATE INDEX visits_by_bucket ON visits (day, path COLLATE "C" NULLS FIRST)'
    )

    applied, again = await migrate(), await migrate()

    assert applied == ["0003 post rollup_visits"]
    assert again == []
    assert database.dump() == made
