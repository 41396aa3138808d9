"""The recorder with a log: written before delivered, and what one run leaves the next one delivers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import (
    Batch,
    EncodeError,
    EventRecorder,
    InvalidEventError,
    LogError,
    LogFullError,
    NotDurableError,
    OptionsError,
    Position,
    RecorderClosedError,
    TransientError,
)
from eventrec.errors import LogWriteError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import list_runs
from eventrec.runs.files import file_name
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.run_folder import is_locked
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")


def stored(directory: Path, id_: UUID | None = None) -> list[int]:
    """The numbers of all records in the log, by its own reader."""
    found: list[int] = []
    for run in [id_] if id_ is not None else list_runs(directory):
        with LogReader(DiskStorage(directory / str(run))) as reader:
            for commit in reader.commits():
                found += [int(entry[PAYLOAD][10:-1]) for entry in ContentDecoder().decode(commit.content).entries]
    return found


async def stored_now(directory: Path) -> list[int]:
    return await anyio.to_thread.run_sync(stored, directory)


def unreadable_run(directory: Path) -> UUID:
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        log.append_encoded(b"\x01 no content of ours", 3)
    run.release()
    return run.id


def locks(directory: Path) -> list[bool]:
    return [is_locked(directory, id_) for id_ in list_runs(directory)]


async def runs_of(directory: Path) -> list[UUID]:
    return await anyio.to_thread.run_sync(list_runs, directory)


def deleted(path: Path) -> None:
    """Also what is written into it meanwhile, by its descriptor."""
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)


async def eventually(condition: object, seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.01)


# -- a life with a log


async def test_what_is_recorded_is_delivered_once_in_order_and_nothing_is_left(tmp_path: Path) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=700)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10_000))
        assert await recorder.flush(timeout=60)
        assert handler.delivered == list(range(10_000))

    assert handler.delivered == list(range(10_000))
    assert_conserved(recorder.status(), offered=10_000)
    assert recorder.status().subscriptions["ScriptedHandler"].delivered == 10_000
    assert list(tmp_path.iterdir()) == []


async def test_records_before_open_are_on_the_disk_before_anybody_delivers(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    recorder.record_many(Numbered(n) for n in range(50))

    await eventually(lambda: recorder.status().appended == 50)
    await anyio.sleep(0.1)
    assert await stored_now(tmp_path) == list(range(50))
    assert_conserved(recorder.status(), offered=50)
    async with recorder:
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(50))


async def test_a_burst_is_taken_whole_while_the_destination_is_down(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(segment_bytes=1 << 20))
    await recorder.open()

    assert recorder.record_many(Numbered(n) for n in range(100_000)) == 100_000
    status = await recorder.close(timeout=0.1)

    assert status.refused == {}
    assert status.subscriptions["ScriptedHandler"].pending == 100_000
    assert_conserved(status, offered=100_000)
    assert await stored_now(tmp_path) == list(range(100_000))


async def test_what_close_could_not_deliver_stays_and_the_next_run_delivers_it(tmp_path: Path) -> None:
    down = ScriptedHandler(always=raising(TransientError("down")))
    async with EventRecorder(down, log=tmp_path, options=quickly(close_timeout=0.1)) as first:
        first.record_many(Numbered(n) for n in range(100))
    up = ScriptedHandler()

    async with EventRecorder(up, log=tmp_path, options=quickly(flush_interval=3600)) as second:
        second.record(Numbered(100))
        await eventually(lambda: len(up.delivered) == 100)
        await eventually(lambda: len(list(tmp_path.iterdir())) == 1)

    assert first.status().subscriptions["ScriptedHandler"].dropped == {}
    assert sorted(up.delivered) == list(range(101))
    assert list(tmp_path.iterdir()) == []
    assert_conserved(second.status(), offered=1)


async def test_a_handler_that_only_an_earlier_log_needed_is_closed(tmp_path: Path) -> None:
    down = ScriptedHandler(always=raising(TransientError("down")))
    async with EventRecorder(down, log=tmp_path, options=quickly(close_timeout=0.1)) as first:
        first.record(Numbered(0))
    up = ScriptedHandler()

    async with EventRecorder(up, log=tmp_path, options=quickly()) as second:
        await eventually(lambda: len(list(tmp_path.iterdir())) == 1)

    assert (up.delivered, up.opened, up.closed) == ([0], 1, 1)
    assert_conserved(second.status(), offered=0)


async def test_a_restart_goes_on_where_the_checkpoint_says(tmp_path: Path) -> None:
    half = ScriptedHandler()

    def fail_later(batch: Batch) -> None:
        if len(half.delivered) >= 40:
            raise TransientError("down")

    half.always = fail_later
    async with EventRecorder(half, log=tmp_path, options=quickly(batch_rows=20, close_timeout=0.5)) as first:
        first.record_many(Numbered(n) for n in range(100))
    rest = ScriptedHandler()

    async with EventRecorder(rest, log=tmp_path, options=quickly()):
        await eventually(lambda: len(rest.delivered) == 60)

    assert half.delivered == list(range(40))
    assert rest.delivered == list(range(40, 100))


async def test_a_destination_that_is_further_than_the_checkpoint_gets_nothing_twice(tmp_path: Path) -> None:
    handler = FencedHandler(always=raising(TransientError("down")))
    async with EventRecorder(
        handler, log=tmp_path, options=quickly(close_timeout=0.1), new_id=lambda: UUID(int=7)
    ) as first:
        first.record_many(Numbered(n) for n in range(100))
    handler.next[UUID(int=7), "FencedHandler"] = 70
    handler.always = lambda _: None

    async with EventRecorder(handler, log=tmp_path, options=quickly()):
        await eventually(lambda: len(handler.delivered) >= 30)

    assert handler.delivered == list(range(70, 100))
    assert list(tmp_path.iterdir()) == []


async def test_an_orphan_waits_for_a_subscription_that_is_not_ours(tmp_path: Path) -> None:
    down = raising(TransientError("down"))
    first = EventRecorder(log=tmp_path, options=quickly(close_timeout=0.1))
    for name in ("a", "b"):
        first.register(ScriptedHandler(always=down), name=name)
    async with first:
        first.record(Numbered(0))
    handlers = {name: ScriptedHandler() for name in ("a", "b")}

    for name, handler in handlers.items():
        recorder = EventRecorder(log=tmp_path, options=quickly())
        recorder.register(handler, name=name)
        async with recorder:
            await eventually(lambda: handler.delivered == [0])  # noqa: B023
            await anyio.sleep(0.1)
        assert len(await runs_of(tmp_path)) == (1 if name == "a" else 0)

    assert [handler.delivered for handler in handlers.values()] == [[0], [0]]


async def test_two_recorders_share_a_directory_and_never_touch_each_others_log(tmp_path: Path) -> None:
    handlers = [ScriptedHandler(), ScriptedHandler()]
    recorders = [EventRecorder(handler, log=tmp_path, options=quickly()) for handler in handlers]
    for recorder in recorders:
        await recorder.open()

    for start, recorder in enumerate(recorders):
        recorder.record_many(Numbered(n) for n in range(start, 200, 2))
    for recorder in recorders:
        await recorder.close()

    assert [handler.delivered for handler in handlers] == [list(range(0, 200, 2)), list(range(1, 200, 2))]
    assert list(tmp_path.iterdir()) == []


async def test_delivered_segments_are_deleted_while_it_runs(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    options = quickly(segment_bytes=10_000, sync_interval=0.05, flush_interval=0.01)

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        for n in range(0, 5_000, 500):
            recorder.record_many(Numbered(m) for m in range(n, n + 500))
            assert await recorder.flush(timeout=60)
        await eventually(lambda: len(list(tmp_path.glob("*/*.stdb.log"))) <= 2)

    assert handler.delivered == list(range(5_000))


async def test_a_log_we_cannot_read_is_left_alone(tmp_path: Path) -> None:
    foreign = await anyio.to_thread.run_sync(unreadable_run, tmp_path)
    async with EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly()):
        await anyio.sleep(0.2)
    assert await runs_of(tmp_path) == [foreign]  # What we cannot read we do not judge.


async def test_bad_bytes_are_counted_as_corrupt_and_the_rest_is_delivered(tmp_path: Path) -> None:
    down = ScriptedHandler(always=raising(TransientError("down")))
    async with EventRecorder(down, log=tmp_path, options=quickly(close_timeout=0.1)) as first:
        for n in range(3):
            await first.record_durable(Numbered(n))
    (path,) = (tmp_path).glob("*/*.stdb.log")
    content = bytearray(path.read_bytes())
    content[content.index(b'{"number":1}')] ^= 1
    path.write_bytes(content)
    up, losses = ScriptedHandler(), list[tuple[str, int]]()
    recorder = EventRecorder(up, log=tmp_path, options=quickly(), on_drop=lambda *loss: losses.append(loss))

    async with recorder:
        await eventually(lambda: len(up.delivered) == 2)

    assert up.delivered == [0, 2]
    assert losses == [("corrupt", 1)]


async def test_cancellation_flushes(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(flush_interval=3600))

    with anyio.move_on_after(0.2):
        async with recorder:
            recorder.record_many(Numbered(n) for n in range(50))
            await anyio.sleep_forever()

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_a_program_that_never_closes_flushes(backend: str, tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(flush_interval=3600))

    async def main() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(50))

    anyio.run(main, backend=backend)

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)


async def test_closing_what_was_never_opened_writes_and_syncs_it(tmp_path: Path) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path)
    recorder.record(Numbered(0))

    status = await recorder.close()

    assert_conserved(status, offered=1)
    assert (status.appended, status.in_intake) == (1, 0)
    assert await stored_now(tmp_path) == [0]
    assert await anyio.to_thread.run_sync(locks, tmp_path) == [False]


async def test_a_recorder_without_an_event_leaves_nothing(tmp_path: Path) -> None:
    async with EventRecorder(ScriptedHandler(), log=tmp_path / "log"):
        pass
    await EventRecorder(ScriptedHandler(), log=tmp_path / "log").close()

    assert list((tmp_path / "log").iterdir()) == []


async def test_a_log_that_cannot_be_made_is_said_at_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path / "file", options=quickly())
    recorder.record(Numbered(0))

    with pytest.raises(LogError, match="make a log"):
        await recorder.open()

    assert_conserved(recorder.status(), offered=1)
    assert recorder.status().state == "closed"


# -- record_durable


@pytest.mark.parametrize("sync", ["interval", "never", "take"])
async def test_durable_says_where_the_record_stands(sync: str, tmp_path: Path) -> None:
    async with EventRecorder(log=tmp_path, options=quickly(sync=sync), new_id=lambda: UUID(int=7)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))

        assert await recorder.record_durable(Numbered(10)) == Position(UUID(int=7), 10)
        assert await recorder.record_durable(Numbered(11), until="written") == (UUID(int=7), 11)
        assert await stored_now(tmp_path) == list(range(12))
        assert recorder._life.writer is not None
        assert recorder._life.writer.log is not None
        assert recorder._life.writer.log.synced >= 11


async def test_many_waiters_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    sync = Log.sync

    def counted(log: Log) -> int:
        syncs.append(1)
        return sync(log)

    monkeypatch.setattr(Log, "sync", counted)
    positions: list[Position | None] = []

    async with EventRecorder(log=tmp_path, options=quickly(sync="never")) as recorder:

        async def wait(n: int) -> None:
            positions.append(await recorder.record_durable(Numbered(n)))

        async with anyio.create_task_group() as tasks:
            for n in range(500):
                tasks.start_soon(wait, n)
        assert len(syncs) < 20

    assert sorted(position.offset for position in positions if position is not None) == list(range(500))
    assert_conserved(recorder.status(), offered=500)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(({"until": word}, "until is one of") for word in ("mirror", "Synced", None)),
        *(({"timeout": duration}, "duration") for duration in ("soon", -1)),
    ],
)
async def test_durable_takes_no_promise_that_it_does_not_know(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    async with EventRecorder(log=tmp_path, options=quickly()) as recorder:
        with pytest.raises(OptionsError, match=said):
            await recorder.record_durable(Numbered(0), **given)
        with pytest.raises(OptionsError, match=said):
            await recorder.record_all_durable([Numbered(0)], **given)

    assert_conserved(recorder.status(), offered=0)


async def test_durable_refuses_by_name(tmp_path: Path) -> None:
    async with EventRecorder() as without:
        with pytest.raises(NotDurableError, match="log="):
            await without.record_durable(Numbered(0))
    recorder = EventRecorder(log=tmp_path, options=quickly(event_types=["numbered"], max_event_bytes=1_000))
    with pytest.raises(RecorderClosedError, match="it is new"):
        await recorder.record_durable(Numbered(0))
    async with recorder:
        assert await recorder.record_durable(Numbered(0, kind="other")) is None
        with pytest.raises(InvalidEventError):
            await recorder.record_durable(None)  # type: ignore[arg-type]
        with pytest.raises(EncodeError):
            await recorder.record_durable(Numbered(float("nan")))  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match="max_event_bytes"):
            await recorder.record_durable(Numbered(10**1_000))
    with pytest.raises(RecorderClosedError):
        await recorder.record_durable(Numbered(0))

    status = recorder.status()
    assert status.refused == {"filtered": 1, "invalid": 1, "not_encodable": 1, "too_large": 1}
    assert_conserved(status, offered=4)


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()], ids=lambda each: type(each).__name__)
async def test_what_ends_a_program_while_an_event_is_taken_durably_is_counted_and_goes_on(
    error: BaseException, tmp_path: Path
) -> None:
    class Ending(Numbered):
        @property
        def payload(self) -> object:
            raise error

    async with EventRecorder(log=tmp_path, options=quickly()) as recorder:
        with pytest.raises(type(error)):
            await recorder.record_durable(Ending(0))

        assert recorder.status().refused == {"interrupted": 1}
        assert_conserved(recorder.status(), offered=1)
        assert await recorder.record_durable(Numbered(1)) is not None


async def test_a_full_disk_is_said_to_who_waits_and_nothing_taken_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = ScriptedHandler()
    write = Log.write
    is_full = True

    def refuse(log: Log) -> int:
        if is_full:
            raise LogFullError("no space left")
        return write(log)

    monkeypatch.setattr(Log, "write", refuse)
    async with EventRecorder(handler, log=tmp_path, options=quickly(flush_interval=0.01)) as recorder:
        with pytest.raises(LogFullError, match="no space"):
            await recorder.record_durable(Numbered(0))
        assert recorder.record(Numbered(1))
        assert_conserved(recorder.status(), offered=2)

        is_full = False
        await eventually(lambda: handler.delivered == [0, 1])

    assert_conserved(recorder.status(), offered=2)


async def test_a_failed_sync_is_said_to_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EventRecorder(log=tmp_path, options=quickly(sync="never", close_timeout=0.1)) as recorder:
        with monkeypatch.context() as patched:
            patched.setattr(Log, "sync", raising(LogWriteError("the disk is ill")))
            with pytest.raises(LogWriteError, match="ill"):
                await recorder.record_durable(Numbered(0))


def test_sync_recorder_records_durably(tmp_path: Path) -> None:
    with EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly()).sync() as recorder:
        position = recorder.record_durable(Numbered(0))

    assert position is not None
    assert position.offset == 0


# -- processes


def run(program: str, directory: Path, code: int = 0) -> None:
    done = subprocess.run([sys.executable, "-c", program, directory], check=False, timeout=30)
    assert done.returncode == code


def test_a_killed_process_leaves_what_was_written(tmp_path: Path) -> None:
    run(
        """
