"""What goes wrong around a SQLite file: locks, changes by other programs, broken files, cancelling, many processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio import to_thread

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    Event,
    FencedError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec_handlers._sql import TablePlan
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.columns import Rows
from eventrec_handlers.sqlite.file import meaning, statements

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


def rows(path: Path, sql: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=1)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another writer has the lock."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as connection:
        connection.execute(f"BEGIN {how}")
        yield
        connection.execute("ROLLBACK")


# -- locks


async def test_file_locked_by_another_is_transient_and_nothing_is_lost(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    with locked(path), pytest.raises(TransientError, match=r"events.db: database is locked"):
        await handler.handle(batch(event(1)))
    await handler.handle(batch(event(1)))

    assert rows(path, "SELECT payload FROM events") == [("1",)]


async def test_opening_a_locked_file_is_transient_and_may_be_repeated(path: Path) -> None:
    handler = SqliteHandler(path, busy_timeout=0.1)
    execute(path, "CREATE TABLE other (x)")

    with locked(path, "EXCLUSIVE"), pytest.raises(TransientError, match=r"locked"):
        await handler.open()
    await handler.open()
    await handler.close()

    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


async def test_lock_is_waited_for_as_long_as_allowed(path: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = SqliteHandler(path, busy_timeout=30)
    await handler.open()
    await handler.resume(log_id, "tested", 0)

    async with anyio.create_task_group() as tasks:
        with locked(path):
            tasks.start_soon(handler.handle, batch(event(1)))
            await anyio.sleep(0.2)
    await handler.close()

    assert rows(path, "SELECT payload FROM events") == [("1",)]


# -- what others do to the file meanwhile


async def test_column_added_by_another_is_used(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    execute(path, "ALTER TABLE events ADD COLUMN a INTEGER")

    await handler.handle(batch(event(2, columns=[ColumnSchema("a", ColumnType.INT64)], values=(5,)), start=1))

    assert rows(path, "SELECT payload, a FROM events") == [("1", None), ("2", 5)]


async def test_column_and_table_dropped_by_another_are_made_again(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    with_column = event(1, columns=[ColumnSchema("a", ColumnType.INT64)], values=(5,))
    await handler.handle(batch(with_column))

    execute(path, "ALTER TABLE events DROP COLUMN a")
    await handler.handle(batch(with_column, start=1))
    without = rows(path, "SELECT a FROM events")
    execute(path, "DROP TABLE events")
    await handler.handle(batch(with_column, start=2))

    assert without == [(None,), (5,)]
    assert rows(path, "SELECT a FROM events") == [(5,)]


async def test_table_that_changes_at_every_turn_is_transient(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Staged inside: a table that is never ready stands for one that another program drops after every round.
    monkeypatch.setattr("eventrec_handlers.sqlite.store.statements", lambda *_: ())

    with pytest.raises(TransientError, match=r"others have changed the tables 20 times"):
        await handler.handle(batch(event(1)))

    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name = 'events'") == [(0,)]


async def test_what_was_seen_of_a_schema_that_is_rolled_back_is_forgotten(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def failing(connection: sqlite3.Connection, table: str, plan: TablePlan) -> Iterator[str]:
        if table == "b":
            raise RuntimeError("staged: after table a was made, and b looked for")
        for statement in statements(connection, table, plan):
            made.append(statement)
            yield statement

    with monkeypatch.context() as patched:
        patched.setattr("eventrec_handlers.sqlite.store.statements", failing)
        with pytest.raises(RuntimeError, match=r"staged"):
            await handler.handle(batch(event(1, into="a"), event(2, into="b")))
    # As many changes as were rolled back: the version of the schema is the one at which there was no b.
    execute(path, *(statement.replace('"a"', '"b"').replace("_a_", "_b_") for statement in made))
    await handler.handle(batch(event(2, into="b")))

    assert rows(path, "SELECT payload FROM b") == [("2",)]


async def test_checkpoint_table_dropped_by_another_is_made_again(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    execute(path, "DROP TABLE eventrec_checkpoints", "DROP TABLE eventrec_destination")

    with pytest.raises(TransientError, match=r"no such table: eventrec_checkpoints"):
        await handler.handle(batch(event(1)))
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(event(1)))

    assert rows(path, "SELECT payload FROM events") == [("1",)]


async def test_file_that_is_moved_away_keeps_what_was_acknowledged_and_is_left_alone(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    before = await handler.destination_id()
    moved = path.rename(path.with_name("moved.db"))

    with pytest.raises(FencedError, match=r"stands at None"):
        await handler.handle(batch(event(2), start=1))

    assert rows(moved, "SELECT payload FROM events") == [("1",)]
    assert await handler.destination_id() != before


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
async def test_wal_that_was_cut_is_not_copied_into_the_file_when_that_is_closed(
    part: float, handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n) for n in range(200))))
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    await handler.handle(batch(*(event(n) for n in range(200, 1_000)), start=200))
    wal = path.with_name(f"{path.name}-wal")
    os.truncate(wal, int(wal.stat().st_size * part))

    await handler.close()

    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT count(*), max(next) FROM events, eventrec_checkpoints") == [(200, 200)]


# -- files that cannot be used


async def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(PauseError, match=rf"there is no directory {tmp_path}/no/such$"):
        await SqliteHandler(tmp_path / "no" / "such" / "x.db").open()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("mode", "name", "why"),
    [
        (0o700, "x.db", "x.db: unable to open database file: Permission denied"),
        (0o700, "sub/x.db", "x.db: unable to open database file: Permission denied"),
        (0o755, "x.db", "x.db: unable to open database file: there is no such file, and {} may not be written"),
        (0o744, "x.db", "x.db: unable to open database file: Permission denied"),
    ],
)
async def test_file_in_a_directory_that_is_closed_to_this_user_pauses(mode: int, name: str, why: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "sub").mkdir()
        handler = SqliteHandler(place / name)
        await handler.open()  # So that all is imported.
        await handler.close()
        (place / name).unlink()
        place.chmod(mode)
        os.setresuid(65_534, 65_534, 0)
        try:
            with pytest.raises(PauseError) as refused:
                await handler.open()
            with pytest.raises(PauseError):
                await handler.reader().latest(limit=1)
        finally:
            os.setresuid(0, 0, 0)

    assert str(refused.value).endswith(why.format(place))


async def once(handler: SqliteHandler, log_id: UUID | None = None, stored: Batch | None = None) -> None:
    """Open the handler, store a batch, and close it."""
    await handler.open()
    if log_id is not None and stored is not None:
        await handler.resume(log_id, "tested", stored.start)
        await handler.handle(stored)
    await handler.close()


@contextmanager
def directory_of_another_user() -> Iterator[Path]:
    """While it lasts, this process is a user to whom rights matter, and who owns the directory."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as made:
        if is_root:
            os.chown(made, 65_534, 65_534)
            os.setresuid(65_534, 65_534, 0)
        try:
            yield Path(made)
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
            Path(made).chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are of another kind there")
