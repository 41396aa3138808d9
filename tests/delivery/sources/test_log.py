"""A log on the disk as a source: what is asked for is found, however little room there is to keep it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec.delivery.sources.log import READ_BYTES, WINDOW_BYTES, LogSource
from eventrec.errors import LogWriteError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.log.segment import segment_name
from eventrec.log.verify import verify
from eventrec.records.content import encode_take
from eventrec.records.entry import OVERHEAD_BYTES
from eventrec.records.schema import Shape
from eventrec.runtime.backend import in_thread
from eventrec.testing.storage import FaultyStorage

LOG_ID = UUID("00000000-0000-7000-8000-000000000001")
COUNT = 200_000
ENTRY: Any = (Shape("t", "a", ()), 1, b"{}", None, None, None, 2 + OVERHEAD_BYTES)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_records_so_small_that_one_read_overflows_the_window_are_all_read(tmp_path: Path, backend: str) -> None:
    async def read(log: Log) -> int:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda *_: None)
        offset = reads = 0
        with anyio.fail_after(30):
            while offset < COUNT and reads < COUNT // 500:
                offset = (await cursor.read(max_records=1_000, max_bytes=1 << 20)).end
                reads += 1
        source.close()
        return offset

    with Log.create(DiskStorage(tmp_path)) as log:
        for _ in range(COUNT // 4_000):
            for content, n in encode_take([ENTRY] * 4_000, LOG_ID, written=1):
                log.append_encoded(content, n)
        log.write()
        end = anyio.run(read, log, backend=backend)

        # What makes it hard: as much as is read at once counts more than is kept.
        assert COUNT * ENTRY[6] / log.size().length * READ_BYTES > WINDOW_BYTES
    assert end == COUNT


@pytest.mark.parametrize(("is_orphan", "begins"), [(False, 0), (True, 4)])
def test_what_this_run_records_is_new_to_a_subscription_that_wants_what_comes(
    tmp_path: Path, *, is_orphan: bool, begins: int
) -> None:
    async def start(log: Log) -> tuple[int, int]:
        source = LogSource(log, LOG_ID, is_orphan=is_orphan, on_move=lambda: None)
        late = source.subscribe("s", "latest", lambda *_: None)
        return late.next, source.subscribe("t", "earliest", lambda *_: None).next

    with Log.create(DiskStorage(tmp_path)) as log:
        for content, n in encode_take([ENTRY] * 4, LOG_ID, written=1):
            log.append_encoded(content, n)
        log.write()

        assert anyio.run(start, log) == (begins, 0)


def test_records_of_commits_with_another_static_context_are_another_read(tmp_path: Path) -> None:
    async def read(log: Log) -> list[tuple[list[int], bytes | None]]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda *_: None)
        reads = [await cursor.read(max_records=100, max_bytes=1 << 20) for _ in range(3)]
        source.close()
        return [(list(each.offsets), each.static_context) for each in reads]

    with Log.create(DiskStorage(tmp_path)) as log:
        for static in (b'{"host":"a"}', b'{"host":"a"}', None, b'{"host":"b"}'):
            for content, n in encode_take([ENTRY] * 2, LOG_ID, written=1, static_context=static):
                log.append_encoded(content, n)
        log.write()

        assert anyio.run(read, log) == [([0, 1, 2, 3], b'{"host":"a"}'), ([4, 5], None), ([6, 7], b'{"host":"b"}')]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_commit_of_another_log_is_lost_and_never_delivered(tmp_path: Path, backend: str) -> None:
    other = UUID(int=LOG_ID.int + 1)
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> list[int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        found: list[int] = []
        with anyio.fail_after(30):
            while cursor.next < log.written:
                found += (await cursor.read(max_records=10, max_bytes=1 << 20)).offsets
        source.close()
        return found

    with Log.create(DiskStorage(tmp_path)) as log:
        for id_ in (LOG_ID, other, LOG_ID):
            for content, n in encode_take([ENTRY] * 2, id_, written=1):
                log.append_encoded(content, n)
        log.write()

        assert anyio.run(read, log, backend=backend) == [0, 1, 4, 5]
    assert lost == [("corrupt", 2)]


@pytest.mark.parametrize("version", [b"\x02", b"\x03", b"\x1f"])
def test_a_commit_of_a_later_version_is_waited_with_not_lost(
    tmp_path: Path, version: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a bus. An eventrec that is rolled back, or that follows the log of a later one, meets such a commit."""
    monkeypatch.setattr("eventrec.delivery.sources.log._PATIENCE", 0.01)
    monkeypatch.setattr(LogSource, "window_bytes", 1)
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> tuple[list[int], int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        other = source.subscribe("other", "earliest", lambda reason, count, _: lost.append((reason, count)))
        found: list[int] = []
        for _ in range(5):
            found += (await cursor.read(max_records=10, max_bytes=1 << 20)).offsets
            other.seek(0)  # It goes on meanwhile, and what it reads is read from the disk.
            for offset in (0, 1):
                assert list((await other.read(max_records=1, max_bytes=1 << 20)).offsets) == [offset]
        source.close()
        return found, cursor.next

    with Log.create(DiskStorage(tmp_path)) as log:
        for is_later in (False, False, True, False):
            for content, n in encode_take([ENTRY] * 1, LOG_ID, written=1):
                log.append_encoded(version + content[1:] if is_later else content, n)
        log.write()

        assert anyio.run(read, log) == ([0, 1], 2)
    assert lost == []
    assert caplog.text.count("log unreadable") == 1
    assert f"content version 0x{version.hex()} is unknown" in caplog.text


def test_a_commit_that_holds_other_than_its_number_of_records_is_lost(tmp_path: Path) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> list[int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursors = [
            source.subscribe(name, "earliest", lambda reason, count, _: lost.append((reason, count)))  # once for each
            for name in ("s", "t", "further")
        ]
        cursors[2].seek(6)
        found: list[int] = []
        while cursors[0].next < log.written:
            found += (await cursors[0].read(max_records=10, max_bytes=1 << 20)).offsets
            cursors[1].next = cursors[0].next if cursors[0].next == 2 else cursors[1].next
        source.close()
        return found

    with Log.create(DiskStorage(tmp_path)) as log:
        for n in (2, 3, 2):
            for content, _ in encode_take([ENTRY] * 2, LOG_ID, written=1):
                log.append_encoded(content, n)
        log.write()

        assert anyio.run(read, log) == [0, 1, 5, 6]
    assert lost == [("corrupt", 3)] * 2, "of the two that were there, and not of the one further on"


def test_a_read_is_bounded_by_bytes_but_gives_one_record_at_least(tmp_path: Path) -> None:
    async def read(log: Log) -> list[list[int]]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda *_: None)
        reads = [await cursor.read(max_records=9, max_bytes=limit) for limit in (1, 2 * ENTRY[6], 1 << 20)]
        assert repr(source) == f"<LogSource {LOG_ID} end=6>"
        assert repr(cursor) == "<LogCursor 's' next=6>"
        source.close()
        return [list(each.offsets) for each in reads]

    with Log.create(DiskStorage(tmp_path)) as log:
        for content, n in encode_take([ENTRY] * 6, LOG_ID, written=1):
            log.append_encoded(content, n)
        log.write()

        assert anyio.run(read, log) == [[0], [1, 2], [3, 4, 5]]


def test_what_a_destination_has_beyond_the_end_of_a_log_that_lost_its_tail_is_gone(tmp_path: Path) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> int:
        source = LogSource(log, LOG_ID, is_orphan=True, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        source.raise_end(10)
        cursor.next = 4
        await cursor.read(max_records=9, max_bytes=1 << 20)
        source.close()
        return cursor.next

    with Log.create(DiskStorage(tmp_path)) as log:
        for content, n in encode_take([ENTRY] * 4, LOG_ID, written=1):
            log.append_encoded(content, n)
        log.write()

        assert anyio.run(read, log) == 10
    assert lost == [("lost", 6)]


@pytest.mark.parametrize("at", [-1, -30])
def test_what_a_crash_tore_is_lost_to_damage_and_not_to_a_program_that_deletes_files(tmp_path: Path, at: int) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> int:
        source = LogSource(log, LOG_ID, is_orphan=True, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        source.raise_end(log.appended)
        cursor.next = 4
        await cursor.read(max_records=9, max_bytes=1 << 20)
        source.close()
        return cursor.next

    with Log.create(DiskStorage(tmp_path)) as log:
        for count in (4, 3):
            for content, n in encode_take([ENTRY] * count, LOG_ID, written=1):
                log.append_encoded(content, n)
            log.write()
    segment = tmp_path / segment_name(0)
    os.truncate(segment, len(segment.read_bytes().rstrip(b"\0")) + at)

    with Log.open(DiskStorage(tmp_path), counts_tail=True) as log:
        assert anyio.run(read, log) == 7
    assert lost == [("corrupt", 3)]


def test_however_many_subscriptions_read_at_places_of_their_own_few_files_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.delivery.sources.log.READ_BYTES", 1)

    def open_segments() -> int:
        files = (each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
        return sum(file.is_relative_to(tmp_path) and file.suffix == ".log" for file in files)

    async def read(log: Log) -> int:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        for at in reversed(range(9)):
            await in_thread(source._read_commits, 2 * at)
        opened = open_segments()
        source.close()
        return opened - open_segments()

    with Log.create(DiskStorage(tmp_path), LogOptions(segment_bytes=1)) as log:
        for _ in range(9):
            for content, n in encode_take([ENTRY] * 2, LOG_ID, written=1):
                log.append_encoded(content, n)
            log.write()

        assert anyio.run(read, log) <= 4


@pytest.mark.parametrize("is_mended_meanwhile", [False, True])
def test_what_a_failed_sync_withholds_for_a_while_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, *, is_mended_meanwhile: bool
) -> None:
    storage, lost = FaultyStorage(), list[int]()
    log = Log.create(storage)
    read_commits = LogSource._read_commits

    def read_while_a_sync_fails(source: LogSource, start: int) -> Any:
        """The source has just asked how far the log may be read."""
        storage.fail("sync", times=2)
        with suppress(LogWriteError):
            log.sync()
        read = read_commits(source, start)
        if is_mended_meanwhile:
            storage.heal()
            log.write()
        return read

    async def read() -> list[int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda _, count, __: lost.append(count))
        append(10)
        log.sync()
        found = list((await cursor.read(max_records=100, max_bytes=1 << 20)).offsets)
        append(14)
        monkeypatch.setattr(LogSource, "_read_commits", read_while_a_sync_fails)
        found += (await cursor.read(max_records=100, max_bytes=1 << 20)).offsets
        monkeypatch.undo()
        storage.heal()
        log.write()
        with anyio.fail_after(5):
            while len(found) < 24 and not lost:
                found += (await cursor.read(max_records=100, max_bytes=1 << 20)).offsets
        source.close()
        return found

    def append(count: int) -> None:
        for content, n in encode_take([ENTRY] * count, LOG_ID, written=1):
            log.append_encoded(content, n)
        log.write()

    found = anyio.run(read)
    log.close()

    assert lost == []
    assert found == list(range(24))
    assert log.failed_syncs


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_failed_sync_withholds_counts_as_waiting_and_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr("eventrec.delivery.sources.log._PATIENCE", 30)
    storage = FaultyStorage()

    async def read() -> tuple[int, list[int]]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        ahead, behind = (source.subscribe(name, "earliest", lambda *_: None) for name in ("ahead", "behind"))
        ahead.seek(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: ahead.read(max_records=10, max_bytes=1 << 20))
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(10):
                found = list((await behind.read(max_records=10, max_bytes=1 << 20)).offsets)
            tasks.cancel_scope.cancel()
        source.close()
        return source.end, found

    with Log.create(storage) as log:
        for count in (2, 3):
            log.append_encoded(commits_of(count), count)
            log.write()
            if count == 2:
                log.sync()
        storage.fail("sync", times=2)
        with suppress(LogWriteError):
            log.sync()
        assert (log.readable, log.written) == (2, 5)

        assert anyio.run(read, backend=backend) == (5, [0, 1])
        storage.heal()


def commits_of(n: int) -> bytes:
    ((content, _),) = encode_take([ENTRY] * n, LOG_ID, written=1)
    return content


def delete_files(directory: Path) -> None:
    """As a program does that deletes the directory: its files go first."""
    for file in directory.iterdir():
        file.unlink()


@pytest.mark.parametrize("is_directory_gone", [False, True])
@pytest.mark.parametrize("synced", [0, 2, 6])
def test_what_another_program_deleted_is_read_once_its_writer_has_written_it_again(
    tmp_path: Path, synced: int, *, is_directory_gone: bool
) -> None:
    lost: list[tuple[str, int]] = []
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()

    async def read(log: Log) -> list[int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        found = [*(await cursor.read(max_records=9, max_bytes=1 << 20)).offsets]
        if is_directory_gone:
            await in_thread(log.move_to, DiskStorage(there))
        with anyio.fail_after(20):
            while cursor.next < 6:
                found += (await cursor.read(max_records=9, max_bytes=1 << 20)).offsets
        source.close()
        return found

    with Log.create(DiskStorage(here, create=True)) as log:
        for n in (2, 4):
            log.append_encoded(commits_of(n), n)
            log.write()
            if log.written <= synced:
                log.sync()
        delete_files(here)
        if is_directory_gone:
            here.rmdir()

        assert anyio.run(read, log) == [0, 1, 2, 3, 4, 5]
    assert lost == []
    assert list(verify(DiskStorage(there if is_directory_gone else here))) == []


@pytest.mark.parametrize("found", ["lost", "corrupt"])
def test_what_another_program_deleted_is_lost_and_what_it_overwrote_is_corrupt(tmp_path: Path, found: str) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> list[int]:
        source = LogSource(log, LOG_ID, is_orphan=True, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        offsets: list[int] = []
        with anyio.fail_after(20):
            while cursor.next < 9:
                offsets += (await cursor.read(max_records=9, max_bytes=1 << 20)).offsets
        source.close()
        return offsets

    with Log.create(DiskStorage(tmp_path)) as log:
        for n in (2, 4, 3):
            log.append_encoded(commits_of(n), n)
            log.write()
            log.begin_segment()
        log.sync()
        (middle,) = tmp_path.glob("*02.*log")
        if found == "lost":
            middle.unlink()
        else:
            middle.write_bytes(middle.read_bytes()[:-20] + b"x" * 20)

        assert anyio.run(read, log) == [0, 1, 6, 7, 8]
    assert lost == [(found, 4)]


def test_of_deleted_segments_only_the_one_that_is_written_comes_back_and_the_rest_is_counted(tmp_path: Path) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> list[int]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        found: list[int] = []
        with anyio.fail_after(20):
            while cursor.next < 6:
                found += (await cursor.read(max_records=9, max_bytes=1 << 20)).offsets
        source.close()
        return found

    with Log.create(DiskStorage(tmp_path)) as log:
        log.append_encoded(commits_of(4), 4)
        log.write()
        log.begin_segment()
        log.append_encoded(commits_of(2), 2)
        log.write()
        log.sync()
        delete_files(tmp_path)

        assert anyio.run(read, log) == [4, 5]
    assert lost == [("lost", 4)]


def test_where_an_orphan_was_deleted_what_is_not_read_is_lost_at_once(tmp_path: Path) -> None:
    lost: list[tuple[str, int]] = []

    async def read(log: Log) -> int:
        source = LogSource(log, LOG_ID, is_orphan=True, on_move=lambda: None)
        cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))
        await cursor.read(max_records=9, max_bytes=1 << 20)
        source.close()
        return cursor.next

    with Log.create(DiskStorage(tmp_path)) as log:
        log.append_encoded(commits_of(4), 4)
        log.write()
        delete_files(tmp_path)

        assert anyio.run(read, log) == 4
    assert lost == [("lost", 4)]
