import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest

from eventrec import Column, EventModel, PauseError, default_layout, migration_target_from_url
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    MigrationTarget,
    Phase,
    Question,
    RollbackNotSupported,
    Rollup,
    Statement,
    bucket,
    count,
    migrations_of,
)
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.file import read_table
from eventrec_handlers.sqlite.rollups.fields import Columns
from eventrec_handlers.sqlite.rollups.select import select

pytestmark = pytest.mark.anyio
WRITER = Path(__file__).with_name("migration_writer.py")


class Placed(EventModel, table="orders", type="placed"):
    number: int


class PlacedWithCustomer(EventModel, table="orders", type="placed"):
    number: int
    customer: Annotated[str, Column()]


BEFORE = Catalogue(name="shop", events=[Placed])
AFTER = Catalogue(name="shop", events=[PlacedWithCustomer])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def target_of(path: Path) -> MigrationTarget:
    return migration_target_from_url(f"sqlite:///{path}")


async def migrate(path: Path, catalogue: Catalogue | None = None, **options: Any) -> list[Migration]:
    async with target_of(path) as target:
        return await MigrationRunner(target, catalogue=catalogue, **options).run()


def dump(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        records = connection.execute(
            "SELECT version, name, phase, checksum, text, done, undone, adopted, applied_at IS NULL"
            " FROM eventrec_migrations ORDER BY version"
        ).fetchall()
    return [*schema, *records]


def by_hand(*up: str, down: tuple[str, ...] | None = None, version: int = 1) -> Migration:
    from eventrec.analytics.migration_text import with_text  # noqa: PLC0415

    return with_text(
        Migration(
            version=version,
            name="by_hand",
            phase=Phase.PRE,
            up=tuple(map(Statement, up)),
            down=None if down is None else tuple(map(Statement, down)),
            dialect="sqlite",
        )
    )


async def test_second_run_finds_nothing_to_do(path: Path) -> None:
    first = await migrate(path, BEFORE)
    made = dump(path)

    second = await migrate(path, BEFORE)

    assert ([str(each) for each in first], second) == (["0001 pre tables"], [])
    assert dump(path) == made


async def test_new_column_is_a_new_migration_and_nothing_else(path: Path) -> None:
    await migrate(path, BEFORE)

    second = await migrate(path, AFTER)

    assert [str(each) for each in second] == ["0002 pre events_orders"]
    assert [each.sql for each in second[0].up] == ['ALTER TABLE "orders" ADD COLUMN "customer" TEXT']


async def test_what_the_handler_made_is_adopted(path: Path) -> None:
    handler = SqliteHandler(path)
    await handler.open()
    await handler.close()
    told: list[str] = []

    await migrate(path, BEFORE, tell=told.append)

    assert sorted(told) == [
        "own eventrec_checkpoints is there already: it is adopted as it is",
        "own eventrec_destination is there already: it is adopted as it is",
    ]


async def test_column_of_another_program_whose_name_is_not_utf_8_is_named_as_others_are(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT, type TEXT, timestamp INTEGER, payload TEXT, context TEXT, e)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = CAST(replace(sql, ', e)', x'2cE929') AS TEXT)")
    told: list[str] = []

    await migrate(path, BEFORE, tell=told.append)

    assert r"events orders differs from what is declared: it has a column '\\xe9' that is not declared" in told


async def test_tables_of_other_programs_are_adopted_and_their_differences_named(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT, type TEXT, timestamp TEXT, payload TEXT, extra INTEGER)")
    told: list[str] = []

    (migration,) = await migrate(path, BEFORE, tell=told.append)

    assert told == [
        "events orders is there already: it is adopted as it is",
        "events orders differs from what is declared: its column 'timestamp' is TEXT, not INTEGER",
        "events orders differs from what is declared: it has no column 'context'",
        "events orders differs from what is declared: it has a column 'extra' that is not declared",
    ]
    async with target_of(path) as target:
        (record,) = await target.records()
        assert record.adopted == ("events orders",)
    assert "extra INTEGER" in str(dump(path))
    assert migration.version == 1


async def test_handler_and_migration_make_the_same_tables(path: Path, tmp_path: Path) -> None:
    handler = SqliteHandler(tmp_path / "other.db")
    await handler.open()
    await handler.close()

    await migrate(path, BEFORE)

    def own(path: Path) -> set[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE name IN ('eventrec_checkpoints', 'eventrec_destination')"
            ).fetchall()
        return set(found)

    assert own(path) == own(tmp_path / "other.db")
    assert len(own(path)) == 2


async def test_to_look_changes_nothing(path: Path, tmp_path: Path) -> None:
    async with target_of(path) as target:
        assert [str(each.migration) for each in (await MigrationRunner(target, catalogue=BEFORE).status()).pending] == [
            "0001 pre tables"
        ]
    assert list(tmp_path.iterdir()) == []
    await migrate(path, BEFORE)
    before = hashlib.sha256(path.read_bytes()).digest()

    async with target_of(path) as target:
        status = await MigrationRunner(target, catalogue=AFTER).status()

    assert [str(each.migration) for each in status.pending] == ["0002 pre events_orders"]
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_failed_statement_is_named_and_the_next_run_goes_on_there(path: Path) -> None:
    files = [by_hand("CREATE TABLE one (a)", "CREATE TABLE two (SELECT)", "CREATE TABLE three (a)")]

    with pytest.raises(MigrationError, match=r'0001 pre by_hand: statement 2 of 3 failed.*near "SELECT"'):
        await migrate(path, files=files)
    with pytest.raises(MigrationError, match="statement 2 of 3 failed"):
        await migrate(path, files=files)

    async with target_of(path) as target:
        (pending,) = (await MigrationRunner(target, files=files).status()).pending
    assert (pending.done, pending.is_recorded) == (1, True)
    mended = [by_hand("CREATE TABLE one (a)", "CREATE TABLE two (a)", "CREATE TABLE three (a)")]
    assert await migrate(path, files=mended) == mended


async def test_file_that_was_changed_after_it_was_applied_is_refused_by_name(path: Path) -> None:
    await migrate(path, files=[by_hand("CREATE TABLE one (a)")])

    with pytest.raises(MigrationError, match=r"0001_pre_by_hand\.sql was changed after it was applied"):
        await migrate(path, files=[by_hand("CREATE TABLE one (b)")])
    with pytest.raises(MigrationError, match=r"has migration 1 .*, and there is no file of it"):
        await migrate(path, files=[])


async def test_begun_migration_whose_statements_that_ran_were_changed_is_refused(path: Path) -> None:
    with pytest.raises(MigrationError):
        await migrate(path, files=[by_hand("CREATE TABLE one (a)", "SELECT nothing")])

    with pytest.raises(MigrationError, match=r"0001_pre_by_hand\.sql was changed after it was begun"):
        await migrate(path, files=[by_hand("CREATE TABLE other (a)", "SELECT 1")])


async def test_rollback_undoes_the_newest_and_all_from_a_version_on(path: Path) -> None:
    files = [
        by_hand("CREATE TABLE one (a)", down=("DROP TABLE one",)),
        by_hand(
            "CREATE TABLE two (a)", "CREATE TABLE three (a)", down=("DROP TABLE three", "DROP TABLE two"), version=2
        ),
        by_hand("INSERT INTO one VALUES (1)", down=(), version=3),
    ]
    await migrate(path, files=files)

    async with target_of(path) as target:
        newest = await MigrationRunner(target).rollback()
        rest = await MigrationRunner(target).rollback(1)

    assert [each.version for each in newest] == [3]
    assert [each.version for each in rest] == [2, 1]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [
            ("eventrec_migrations",)
        ]


async def test_rollback_of_what_has_no_way_back_undoes_nothing(path: Path) -> None:
    files = [by_hand("CREATE TABLE one (a)"), by_hand("CREATE TABLE two (a)", down=("DROP TABLE two",), version=2)]
    await migrate(path, files=files)
    before = dump(path)

    async with target_of(path) as target:
        with pytest.raises(RollbackNotSupported) as raised:
            await MigrationRunner(target).rollback(1)

    assert raised.value.version == 1
    assert dump(path) == before


async def test_rollback_that_failed_halfway_is_ended_before_anything_else(path: Path) -> None:
    down = ("DROP TABLE two", "DROP TABLE absent")
    files = [by_hand("CREATE TABLE one (a)", "CREATE TABLE two (a)", down=down)]
    await migrate(path, files=files)
    async with target_of(path) as target:
        with pytest.raises(MigrationError, match="rollback of migration 0001 pre by_hand: statement 2 of 2 failed"):
            await MigrationRunner(target).rollback()

    with pytest.raises(MigrationError, match=r"rollback of migration 1 .* was begun and not ended"):
        await migrate(path, files=files)

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE absent (a)")
    async with target_of(path) as target:
        assert [each.version for each in await MigrationRunner(target).rollback()] == [1]
    assert [str(each) for each in await migrate(path, files=[by_hand("CREATE TABLE two (a)")])] == ["0001 pre by_hand"]


async def test_statement_that_ends_its_transaction_is_refused(path: Path) -> None:
    with pytest.raises(MigrationError, match="it ends the transaction that it runs in"):
        await migrate(path, files=[by_hand("COMMIT")])


async def test_two_at_once_one_waits_and_sees_nothing_to_do(path: Path) -> None:
    waits = anyio.Event()
    told: list[str] = []
    results: list[list[Migration]] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        waits.set()

    async def second() -> None:
        results.append(await migrate(path, BEFORE, tell=tell))

    async with target_of(path) as target, anyio.create_task_group() as tasks, target.lock(lambda: None):
        tasks.start_soon(second)
        with anyio.fail_after(120):
            await waits.wait()
        assert not path.exists()
    assert told == ["another process migrates this database: waiting for it"]
    assert [len(each) for each in results] == [1]
    assert not path.with_name("events.db-migrate").exists()


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(300)])])
def test_killed_at_any_point_and_run_again_gives_the_same_schema(tmp_path: Path, every: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", WRITER, f"sqlite:///{tmp_path}/{{}}.db", str(every)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, "")

    points, *killed_at = map(int, done.stdout.split())
    whole = dump(tmp_path / "whole.db")
    assert points > 20
    assert [at for at in killed_at if dump(tmp_path / f"{at}.db") != whole] == []


async def test_tables_that_are_reserved_or_declared_in_two_ways_are_refused(path: Path) -> None:
    class Sqlite(EventModel, table="SQLITE_x"):
        a: int

    class Other(EventModel, table="orders", type="other"):
        customer: Annotated[int, Column()]

    async with target_of(path) as target:
        with pytest.raises(MigrationError, match="reserved"):
            migrations_of(Catalogue(name="x", events=[Sqlite]), target)
        with pytest.raises(MigrationError, match="'customer' is declared as STRING and, by other, as INT64"):
            migrations_of(Catalogue(name="x", events=[PlacedWithCustomer, Other]), target)


async def test_lock_file_that_another_process_deleted_is_made_again(path: Path) -> None:
    beside = path.with_name("events.db-migrate")
    beside.touch()

    assert len(await migrate(path, BEFORE)) == 1
    assert not beside.exists()


async def test_place_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "a.db", tmp_path):
        with pytest.raises(PauseError, match=str(tmp_path)) as raised:
            await migrate(path, BEFORE)
        assert "\n" not in str(raised.value)
    tmp_path.joinpath("text.db").write_text("not a database, and long enough to be one of them", encoding="utf-8")
    with pytest.raises(PauseError, match="not a database"):
        await migrate(tmp_path / "text.db", BEFORE)