async def test_file_that_may_only_be_read_for_a_while_is_left_as_it_is(
    path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    await once(SqliteHandler(path))  # So that all is imported.
    with directory_of_another_user() as place:
        file = place / "x.db"
        handler = SqliteHandler(file)
        await once(handler, log_id, batch(event(0)))
        file.chmod(0o444)

        with pytest.raises(PauseError) as refused:
            await handler.open()
        with pytest.raises(PauseError) as unmigrated:
            async with handler.migrations() as target:
                await target.prepare()
        beside = [each.name for each in place.iterdir()]
        file.chmod(0o644)
        await once(handler, log_id, batch(event(1), start=1))
        execute(file, "CREATE TABLE theirs (a)")

        assert str(refused.value) == str(unmigrated.value) == f"{file}: it may not be written"
        assert beside == ["x.db"]
        assert rows(file, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are of another kind there")
@pytest.mark.parametrize("name", ["x.db-shm", ""])
async def test_what_else_may_not_be_written_is_named(path: Path, name: str) -> None:
    await once(SqliteHandler(path))  # So that all is imported.
    with directory_of_another_user() as place:
        file = place / "x.db"
        handler = SqliteHandler(file)
        await once(handler)
        if name:  # as another program leaves it
            file.chmod(0o444)
            rows(file, "PRAGMA journal_mode = WAL")
            for each in (file, place / "x.db-wal"):
                each.chmod(0o644)
        (place / name).chmod(0o444 if name else 0o555)

        with pytest.raises(PauseError) as refused:
            await handler.open()
        (place / name).chmod(0o755)
        await once(handler)

    needs = "" if name else ", and SQLite needs files beside it"
    assert str(refused.value) == f"{file}: {place / name} may not be written{needs}"


async def test_directory_in_place_of_a_file_pauses(tmp_path: Path) -> None:
    with pytest.raises(PauseError, match=rf"{tmp_path}: unable to open database file"):
        await SqliteHandler(tmp_path).open()


async def test_file_that_is_no_database_pauses_and_stays_as_it_is(path: Path) -> None:
    path.write_text("not a database " * 100)

    with pytest.raises(PauseError, match=r"events.db: file is not a database"):
        await SqliteHandler(path).open()

    assert path.read_text() == "not a database " * 100


async def test_corrupt_file_pauses_until_it_is_put_in_order(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event("x" * 100) for _ in range(200))))
    await handler.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: 5 * 4096] + b"\xff" * (len(whole) - 5 * 4096))
    await handler.open()

    with pytest.raises(PauseError, match=r"malformed"):
        await handler.handle(batch(*(event("x" * 100) for _ in range(200)), start=200))
    path.write_bytes(whole)
    path.with_name("events.db-wal").unlink(missing_ok=True)
    await handler.handle(batch(event(1), start=200))

    assert rows(path, "SELECT count(*) FROM events") == [(201,)]


