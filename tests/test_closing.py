"""The end of a recorder: bounded from anywhere, all that was taken written, an honest account, and another life."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import re
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import (
    Batch,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    LogError,
    PauseError,
    RecorderStateError,
    TransientError,
)
from eventrec.log import descriptors
from eventrec.log.log import Log
from eventrec.runs.directory import list_runs
from eventrec.runs.run_folder import is_locked
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, numbers, quickly, raising

BEYOND = 0.5
"""Seconds that an end may take beyond its timeout."""

SLACK = 6.0
"""What a slow machine adds."""


class Hanging(EventHandler):
    """Never comes back from `where`; with `in_thread` it does not listen to a cancellation either."""

    def __init__(self, *where: str, in_thread: bool = False) -> None:
        self._where = where
        self._in_thread = in_thread
        self.let_go = threading.Event()

    async def _hang(self, where: str) -> None:
        if where in self._where and self._in_thread:
            await anyio.to_thread.run_sync(self.let_go.wait, 10)
        elif where in self._where:
            await anyio.sleep_forever()

    async def open(self) -> None:
        await self._hang("open")

    async def prepare(self, batch: Batch) -> None:
        await self._hang("prepare")

    async def handle(self, batch: Batch) -> None:
        await self._hang("handle")

    async def close(self) -> None:
        await self._hang("close")


class Slow(EventHandler):
    """Takes `seconds` for each batch, and forgets what it was cancelled in."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.numbers: list[int] = []
        self.closed = 0

    async def handle(self, batch: Batch) -> None:
        await anyio.sleep(self._seconds)
        self.numbers += numbers(batch)

    async def close(self) -> None:
        self.closed += 1


class Asked(EventHandler):
    """Never answers."""

    def __init__(self) -> None:
        self.called = anyio.Event()

    async def handle(self, batch: Batch) -> None:
        del batch
        self.called.set()
        await anyio.sleep_forever()


def close_over_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Close `loop` as a program does that knows nothing of the tasks on it."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@contextmanager
def lasting_at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds + SLACK, f"took {took:.2f} s"


# -- bounded


@pytest.mark.parametrize(
    "where", [("handle",), ("close",), ("handle", "close"), ("open",), ("open", "close"), ("prepare",)]
)
@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_close_is_bounded_wherever_a_handler_hangs(where: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path if kind == "log" else None, options=quickly())
    recorder.register(Hanging(*where), name="hanging", batch_rows=1)
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(3))
    await recorder.flush(timeout=0.1)

    with lasting_at_most(0.3 + BEYOND):
        status = await recorder.close(0.3)

    assert status.state == "closed"
    assert_conserved(status, offered=3)
    assert status.in_intake == 0


@pytest.mark.parametrize("where", ["handle", "close"])
@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_close_is_bounded_where_a_handler_waits_for_a_thread(where: str, kind: str, tmp_path: Path) -> None:
    handler = Hanging(where, in_thread=True)
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))
    await recorder.flush(timeout=0.1)

    with lasting_at_most(0.2 + BEYOND):
        status = await recorder.close(0.2)

    handler.let_go.set()
    assert status.state == "closed"
    assert_conserved(status, offered=1)


@pytest.mark.parametrize("outcome", ["arrives", "fails"])
async def test_what_a_handler_does_not_let_go_of_is_counted_as_lost_without_a_log(outcome: str) -> None:
    """What it has, and what it was never given: also where it comes back later, with whatever answer."""
    told: list[tuple[str, int]] = []
    handler = Hanging("handle", in_thread=True)
    if outcome == "fails":
        handler.handle = raising_after(handler.handle)  # type: ignore[method-assign,assignment]
    recorder = EventRecorder(handler, options=quickly(), on_drop=lambda *each: told.append(each))
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(6))
    await recorder.flush(timeout=0.2)
    recorder.record_many(Numbered(n) for n in range(6, 10))

    status = await recorder.close(0.2)
    handler.let_go.set()
    await anyio.sleep(0.2)

    for each in (status, recorder.status()):
        assert_conserved(each, offered=10)
        (part,) = each.subscriptions.values()
        assert (part.pending, part.dropped, part.state) == (0, {"closed": 10}, "closed")
    assert told == [("closed", 10)]


def raising_after(handle: Callable[[Batch], Awaitable[None]]) -> Callable[[Batch], Awaitable[None]]:
    async def failing(batch: Batch) -> None:
        await handle(batch)
        raise TransientError("too late")

    return failing


