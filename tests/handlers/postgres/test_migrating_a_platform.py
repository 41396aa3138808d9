"""The catalogue of a whole platform, brought to a PostgreSQL by the command; and what an operator may find there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eventrec import migration_target_from_url
from eventrec.analytics import MigrationError, MigrationRunner

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]


@pytest.mark.slow
def test_commands_on_an_empty_database(database: Any, commands_of_migrate: Callable[..., None]) -> None:
    commands_of_migrate(database.url(), database.dump)

    declared = {name for (name,) in database.rows("SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p')")}
    assert {"analytics_events", "analytics_events_default", "analytics_errors_hourly", "eventrec_seen"} <= declared


def test_two_deployments_at_once(database: Any, migrate_platform: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(2) as both:
        ends = list(both.map(lambda _: migrate_platform("all", "--to", database.url()), range(2)))

    assert sorted(out for _, out, _ in ends) == [
        "applied 0001 pre tables\napplied 0002 post rollups\n",
        "nothing to do\n",
    ]
    assert [code for code, _, _ in ends] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("every", [139, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(1_600)])])
def test_killed_and_run_again_gives_the_same_schema(
    database: Any, killed_migrations: Callable[..., list[str]], every: int
) -> None:
    whole, *killed = killed_migrations(database.url(namespace="s{}"), every)

    expected = database.dump(f"s{whole}")
    assert len(expected) > 150
    assert [at for at in killed if database.dump(f"s{at}") != expected] == []


def test_url_of_another_library_is_understood_and_nothing_secret_is_shown(
    database: Any, migrate_platform: Callable[..., Any]
) -> None:
    _, slashes, rest = database.url().partition("://")

    code, out, said = migrate_platform("status", DATABASE_URL=f"postgresql+asyncpg{slashes}{rest}")
    assert (code, out[:12], said) == (0, "Applied: 0\nP", "")
    code, out, said = migrate_platform(
        "all", DATABASE_URL="postgresql+asyncpg://postgres:hunter2@127.0.0.1:1/x?connect_timeout=1"
    )
    assert (code, out, said.count("\n")) == (3, "", 1)
    assert "hunter2" not in said


async def test_what_may_not_be_made_is_said_in_one_line(database: Any, platform_analytics: Any) -> None:
    reads = f"reads_{database.name}"
    database.execute(f"CREATE ROLE {reads} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    before = database.dump()
    try:
        for url in (
            database.url(user=reads),
            database.url(user=reads, namespace="absent"),
            database.url(options="-cdefault_transaction_read_only=on"),
        ):
            async with migration_target_from_url(url) as target:
                runner = MigrationRunner(target, catalogue=platform_analytics.catalogue.catalogue)
                assert len((await runner.status()).pending) == 2
                with pytest.raises(MigrationError, match=r"permission denied|read-only") as raised:
                    await runner.run()
            assert "\n" not in str(raised.value)
        assert database.dump() == before
    finally:
        database.execute(f"DROP ROLE {reads}")


async def test_schema_of_the_search_path_is_the_one(database: Any, platform_analytics: Any) -> None:
    database.execute("CREATE SCHEMA a", "CREATE SCHEMA b")

    async with migration_target_from_url(database.url(options="-csearch_path=a,b")) as target:
        await MigrationRunner(target, catalogue=platform_analytics.catalogue.catalogue).run()

    assert database.dump() == database.dump("b") == []
    assert len(database.dump("a")) > 150
