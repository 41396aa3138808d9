"""Logs that earlier runs left, with whatever became of their files: delivered, kept or counted, and never skipped."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import EventRecorder, TransientError
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.log_delivery import LogDelivery
from eventrec.delivery.orphans import adoption
from eventrec.delivery.orphans import opening as orphan_opening
from eventrec.delivery.orphans.locks import OrphanLocks
from eventrec.delivery.orphans.opened_orphan import open_orphan
from eventrec.errors import Damage
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.segment import encode_header
from eventrec.log.verify import verify
from eventrec.records.content import encode_take
from eventrec.records.entry import OVERHEAD_BYTES
from eventrec.records.schema import Shape
from eventrec.runs import files
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles, Progress
from eventrec.runs.directory import list_runs
from eventrec.runs.files import file_name
from eventrec.runs.run import Run
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising

DOWN = raising(TransientError("down"))

pytestmark = pytest.mark.usefixtures("looking_often")


async def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not await anyio.to_thread.run_sync(condition):  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.02)


async def leave(directory: Path, *names: str, records: int = 20, delivered: int = 0) -> Path:
    """The directory of a log with `records` numbers, the first of which were `delivered`."""
    before = set(await anyio.to_thread.run_sync(list_runs, directory))
    recorder = EventRecorder(log=directory, options=quickly(close_timeout=0.05, flush_interval=0))
    for name in names:
        handler = ScriptedHandler(always=lambda batch: None if batch.end <= delivered else DOWN(batch))
        recorder.register(handler, name=name, batch_rows=1)
    await recorder.open()
    events = [Numbered(n) for n in range(records)]
    switched = sys.getswitchinterval()
    sys.setswitchinterval(60)  # one take, and so one commit: the writer takes none in between, however busy the machine
    try:
        recorder.record_many(events)
    finally:
        sys.setswitchinterval(switched)
    with anyio.fail_after(60):
        while any(part.scanned < delivered for part in recorder.status().subscriptions.values()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        while recorder.status().appended < records:  # noqa: ASYNC110 - likewise
            await anyio.sleep(0.01)
    await recorder.close(0.05)
    (made,) = set(await anyio.to_thread.run_sync(list_runs, directory)) - before
    return directory / str(made)


def recording(directory: Path, **options: Any) -> tuple[EventRecorder, ScriptedHandler, Counter[str]]:
    drops: Counter[str] = Counter()
    handler = ScriptedHandler()
    recorder = EventRecorder(
        log=directory,
        options=quickly(flush_interval=0.02, close_timeout=0.2, **options),
        on_drop=lambda reason, count: drops.update({reason: count}),
    )
    return recorder, handler, drops


def checkpoint_of(log: Path, name: str) -> Path:
    return log / CHECKPOINTS / file_name(name)


async def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    held = await anyio.to_thread.run_sync(path.read_bytes)
    await anyio.to_thread.run_sync(path.write_bytes, change(held))


def flipped_digit(held: bytes) -> bytes:
    return held.replace(b'"scanned":5', b'"scanned":9').replace(b'"acknowledged":5', b'"acknowledged":9')


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "a digit": flipped_digit,
    "no UTF-8": lambda held: held.replace(b"orders", b"order\xf3"),
    "empty": lambda _: b"",
    "zeros": lambda held: bytes(len(held)),
    "half": lambda held: held[: len(held) // 2],
    "deep": lambda _: b"[" * 200_000,
    "another's": lambda held: held.replace(b"orders", b"others"),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=list(SPOILT))
async def test_a_spoilt_checkpoint_costs_what_it_said_and_nothing_is_skipped(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    log = await leave(tmp_path, "orders", delivered=5)
    await spoil(checkpoint_of(log, "orders"), change)
    recorder, handler, drops = recording(tmp_path)
    recorder.register(handler, name="orders", start="latest")

    async with recorder:
        recorder.record(Numbered(1_000))
        await eventually(lambda: not log.exists())
        await eventually(lambda: 1_000 in handler.delivered)

    assert sorted(handler.delivered) == [*range(20), 1_000]
    assert not drops


def append_later_commit(log: Path) -> None:
    """Have `log` end with two records in a commit as a later eventrec may write it."""
    entry: Any = (Shape("t", "a", ()), 1, b"{}", None, None, None, 2 + OVERHEAD_BYTES)
    with Log.open(DiskStorage(log)) as opened:
        for content, n in encode_take([entry] * 2, UUID(log.name), written=1):
            opened.append_encoded(b"\x02" + content[1:], n)


async def test_a_log_that_ends_with_a_later_version_is_left_alone_and_costs_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adoption, "MAX_ADOPTED", 1)
    log, other = await leave(tmp_path, "orders", records=3), await leave(tmp_path, "orders", records=2)
    await anyio.to_thread.run_sync(append_later_commit, log)
    for each in (log, other):  # for no group
        await anyio.Path(each / "foreign").touch()
    recorder, handler, drops = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: len(handler.delivered) == 5)
        await eventually(lambda: log.name in recorder.status().left)
        said = recorder.status().left[log.name]
    orphan = await anyio.to_thread.run_sync(Run.adopt, tmp_path, UUID(log.name))

    assert handler.delivered == [0, 1, 2, 0, 1]
    assert said == "left alone: record 3: content version 0x02 is unknown: this eventrec reads 0x01"
    assert orphan is not None
    orphan.release()
    assert not drops
    assert sum("0x02" in record.getMessage() for record in caplog.records) == 1


async def test_a_spoilt_checkpoint_of_another_subscription_keeps_the_log(tmp_path: Path) -> None:
    log = await leave(tmp_path, "orders", "others", delivered=5)
    await spoil(checkpoint_of(log, "others"), flipped_digit)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: len(handler.delivered) == 15)
        await eventually(lambda: not recorder.status().adopted)

    assert log.exists()
    recorder, other, _ = recording(tmp_path)
    recorder.register(ScriptedHandler(), name="orders")
    recorder.register(other, name="others")
    async with recorder:
        await eventually(lambda: not log.exists())
    assert sorted(other.delivered) == list(range(20))


@pytest.mark.parametrize("what", ["checkpoint", "segment"])
async def test_what_a_newer_version_wrote_is_left_for_it(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = await leave(tmp_path, "orders", delivered=5)
    if what == "checkpoint":
        await spoil(checkpoint_of(log, "orders"), lambda _: files.encode({"version": 2, "where": "elsewhere"}))
    else:
        (segment,) = log.glob("*.stdb.log")
        later = bytes((*encode_header()[:6], 2, *encode_header()[7:]))
        await spoil(segment, lambda held: later + bytes(64) + held[10:])
    before = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    recorder, handler, drops = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        recorder.record(Numbered(1_000))
        await eventually(lambda: handler.delivered == [1_000])
        await anyio.sleep(0.6)

    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == before
    assert not drops
    assert sum("orphan left alone" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("put", ["link", "folder", "pipe"])
async def test_a_segment_that_is_not_a_file_is_neither_followed_nor_given_up(
    tmp_path: Path, put: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = await leave(tmp_path / "log", "orders", delivered=5)
    (segment,) = log.glob("*.stdb.log")
    moved = await anyio.to_thread.run_sync(segment.rename, tmp_path / "moved")
    make = {"link": lambda: segment.symlink_to(moved), "folder": segment.mkdir, "pipe": lambda: os.mkfifo(segment)}[put]
    await anyio.to_thread.run_sync(make)
    recorder, handler, drops = recording(tmp_path / "log")
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: "is not a file" in caplog.text)
        reasons = recorder.status().health.reasons
    (fault,) = await anyio.to_thread.run_sync(lambda: list(verify(DiskStorage(log))))
    await anyio.to_thread.run_sync(segment.rmdir if put == "folder" else segment.unlink)
    await anyio.to_thread.run_sync(moved.rename, segment)
    recorder, handler, drops = recording(tmp_path / "log")
    recorder.register(handler, name="orders")
    async with recorder:
        await eventually(lambda: not log.exists())

    assert (fault.file, fault.reason) == (segment.name, Damage.NOT_A_FILE)
    assert [f"{segment.name} is not a file" in reason for reason in reasons] == [True]
    assert handler.delivered == list(range(5, 20))
    assert not drops


@pytest.mark.parametrize("byte", [10, 13, 26, 28, 31, 60, -1])
async def test_a_bit_flipped_in_the_only_commit_is_counted_and_said(
    tmp_path: Path, byte: int, caplog: pytest.LogCaptureFixture
) -> None:
    log = await leave(tmp_path, "orders")
    (segment,) = log.glob("*.stdb.log")

    def flip(held: bytes) -> bytes:
        changed = bytearray(held)
        changed[byte] ^= 0x40
        return bytes(changed)

    await spoil(segment, flip)
    recorder, handler, drops = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: not log.exists())

    lost = 20 - len(set(handler.delivered))
    assert drops["corrupt"] > 0
    assert drops["corrupt"] >= (lost if byte not in (10, 13, 26) else 1)
    assert "log recovered" in caplog.text


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_latest_is_for_a_subscription_that_is_new(tmp_path: Path, where: str) -> None:
    if where == "here":
        log = await leave(tmp_path, "orders")
    else:
        # An older log knows the subscription; the one that its process was killed over has only the other's checkpoint.
        await leave(tmp_path, "orders", records=1)
        log = await leave(tmp_path, "orders", "others")
        await anyio.to_thread.run_sync(checkpoint_of(log, "orders").unlink)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders", start="latest")

    async with recorder:
        await eventually(lambda: set(handler.delivered) == set(range(20)))


async def test_latest_skips_what_was_there_before_a_subscription_was(tmp_path: Path) -> None:
    log = await leave(tmp_path, "others")
    recorder, handler, drops = recording(tmp_path)
    recorder.register(handler, name="orders", start="latest")
    recorder.register(ScriptedHandler(), name="others")

    async with recorder:
        await eventually(lambda: not log.exists())

    assert handler.delivered == []
    assert not drops


async def test_a_log_killed_before_its_first_checkpoint_is_not_skipped(tmp_path: Path) -> None:
    log = await leave(tmp_path, "orders")
    await anyio.to_thread.run_sync(checkpoint_of(log, "orders").unlink)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders", start="latest")

    async with recorder:
        await eventually(lambda: sorted(handler.delivered) == list(range(20)))


@pytest.mark.parametrize("put", ["nothing", "file", "link"])
async def test_a_checkpoint_folder_that_went_away_is_made_again_or_waited_for(tmp_path: Path, put: str) -> None:
    log = await leave(tmp_path / "log", "orders")
    outside = tmp_path / "outside"
    outside.mkdir()
    checkpoint_of(log, "orders").unlink()
    (log / CHECKPOINTS).rmdir()
    if put == "file":
        (log / CHECKPOINTS).write_text("mine")
    elif put == "link":
        (log / CHECKPOINTS).symlink_to(outside)
    recorder, handler, _ = recording(tmp_path / "log")
    recorder.register(handler, name="orders")

    async with recorder:
        if put == "nothing":
            await eventually(lambda: not log.exists())
        else:
            await eventually(lambda: len(handler.delivered) == 20)
            await anyio.sleep(1)

    assert sorted(handler.delivered) == list(range(20))
    assert list(outside.iterdir()) == []


async def test_a_checkpoint_that_cannot_be_saved_is_said_once_and_its_records_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await leave(tmp_path, "orders")
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.05)
    real, tries = CheckpointFiles.save, []

    def refuse(self: CheckpointFiles, checkpoint: Any, *, sync: bool) -> None:
        if checkpoint.progress.scanned or (isinstance(self._where, DiskStorage) and self._where.directory == log):
            tries.append(checkpoint)
            raise OSError(5, "Input/output error")
        real(self, checkpoint, sync=sync)

    monkeypatch.setattr(CheckpointFiles, "save", refuse)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: len(tries) >= 6)
        said = [record for record in caplog.records if "checkpoint not saved" in record.getMessage()]
        await eventually(lambda: str(log.name) in recorder.status().left)
        monkeypatch.undo()
        await eventually(lambda: not log.exists())
        await eventually(lambda: not recorder.status().left)

    assert sorted(set(handler.delivered)) == list(range(20))
    assert len(handler.delivered) <= 40
    assert len(said) <= 3


async def test_files_of_others_in_the_directory_stop_nothing(tmp_path: Path) -> None:
    for name in ("others", "requests", "done", "dead", "quota", ".eventrec-quota", "gone-1"):
        await anyio.to_thread.run_sync((tmp_path / name).write_text, "mine")
    (tmp_path / "0b7c9d7e-52a5-4b4b-9a6e-0d6f6f3c2a11").mkdir()
    log = await leave(tmp_path, "orders")
    recorder, handler, _ = recording(tmp_path, max_log_bytes=300_000, keep_free=0)
    recorder.register(handler, name="orders")

    async with recorder:
        recorder.record(Numbered(1_000))
        await eventually(lambda: not log.exists())
        await eventually(lambda: sorted(handler.delivered) == [*range(20), 1_000])

    for name in ("others", "requests", "done", "dead", "quota", "gone-1"):
        assert (tmp_path / name).read_text() == "mine"


async def test_descriptors_that_run_out_while_the_directory_is_looked_at_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = await leave(tmp_path, "orders")
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.05)
    real = DiskStorage.entries
    tries = []

    def refuse(self: DiskStorage) -> list[os.DirEntry[str]]:
        tries.append(True)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(DiskStorage, "entries", refuse)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        recorder.record(Numbered(1_000))
        await eventually(lambda: len(tries) >= 5)
        assert handler.delivered == [1_000]
        monkeypatch.setattr(DiskStorage, "entries", real)
        await eventually(lambda: not log.exists())

    assert sorted(handler.delivered) == [*range(20), 1_000]
    assert sum("orphans not looked after" in record.getMessage() for record in caplog.records) == 1


async def test_what_the_disk_bound_takes_of_earlier_runs_is_in_the_account(tmp_path: Path) -> None:
    logs = [await leave(tmp_path, "orders", records=200) for _ in range(3)]
    recorder, handler, drops = recording(tmp_path, max_log_bytes=1_000, keep_free=0)
    handler.always = DOWN
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: not any(log.exists() for log in logs))
        await eventually(lambda: sum(recorder.status().forfeited.values()) == 600)

    assert recorder.status().forfeited == {"orders": 600}
    assert drops["retention"] == 600


async def test_a_log_kept_for_a_subscription_that_nobody_serves_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await leave(tmp_path, "old name")
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="new name")

    async with recorder:
        await eventually(lambda: len(handler.delivered) == 60)
        await eventually(lambda: not recorder.status().adopted)
        health = recorder.status().health

    assert sum("not registered" in record.getMessage() for record in caplog.records) == 1
    assert (health.ready, health.reasons) == (
        True,
        ("3 logs of earlier runs: kept for 'old name', not registered here",),
    )


async def test_an_attempt_or_numbers_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    log = await leave(tmp_path, "orders", delivered=5)
    path = checkpoint_of(log, "orders")
    document = msgspec.json.decode(path.read_bytes().splitlines()[0])
    document["progress"] = msgspec.to_builtins(Progress(0, (1 << 63) - 1, (1 << 63) - 1, filtered=(1 << 63) - 1))
    await anyio.to_thread.run_sync(path.write_bytes, files.encode(document))
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        recorder.record(Numbered(1_000))
        await eventually(lambda: handler.delivered == [1_000])
        await anyio.sleep(0.5)

    assert log.exists()


async def test_an_orphan_whose_lock_was_taken_when_the_system_refused_something_is_adopted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(tmp_path, "scripted", records=3)
    learn, calls = LetterLog.learn, count(1)

    def learn_but_once(letters: LetterLog) -> None:
        if next(calls) == 2:  # The first time is before any lock is taken.
            raise OSError(errno.EMFILE, "too many open files")
        learn(letters)

    monkeypatch.setattr(LetterLog, "learn", learn_but_once)
    recorder = EventRecorder(log=tmp_path, options=quickly(flush_interval=0.02))
    handler = ScriptedHandler()
    recorder.register(handler, name="scripted")

    async with recorder:
        await eventually(lambda: handler.delivered == [0, 1, 2])

    assert next(calls) > 2


async def test_a_log_that_was_refused_twice_in_two_ways_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.02)
    left = await leave(tmp_path, "s", records=3)
    save, opened, saves = CheckpointFiles.save, open_orphan, count()

    def open_at_the_second_time(run: Run, latest: Collection[str]) -> Any:
        monkeypatch.setattr(orphan_opening, "open_orphan", opened)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def save_at_the_second_time(files_: CheckpointFiles, *args: Any, **options: Any) -> None:
        if files_._where is not own and not next(saves):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        save(files_, *args, **options)

    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="s")
    own: Any = None
    monkeypatch.setattr(orphan_opening, "open_orphan", open_at_the_second_time)
    async with recorder:
        assert recorder._life.writer is not None
        assert recorder._life.writer.run is not None
        own = recorder._life.writer.run.storage
        monkeypatch.setattr(CheckpointFiles, "save", save_at_the_second_time)

        await eventually(lambda: len(handler.delivered) == 3)

    assert next(saves) > 1
    assert not left.exists()


async def test_a_defect_while_an_orphan_is_delivered_is_said_once_and_it_is_delivered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.05)
    log = await leave(tmp_path, "orders")
    run, defects = LogDelivery.run, [ValueError("a defect"), ValueError("again")]

    async def fail_twice(delivery: LogDelivery, *, until_settled: bool = False) -> None:
        if until_settled and defects:
            raise defects.pop()
        await run(delivery, until_settled=until_settled)

    monkeypatch.setattr(LogDelivery, "run", fail_twice)
    recorder, handler, _ = recording(tmp_path)
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: not log.exists())

    assert sorted(handler.delivered) == list(range(20))
    assert caplog.text.count("delivery of an orphan failed") == 1


async def test_a_lock_that_cannot_be_had_when_a_slot_comes_free_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Deduping(ScriptedHandler):
        """So that each log is delivered by itself."""

        dedupes_by_token = True

    for _ in range(2):
        await leave(tmp_path, "orders")
    monkeypatch.setattr(adoption, "MAX_ADOPTED", 1)
    monkeypatch.setattr(adoption, "FIRST_PAUSE", 0.05)
    take, taken = OrphanLocks.take, list[int]()

    def refuse_the_second(locks: OrphanLocks, ids: Any) -> Any:
        taken.append(len(ids))
        if len(taken) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return take(locks, ids)

    monkeypatch.setattr(OrphanLocks, "take", refuse_the_second)
    recorder, _, _ = recording(tmp_path)
    handler = Deduping()
    recorder.register(handler, name="orders")

    async with recorder:
        await eventually(lambda: len(handler.delivered) == 40)

    assert sorted(handler.delivered) == sorted([*range(20)] * 2)
    assert "orphans not looked after" in caplog.text