import asyncio, os, signal, sys
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered
async def main():
    async with EventRecorder(log=sys.argv[1]) as recorder:
        recorder.record_many(Numbered(n) for n in range(1000))
        await recorder.record_durable(Numbered(1000), until="written")
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
""",
        tmp_path,
        code=-signal.SIGKILL,
    )

    assert stored(tmp_path) == list(range(1001))


def test_a_program_that_ends_without_closing_loses_nothing_it_recorded(tmp_path: Path) -> None:
    run(
        """
import sys
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered
recorder = EventRecorder(log=sys.argv[1])
for n in range(1000):
    assert recorder.record(Numbered(n))
""",
        tmp_path,
    )

    assert stored(tmp_path) == list(range(1000))


@pytest.mark.skipif(sys.platform == "win32", reason="os.fork")
async def test_a_forked_child_writes_a_log_of_its_own_which_the_parent_delivers(tmp_path: Path) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly(flush_interval=0.05)) as recorder:
        recorder.record(Numbered(0))
        await recorder.flush(timeout=5)
        child = os.fork()
        if child == 0:
            taken = recorder.record(Numbered(1))
            deadline = time.monotonic() + 30
            # What is appended is not yet written, and ends with a process that ends so.
            while 1 not in stored(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.01)  # noqa: ASYNC251 - the loop is the parent's
            status = recorder.status()
            os._exit(0 if taken and status.is_balanced and status.offered == status.appended == 1 else 1)
        _, code = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(code) == 0
        recorder.record(Numbered(2))
        await eventually(lambda: len(handler.delivered) == 3)

    assert sorted(handler.delivered) == [0, 1, 2]
    assert_conserved(recorder.status(), offered=2)
    assert list(tmp_path.iterdir()) == []


# -- checkpoints


def test_checkpoints_are_found_again_whatever_the_subscription_is_called(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path)
    names = ["a", "../../etc/passwd", ".", "..", "A b", "ü" * 127, "ü" * 126 + "v", "a.json"]
    saved = {
        name: Checkpoint(subscription=name, progress=Progress(0, n, n + 1, dropped={"x": n}), destination=name)
        for n, name in enumerate(names)
    }

    for checkpoint in saved.values():
        files.save(checkpoint, sync=True)
    files.sync_names()

    assert {name: msgspec.structs.replace(each, saved=0.0) for name, each in files.load().items()} == saved
    assert len({file_name(name) for name in names}) == len(names)
    assert all(path.parent == tmp_path and len(path.name) < 200 for path in tmp_path.rglob("*"))


def test_a_checkpoint_that_cannot_be_read_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / file_name("a")).write_bytes(b"{")
    (tmp_path / "b.new").write_bytes(b"{}")

    assert CheckpointFiles(tmp_path).load() == {}
    assert CheckpointFiles(tmp_path / CHECKPOINTS).load() == {}
    assert "checkpoint unreadable" in caplog.text


def test_asyncio_is_closed_over_our_heads_and_the_log_has_it_all(tmp_path: Path) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(recorder.open())
    loop.run_until_complete(asyncio.sleep(0.05))
    tasks = asyncio.all_tasks(loop)
    recorder.record_many(Numbered(n) for n in range(10))
    deadline = time.monotonic() + 5
    while recorder.status().appended < 10 and time.monotonic() < deadline:
        time.sleep(0.01)

    assert stored(tmp_path) == list(range(10))
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def test_a_log_directory_that_is_deleted_is_made_again_and_what_was_not_synced_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    options = quickly(sync="never", write_interval=0.001, batch_rows=1_000, flush_interval=60)

    async with EventRecorder(handler, log=tmp_path / "log", options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(1_000))
        await eventually(lambda: handler.times)  # The worker has all of them in hand: it can read none any more.
        await anyio.to_thread.run_sync((tmp_path / "log").rename, tmp_path / "gone")
        await anyio.to_thread.run_sync(deleted, tmp_path / "gone")
        await anyio.sleep(1.1)
        recorder.record_many(Numbered(n) for n in range(1_000, 1_010))
        await recorder.record_durable(Numbered(1_010))
        assert await stored_now(tmp_path / "log") == list(range(1_011))
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(1_011))
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)].count(
        "log directory gone"
    ) == 1
    assert list((tmp_path / "log").iterdir()) == []
    assert_conserved(recorder.status(), offered=1_011)


async def test_what_was_synced_in_a_directory_that_is_deleted_is_counted_as_lost(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(batch_rows=10)) as recorder:
        recorder.record_many(Numbered(n) for n in range(1_000))
        await recorder.record_durable(Numbered(1_000))
        await anyio.to_thread.run_sync((tmp_path / "log").rename, tmp_path / "gone")
        await anyio.to_thread.run_sync(deleted, tmp_path / "gone")
        await anyio.sleep(1.1)
        await recorder.record_durable(Numbered(1_001))
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)
        status = recorder.status().subscriptions["ScriptedHandler"]

    assert handler.delivered[-1] == 1_001
    assert len(handler.delivered) + status.dropped.get("lost", 0) == 1_002
    assert_conserved(recorder.status(), offered=1_002)


async def test_a_directory_that_was_moved_away_is_delivered_once_all_the_same(tmp_path: Path) -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(100))
        assert await recorder.flush(timeout=60)
        await anyio.to_thread.run_sync((tmp_path / "log").rename, tmp_path / "moved")
        await anyio.sleep(1.1)
        await recorder.record_durable(Numbered(100))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(101))
    assert list((tmp_path / "moved").iterdir()) == []
    assert not (tmp_path / "log").exists()
    assert_conserved(recorder.status(), offered=101)


@pytest.mark.parametrize("until", ["written", "synced"])
async def test_no_promise_is_given_for_a_log_that_was_deleted(
    tmp_path: Path, until: Literal["written", "synced"]
) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    path, promised = tmp_path / "log", []

    async with EventRecorder(handler, log=path, options=quickly(sync="never")) as recorder:
        await recorder.record_durable(Numbered(0))
        await anyio.to_thread.run_sync(path.rename, tmp_path / "gone")
        await anyio.to_thread.run_sync(deleted, tmp_path / "gone")
        for number in range(1, 20):
            try:
                await recorder.record_durable(Numbered(number), until=until)
            except LogError:
                assert recorder.status().health.reasons
            else:
                promised.append(number)
            await eventually(lambda: recorder.status().failure is None)
        found = await stored_now(path)
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert promised
    assert set(found) >= set(promised)
    assert set(handler.delivered) >= set(range(1, 20))
    assert_conserved(recorder.status(), offered=20)


async def test_no_promise_is_given_for_a_segment_that_was_deleted(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    promised = []

    async with EventRecorder(handler, log=tmp_path, options=quickly(sync="never")) as recorder:
        await recorder.record_durable(Numbered(0))
        segments = await anyio.to_thread.run_sync(lambda: list(tmp_path.glob("*/*.stdb.log")))
        for segment in segments:
            await anyio.to_thread.run_sync(segment.unlink)
        for number in range(1, 20):
            with suppress(LogError):
                await recorder.record_durable(Numbered(number))
                promised.append(number)
            await eventually(lambda: recorder.status().failure is None)
        found = await stored_now(tmp_path)
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert promised
    assert set(found) >= set(promised)


@pytest.mark.parametrize("put", ["a copy", "a link"])
async def test_no_promise_is_given_for_a_segment_in_whose_place_there_is_another(tmp_path: Path, put: str) -> None:
    def replace(segment: Path) -> None:
        moved = segment.rename(tmp_path / "moved")
        if put == "a link":
            segment.symlink_to(moved)
        else:
            shutil.copyfile(moved, segment)

    handler = ScriptedHandler(always=raising(TransientError("down")))
    log, promised = tmp_path / "log", []

    async with EventRecorder(handler, log=log, options=quickly(sync="never")) as recorder:
        await recorder.record_durable(Numbered(0))
        (segment,) = await anyio.to_thread.run_sync(lambda: list(log.glob("*/*.stdb.log")))
        await anyio.to_thread.run_sync(replace, segment)
        for number in range(1, 20):
            with suppress(LogError):
                await recorder.record_durable(Numbered(number))
                promised.append(number)
            await eventually(lambda: recorder.status().failure is None)
        found = await stored_now(log)
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert promised
    assert set(found) >= set(promised)
    assert set(handler.delivered) >= set(promised)


async def test_health_says_that_a_deleted_log_cannot_be_made_again_until_it_can(tmp_path: Path) -> None:
    handler, path = ScriptedHandler(always=raising(TransientError("down"))), tmp_path / "log"

    async with EventRecorder(handler, log=path, options=quickly()) as recorder:
        await recorder.record_durable(Numbered(0))
        await anyio.to_thread.run_sync(path.rename, tmp_path / "gone")
        await anyio.to_thread.run_sync(deleted, tmp_path / "gone")
        await anyio.to_thread.run_sync(path.write_bytes, b"in the way")
        with pytest.raises(LogError):
            await recorder.record_durable(Numbered(1))
        health = recorder.status().health
        await anyio.to_thread.run_sync(path.unlink)
        await eventually(lambda: recorder.status().health.ready)
        await recorder.record_durable(Numbered(2))
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert not health.ready
    assert health.reasons[0].startswith("the log: ")
    assert set(handler.delivered) >= {1, 2}
    assert_conserved(recorder.status(), offered=3)
