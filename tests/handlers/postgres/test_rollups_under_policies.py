"""Rollups and retention on PostgreSQL under row-level security: what it hides from a role is not taken for gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventrec import PauseError, default_layout
from eventrec.analytics import Question, Refresh, Rollup, bucket, count
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.rollups.tables import rollup_tables
from eventrec_handlers.postgres.target import Target

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


TABLE = (
    "CREATE TABLE events (id uuid, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb, context jsonb)"
)
SECURED = "ALTER TABLE events ENABLE ROW LEVEL SECURITY"
REFUSED = r"query would be affected by row-level security policy for table \"events\" \(42501\)"


class Daily(Rollup, name="daily", table="events"):
    day = bucket("day")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Monthly(Rollup, name="monthly", table="events"):
    month = bucket("month")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


DAILY, MONTHLY = Daily.rollup_plan, Monthly.rollup_plan


def stored(kind: str, number: int) -> str:
    """A statement that stores so many events of one day."""
    return (
        f"INSERT INTO events (type, timestamp) SELECT '{kind}', '2026-01-05 12:00+00' FROM generate_series(1, {number})"
    )


async def counted(store: PostgresRollups, rollup: type[Rollup] = Daily) -> list[Any]:
    return [row[1] for row in (await store.answer(Question(rollup))).rows]


@pytest.fixture
async def owner(database: Any) -> AsyncIterator[PostgresRollups]:
    """Rollups of three events of one day, as their owner sees them: one is refreshed, the other not filled yet."""
    database.execute(TABLE, stored("a", 3))
    async with PostgresHandler(database.url()).rollups() as store:
        await store.refresh([DAILY])
        layout = default_layout("events")
        database.execute(*rollup_tables(MONTHLY, Columns.of(layout), Namespace("public", 63, 10_000)))
        yield store


@pytest.fixture
def role(database: Any, owner: PostgresRollups) -> Iterator[str]:
    """A role that may do with these tables what a refresh does, and own none."""
    name = f"concerned_{database.name}"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}",
        f"GRANT CREATE ON SCHEMA public TO {name}",
    )
    yield name
    database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


HIDING = {
    "all": ["CREATE POLICY p ON events FOR INSERT WITH CHECK (true)"],
    "some": ["CREATE POLICY p ON events USING (type = 'b')"],
    "some, by a policy beside one that shows all": [
        "CREATE POLICY p ON events USING (true)",
        "CREATE POLICY q ON events AS RESTRICTIVE USING (type = 'b')",
    ],
    "all, but not from another role": ["CREATE POLICY p ON events TO pg_monitor USING (true)"],
}


@pytest.mark.parametrize("policies", HIDING.values(), ids=HIDING)
async def test_a_role_from_which_events_are_hidden_refreshes_nothing_and_is_told_so(
    owner: PostgresRollups, role: str, database: Any, policies: list[str]
) -> None:
    database.execute(SECURED, *policies, stored("b", 2))

    async with PostgresHandler(database.url(user=role)).rollups() as store:
        for plan in (DAILY, MONTHLY):
            with pytest.raises(PauseError, match=REFUSED):
                await store.refresh([plan])
        for rollup in (Daily, Monthly):
            with pytest.raises(PauseError, match=REFUSED):
                await counted(store, rollup)

    assert database.rows("SELECT n FROM daily") == [(3,)]
    assert database.rows("SELECT todo_from IS NOT NULL FROM eventrec_rollups WHERE name = 'monthly'") == [(True,)]
    assert await counted(owner) == [5]
    await owner.refresh([DAILY, MONTHLY])
    assert database.rows("SELECT n FROM daily UNION ALL SELECT n FROM monthly") == [(5,), (5,)]


SHOWING = {
    "it owns the table": [
        "ALTER TABLE events OWNER TO {role}",
        "CREATE POLICY p ON events FOR INSERT WITH CHECK (true)",
    ],
    "policies do not concern it": ["ALTER ROLE {role} BYPASSRLS"],
    "a policy shows it all": [
        "CREATE POLICY p ON events FOR SELECT TO {role} USING (true)",
        "CREATE POLICY q ON events AS RESTRICTIVE TO pg_monitor USING (false)",
    ],
    "policies show it all, of the rollup's tables too": [
        "CREATE POLICY p ON events USING (true)",
        *(
            statement
            for table in ("daily", "eventrec_dirty", "eventrec_pending", "eventrec_rollups", "eventrec_floors")
            for statement in (
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
                f"CREATE POLICY p ON {table} USING (true)",
            )
        ),
    ],
}


@pytest.mark.parametrize("policies", SHOWING.values(), ids=SHOWING)
async def test_a_role_from_which_nothing_is_hidden_refreshes_as_before(
    role: str, database: Any, policies: list[str]
) -> None:
    database.execute(SECURED, *(policy.format(role=role) for policy in policies), stored("b", 2))

    async with PostgresHandler(database.url(user=role)).rollups() as store:
        before = await counted(store)
        await store.refresh([DAILY])
        after = await counted(store)

    assert before == after == [5]
    assert database.rows("SELECT n FROM daily") == [(5,)]


async def test_marks_that_are_hidden_are_not_taken_for_none(owner: PostgresRollups, role: str, database: Any) -> None:
    database.execute("ALTER TABLE eventrec_dirty ENABLE ROW LEVEL SECURITY", stored("b", 2))

    async with PostgresHandler(database.url(user=role)).rollups() as store:
        with pytest.raises(PauseError, match='row-level security policy for table "eventrec_dirty"'):
            await store.refresh([DAILY])
        with pytest.raises(PauseError, match='row-level security policy for table "eventrec_dirty"'):
            await counted(store)

    assert await counted(owner) == [5]


AUDITED = (
    "CREATE TABLE audit (deleted int)",
    "ALTER TABLE audit ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON audit USING (deleted > 0)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END'",
    "CREATE TRIGGER note AFTER DELETE ON events EXECUTE FUNCTION note()",
)


@pytest.mark.parametrize(
    ("policies", "left", "remarks"),
    [
        ([SECURED, "CREATE POLICY p ON events USING (type = 'b')"], 5, 1),
        ([SECURED, "CREATE POLICY p ON events USING (true)"], 0, 0),
        ([], 0, 0),
    ],
    ids=["some", "none", "none, without policies"],
)
async def test_old_events_are_removed_where_none_are_hidden(  # noqa: PLR0917
    owner: PostgresRollups, role: str, database: Any, policies: list[str], left: int, remarks: int
) -> None:
    database.execute(stored("b", 2))
    await owner.refresh([DAILY, MONTHLY])
    database.execute(*AUDITED, f"GRANT ALL ON audit TO {role}", *policies)
    floor = database.rows("SELECT kept_from FROM eventrec_floors")
    layouts = {"events": replace(default_layout("events"), retention="10d")}
    now = (datetime(2026, 4, 5, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000

    async with PostgresRollups(Target(database.url(user=role)), Options(), layouts=layouts) as store:
        done = await store.refresh([], now=now)

    assert database.rows("SELECT count(*)::int FROM events") == [(left,)]
    assert (database.rows("SELECT kept_from FROM eventrec_floors") == floor) == bool(left)
    said = f"table 'events': old rows are not removed: {REFUSED}".replace("\\", "")
    assert done.remarks == (said,) * remarks
    assert database.rows("SELECT n FROM daily") == [(5,)]
