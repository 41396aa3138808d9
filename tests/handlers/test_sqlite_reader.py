"""Reading the newest events beside the writers: what `eventrec tail` shows."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, EventRecorder, PauseError, ReceivedEvent, StoredEvent
from eventrec.analytics import Question, Rollup, bucket, count
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.migrations import SqliteMigrations
from eventrec_handlers.sqlite.snapshot import Snapshots
from eventrec_handlers.sqlite.standing import Standing

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


class PerDay(Rollup, name="per_day"):
    day = bucket("day")
    n = count()


def payloads(events: Sequence[StoredEvent]) -> list[str]:
    return [event.payload for event in events]


async def test_newest_events_of_all_tables_come_first_then_those_that_follow(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n, at=n, into="ab"[n % 2]) for n in range(10))))

    newest = await handler.reader().latest(limit=4)
    nothing = await handler.reader().follow(newest.cursor, limit=4)
    await handler.handle(batch(event(10, at=10, into="c"), event(11, at=3, into="a"), start=10))
    following = await handler.reader().follow(nothing.cursor, limit=4)
    again = await handler.reader().follow(following.cursor, limit=4)

    assert payloads(newest.events) == ["6", "7", "8", "9"]
    assert nothing.events == again.events == ()
    assert payloads(following.events) == ["11", "10"]


async def test_pages_after_a_cursor_miss_nothing_and_repeat_nothing(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    cursor = (await handler.reader().latest(limit=0)).cursor
    await handler.handle(batch(*(event(n, at=n * 7 % 10, into="ab"[n % 3 == 0]) for n in range(30))))

    seen: list[StoredEvent] = []
    while (page := await handler.reader().follow(cursor, limit=7)).events:
        assert len(page.events) <= 7
        cursor = page.cursor
        seen += page.events

    assert sorted(map(int, payloads(seen))) == list(range(30))


async def test_event_is_told_whole(handler: SqliteHandler, event: Events, batch: Batches, log_id: UUID) -> None:
    columns = (ColumnSchema("rowid", ColumnType.STRING), ColumnSchema("b", ColumnType.BINARY))
    stored = batch(event({"n": 1}, kind="k", at=5, columns=columns, values=("x", b"\0")), context=b'{"u":1}')
    await handler.handle(stored)

    (told,) = (await handler.reader().latest(limit=9)).events

    assert told == StoredEvent(
        table="events",
        id=stored.records[0].id,
        type="k",
        timestamp=5,
        payload='{"n":1}',
        context='{"u":1}',
        columns={"rowid": "x", "b": b"\0"},
    )


async def test_tables_of_others_are_passed_over(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    base = "id TEXT, type TEXT, timestamp INTEGER, payload TEXT"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE users (id TEXT)")
        connection.execute(f"CREATE TABLE unnumbered ({base}, PRIMARY KEY (id)) WITHOUT ROWID")
        connection.execute(f"CREATE TABLE taken ({base}, rowid, oid, _rowid_)")
        connection.execute(f"CREATE TABLE wide ({base}, {', '.join(f'c{n}' for n in range(1_996))})")
        connection.execute(f"CREATE TABLE bytes ({base})")
        connection.execute("INSERT INTO bytes VALUES ('i', 't', 0, CAST(x'ff' AS TEXT))")

    seen = await handler.reader().latest(limit=9)

    assert [(told.table, told.payload) for told in seen.events] == [("bytes", "\ufffd"), ("events", "1")]
    assert list(seen.foreign) == [
        "table 'taken': its row numbers have no name left",
        "table 'unnumbered' cannot be read in order: no such column: rowid",
        "table 'wide' cannot be read in order: too many columns in result set",
    ]


async def test_reader_neither_waits_for_a_writer_nor_makes_it_wait(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    reader = SqliteHandler(path, busy_timeout=0).reader()

    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM events")
        seen = await reader.latest(limit=9)
        writer.execute("ROLLBACK")

    assert payloads(seen.events) == ["1"]


async def test_what_a_writer_has_in_the_wal_is_read_through_a_link_too(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches, tmp_path: Path
) -> None:
    await handler.handle(batch(event(1)))
    link = tmp_path / "link.db"
    link.symlink_to(path)

    assert payloads((await SqliteHandler(link).reader().latest(limit=9)).events) == ["1"]
    by_link = await anyio.to_thread.run_sync(Standing.at, link)
    assert by_link == await anyio.to_thread.run_sync(Standing.at, path)
    assert by_link.wal_size > 0


async def test_reader_makes_no_file_and_says_that_there_is_none(path: Path) -> None:
    with pytest.raises(PauseError, match=r"events.db: unable to open database file"):
        await SqliteHandler(path).reader().latest(limit=1)
    with pytest.raises(ValueError, match=r"limit must not be negative"):
        await SqliteHandler(path).reader().latest(limit=-1)

    assert not path.exists()


# -- rows of other programs


BASE = "id TEXT, type TEXT, timestamp INTEGER, payload TEXT"


@pytest.fixture
def change(path: Path) -> Callable[..., None]:
    """Statements of another program."""

    def run(*statements: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
            for statement in statements:
                connection.execute(statement)

    return run


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("NULL, 't', 1, '{}'", "its id is NULL"),
        ("x'00', 't', 1, '{}'", "its id is a BLOB"),
        ("'i', x'ff', 1, '{}'", "its type is a BLOB"),
        ("'i', 't', '2026-01-01 00:00:00', '{}'", "its timestamp is a TEXT"),
        ("'i', 't', 1.5, '{}'", "its timestamp is a REAL"),
        ("'i', 't', NULL, '{}'", "its timestamp is NULL"),
        ("'i', 't', 1, x'00ff'", "its payload is a BLOB"),
        ("'i', 't', 1, NULL", "its payload is NULL"),
    ],
)
async def test_rows_of_others_are_passed_over_and_counted(
    path: Path, change: Callable[..., None], values: str, why: str
) -> None:
    change(f"CREATE TABLE audit ({BASE})", "INSERT INTO audit VALUES ('a', 't', 5, '1')")
    reader = SqliteHandler(path).reader()
    cursor = (await reader.latest(limit=0)).cursor
    change(f"INSERT INTO audit VALUES ({values}), ({values})", "INSERT INTO audit VALUES ('b', 't', 6, '2')")

    latest = await reader.latest(limit=2)
    following = await reader.follow(cursor, limit=2)
    ranged = await reader.range(limit=9)
    again = await reader.follow(following.cursor, limit=2)

    counted = {f"table 'audit': {why}": 2}
    assert payloads(latest.events) == payloads(ranged.events) == ["1", "2"]
    assert payloads(following.events) == ["2"]
    assert latest.foreign == following.foreign == counted
    assert ranged.foreign == ({} if "timestamp is NULL" in why else counted)  # NULL is in no range
    assert (again.events, again.foreign) == ((), {})


async def test_row_with_a_context_that_is_no_text_is_passed_over(path: Path, change: Callable[..., None]) -> None:
    change(f"CREATE TABLE a ({BASE}, context)", "INSERT INTO a VALUES ('i', 't', 1, '1', 5), ('j', 't', 2, '2', NULL)")

    page = await SqliteHandler(path).reader().latest(limit=9)

    assert payloads(page.events) == ["2"]
    assert page.foreign == {"table 'a': its context is an INTEGER": 1}


async def test_page_looks_at_a_bounded_number_of_rows_of_others(
    path: Path, change: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.sqlite.reader.MAX_FOREIGN", 10)
    change(f"CREATE TABLE a ({BASE})", "INSERT INTO a VALUES ('i', 't', 1, '1')")
    reader = SqliteHandler(path).reader()
    page = await reader.latest(limit=9)
    change(*["INSERT INTO a VALUES (NULL, 't', 1, '1')"] * 25, "INSERT INTO a VALUES ('j', 't', 1, '2')")

    counts = []
    while not (page := await reader.follow(page.cursor, limit=9)).events:
        counts.append(sum(page.foreign.values()))

    assert (await reader.latest(limit=9)).foreign == {"table 'a': its id is NULL": 10}
    assert counts == [10, 10]
    assert page.foreign == {"table 'a': its id is NULL": 5}
    assert payloads(page.events) == ["2"]


async def test_whatever_else_stands_in_the_file_is_passed_over(
    handler: SqliteHandler, event: Events, batch: Batches, change: Callable[..., None]
) -> None:
    await handler.handle(batch(event(1, at=1)))
    change(
        "CREATE VIEW seen AS SELECT * FROM events",
        "CREATE VIEW broken AS SELECT * FROM nowhere",
        "CREATE VIRTUAL TABLE words USING fts5(id, type, timestamp, payload)",
        "INSERT INTO words VALUES ('w', 't', 'x', 'y')",
        f'CREATE TABLE "od""d; DROP TABLE events" ({BASE}) STRICT',
        "INSERT INTO \"od\"\"d; DROP TABLE events\" VALUES ('s', 't', 2, '2')",
        "CREATE TEMP TABLE events (x)",
        "CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END",
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_master VALUES ('table', 'gone', 'gone', 0,"
        f" 'CREATE VIRTUAL TABLE gone USING missing({BASE})')",
    )

    page = await handler.reader().latest(limit=9)

    assert payloads(page.events) == ["1", "2"]


async def test_computed_column_that_fails_is_left_out_of_the_events_that_follow(
    path: Path, change: Callable[..., None]
) -> None:
    change(
        f"CREATE TABLE a ({BASE})",
        "INSERT INTO a VALUES ('a', 't', 1, '{\"n\":7}'), ('b', 't', 2, 'no json'), ('c', 't', 3, '{\"n\":9}')",
        "INSERT INTO a VALUES ('d', 't', 4, '{\"n\":11}')",
        "ALTER TABLE a ADD COLUMN n AS (json_extract(payload, '$.n'))",
    )

    page = await SqliteHandler(path).reader().latest(limit=9)  # from the newest on

    columns = {event.id: dict(event.columns) for event in page.events}
    assert list(columns) == ["a", "b", "c", "d"]
    assert (columns["a"], columns["b"], columns["d"]) == ({}, {}, {"n": 11})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("is_open", [True, False])
def test_operator_who_may_only_read_sees_the_events_too(is_open: bool) -> None:  # noqa: FBT001
    """Of a file in use, and of one that was closed: there is no WAL then, and none can be made."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        Path(made).chmod(0o755)
        recorder = stack.enter_context(EventRecorder(f"sqlite:///{made}/x.db").sync())
        recorder.record(ReceivedEvent("t", b"1"))
        assert recorder.flush(60)
        if not is_open:
            stack.close()
        seen = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, f"{made}/x.db"], capture_output=True, text=True, check=False
        )

    assert (seen.stdout, seen.stderr) == ("1\n", "")


