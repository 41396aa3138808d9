"""Lives of a recorder with every fault that can happen inside of a process: `soak_writer.py`, told by `chains.py`.

Reads a life from each line of stdin, as JSON, and prints what became of it: see `lives.py`.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import mmap
import os
import signal
import sys
import time
import traceback
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import msgspec
import trio  # noqa: F401 - before the fork

from eventrec import Backoff, Event, EventRecorder, EventRecorderOptions, LogFullError
from eventrec.delivery import log_supervisor
from eventrec.delivery.orphans import adoption
from eventrec.delivery.orphans import queue as orphans
from eventrec.intake import syncer, writer
from eventrec.log import descriptors, disk
from eventrec.runs import leftovers
from eventrec.runs.directory import DEAD, DONE
from eventrec.runs.layouts import LAYOUTS
from eventrec.runs.requests import REQUESTS
from eventrec.testing import assert_conserved
from eventrec_handlers import jsonl, postgres, redis, sqlite
from kill_writer import Sold
from lives import answer_lives, live_and_die
from steps import Steps, name_steps

HANDLERS: Final = {
    "sqlite": sqlite.from_url,
    "postgresql": postgres.from_url,
    "jsonl": jsonl.from_url,
    "redis": redis.from_url,
}

OPTIONS: Final = EventRecorderOptions(
    batch_rows=5,
    flush_interval=0.005,
    write_interval=0.001,
    sync_interval=0.01,
    segment_bytes=600,
    keep_free=0,
    close_timeout=30,
    retry=Backoff(first=0.01, max=0.1),
)

PATIENCE: Final = 100.0
"""Seconds: a life that is not killed and takes longer hangs."""

OFFERED, REFUSED, WRITTEN, SYNCED = 1, 2, 3, 4
"""What the file of states says of an event: offered only, not taken, told to be written, told to be synced."""

FULL, NO_ROOM, STEPPED, FORKED = range(4)
"""Counts of a life: episodes of a full disk, calls that it refused, steps of the clock, forks."""

OURS: Final = {DEAD, DONE, LAYOUTS, REQUESTS}


class Life(msgspec.Struct):
    """Record `events` numbers from `first` on into `log`, deliver to `urls` (by the subscription's name), and end.

    `states` is a file with a byte for each number. In `drops` a line is added for everything that `on_drop` is told.
    The disk is full while the numbers of `full` are recorded; before a number of `clock` the clock is put that many
    seconds off; before the number `forks_at` a child is made that records `child_events` from `child_first` on, and is
    killed or ends. `foreign` are names in the directory that are not ours.
    """

    urls: dict[str, str]
    log: str
    states: str
    drops: str
    backend: Literal["asyncio", "trio"]
    first: int
    events: int
    foreign: list[str]
    ends: Literal["drained", "flushed", "hurried"] = "flushed"
    step: str | None = None
    nth: int = 1
    seconds: float | None = None
    full: tuple[int, int] = (0, 0)
    clock: dict[int, float] = {}
    forks_at: int = -1
    child_first: int = 0
    child_events: int = 0
    child_is_killed: bool = False


class Death(msgspec.Struct):
    """How a life ended; `code` is that of its process, negative for a signal."""

    code: int
    seconds: float
    counts: list[int]


def event(number: int) -> Event:
    """What one of the destinations refuses for good, now and then: SQLite an integer, PostgreSQL a NUL."""
    match number % 9:
        case 4:
            return Sold(number, amount=2**63)
        case 6:
            return Sold(number, note="\0")
        case _:
            return Sold(number)


class FullDisk:
    """`os`, as the modules that speak to the disk see it: while the disk `is_full`, nothing new finds room.

    The write that meets the end of the disk is cut short, as the system does it; the next ones fail.
    """

    def __init__(self, counts: Any) -> None:
        self._counts = counts
        self._pwrite = descriptors._pwrite
        self.is_full = False
        disk.os = descriptors.os = self  # type: ignore[attr-defined,assignment]
        descriptors._pwrite = self.pwrite

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fill(self, *, is_full: bool) -> None:
        if is_full and not self.is_full:
            self._counts[FULL] += 1
        self.is_full = is_full

    def _refuse(self) -> None:
        self._counts[NO_ROOM] += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if self.is_full and flags & os.O_CREAT:
            self._refuse()
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if self.is_full:
            self._refuse()
        os.mkdir(path, mode, dir_fd=dir_fd)

    def pwrite(self, fd: int, piece: Any, position: int) -> int:
        if self.is_full:
            if len(piece) > 1 and self._counts[NO_ROOM] % 2:
                self._counts[NO_ROOM] += 1
                return self._pwrite(fd, piece[: len(piece) // 2], position)
            self._refuse()
        return self._pwrite(fd, piece, position)


class Clock:
    """The system's, until somebody puts it forward or back."""

    def __init__(self, counts: Any) -> None:
        self._counts = counts
        self._seconds, self._nanoseconds = time.time, time.time_ns
        self._off = 0.0

    def step(self, seconds: float) -> None:
        self._counts[STEPPED] += 1
        self._off += seconds
        time.time = lambda: self._seconds() + self._off
        time.time_ns = self.now

    def now(self) -> int:
        return self._nanoseconds() + int(self._off * 1e9)


async def live(life: Life, counts: Any) -> None:
    clock = Clock(counts)
    options = OPTIONS.model_copy(update={"batch_rows": 40 if life.step is None else 5})
    drops = os.open(life.drops, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note_drop(reason: str, count: int) -> None:
        os.write(drops, f"{reason} {count}\n".encode())

    recorder = EventRecorder(log=life.log, options=options, on_drop=note_drop, clock=clock.now)
    for name, url in life.urls.items():
        recorder.register(HANDLERS[url.partition(":")[0]](url), name=name)
    try:
        with anyio.fail_after(PATIENCE):
            async with recorder:
                await work(recorder, life, FullDisk(counts), clock, counts)
    except BaseException:
        sys.stderr.write(f"{recorder.status().to_dict()}\n{sorted(map(str, Path(life.log).rglob('*')))}\n")
        raise
    assert_conserved(recorder.status(), offered=life.events)


async def work(recorder: EventRecorder, life: Life, disk_: FullDisk, clock: Clock, counts: Any) -> None:
    with open_states(life.states) as states:
        for number in range(life.first, life.first + life.events):
            if number in life.clock:
                clock.step(life.clock[number])
            if number == life.forks_at:
                counts[FORKED] += 1
                have_child(recorder, life, states, disk_)
            is_full = life.full[0] <= number < life.full[1]
            disk_.fill(is_full=is_full)
            if number % 4 == 3 and not is_full:
                until: Literal["written", "synced"] = "synced" if number % 8 == 7 else "written"
                states[number] = OFFERED
                # Where the writer has not noticed yet that there is room again, it is told so, and written later.
                with suppress(LogFullError):
                    await recorder.record_durable(event(number), until=until)
                    states[number] = SYNCED if until == "synced" else WRITTEN
            else:
                # Offered before it is known whether it is taken: a kill may come between the two.
                states[number] = OFFERED
                if not recorder.record(event(number)):
                    states[number] = REFUSED
            if is_full:
                await anyio.sleep(0.005)
        disk_.fill(is_full=False)
        if life.ends == "hurried":
            await recorder.close(0)
            return
        await recorder.flush()
        while life.ends == "drained" and len(left(life)) > 1:  # noqa: ASYNC110 - the disk says it
            await anyio.sleep(0.002)


def left(life: Life) -> list[str]:
    """The logs of others, and what is left of them."""
    names = {path.name for path in Path(life.log).iterdir()} - OURS - set(life.foreign)
    return [name for name in names if not name.startswith(".")]


def have_child(recorder: EventRecorder, life: Life, states: Any, disk_: FullDisk) -> None:
    """A child that records by itself: what stands in the files is written."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        for number in range(life.child_first, life.child_first + life.child_events):
            states[number] = OFFERED
            if not recorder.record(event(number)):
                states[number] = REFUSED
        if life.child_is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        disk_.fill(is_full=False)
        deadline = time.monotonic() + PATIENCE / 2
        while not is_written(life):
            assert time.monotonic() < deadline, f"the child's are not written: {recorder.status().to_dict()}"
            time.sleep(0.002)
        assert_conserved(recorder.status(), offered=life.child_events)
        for number in range(life.child_first, life.child_first + life.child_events):
            if states[number] == OFFERED:
                states[number] = WRITTEN
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def is_written(life: Life) -> bool:
    """Whether any process finds in the files of the directory what the child recorded: `appended` promises less."""
    found = b"".join(path.read_bytes() for path in Path(life.log).glob("*/*.stdb.log") if path.is_file())
    numbers = range(life.child_first, life.child_first + life.child_events)
    return all(b'"number":%d,' % number in found for number in numbers)


def open_states(path: str) -> Any:
    """A byte for each number, shared with whoever has the file."""
    fd = os.open(path, os.O_RDWR)
    try:
        return closing(mmap.mmap(fd, 0))
    finally:
        os.close(fd)


def hasten() -> None:
    """What looks and tries again in seconds does so in hundredths."""
    for module, names in (
        (adoption, ("SCAN_SECONDS", "FIRST_PAUSE", "LONGEST_PAUSE")),
        (log_supervisor, ("SCAN_SECONDS",)),
        (orphans, ("FIRST_PAUSE", "LONGEST_PAUSE")),
        (writer, ("_RETRY_SECONDS", "_CLOSING_PAUSE")),
        (syncer, ("_RETRY_SECONDS",)),
    ):
        for name in names:
            assert hasattr(module, name)
            setattr(module, name, 0.02)
    leftovers.LEFTOVER_SECONDS = 1  # type: ignore[misc]


def main() -> None:
    hasten()
    counts = memoryview(mmap.mmap(-1, 32)).cast("q")  # shared with every child
    gc.freeze()

    def death_of(life: Life) -> Death:
        counts[:] = memoryview(bytes(32)).cast("q")
        code, seconds = live_and_die(partial(_live_in_steps, life, counts), seconds=life.seconds, patience=PATIENCE)
        return Death(code, seconds, list(counts))

    answer_lives(Life, death_of)


def _live_in_steps(life: Life, counts: Any) -> None:
    faulthandler.dump_traceback_later(PATIENCE - 5)
    name_steps(Steps(life.step, life.nth))
    anyio.run(live, life, counts, backend=life.backend)


if __name__ == "__main__":
    main()
