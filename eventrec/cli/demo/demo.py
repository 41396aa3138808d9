"""`eventrec demo`: a shop's events through a log into SQLite, with a SIGKILL halfway; then both counts.

    stream   a process records the first half, paced, and delivers (`stream.py`)
    kill     as soon as the half is written, with SIGKILL, while a batch is on its way: its log has what is missing
    go on    a second recorder delivers what the first one left, and records and delivers the other half
    read     the counts per type, by plain SQL, from the file
    ask      a rollup of the payments, answered from the events
    report   both counts, the recorder's account, and the rollup
    serve    where it is asked for: a page about all that, while the shop goes on

The shop's own count is made apart from the stream (`shop.count_by_type`): it holds whatever became of the stream.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
from anyio.streams.text import TextReceiveStream

from eventrec.analytics import Question
from eventrec.cli.demo.report import Result, tell
from eventrec.cli.demo.rollups import PaymentsByMethod
from eventrec.cli.demo.serving import serve
from eventrec.cli.demo.shop import TABLES, count_by_type
from eventrec.cli.demo.stream import DATABASE, LOG, CountingHandler, record_part, recorder_in
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.progress import LiveProgress, Look
from eventrec_handlers.sqlite.rollups import SqliteRollups

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import Process

    from eventrec.analytics import Answer
    from eventrec.cli.terminal import Terminal
    from eventrec.recorder import EventRecorder
    from eventrec.status import Status

FLUSH_SECONDS: Final = 30


class Demo:
    """Records the first `events` events of the shop, over `seconds`, into a new directory inside of `directory`.

    With `is_served` a page shows them afterwards, until the command is interrupted.
    """

    def __init__(
        self, directory: Path, *, events: int, seconds: float, terminal: Terminal, is_served: bool = False
    ) -> None:
        self._directory = directory
        self._events = events
        self._seconds = seconds
        self._is_served = is_served
        self._terminal = terminal
        self._first = (0, 0, 0)
        """What the first process said last: written, stored, batches."""

    async def run_and_tell(self, json: bool) -> int:  # noqa: FBT001 - anyio.run passes by position
        """The whole demo; its exit code.

        Raises:
            CommandError: The directory cannot be made, or the database does not take the events.
        """
        directory = await anyio.to_thread.run_sync(_new_directory, self._directory)
        database = directory / DATABASE
        started = time.monotonic()
        if not json and not self._terminal.is_live:
            self._terminal.say(f"recording {self._events:,} events into {database}")
        half = self._events // 2
        if half:
            await self._stream_and_kill(directory, half)
        stored_at_kill = await anyio.to_thread.run_sync(lambda: read_counts(database)[1] if half else 0)
        status, batches = await self._go_on(directory, half)
        seconds = time.monotonic() - started
        made, (stored, rows) = (
            await anyio.to_thread.run_sync(lambda: count_by_type(self._events)),
            await anyio.to_thread.run_sync(read_counts, database),
        )
        answer = await _ask(database)
        result = Result(
            database, made, stored, rows, self._first[2] + batches, seconds, status, half, stored_at_kill, answer
        )
        if json:
            self._terminal.show_json(result.to_dict())
        else:
            tell(result, self._terminal)
        if self._is_served:
            await serve(directory, self._events, self._terminal)
        return ExitCode.OK if result.is_complete else ExitCode.INCOMPLETE

    async def _stream_and_kill(self, directory: Path, half: int) -> None:
        command = [sys.executable, "-m", "eventrec.cli.demo.stream", str(directory), str(half), str(self._seconds / 2)]
        # In a session of its own: Ctrl-C is ours to handle, and ends it with us.
        process = await anyio.open_process(command, stderr=subprocess.PIPE, start_new_session=True)
        async with process, anyio.create_task_group() as tasks:
            with LiveProgress(self._terminal, self._look_at_first) as progress:
                tasks.start_soon(progress.keep_fresh)
                await self._wait_for_half(process, half)
            process.kill()
            tasks.cancel_scope.cancel()

    async def _wait_for_half(self, process: Process, half: int) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe, by default
        assert process.stderr is not None  # noqa: S101 - likewise
        rest = ""
        async for text in TextReceiveStream(process.stdout):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                written, stored, batches = map(int, line.split())
                self._first = (written, stored, batches)
            if self._first[0] >= half:
                return
        said = [text async for text in TextReceiveStream(process.stderr)]
        last = ("".join(said).strip().splitlines() or ["it printed nothing"])[-1]
        raise CommandError(f"the first process failed: {last}", ExitCode.DESTINATION)

    async def _go_on(self, directory: Path, half: int) -> tuple[Status, int]:
        recorder, watched = recorder_in(directory)
        async with recorder, anyio.create_task_group() as tasks:
            with LiveProgress(self._terminal, lambda: self._look(recorder, watched, half)) as progress:
                tasks.start_soon(progress.keep_fresh)
                await record_part(recorder, half, self._events, seconds=self._seconds / 2)
                await recorder.flush(timeout=FLUSH_SECONDS)
                with anyio.move_on_after(FLUSH_SECONDS):
                    while await anyio.to_thread.run_sync(_runs, directory) > 1:  # noqa: ASYNC110 - a directory
                        await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        return await recorder.close(), watched.batches

    def _look_at_first(self) -> Look:
        _, stored, batches = self._first
        return Look(stored, self._events, f"{stored:,} stored in {batches:,} batches by a process about to be killed")

    def _look(self, recorder: EventRecorder, watched: CountingHandler, half: int) -> Look:
        recorded, stored = half + recorder.status().offered, self._first[1] + watched.rows
        waiting = max(0, recorded - stored)
        words = f"{recorded:,} recorded, {waiting:,} waiting, {stored:,} stored after the kill and a restart"
        return Look(stored, self._events, words)


async def _ask(database: Path) -> Answer:
    async with SqliteRollups(database, busy_timeout=FLUSH_SECONDS) as rollups:
        return await rollups.answer(Question(PaymentsByMethod))


def _runs(directory: Path) -> int:
    return len(list((directory / LOG).iterdir()))


def _new_directory(parent: Path) -> Path:
    """A directory that did not exist before: two demos never share a count.

    Raises:
        CommandError: It cannot be made.
    """
    number = 1
    while True:
        directory = parent / f"run-{number}"
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise CommandError(f"{parent} is a file, not a directory; see --dir", ExitCode.FILE) from None
            number += 1
        except OSError as exc:
            raise CommandError(f"cannot make {directory}: {exc.strerror}; see --dir", ExitCode.FILE) from exc
        else:
            return directory


def read_counts(database: Path) -> tuple[Counter[str], int]:
    """How many different ids the shop's tables hold of each type, and how many rows in all. Plain SQL, no eventrec."""
    stored: Counter[str] = Counter()
    rows = 0
    with closing(sqlite3.connect(database)) as connection:
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in made.intersection(TABLES):
            counts = f"SELECT type, count(DISTINCT id), count(*) FROM {table} GROUP BY type"  # noqa: S608 - our own names
            for kind, ids, all_rows in connection.execute(counts):
                stored[kind] += ids
                rows += all_rows
    return stored, rows