AS_ANOTHER_USER = """
import asyncio, os, pathlib, sys, tempfile
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.sqlite import SqliteHandler

async def events(path):
    return len((await SqliteHandler(path).reader().latest(limit=9)).events)

async def main():
    with tempfile.NamedTemporaryFile() as empty:
        await events(empty.name)  # imports what it needs, which the other user may not read
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    print(await events(sys.argv[1]))

asyncio.run(main())
"""


async def test_reading_a_file_that_is_closed_leaves_its_directory_as_it_was(tmp_path: Path) -> None:
    async with EventRecorder(f"sqlite:///{tmp_path}/x.db") as recorder:
        recorder.record(ReceivedEvent("t", b"1"))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    reader = SqliteHandler(tmp_path / "x.db").reader()

    page = await reader.latest(limit=9)
    await reader.range(limit=9)
    await reader.follow(page.cursor, limit=9)

    assert payloads(page.events) == ["1"]
    assert list(before) == ["x.db"]
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("reads", ["events", "a rollup", "migrations"])
async def test_reading_in_a_process_that_writes_leaves_it_its_locks(path: Path, reads: str) -> None:
    """One that closes a descriptor of its own ends them: a process that comes and goes then deletes the WAL."""

    def others() -> int:
        """How many events another process sees, which opens the file and closes it again."""
        code = (
            "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1])\n"
            "print(connection.execute('SELECT count(*) FROM events').fetchone()[0])\n"
            "connection.close()"
        )
        return int(subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True).stdout)

    def stored(number: int) -> None:
        own.execute("INSERT INTO events VALUES (?, 'happened', 0, '{}', NULL)", (str(number),))

    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as own:
        own.execute("PRAGMA journal_mode = WAL")
        own.execute(
            "CREATE TABLE events (id TEXT PRIMARY KEY, type TEXT, timestamp INTEGER, payload TEXT, context TEXT)"
        )
        stored(0)
        async with SqliteHandler(path).rollups() as rollups, SqliteMigrations(path, busy_timeout=1) as migrations:
            match reads:
                case "events":
                    await SqliteHandler(path).reader().latest(limit=1)
                case "a rollup":
                    await rollups.answer(Question(PerDay))
                case _:
                    await migrations.records()
        before = await anyio.to_thread.run_sync(others)
        stored(1)
        after = await anyio.to_thread.run_sync(others)

    assert (before, after) == (1, 2)