async def test_read_only_database_pauses_until_it_may_be_written(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    # Not by rights of the file: who runs the tests may be root.
    assert handler._file.connection is not None
    handler._file.connection.execute("PRAGMA query_only = ON")

    with pytest.raises(PauseError, match=r"attempt to write a readonly database"):
        await handler.handle(batch(event(1)))
    await handler.handle(batch(event(1)))

    assert rows(path, "SELECT payload FROM events") == [("1",)]


async def test_full_disk_is_transient_and_leaves_nothing_half(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(0)))
    large = batch(*(event("x" * 1_000) for _ in range(500)), start=1)
    assert handler._file.connection is not None
    (pages,) = handler._file.connection.execute("PRAGMA page_count").fetchone()
    handler._file.connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(TransientError, match=r"database or disk is full"):
        await handler.handle(large)
    left = rows(path, "SELECT count(*) FROM events"), await handler.resume(log_id, "tested", 0)
    handler._file.connection.execute("PRAGMA max_page_count = 1000000")
    await handler.handle(large)

    assert left == ([(1,)], 1)
    assert rows(path, "SELECT count(*) FROM events") == [(501,)]


# -- what a table of one's own may say


@pytest.mark.parametrize(
    ("extra", "trigger"),
    [
        (", owner TEXT NOT NULL", ""),
        (", CHECK (type <> 'happening')", ""),
        ("", "CREATE TRIGGER t BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'not here'); END"),
    ],
)
async def test_constraint_of_the_table_is_permanent(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, extra: str, trigger: str
) -> None:
    execute(path, f"CREATE TABLE events (id TEXT, type TEXT, timestamp INTEGER, payload TEXT{extra})", trigger)

    with pytest.raises(PermanentError):
        await handler.handle(batch(event(1)))

    assert rows(path, "SELECT count(*) FROM events") == [(0,)]


async def test_a_trigger_without_its_table_holds(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    execute(path, "CREATE TRIGGER t AFTER INSERT ON events BEGIN INSERT INTO audit VALUES (1); END")

    with pytest.raises(PauseError, match=r"no such table: main.audit"):
        await handler.handle(batch(event(1), start=1))


async def test_error_that_is_not_known_is_raised_as_it_is(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    trigger = "CREATE TRIGGER t BEFORE UPDATE ON eventrec_checkpoints BEGIN SELECT json('no json'); END"
    execute(path, trigger)

    with pytest.raises(sqlite3.OperationalError, match=r"malformed JSON"):
        await handler.handle(batch(event(1)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, TransientError),
        (sqlite3.SQLITE_LOCKED, TransientError),
        (sqlite3.SQLITE_FULL, TransientError),
        (sqlite3.SQLITE_IOERR_FSYNC, TransientError),
        (sqlite3.SQLITE_PROTOCOL, TransientError),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, PauseError),
        (sqlite3.SQLITE_READONLY_DBMOVED, PauseError),
        (sqlite3.SQLITE_NOTADB, PauseError),
        (sqlite3.SQLITE_CORRUPT_INDEX, PauseError),
        (sqlite3.SQLITE_PERM, PauseError),
        (sqlite3.SQLITE_AUTH, PauseError),
        (sqlite3.SQLITE_CONSTRAINT_NOTNULL, PermanentError),
        (sqlite3.SQLITE_MISMATCH, PermanentError),
        (sqlite3.SQLITE_TOOBIG, PermanentError),
        (sqlite3.SQLITE_ERROR, sqlite3.OperationalError),
        (sqlite3.SQLITE_MISUSE, sqlite3.OperationalError),
        (None, sqlite3.OperationalError),
    ],
)
def test_each_result_code_has_a_meaning(tmp_path: Path, code: int | None, expected: type[Exception]) -> None:
    exc = sqlite3.OperationalError("said")
    if code is not None:
        exc.sqlite_errorcode = code

    assert type(meaning(exc, tmp_path / "x.db")) is expected


