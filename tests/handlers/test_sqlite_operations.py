"""A recorder through what operators do to a SQLite file: no loss, no double, no hot loop, said in a line, recovered."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec_handlers.sqlite import SqliteHandler

NUMBERS = "SELECT json_extract(payload, '$.number') FROM events ORDER BY 1"


Trials = Callable[..., Any]


@pytest.fixture
def trial_of(delivering: Trials) -> Trials:
    """Begins a trial of the file `path`."""

    def begin(path: Path, log: Path) -> Any:
        def read() -> list[int]:
            with closing(sqlite3.connect(path)) as connection:
                return [n for (n,) in connection.execute(NUMBERS)]

        return delivering(SqliteHandler(path, busy_timeout=0.1), log, name="sqlite", read=read)

    return begin


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(lambda: work(*arguments))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory / "events.db"


def delete(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()


def replace(path: Path) -> None:
    other = path.parent / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    other.replace(path)


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.parent / "away")
    path.parent.mkdir()


@pytest.mark.parametrize("what", [delete, replace, move_directory])
async def test_file_in_whose_place_is_another_one_waits_for_a_decision(
    what: Callable[[Path], None], path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        first = trial.count
        await in_thread(what, path)
        trial.record()
        part = await trial.until(lambda part: part.held)
        trial.record()
        trial.recorder.resume("sqlite", start="latest")
        await trial.settled()
        stored = await trial.stored()

    assert part.state == "paused: destination changed"
    assert stored == list(range(first, trial.count))


async def test_directory_that_was_removed_is_named_until_it_is_there_again(
    path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        first = trial.count
        await in_thread(shutil.rmtree, path.parent)
        failure = await trial.fails()
        await in_thread(path.parent.mkdir)
        await trial.until(lambda part: part.state == "paused: destination changed")
        trial.recorder.resume("sqlite", start="latest")
        await trial.settled()
        stored = await trial.stored()

    assert f"there is no directory {path.parent}" in failure
    assert stored == list(range(first, trial.count))


async def test_file_that_others_write_for_long_is_waited_for(path: Path, tmp_path: Path, trial_of: Trials) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        with closing(await in_thread(lambda: sqlite3.connect(path, check_same_thread=False))) as other:
            await in_thread(other.execute, "BEGIN IMMEDIATE")
            failure = await trial.fails()
            await in_thread(other.execute, "ROLLBACK")
            await trial.settled()
        assert await trial.stored() == list(range(trial.count))

    assert "database is locked" in failure


async def test_header_that_was_overwritten_holds_until_it_is_mended(
    path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        with closing(await in_thread(lambda: sqlite3.connect(path, check_same_thread=False))) as other:
            await in_thread(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        header = (await in_thread(path.read_bytes))[:100]

        def write(piece: bytes) -> None:
            with path.open("r+b") as file:
                file.write(piece)

        await in_thread(write, b"\xff" * 100)
        await in_thread(trial.handler._file.disconnect)
        failure = await trial.fails()
        await in_thread(write, header)
        await trial.settled()
        stored = await trial.stored()

    assert "paused: " in failure
    assert "file is not a database" in failure
    assert stored == list(range(trial.count))


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]])
async def test_what_is_acknowledged_is_in_files_that_have_a_name(
    suffixes: list[str], path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    def copied() -> list[int]:
        """What a kill now would leave."""
        copy = tmp_path / "copy.db"
        for suffix in ("", "-wal"):
            (tmp_path / f"copy.db{suffix}").unlink(missing_ok=True)
            if (found := Path(f"{path}{suffix}")).exists():
                shutil.copy(found, tmp_path / f"copy.db{suffix}")
        with closing(sqlite3.connect(copy)) as connection:
            return [n for (n,) in connection.execute(NUMBERS)]

    async with trial_of(path, tmp_path / "log") as trial:
        for _ in range(3):
            for suffix in suffixes:
                with suppress(FileNotFoundError):
                    await in_thread(Path(f"{path}{suffix}").unlink)
            trial.record()
            await trial.settled()
            assert await in_thread(copied) == list(range(trial.count))
            assert await trial.stored() == list(range(trial.count))


@pytest.mark.parametrize("part", [0, 0.4, 0.95])
async def test_what_is_cut_off_a_wal_is_delivered_again(
    part: float, path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    wal = path.with_name(f"{path.name}-wal")

    async with trial_of(path, tmp_path / "log") as trial:
        trial.record()
        await trial.settled()
        await in_thread(os.truncate, wal, int(wal.stat().st_size * part))
        trial.record()
        await trial.settled()
        said = str(trial.part.last_error)
        stored = await trial.stored()
        trial.record()
        await trial.settled()

    assert "another program has cut or overwritten it, or its WAL" in said
    assert stored == list(range(150))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [n for (n,) in connection.execute(NUMBERS)] == list(range(200))


async def test_a_log_whose_wal_was_cut_is_not_finished(path: Path, tmp_path: Path, trial_of: Trials) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        await in_thread(os.truncate, f"{path}-wal", 0)

    async with trial_of(path, tmp_path / "log") as trial:
        await trial.until(lambda _: not trial.recorder.status().adopted)
        await trial.until(lambda _: len(list((tmp_path / "log").glob("*-*-*-*-*"))) == 1)
        stored = await trial.stored()

    assert stored == sorted([*range(50)] * 2)


@pytest.mark.parametrize("damage", ["half", "nothing", "other bytes"])
async def test_a_database_that_was_overwritten_holds_until_it_is_as_it_was(
    damage: str, path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        trial.record()
        await trial.settled()
        sound = await in_thread(path.read_bytes)
        size = {"half": len(sound) // 2, "nothing": 0, "other bytes": len(sound)}[damage]
        await in_thread(path.write_bytes, b"x" * size if damage == "other bytes" else sound[:size])
        said = await trial.fails()
        await in_thread(path.write_bytes, sound)
        await trial.settled()
        stored = await trial.stored()

    assert "paused: " in said
    assert "malformed" in said or "is not a database" in said
    assert stored == list(range(trial.count))


async def test_a_wal_that_another_connection_begins_again_is_not_a_fault(
    path: Path, tmp_path: Path, trial_of: Trials
) -> None:
    async with trial_of(path, tmp_path / "log") as trial:
        for _ in range(3):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            trial.record()
            await trial.settled()
        part, stored = trial.part, await trial.stored()

    assert part.last_error is None
    assert stored == list(range(trial.count))


# -- a disk that is full


@pytest.mark.parametrize("small_volume", ["1m,mode=0777"], indirect=True)
async def test_volume_that_is_full_is_waited_for(small_volume: Path, tmp_path: Path, trial_of: Trials) -> None:
    filler = small_volume / "filler"

    async with trial_of(small_volume / "events.db", tmp_path / "log") as trial:
        await in_thread(filler.write_bytes, b"\0" * (shutil.disk_usage(small_volume).free - 4_096))
        failure = await trial.fails()
        await in_thread(filler.unlink)
        await trial.settled()
        stored = await trial.stored()

    assert "database or disk is full" in failure
    assert stored == list(range(trial.count))


@pytest.mark.parametrize("small_volume", ["1m,mode=0777"], indirect=True)
async def test_volume_that_may_only_be_read_holds_until_it_may_be_written(
    small_volume: Path, tmp_path: Path, trial_of: Trials
) -> None:
    def remount(how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(small_volume)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("a file system in use cannot be made read-only here")

    path = small_volume / "events.db"
    async with trial_of(path, tmp_path / "log") as trial:
        await in_thread(trial.handler._file.disconnect)
        await in_thread(remount, "ro")
        failure = await trial.fails()
        await in_thread(remount, "rw")
        await trial.settled()
        stored = await trial.stored()

    assert failure.startswith(f"paused: {path}: "), failure
    assert stored == list(range(trial.count))