async def test_a_second_close_is_bounded_by_its_own_timeout() -> None:
    recorder = EventRecorder(Hanging("handle"), options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.close, 1)
        await anyio.lowlevel.checkpoint()
        with lasting_at_most(0.1 + BEYOND):
            await recorder.close(0.1)


def in_a_loop_of_its_own(work: Callable[[], Awaitable[object]]) -> None:
    async def run() -> None:
        await work()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("loop_is", ["running", "standing still", "closed"])
def test_close_and_flush_work_from_another_loop(kind: str, loop_is: str, tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(recorder.open())
    recorder.record(Numbered(0))
    thread = threading.Thread(target=loop.run_forever)
    if loop_is == "running":
        thread.start()
        assert asyncio.run(recorder.flush(timeout=60))
    elif loop_is == "closed":
        loop.close()

    with lasting_at_most(0.3 + BEYOND):
        status = asyncio.run(recorder.close(0.3))

    assert status.state == "closed"
    assert_conserved(status, offered=1)
    assert recorder.record(Numbered(1)) is False
    if kind == "log":
        assert status.in_intake == 0, "written by a thread that needs no loop"
    if loop_is == "running":
        assert handler.delivered == [0]
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    if loop_is != "closed":
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("wait", [0, 0.05])
@pytest.mark.parametrize("destination", ["up", "down"])
def test_a_program_that_ends_without_close_ends_in_time(
    kind: str, wait: float, destination: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(recorder: EventRecorder) -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(3))
        flushing = asyncio.create_task(recorder.flush())
        await asyncio.sleep(wait)
        if is_down:
            flushing.cancel()
        else:
            await flushing
        # `asyncio.run` cancels all tasks now, in any order.

    is_down = destination == "down"
    for n in range(3):
        handler = Hanging("handle") if is_down else ScriptedHandler()
        log = tmp_path / str(n) if kind == "log" else None
        recorder = EventRecorder(handler, log=log, options=quickly(close_timeout=0.3 if is_down else 30))

        with lasting_at_most(wait + 0.3 + BEYOND):
            asyncio.run(run(recorder))

        status = recorder.status()
        assert status.state == "closed"
        assert_conserved(status, offered=3)
        assert "interrupted" not in caplog.text
        assert caplog.text.count("closed with records left") == (n + 1 if is_down else 0)


@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("steps", [3, 10, 40])
def test_all_tasks_cancelled_twice_are_a_repeat_and_cut_nothing_short(kind: str, steps: int, tmp_path: Path) -> None:
    """A program that cancels everything at its end, and then leaves it to `asyncio.run`, which does so again."""

    async def run() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(5))
        await asyncio.sleep(0.03)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)

    handler = Slow(0.02)
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly(close_timeout=30))

    asyncio.run(run())

    assert handler.numbers == list(range(5))
    assert handler.closed == 1
    assert recorder.status().state == "closed"
    assert_conserved(recorder.status(), offered=5)


@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("end", ["cancelled", "closed loop"])
def test_a_recorder_whose_loop_has_ended_without_close_may_be_opened_again(kind: str, end: str, tmp_path: Path) -> None:
    """As in tests that have a loop each, and a recorder of their module."""

    async def begin() -> None:
        await recorder.open()
        recorder.record(Numbered(0))

    async def again() -> None:
        async with recorder:
            recorder.record(Numbered(1))

    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    if end == "cancelled":
        asyncio.run(begin())
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        close_over_tasks(loop)

    asyncio.run(again())

    status = recorder.status()
    if kind == "log" or end == "cancelled":
        assert sorted(handler.delivered) == [0, 1]
    else:
        assert handler.delivered == [1]
        assert status.in_intake == 0
    assert status.offered == 2
    assert status.is_balanced