async def test_a_writer_that_comes_while_a_closed_file_is_read_is_noticed(
    path: Path, change: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change("PRAGMA journal_mode = WAL", f"CREATE TABLE a ({BASE})", "INSERT INTO a VALUES ('a', 't', 1, '1')")
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]
    reader, real, ways = SqliteHandler(path).reader(), Snapshots._read_by, list[str]()

    def read_by(self: Snapshots, parameters: str, job: Callable[..., Any]) -> Any:
        page = real(self, parameters, job)
        if not ways:
            change("INSERT INTO a VALUES ('b', 't', 2, '2')")
        ways.append(parameters)
        return page

    monkeypatch.setattr(Snapshots, "_read_by", read_by)

    page = await reader.latest(limit=9)

    assert (payloads(page.events), ways) == (["1", "2"], ["mode=ro&immutable=1", "mode=ro"])


# -- after rows were deleted or moved


class Follower:
    """Follows a file, and knows what it was shown."""

    def __init__(self, path: Path) -> None:
        self._reader = SqliteHandler(path).reader()
        self._cursor = ""

    async def begin(self) -> None:
        self._cursor = (await self._reader.latest(limit=0)).cursor

    async def new(self, *, limit: int = 1_000, types: Sequence[str] | None = None) -> list[str]:
        """The payloads of what has arrived, in pages of `limit`."""
        found: list[str] = []
        while (page := await self._reader.follow(self._cursor, limit=limit, types=types)).events:
            self._cursor = page.cursor
            found += payloads(page.events)
        self._cursor = page.cursor
        return found