# -- cancellation: a batch is whole or absent


async def test_wait_for_a_lock_ends_with_cancellation(path: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = SqliteHandler(path, busy_timeout=60)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    start = time.monotonic()

    with locked(path), anyio.move_on_after(0.1) as scope:
        await handler.handle(batch(event(1)))
    seconds = time.monotonic() - start
    await handler.handle(batch(event(1)))
    await handler.close()

    assert scope.cancelled_caught
    assert seconds < 10
    assert rows(path, "SELECT payload FROM events") == [("1",)]


async def cancelled_after(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` as a task, cancelled the native way unless it is done by then."""
    task = asyncio.create_task(work)
    await asyncio.sleep(seconds)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Gate:
    """Holds a job between its rows and its checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        insert = Rows.insert

        def held(part: Rows, connection: sqlite3.Connection, plan: TablePlan) -> None:
            insert(part, connection, plan)
            self.entered.set()
            assert self.released.wait(30)

        monkeypatch.setattr(Rows, "insert", held)

    async def is_entered(self) -> None:
        assert await to_thread.run_sync(self.entered.wait, 30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.released.set()


async def test_cancelled_batch_that_has_begun_is_stored_whole(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID, gate: Gate
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handler.handle, batch(event(1), event(2)))
        await gate.is_entered()
        tasks.cancel_scope.cancel()
        gate.released.set()

    assert rows(path, "SELECT count(*) FROM events") == [(2,)]
    assert await handler.resume(log_id, "tested", 0) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_job_abandoned_by_a_native_cancel_is_not_interleaved_with_the_next(  # noqa: PLR0917
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID, gate: Gate
) -> None:
    task = asyncio.create_task(handler.handle(batch(event(1), event(2))))
    await gate.is_entered()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    following = asyncio.create_task(handler.resume(log_id, "tested", 0))
    await asyncio.sleep(0.05)
    waits = not following.done()
    gate.released.set()

    assert waits
    assert await following == 2
    assert rows(path, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_close_waits_for_an_abandoned_job(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, gate: Gate
) -> None:
    task = asyncio.create_task(handler.handle(batch(event(1))))
    await gate.is_entered()
    task.cancel()
    threading.Timer(0.05, gate.released.set).start()

    await handler.close()
    assert task.cancelled()

    assert rows(path, "SELECT count(*) FROM events") == [(1,)]
    assert not path.with_name("events.db-wal").exists()


async def test_close_disconnects_also_when_it_is_cancelled(handler: SqliteHandler, path: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await handler.close()

    assert repr(handler).endswith(" closed>")
    assert not path.with_name("events.db-wal").exists()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_batch_cancelled_at_any_instant_is_whole_or_absent(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    stored = 0
    for turn in range(40):
        delivery = handler.handle(batch(*(event(turn) for _ in range(50)), start=stored))
        await cancelled_after(turn * 0.000_1, delivery)
        before, stored = stored, await handler.resume(log_id, "tested", 0)

        assert stored - before in (0, 50)
    await handler.close()

    assert rows(path, "SELECT count(*) FROM events") == [(stored,)]


# -- several processes


@pytest.mark.slow
def test_eight_processes_share_one_file_from_empty_with_growing_columns(path: Path) -> None:
    script = Path(__file__).with_name("sqlite_writer.py")
    writers = [
        subprocess.Popen([sys.executable, str(script), str(path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    sent = [int(writer.communicate(timeout=200)[0]) for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * 8
    assert rows(path, "SELECT count(*), count(DISTINCT id) FROM events") == [(sum(sent), sum(sent))]
    assert rows(path, "SELECT type, count(*) FROM events GROUP BY type ORDER BY type") == [
        (f"writer_{number}", sent[number]) for number in range(8)
    ]
    # Each row has its number in its payload and in the column that was new when it was written.
    columns = [name for (name,) in rows(path, "SELECT name FROM pragma_table_info('events') WHERE cid > 3")]
    found = rows(path, f"SELECT payload, coalesce({', '.join(columns)}) FROM events")
    assert all(int(payload) == value for payload, value in found)
    assert len(columns) == 8 + 8 * 4
    assert rows(path, "SELECT next FROM eventrec_checkpoints ORDER BY log_id") == [(count,) for count in sent]
    assert rows(path, "SELECT count(*) FROM eventrec_destination") == [(1,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