@pytest.mark.parametrize("kind", ["memory", "log"])
def test_a_loop_that_ends_in_the_step_in_which_it_is_opened_closes_the_recorder(kind: str, tmp_path: Path) -> None:
    async def exit_while_it_opens() -> None:
        recorder.open().send(None)
        raise SystemExit  # As a signal handler does: the loop ends at once, and cancels what has not begun.

    async def again() -> None:
        async with recorder:
            recorder.record(Numbered(2))
            assert await recorder.flush(timeout=60)

    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    recorder.record_many(Numbered(n) for n in range(2))

    with pytest.raises(SystemExit):
        asyncio.run(exit_while_it_opens())
    status = recorder.status()

    assert status.state == "closed"
    assert recorder.record(Numbered(9)) is False
    assert not any(is_locked(tmp_path, id_) for id_ in list_runs(tmp_path))
    part = status.subscriptions["ScriptedHandler"] if kind == "memory" else None
    assert part is None or part.dropped == {"closed": 2}
    assert_conserved(status, offered=2)
    asyncio.run(again())
    assert sorted(handler.delivered) == ([0, 1, 2] if kind == "log" else [2])


def test_a_recorder_that_is_cancelled_before_it_began_says_so() -> None:
    async def open_and_cancel() -> None:
        opening = asyncio.create_task(recorder.open())
        await asyncio.sleep(0)
        (supervisor,) = asyncio.all_tasks() - {asyncio.current_task(), opening}
        supervisor.cancel()
        with pytest.raises(RecorderStateError, match="before it began"):
            await opening

    recorder = EventRecorder(ScriptedHandler(), options=quickly())

    asyncio.run(open_and_cancel())

    assert recorder.status().state == "closed"