@pytest.fixture
async def follower(handler: SqliteHandler, path: Path, event: Events, batch: Batches) -> Follower:
    """Has seen 100 events: 0 to 99."""
    await handler.handle(batch(*(event(n, at=n) for n in range(100))))
    follower = Follower(path)
    await follower.begin()
    return follower


@pytest.fixture
def arrive(handler: SqliteHandler, event: Events, batch: Batches) -> Callable[..., Any]:
    """Five more events: 100 to 104."""

    async def five(*, into: str = "events") -> None:
        await handler.handle(batch(*(event(n, at=n, into=into) for n in range(100, 105)), start=100))

    return five


FIVE = ["100", "101", "102", "103", "104"]


@pytest.mark.parametrize(
    "deleted",
    [
        "rowid = 100",
        "rowid > 97",
        "rowid > 50",
        "rowid > 3",
        "rowid < 40",
        "rowid % 2 = 0",
        "rowid NOT IN (1, 50)",
        "1",
    ],
)
@pytest.mark.parametrize("vacuum", [(), ("VACUUM",)])
async def test_events_after_a_deletion_are_all_shown(
    follower: Follower, arrive: Callable[..., Any], change: Callable[..., None], deleted: str, vacuum: tuple[str, ...]
) -> None:
    change(f"DELETE FROM events WHERE {deleted}", *vacuum)
    await arrive()

    seen = await follower.new()

    assert [n for n in seen if int(n) >= 100] == FIVE


@pytest.mark.parametrize("deleted", ["rowid = 100", "rowid > 90", "rowid < 40", "rowid % 2 = 0", "1"])
@pytest.mark.parametrize("vacuum", [(), ("VACUUM",)])
async def test_what_was_seen_is_not_shown_again_where_the_newest_rows_tell(
    follower: Follower, arrive: Callable[..., Any], change: Callable[..., None], deleted: str, vacuum: tuple[str, ...]
) -> None:
    change(f"DELETE FROM events WHERE {deleted}", *vacuum)
    before = await follower.new()
    await arrive()

    assert before == []
    assert await follower.new(limit=2) == FIVE
    assert await follower.new() == []


async def test_dropped_table_is_followed_when_it_is_there_again(
    follower: Follower, arrive: Callable[..., Any], change: Callable[..., None]
) -> None:
    change("DROP TABLE events")
    between = await follower.new()
    await arrive()

    assert between == []
    assert await follower.new() == FIVE


async def test_renamed_table_is_not_shown_again_and_its_successor_is(
    follower: Follower, arrive: Callable[..., Any], change: Callable[..., None]
) -> None:
    change("ALTER TABLE events RENAME TO events_2025")
    await arrive()

    assert await follower.new() == FIVE
    assert await follower.new() == []