@pytest.mark.parametrize(
    "changed",
    ["text = 'x'", "adopted = '{'", "adopted = '[1]'", "done = 9", "undone = -1", "version = 7", "text = x'00'"],
)
async def test_notes_that_another_program_changed_are_refused_in_one_line(path: Path, changed: str) -> None:
    await migrate(path, files=[by_hand("CREATE TABLE one (a)")])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE eventrec_migrations SET {changed}")

    with pytest.raises(MigrationError, match=r"what is noted of migration [17] ") as raised:
        await migrate(path, BEFORE)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "theirs", ["TABLE eventrec_migrations (version, text)", "VIEW eventrec_migrations AS SELECT 1"]
)
async def test_name_of_our_records_that_is_taken_is_said(path: Path, theirs: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE {theirs}")

    with pytest.raises(PauseError, match="of another program: rename it"):
        await migrate(path, BEFORE)


async def test_a_rollup_of_any_event_gets_an_index_by_time_and_is_answered_by_it(path: Path) -> None:
    class Daily(Rollup, table="orders"):
        day = bucket("day")
        n = count()

    class OfPlaced(Rollup, events=["placed"], table="orders"):
        day = bucket("day")
        n = count()

    await migrate(path, BEFORE)
    typed = await migrate(path, Catalogue(name="shop", events=[Placed], rollups=[OfPlaced]))
    catalogue = Catalogue(name="shop", events=[Placed], rollups=[Daily, OfPlaced])

    made = await migrate(path, catalogue)
    again = await migrate(path, catalogue)

    def explained() -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            columns = Columns.of(default_layout("orders"), read_table(connection, "orders"))
            statement = select(Question(Daily, start=0, end=10), columns)
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.parameters)
            return [row[3] for row in rows]

    steps = await anyio.to_thread.run_sync(explained)
    assert (typed, again) == ([], [])
    assert [(each.phase, [statement.sql for statement in each.up]) for each in made] == [
        (Phase.POST, ['CREATE INDEX IF NOT EXISTS "eventrec_orders_timestamp" ON "orders" ("timestamp")'])
    ]
    index = "USING INDEX eventrec_orders_timestamp (timestamp>? AND timestamp<?)"
    assert any(f"SEARCH orders {index}" in step for step in steps), steps

    async with target_of(path) as target:
        await MigrationRunner(target, catalogue=catalogue).rollback()
    assert "eventrec_orders_timestamp" not in [row[1] for row in dump(path)]