def test_what_a_closed_loop_leaves_in_memory_is_counted_as_lost_with_what_came_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def begin() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(3))
        await asyncio.wait_for(handler.called.wait(), 10)
        recorder.record_many(Numbered(n) for n in range(3, 5))

    told = list[tuple[str, int]]()
    handler = Asked()
    recorder = EventRecorder(
        handler, options=quickly(flush_interval=0.01), on_drop=lambda reason, count: told.append((reason, count))
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    close_over_tasks(loop)
    assert recorder.record(Numbered(5))

    status = recorder.sync().close(1)

    assert status.in_intake == 0
    assert status.subscriptions["Asked"].dropped == {"closed": 6}
    assert_conserved(status, offered=6)
    assert told == [("closed", 6)]
    assert "closed with records left" in caplog.text
    assert not recorder.record(Numbered(6))


@pytest.mark.parametrize("ends", ["closed", "cancelled"])
def test_what_waits_in_another_loop_ends_with_the_loop_that_delivers(ends: str, tmp_path: Path) -> None:
    recorder = EventRecorder(Hanging("handle"), log=tmp_path, options=quickly(close_timeout=0.2))
    asked, answers = threading.Event(), list[object]()

    async def flush() -> None:
        flushing = asyncio.create_task(recorder.flush())
        await asyncio.sleep(0.05)
        asked.set()
        answers.append(await flushing)

    async def deliver() -> None:
        await recorder.open()
        recorder.record(Numbered(0))
        thread.start()
        await anyio.to_thread.run_sync(asked.wait)
        if ends == "closed":
            await recorder.close(0.1)

    thread = threading.Thread(target=lambda: asyncio.run(flush()), daemon=True)
    asyncio.run(deliver())
    thread.join(5)

    assert answers == [False]


async def test_record_durable_works_from_another_loop(tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly())
    async with recorder:
        position = await anyio.to_thread.run_sync(asyncio.run, recorder.record_durable(Numbered(0)))

    assert position is not None
    assert position.offset == 0


def test_a_sync_recorder_closes_in_time_where_a_handler_blocks_its_loop() -> None:
    class Blocking(EventHandler):
        let_go = threading.Event()

        async def handle(self, batch: Batch) -> None:
            self.let_go.wait(10)

    recorder = EventRecorder(Blocking(), options=quickly()).sync()
    recorder.open()
    recorder.record(Numbered(0))
    with lasting_at_most(0.1 + BEYOND):
        assert recorder.flush(0.1) is False

    with lasting_at_most(0.2 + BEYOND):
        status = recorder.close(0.2)

    Blocking.let_go.set()
    assert status.is_balanced


def test_a_sync_recorder_says_that_the_system_gives_no_descriptors() -> None:
    program = """
import os, resource
from eventrec import EventRecorder
recorder = EventRecorder().sync()
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1,) * 2)
try:
    recorder.open()
except OSError as exc:
    print("refused", exc.errno)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)

    assert done.stdout == "refused 24\n", done.stderr


# -- all that was taken is written, and what earlier runs left is delivered


def test_close_writes_all_that_was_taken_in_a_burst(tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=EventRecorderOptions(queue_bytes=1 << 30)).sync()
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)  # The writer does not run meanwhile, as where a disk stalls.
    try:
        taken = recorder.record_many(Numbered(n) for n in range(200_000))
        status = recorder.close(20)
    finally:
        sys.setswitchinterval(before)

    assert taken == 200_000
    assert (status.appended, status.in_intake) == (200_000, 0)


KILLED = """
import os, sys
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered
recorder = EventRecorder(log=sys.argv[1])
count = recorder.record_many(Numbered(n) for n in range(int(sys.argv[2]), int(sys.argv[3])))
writer = recorder._life.writer
while writer.log is None or writer.log.written < count:
    pass
os._exit(0)
"""


def test_a_short_run_delivers_what_several_killed_ones_left(tmp_path: Path) -> None:
    for first in (0, 1_000, 2_000):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(first), str(first + 1_000)]
        subprocess.run(command, check=True, timeout=20)
    handler = ScriptedHandler()

    with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=100)).sync() as recorder:
        recorder.record(Numbered(3_000))

    assert sorted(handler.delivered) == list(range(3_001))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and len(path.name) == 36] == []


def test_an_orphan_of_a_destination_that_is_down_does_not_hold_up_the_end(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "0", "10"], check=True, timeout=20)
    down = ScriptedHandler(always=raising(TransientError("down")))
    recorder = EventRecorder(down, log=tmp_path, options=quickly()).sync()
    recorder.open()

    with lasting_at_most(0.3 + BEYOND):
        recorder.close(0.3)


# -- what it leaves can be taken up


def is_free(log: Path) -> bool:
    return not any(is_locked(log, id_) for id_ in list_runs(log))


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not await anyio.to_thread.run_sync(is_so):  # noqa: ASYNC110 - it happens in other processes' view alone
            await anyio.sleep(0.01)


def pausing() -> ScriptedHandler:
    return ScriptedHandler(always=raising(PauseError("until later")))


async def with_adopted_logs(log: Path, *handlers: EventHandler) -> EventRecorder:
    """An open recorder that delivers, and has two logs in hand that earlier ones left."""
    for number in range(2):
        earlier = EventRecorder(log=log, options=quickly())
        earlier.register(pausing(), name="pausing")
        await earlier.open()
        earlier.record(Numbered(number))
        await earlier.close(2)
    recorder = EventRecorder(*handlers, log=log, options=quickly())
    recorder.register(pausing(), name="pausing")
    await recorder.open()
    recorder.record(Numbered(2))
    await until(lambda: len(recorder.status().adopted) == 2)
    return recorder


@pytest.mark.usefixtures("looking_often")
async def test_logs_are_free_soon_after_a_close_in_no_time_on_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = await with_adopted_logs(tmp_path)
    sync = descriptors.sync

    def slowly(fd: int, *, directory: bool = False) -> None:
        time.sleep(0.12)
        sync(fd, directory=directory)

    monkeypatch.setattr(descriptors, "sync", slowly)
    with lasting_at_most(BEYOND):
        status = await recorder.close(0.0)

    assert status.state == "closed"
    assert_conserved(status, offered=1)
    await until(partial(is_free, tmp_path))
    monkeypatch.undo()
    handler = ScriptedHandler()
    after = EventRecorder(log=tmp_path, options=quickly())
    after.register(handler, name="pausing")
    await after.open()
    await until(lambda: len(handler.delivered) == 3)
    await after.close()
    assert sorted(handler.delivered) == [0, 1, 2]


@pytest.mark.usefixtures("looking_often")
@pytest.mark.parametrize("where", ["handle", "close"])
async def test_logs_are_free_though_a_handler_waits_for_a_thread_still(where: str, tmp_path: Path) -> None:
    handler = Hanging(where, in_thread=True)
    recorder = await with_adopted_logs(tmp_path, handler)
    await recorder.flush(timeout=0.1)

    await recorder.close(0.1)

    try:
        await until(partial(is_free, tmp_path))
    finally:
        handler.let_go.set()


async def test_many_small_logs_are_free_though_a_handler_waits_for_a_thread_with_them(tmp_path: Path) -> None:
    for number in range(12):
        earlier = EventRecorder(log=tmp_path)
        earlier.record(Numbered(number))
        await earlier.close()
    handler = Hanging("handle", in_thread=True)
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    await recorder.open()
    await until(lambda: sum(is_locked(tmp_path, id_) for id_ in list_runs(tmp_path)) > 1)

    await recorder.close(0.1)

    try:
        await until(partial(is_free, tmp_path))
    finally:
        handler.let_go.set()


@pytest.mark.usefixtures("looking_often")
def test_logs_are_free_after_the_loop_that_had_them_was_closed(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    recorder = loop.run_until_complete(with_adopted_logs(tmp_path))
    loop.close()

    status = asyncio.run(recorder.close(0.1))

    assert status.state == "closed"
    assert is_free(tmp_path)


# -- what never gets into the log


def refuse(number: int) -> Callable[..., int]:
    def call(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


async def test_what_a_full_disk_keeps_out_of_the_log_is_counted_told_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, int]] = []
    handler = ScriptedHandler()
    recorder = EventRecorder(
        handler, log=tmp_path, options=quickly(), on_drop=lambda reason, count: told.append((reason, count))
    )
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(5))
    assert await recorder.flush(timeout=60)
    monkeypatch.setattr(descriptors, "_pwrite", refuse(errno.ENOSPC))
    recorder.record_many(Numbered(n) for n in range(5, 12))

    status = await recorder.close(0.5)

    assert_conserved(status, offered=12)
    assert (status.appended, status.in_intake, status.refused) == (5, 0, {"not_written": 7})
    assert status.subscriptions["ScriptedHandler"].end == 5
    assert told == [("not_written", 7)]
    said = [line.getMessage() for line in caplog.records if "records lost" in line.message]
    assert len(said) == 1
    assert "records=7" in said[0]
    assert "No space left" in said[0]
    monkeypatch.undo()
    async with recorder:
        recorder.record(Numbered(12))
        assert await recorder.flush(timeout=60)
    assert set(handler.delivered) == {0, 1, 2, 3, 4, 12}, "and again what no checkpoint could be saved of"
    assert_conserved(recorder.status(), offered=13)


@pytest.mark.parametrize("way", ["close", "sync"])
def test_what_a_recorder_that_was_never_opened_cannot_write_is_counted(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    recorder = EventRecorder(log=tmp_path / "file" / "log", options=quickly())
    recorder.record_many(Numbered(n) for n in range(3))

    status = recorder.sync().close(2) if way == "sync" else asyncio.run(recorder.close(2))

    assert_conserved(status, offered=3)
    assert (status.appended, status.in_intake, status.refused) == (0, 0, {"not_written": 3})
    assert "records=3" in caplog.text


async def test_a_run_whose_log_cannot_be_made_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly())
    for verb in ("create", "open"):
        monkeypatch.setattr(Log, verb, refuse(errno.EIO))

    with pytest.raises(LogError, match="Input/output"):
        await recorder.open()

    assert await anyio.to_thread.run_sync(is_free, tmp_path)


async def test_what_could_be_written_and_never_synced_is_pending_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly(sync="never"))
    recorder.register(pausing(), name="s")
    await recorder.open()
    monkeypatch.setattr(descriptors, "sync", refuse(errno.EIO))
    recorder.record_many(Numbered(n) for n in range(4))

    status = await recorder.close(1)

    assert_conserved(status, offered=4)
    assert (status.appended, status.refused) == (4, {})
    assert (status.subscriptions["s"].end, status.subscriptions["s"].pending) == (4, 4)
    monkeypatch.undo()
    handler = ScriptedHandler()
    after = EventRecorder(log=tmp_path, options=quickly())
    after.register(handler, name="s")
    async with after:
        await until(lambda: len(handler.delivered) == 4)


# -- said


async def test_what_is_left_is_said_in_one_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for log in (None, tmp_path):
        caplog.clear()
        recorder = EventRecorder(log=log, options=quickly())
        recorder.register(ScriptedHandler(always=raising(TransientError("down"))), name="down")
        recorder.register(ScriptedHandler(), name="fine")
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(12))
        await recorder.flush(timeout=0.1)
        await recorder.close(0.1)

        said = [line.getMessage() for line in caplog.records if "closed with records left" in line.message]
        assert len(said) == 1
        assert ("pending" if log else "lost") in said[0]
        assert "'down': 12" in said[0]
        assert "fine" not in said[0]


async def test_nothing_is_said_where_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async with EventRecorder(ScriptedHandler(), options=quickly()) as recorder:
        recorder.record(Numbered(0))

    assert "left" not in caplog.text


@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_what_was_refused_is_said_at_the_end_and_once(
    kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path if kind == "log" else None, options=quickly())
    async with recorder:
        assert not recorder.record({"a": 1})  # type: ignore[arg-type]
    await recorder.close()

    assert refusals_said(caplog) == [("dict", "invalid", 1)]


@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_what_was_refused_within_a_minute_of_the_last_line_is_said_at_the_end(
    kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path if kind == "log" else None, options=quickly())
    async with recorder:
        recorder.record({"a": 1})  # type: ignore[arg-type]
        await until(lambda: bool(refusals_said(caplog)))
        recorder.record_many([{"a": 1}] * 3)  # type: ignore[list-item]

    assert refusals_said(caplog) == [("dict", "invalid", 1), ("dict", "invalid", 3)]


@pytest.mark.parametrize("kind", ["memory", "log"])
def test_flush_says_what_was_refused(kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path if kind == "log" else None, options=quickly())
    with recorder.sync() as blocking:
        blocking.record({"a": 1})  # type: ignore[arg-type]
        blocking.flush(timeout=60)
        ends = time.monotonic() + 60
        while not (said := refusals_said(caplog)):  # Another thread may be about to say it.
            assert time.monotonic() < ends
            time.sleep(0.01)

    assert said == refusals_said(caplog) == [("dict", "invalid", 1)]


@pytest.mark.parametrize("verb", ["", "recorder.sync().close()", "del recorder"])
def test_a_program_that_never_opens_a_recorder_says_what_it_refused(verb: str) -> None:
    program = f"""
from eventrec import EventRecorder
recorder = EventRecorder()
recorder.record({{"a": 1}})
{verb}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)

    (line,) = done.stderr.splitlines()
    assert "events refused type=dict reason=invalid count=1" in line


