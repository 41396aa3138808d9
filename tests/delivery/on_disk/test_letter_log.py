"""Dead letters in a log of their own: they survive, are found again, and are never sent again by themselves."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import ColumnSchema, ColumnType, EventRecorder, PermanentError, TransientError
from eventrec.delivery.letters.content import decode_letters, encode_letters, is_letters_of
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import kept_letters, purge, sweep_letters
from eventrec.delivery.letters.log import LetterLog, letters_of
from eventrec.errors import ContentError
from eventrec.log.descriptors import DiskFile
from eventrec.log.head import SPARED_BY_LETTERS
from eventrec.records.content import Shapes
from eventrec.records.entry import OVERHEAD_BYTES
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import DEAD, LogDirectory, list_runs
from eventrec.runs.run import new_run_id
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, quickly, raising, refusing
from eventrec.testing.small_disk import PAGE, SmallDisk

ID = UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")
SHAPE = Shape("t", "a", (ColumnSchema("n", ColumnType.INT64),))


def letter(
    offset: int = 7,
    subscription: str = "s",
    *,
    payload: bytes = b"{}",
    reason: str = "never",
    context: bytes | None = None,
) -> DeadLetter:
    size = len(payload) + OVERHEAD_BYTES + len(context or b"") + len(b"\x91\x91\x01")
    return DeadLetter(
        log_id=ID,
        offset=offset,
        subscription=subscription,
        handler="Handler",
        reason=reason,
        seconds=1.5,
        entry=(SHAPE, 1, payload, context, b"\x91\x91\x01", None, size),
        static_context=b'{"host":"h"}',
    )


async def runs_of(directory: Path) -> list[UUID]:
    return await anyio.to_thread.run_sync(list_runs, directory)


async def letters_in(directory: Path) -> list[DeadLetter]:
    def read() -> list[DeadLetter]:
        return [each for id_ in list_runs(directory / DEAD) for _, each in letters_of(directory / DEAD, id_)]

    return await anyio.to_thread.run_sync(read)


async def until_one_run_is_left(directory: Path) -> None:
    with anyio.fail_after(60):
        while len(await runs_of(directory)) > 1:  # noqa: ASYNC110 - a disk changes it
            await anyio.sleep(0.01)


# -- the format


def test_golden_bytes() -> None:
    golden = bytes.fromhex(
        "02 92 c4 10 000102030405060708090a0b0c0d0e0f 91 9d"
        " c4 10 000102030405060708090a0b0c0d0e0f 07 a1 73 a7 48616e646c6572 a5 6e65766572 ce 59682f00"
        " c4 0c 7b22686f7374223a2268227d 93 a1 74 a1 61 91"
    )

    encoded = encode_letters([letter()], ID)

    assert encoded.startswith(golden)
    assert decode_letters(encoded, Shapes()) == [letter()]


@given(st.lists(st.builds(letter, st.integers(0, 2**48), payload=st.binary(), reason=st.text()), max_size=5))
def test_letters_come_back_as_they_were(letters: list[DeadLetter]) -> None:
    encoded = encode_letters(letters, ID)

    assert decode_letters(encoded, Shapes()) == letters
    assert is_letters_of(encoded[:256], ID)
    assert not is_letters_of(encoded[:256], UUID(int=1))


@pytest.mark.parametrize("content", [b"", b"\x01\x90", b"\x02", b"\x02\x90", b"\x02\xff" * 9])
def test_other_bytes_are_no_letters(content: bytes) -> None:
    with pytest.raises(ContentError):
        decode_letters(content, Shapes())


# -- the log of them


async def test_a_directory_that_may_not_be_looked_into_is_said_once_and_stops_no_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    letters = LetterLog(tmp_path / "dead", new_run_id, max_bytes=1 << 20)

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(LogDirectory, "names", refuse)
    await anyio.to_thread.run_sync(letters.learn)
    await anyio.to_thread.run_sync(letters.learn)

    assert caplog.text.count("dead letters unreadable") == 1
    assert "Permission denied" in caplog.text


async def test_a_worker_that_comes_back_after_the_end_makes_no_other_log(tmp_path: Path) -> None:
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)
    await letters.write([letter(3)])
    await anyio.to_thread.run_sync(letters.close)

    with pytest.raises(OSError, match="closed"):
        await letters.write([letter(4)])

    assert len(await runs_of(tmp_path)) == 1


async def test_what_is_written_is_known_here_and_to_the_next(tmp_path: Path) -> None:
    run = new_run_id()
    first = LetterLog(tmp_path, lambda: run, max_bytes=1 << 20)
    await first.write([letter(3), letter(5)])
    await first.write([letter(9)])
    second = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)
    await anyio.to_thread.run_sync(second.learn)

    assert set(first.known(ID, "s")) == set(second.known(ID, "s")) == {3, 5, 9}
    assert second.known(ID, "another") == ()
    found = await anyio.to_thread.run_sync(lambda: list(letters_of(tmp_path, run)))
    assert [(offset, each.offset) for offset, each in found] == [(0, 3), (1, 5), (2, 9)]

    await first.write([letter(11)])
    await anyio.to_thread.run_sync(second.learn)
    assert set(second.known(ID, "s")) == {3, 5, 9, 11}
    await anyio.to_thread.run_sync(first.close)


async def test_no_letter_beyond_the_bound_and_none_is_dropped(tmp_path: Path) -> None:
    letters = LetterLog(tmp_path, new_run_id, max_bytes=4_000)
    await letters.write([letter(1, payload=bytes(2_000))])

    with pytest.raises(OSError, match="bytes of dead letters are kept, of 4,000 allowed"):
        await letters.write([letter(2, payload=bytes(2_000))])

    assert set(letters.known(ID, "s")) == {1}
    await anyio.to_thread.run_sync(letters.close)


async def test_letters_are_kept_again_after_their_directory_was_deleted(tmp_path: Path) -> None:
    directory = tmp_path / "dead"
    letters = LetterLog(directory, new_run_id, max_bytes=1 << 20)
    await letters.write([letter(1)])

    for offset, gone in ((2, directory), (3, None)):
        (run,) = await runs_of(directory)
        await anyio.to_thread.run_sync(shutil.rmtree, gone or directory / str(run))
        await letters.write([letter(offset)])
        (run,) = await runs_of(directory)
        found = await anyio.to_thread.run_sync(lambda: [each.offset for _, each in letters_of(directory, run)])  # noqa: B023 - at once
        assert found == [offset - 1, offset]

    await anyio.to_thread.run_sync(letters.close)


async def test_letters_that_the_disk_refused_are_there_once_when_it_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)
    await letters.write([letter(1)])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                await letters.write([letter(2), letter(3)])
    await letters.write([letter(4)])
    await letters.write([letter(2), letter(3), letter(5)])

    (run,) = await runs_of(tmp_path)
    found = await anyio.to_thread.run_sync(lambda: list(letters_of(tmp_path, run)))
    assert [each.offset for _, each in found] == [1, 2, 3, 4, 5]
    await anyio.to_thread.run_sync(letters.close)


@pytest.mark.parametrize(("files", "pages"), [(None, SPARED_BY_LETTERS // PAGE), (5, None)])
async def test_letters_leave_a_full_disk_what_checkpoints_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int | None, pages: int | None
) -> None:
    disk = SmallDisk(monkeypatch)
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 30)
    disk.files, disk.pages = files, pages

    for _ in range(3):
        with pytest.raises(OSError, match="spared for checkpoints"):
            await letters.write([letter(1), letter(2)])
    assert (disk.files, disk.pages) == (files, pages)

    disk.files, disk.pages = 6, 20
    written = 2
    with pytest.raises(OSError, match="spared for checkpoints"):  # noqa: PT012 - it is not known at which one
        for written in range(2, 10_000, 2):
            await letters.write([letter(written, payload=bytes(500)), letter(written + 1, payload=bytes(500))])

    assert written > 20
    assert disk.pages * PAGE >= SPARED_BY_LETTERS - PAGE
    assert disk.files > 0
    disk.pages = None
    await letters.write([letter(written)])
    await anyio.to_thread.run_sync(letters.close)


async def test_a_letter_that_a_later_one_replaced_does_not_wait_again_when_that_one_is_gone(tmp_path: Path) -> None:
    ids = sorted([new_run_id(), new_run_id()])
    for id_, letters in zip(ids, ([letter(1, "s"), letter(2, "t")], [letter(1, "s")]), strict=True):
        log = LetterLog(tmp_path, partial(UUID, bytes=id_.bytes), max_bytes=1 << 30)
        await log.write(letters)
        await anyio.to_thread.run_sync(log.close)

    await anyio.to_thread.run_sync(partial(purge, tmp_path, ids[1], "s", below=1))
    await anyio.to_thread.run_sync(sweep_letters, tmp_path)
    waiting = await anyio.to_thread.run_sync(
        lambda: [each.letter.subscription for each in kept_letters(tmp_path) if each.is_waiting]
    )
    await anyio.to_thread.run_sync(partial(purge, tmp_path, ids[0], "t", below=2))
    await anyio.to_thread.run_sync(sweep_letters, tmp_path)

    assert waiting == ["t"]
    assert not await anyio.Path(tmp_path).exists()


async def test_no_letter_no_directory(tmp_path: Path) -> None:
    letters = LetterLog(tmp_path / DEAD, new_run_id, max_bytes=1)
    await anyio.to_thread.run_sync(letters.learn)
    await anyio.to_thread.run_sync(letters.close)

    assert list(tmp_path.iterdir()) == []


# -- under a recorder


async def test_a_dead_record_is_kept_whole_and_the_account_says_so(tmp_path: Path) -> None:
    handler = FencedHandler(always=refusing({3}, lambda: PermanentError("out of range")))
    options = quickly(batch_rows=4, service="shop")

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        with recorder.context(user="u"):
            recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        log_id = next(iter(handler.next))[0]

    assert handler.delivered == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert recorder.status().subscriptions["FencedHandler"].dead == 1
    assert_conserved(recorder.status(), offered=10)
    assert await runs_of(tmp_path) == []
    (run,) = await runs_of(tmp_path / DEAD)
    (dead,) = await letters_in(tmp_path)
    assert (run, dead.log_id, dead.offset, dead.subscription) == (log_id, log_id, 3, "FencedHandler")
    assert (dead.reason, dead.static_context) == ("out of range", b'{"service":"shop"}')
    assert dead.entry[2:4] == (b'{"number":3}', b'{"user":"u"}')


async def test_a_kill_between_the_letter_and_the_checkpoint_neither_repeats_nor_doubles(tmp_path: Path) -> None:
    handler = FencedHandler(always=refusing({3}, lambda: PermanentError("never")))
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=4, close_timeout=0))
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(4))
    assert await recorder.flush(timeout=60)
    status = recorder.status().subscriptions["FencedHandler"]
    handler.always = raising(TransientError("down"))
    recorder.record(Numbered(100))
    await recorder.close(timeout=0)

    # As if the checkpoint had not been saved any more: the destination and the letters know better.
    (run,) = await runs_of(tmp_path)
    files = CheckpointFiles(tmp_path / str(run) / CHECKPOINTS)
    saved = (await anyio.to_thread.run_sync(files.load))["FencedHandler"]
    progress = saved.progress
    progress.scanned = progress.acknowledged = progress.delivered = progress.dead = 0
    await anyio.to_thread.run_sync(lambda: files.save(saved, sync=True))
    handler.always = refusing({3}, lambda: AssertionError("sent again"))

    async with EventRecorder(handler, log=tmp_path, options=quickly()) as second:
        await until_one_run_is_left(tmp_path)
    assert status.dead == 1
    assert sorted(handler.delivered) == [0, 1, 2, 100]
    assert [each.offset for each in await letters_in(tmp_path)] == [3]
    assert_conserved(second.status(), offered=0)


async def test_a_full_log_of_letters_holds_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    handler = FencedHandler(always=refusing({3}, lambda: PermanentError("never")))
    options = quickly(batch_rows=4, max_dead_bytes=10, close_timeout=0.1)

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=10) is False
        status = recorder.status().subscriptions["FencedHandler"]
        assert status.state.startswith("holding: dead letters cannot be written: ")
        assert (status.dead, status.dropped) == (0, {})

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=4)) as second:
        await until_one_run_is_left(tmp_path)

    assert sorted(handler.delivered) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert_conserved(second.status(), offered=0)