async def test_file_that_was_replaced_is_followed(  # noqa: PLR0917
    follower: Follower, handler: SqliteHandler, path: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    path.rename(path.with_name("old.db"))
    with pytest.raises(PauseError, match="unable to open"):
        await follower.new()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(*(event(n) for n in range(100, 105))))

    assert await follower.new() == FIVE


async def test_file_that_was_restored_from_a_copy_is_followed(
    follower: Follower, handler: SqliteHandler, path: Path, arrive: Callable[..., Any]
) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        source.backup(copy)
    path.with_name("copy").replace(path)
    await handler.close()
    for left in ("events.db-wal", "events.db-shm"):
        path.with_name(left).unlink(missing_ok=True)
    await handler.open()
    await arrive()

    assert await follower.new() == FIVE


async def test_types_are_followed_and_looked_for(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    follower = Follower(path)
    await handler.handle(batch(*(event(n, at=n, kind="ab"[n % 2], into="tu"[n % 3 == 0]) for n in range(10))))
    await follower.begin()
    latest = await handler.reader().latest(limit=2, types=["b"])
    none = await handler.reader().latest(limit=2, types=[])
    await handler.handle(batch(*(event(n, at=n, kind="ab"[n % 2]) for n in range(10, 15)), start=10))

    assert payloads(latest.events) == ["7", "9"]
    assert none.events == ()
    assert await follower.new(types=["b"]) == ["11", "13"]
    assert await follower.new() == []


# -- ranges


async def test_range_is_half_open_and_comes_in_pages_by_time(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n, at=n * 7 % 10, into="ab"[n % 3 == 0]) for n in range(30))))
    reader = handler.reader()

    found: list[StoredEvent] = []
    cursor = None
    while (page := await reader.range(2, 8, limit=4, cursor=cursor)).events:
        cursor = page.cursor
        found += page.events

    expected = [n for n in range(30) if 2 <= n * 7 % 10 < 8]
    assert sorted(int(event.payload) for event in found) == expected
    assert [event.timestamp for event in found] == sorted(n * 7 % 10 for n in expected)
    assert page.cursor == cursor


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, ["0", "1", "2"]),
        (None, 1, ["0"]),
        (1, None, ["1", "2"]),
        (2**70, None, []),
        (-(2**70), 2**70, ["0", "1", "2"]),
        (None, -(2**70), []),
        (2, 1, []),
    ],
)
async def test_bounds_may_be_left_out_or_beyond_all_time(  # noqa: PLR0917
    handler: SqliteHandler, event: Events, batch: Batches, start: int | None, end: int | None, expected: list[str]
) -> None:
    await handler.handle(batch(*(event(n, at=n) for n in range(3))))

    assert payloads((await handler.reader().range(start, end, limit=9)).events) == expected


@pytest.mark.parametrize("cursor", ["", "x", "{}", '{"type":"range"}', "\ud800", "[" * 5_000, '["events",1]'])
async def test_cursor_of_another_kind_is_refused(path: Path, change: Callable[..., None], cursor: str) -> None:
    change(f"CREATE TABLE a ({BASE})")
    reader = SqliteHandler(path).reader()
    of_latest, of_range = (await reader.latest(limit=1)).cursor, (await reader.range(limit=1)).cursor

    for wrong in (cursor, of_range):
        with pytest.raises(ValueError, match="not a cursor of a SqliteReader"):
            await reader.follow(wrong, limit=1)
    for wrong in (cursor, of_latest):
        with pytest.raises(ValueError, match="not a cursor of a SqliteReader"):
            await reader.range(limit=1, cursor=wrong)


async def test_what_is_read_for_a_caller_that_is_gone_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    sqlite3.connect(path).close()
    snapshots, thread, begun = Snapshots(path, busy_timeout=1), WorkThread("tested"), threading.Event()

    def endless(connection: sqlite3.Connection) -> None:
        begun.set()
        connection.execute("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")

    with anyio.fail_after(120), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(thread.run, lambda: snapshots.read(endless))
            await anyio.to_thread.run_sync(begun.wait)
            scope.cancel()

    assert await thread.run(lambda: snapshots.read(_one)) == 1
    thread.end()


def _one(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT 1").fetchone()
    return int(number)