def refusals_said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Of each line about refused events: their type, the reason and how many."""
    found = re.findall(r"events refused type=(\w+) reason=(\w+) count=(\d+)", caplog.text)
    return [(kind, reason, int(count)) for kind, reason, count in found]


@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_what_newer_events_push_out_is_told_and_said(
    kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    told: list[tuple[str, int]] = []
    handler = ScriptedHandler()
    recorder = EventRecorder(
        handler,
        log=tmp_path if kind == "log" else None,
        options=quickly(queue_events=5, overflow="drop_old"),
        on_drop=lambda reason, count: told.append((reason, count)),
    )
    if recorder._life.writer is not None:
        recorder._life.writer.hold("staged: the disk is full")
    taken = recorder.record_many(Numbered(n) for n in range(30))
    if recorder._life.writer is not None:
        recorder._life.writer.hold(None)
    async with recorder:
        assert await recorder.flush(timeout=60)

    lost = taken - len(handler.delivered)
    assert lost >= 25
    assert sum(count for reason, count in told if reason == "overflow") == lost
    assert caplog.text.count("oldest events dropped") == 1


def test_a_recorder_without_a_log_that_was_never_opened_says_what_goes_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = EventRecorder(ScriptedHandler())
    recorder.record_many(Numbered(n) for n in range(5))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del recorder
        gc.collect()

    assert [str(each.message) for each in caught if each.category is ResourceWarning] == [
        "5 events were taken by a recorder without a log that was never opened"
    ]
    assert "never opened" in caplog.text


def test_a_program_ends_with_a_line_about_what_its_loop_left_in_memory() -> None:
    program = """
import asyncio
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered, ScriptedHandler

async def main():
    await recorder.open()
    recorder.record(Numbered(0))

recorder = EventRecorder(ScriptedHandler())
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0
    assert done.stderr.count("lost: the recorder was not closed, and has no log events=1") == 1


@pytest.mark.parametrize("verb", ["", "recorder.sync().close()", "del recorder"])
def test_a_program_ends_with_one_line_about_a_recorder_that_was_never_opened(verb: str) -> None:
    program = f"""
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered
recorder = EventRecorder()
recorder.record(Numbered(0))
{verb}
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=200, check=True
    )

    (line,) = done.stderr.splitlines()
    assert " WARNING eventrec.recorder: " in line
    assert line[:4].isdigit(), "the time comes first"


# -- gone, and opened again


def test_a_recorder_with_a_log_that_is_forgotten_is_collected_and_its_log_is_free(tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path)
    recorder.record_many(Numbered(n) for n in range(100))
    gone, writer = weakref.ref(recorder), recorder._life.writer
    assert writer is not None

    del recorder
    gc.collect()

    assert gone() is None
    assert writer.wait_ended(5)
    handler = ScriptedHandler()
    with EventRecorder(handler, log=tmp_path, options=quickly()).sync():
        pass
    assert sorted(handler.delivered) == list(range(100))


def test_recorders_that_are_never_used_leave_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        references = [weakref.ref(EventRecorder(log=tmp_path)) for _ in range(20)]
        gc.collect()

        assert [each for each in references if each() is not None] == []
    assert list(tmp_path.iterdir()) == []


def test_many_lives_leave_no_threads_and_no_descriptors(tmp_path: Path) -> None:
    recorder = EventRecorder(f"sqlite:///{tmp_path}/x.db", log=tmp_path / "log", options=quickly())
    counts: list[tuple[int, int]] = []
    for life in range(12):
        with recorder.sync():
            recorder.record(Numbered(life))
        gc.collect()
        counts.append((threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))))

    assert counts[-1] <= counts[3]
    assert_conserved(recorder.status(), offered=12)
    assert len(recorder._account._lives) == 1, "ended lives are numbers"


def test_a_recorder_is_opened_again_in_another_kind_of_loop(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())

    async def live(number: int) -> None:
        async with recorder:
            recorder.record(Numbered(number))

    anyio.run(live, 0, backend="asyncio")
    anyio.run(live, 1, backend="trio")
    with recorder.sync():
        recorder.record(Numbered(2))
    anyio.run(live, 3, backend="asyncio")

    assert handler.delivered == [0, 1, 2, 3]


async def test_what_is_recorded_between_two_lives_is_refused_and_what_was_left_is_delivered(tmp_path: Path) -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 100)
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))
    await recorder.close(0.05)
    handler.acts.clear()
    assert recorder.record(Numbered(1)) is False
    with pytest.raises(RecorderStateError):
        await recorder.record_durable(Numbered(1))

    async with recorder:
        recorder.record(Numbered(2))
    await recorder.close(5)

    assert sorted(handler.delivered) == [0, 2]
    assert_conserved(recorder.status())


async def test_a_recorder_whose_log_could_not_be_made_is_opened_once_it_can(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file in the way")
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path / "log", options=quickly())
    with pytest.raises(Exception, match="log"):
        await recorder.open()
    (tmp_path / "log").unlink()

    async with recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0]


async def test_a_closed_recorder_that_was_never_opened_is_opened(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly())
    await recorder.close()

    async with recorder:
        recorder.record(Numbered(0))

    assert handler.delivered == [0]


async def test_what_is_true_around_open_is_not_added_to_what_handlers_record(tmp_path: Path) -> None:
    class Echo(EventHandler):
        contexts: list[bytes | None]

        async def handle(self, batch: Batch) -> None:
            if 0 in numbers(batch):
                recorder.record(Numbered(1))
            self.contexts += [record.context for record in batch.records]

    for log in (None, tmp_path):
        echo = Echo()
        echo.contexts = []
        recorder = EventRecorder(echo, log=log, options=quickly())
        with recorder.context(request="abc"):
            await recorder.open()
        recorder.record(Numbered(0))
        await recorder.flush(timeout=5)
        await recorder.close(2)

        assert echo.contexts == [None, None]


@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("way", ["sync", "another loop"])
def test_nothing_is_taken_after_close_where_a_handler_does_not_let_its_loop_go_on(
    kind: str, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began, may_end = threading.Event(), threading.Event()

    class Spinning(EventHandler):
        async def handle(self, batch: Batch) -> None:
            began.set()
            while not may_end.is_set():
                pass

    recorder = EventRecorder(Spinning(), log=tmp_path if kind == "log" else None, options=quickly())
    blocking = recorder.sync()
    blocking.open()
    try:
        assert recorder.record(Numbered(0))
        assert began.wait(10)

        status = blocking.close(0.1) if way == "sync" else asyncio.run(recorder.close(0.1))

        assert status.state == "closed"
        assert not recorder.record(Numbered(1))
        assert "closed with records left" in caplog.text
    finally:
        may_end.set()
        blocking.close(10)
    assert_conserved(recorder.status(), offered=2)
