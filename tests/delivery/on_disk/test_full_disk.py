"""A disk that our own logs have filled is emptied again: by the next recorder, and by a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, LogFullError, PermanentError, TransientError
from eventrec.log.head import SPARED, SPARED_AT_END
from eventrec.runs.directory import list_runs
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing
from eventrec.testing.small_disk import PAGE, SmallDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

pytestmark = pytest.mark.usefixtures("looking_often")

NAME = "ScriptedHandler"
DOWN = raising(TransientError("down"))


class Long(Numbered):
    """A number in some hundred bytes."""

    @property
    def payload(self) -> object:
        return {"number": self.number, "text": "x" * 100}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    return SmallDisk(monkeypatch)


def options(segment_bytes: int = 20_000, retain: float | None = None) -> EventRecorderOptions:
    return quickly(
        keep_free=0,
        flush_interval=0.05,
        segment_bytes=segment_bytes,
        retain=retain,
        retry=Backoff(first=0.01, max=0.05),
        close_timeout=1.0,
    )


async def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.02)


async def runs_of(log: Path) -> list[UUID]:
    return await anyio.to_thread.run_sync(list_runs, log)


async def leave_orphan(log: Path, count: int, *, segment_bytes: int = 20_000, retain: float | None = None) -> None:
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=log, options=options(segment_bytes, retain))
    await recorder.open()
    for start in range(0, count, 50):
        recorder.record_many(Long(n) for n in range(start, min(count, start + 50)))
        await eventually(lambda: not recorder.status().in_intake)
    await recorder.close(0.2)


@pytest.mark.parametrize(("files", "pages"), [(0, None), (2, None), (6, None), (None, 0), (None, 3), (0, 0)])
async def test_a_disk_that_is_full_of_an_earlier_run_is_emptied(
    tmp_path: Path, disk: SmallDisk, files: int | None, pages: int | None
) -> None:
    await leave_orphan(tmp_path, 1_000)
    disk.files, disk.pages = files, pages
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=options())

    await recorder.open()
    taken = recorder.record(Long(1_000))
    await eventually(lambda: len(handler.delivered) == 1_001)
    status = await recorder.close(10)

    assert taken
    assert sorted(handler.delivered) == list(range(1_001))  # Where a log of its own has room, that may come first.
    assert_conserved(status, offered=1)
    assert await runs_of(tmp_path) == []


@pytest.mark.parametrize("handler", [ScriptedHandler, FencedHandler])
async def test_a_log_that_is_delivered_goes_though_its_checkpoint_has_no_place(
    tmp_path: Path, disk: SmallDisk, handler: type[ScriptedHandler]
) -> None:
    """It has neither an index that could go for one, nor a segment that is not written any more."""
    await leave_orphan(tmp_path, 20, segment_bytes=1 << 20)
    for index in tmp_path.rglob("*.ofs"):
        index.unlink()
    disk.files, disk.pages = 0, 0
    up = handler()
    recorder = EventRecorder(log=tmp_path, options=options())
    recorder.register(up, name=NAME)

    await recorder.open()
    with anyio.fail_after(60):
        while await runs_of(tmp_path):  # noqa: ASYNC110 - the disk changes it
            await anyio.sleep(0.02)
    await recorder.close(10)

    assert up.delivered == list(range(20))


@pytest.mark.parametrize("has_orphan", [False, True])
@pytest.mark.parametrize(("files", "pages"), [(0, None), (None, 0)])
async def test_a_disk_that_is_full_of_retained_logs_has_room_for_a_new_one(
    tmp_path: Path, disk: SmallDisk, files: int | None, pages: int | None, *, has_orphan: bool
) -> None:
    retaining = options(retain=3_600.0)
    for _ in range(2):
        async with EventRecorder(ScriptedHandler(), log=tmp_path, options=retaining) as recorder:
            recorder.record_many(Long(n) for n in range(1_000))
            assert await recorder.flush(30)
    if has_orphan:
        await leave_orphan(tmp_path, 1, retain=3_600.0)
    disk.files, disk.pages = files, pages
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=tmp_path, options=retaining)

    await recorder.open()
    recorder.record(Long(0))
    await eventually(lambda: recorder.status().appended == 1)
    status = await recorder.close(0.2)

    assert_conserved(status, offered=1)
    assert status.refused == {}


async def test_a_handler_that_only_logs_of_other_runs_used_is_closed(tmp_path: Path, disk: SmallDisk) -> None:
    await leave_orphan(tmp_path, 100)
    disk.pages = 0
    handler = ScriptedHandler(acts=[lambda _: None, *[raising(TransientError("down"))] * 1_000])
    recorder = EventRecorder(handler, log=tmp_path, options=options().model_copy(update={"batch_rows": 10}))

    await recorder.open()
    await eventually(lambda: handler.delivered)
    await recorder.close(0.2)

    assert (handler.opened, handler.closed) == (1, 1)
    assert len(await runs_of(tmp_path)) == 1  # that of the earlier run, and none of its own


async def test_where_there_is_nothing_to_deliver_a_full_disk_ends_it_at_once(tmp_path: Path, disk: SmallDisk) -> None:
    disk.files = 2

    with pytest.raises(LogFullError):
        await EventRecorder(ScriptedHandler(), log=tmp_path, options=options()).open()

    assert disk.files == 2
    assert await runs_of(tmp_path) == []


async def test_a_log_that_another_process_delivers_makes_no_room_here(tmp_path: Path, disk: SmallDisk) -> None:
    async with EventRecorder(ScriptedHandler(), log=tmp_path, options=options()) as recorder:
        recorder.record(Long(0))
        disk.files = 0

        with pytest.raises(LogFullError):
            await EventRecorder(ScriptedHandler(), log=tmp_path, options=options()).open()


async def test_what_waits_for_room_is_written_while_close_delivers(tmp_path: Path, disk: SmallDisk) -> None:
    await leave_orphan(tmp_path, 200)
    disk.files = 0
    handler = ScriptedHandler(always=DOWN)
    recorder = EventRecorder(handler, log=tmp_path, options=options())
    await recorder.open()
    assert recorder.status().failure is not None
    recorder.record_many(Long(n) for n in range(200, 220))
    handler.always = lambda _: None

    status = await recorder.close(20)

    assert status.refused == {}
    assert sorted(set(handler.delivered)) == list(range(220))


async def test_while_its_destination_is_down_a_full_disk_keeps_what_it_has(tmp_path: Path, disk: SmallDisk) -> None:
    await leave_orphan(tmp_path, 200)
    before = await runs_of(tmp_path)
    disk.files = 0
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=tmp_path, options=options())
    await recorder.open()
    recorder.record(Long(200))

    status = await recorder.close(0.5)

    assert status.refused == {"not_written": 1}
    assert await runs_of(tmp_path) == before


async def test_while_a_full_disk_is_emptied_dead_letters_of_earlier_runs_are_seen(
    tmp_path: Path, disk: SmallDisk
) -> None:
    handler = ScriptedHandler(always=refusing({3, 5}, lambda: PermanentError("out of range")))
    async with EventRecorder(handler, log=tmp_path, options=options()) as recorder:
        recorder.record_many(Long(n) for n in range(7))
        assert await recorder.flush(30)
    await leave_orphan(tmp_path, 20)
    disk.files = 0
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=tmp_path, options=options())

    await recorder.open()
    assert recorder.status().failure is not None
    await eventually(lambda: recorder.status().dead_letters == {NAME: 2}, 20)
    reasons = recorder.status().health.reasons
    await recorder.close(0.2)

    assert f"{NAME}: 2 dead letters" in reasons


async def test_what_is_written_last_leaves_the_next_process_room_to_begin(tmp_path: Path, disk: SmallDisk) -> None:
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=tmp_path, options=options(1 << 20))
    await recorder.open()
    recorder.record(Long(0))
    await eventually(lambda: recorder.status().appended == 1)
    disk.pages = (SPARED - PAGE) // PAGE
    for start in range(1, 1_001, 50):
        recorder.record_many(Long(n) for n in range(start, start + 50))
        await anyio.sleep(0.03)

    status = await recorder.close(2)

    assert status.refused["not_written"] > 0
    assert disk.pages * PAGE >= SPARED_AT_END - 2 * PAGE  # less its last checkpoint, and an index


@pytest.mark.parametrize("is_filled_by_others", [False, True])
async def test_a_checkpoint_of_what_follows_finds_a_place_on_a_full_disk(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, *, is_filled_by_others: bool
) -> None:
    """Only its owner deletes what is delivered, and only once that is in a checkpoint of the process that follows."""
    for module in ("log_delivery", "needs"):
        monkeypatch.setattr(f"eventrec.delivery.{module}.OTHERS_SECONDS", 0.1)
    handler = ScriptedHandler(always=DOWN)
    following = options().model_copy(update={"follow": True})

    async with (
        EventRecorder(handler, log=tmp_path, options=following) as follower,
        EventRecorder(log=tmp_path, options=options()) as owner,
    ):
        owner.record(Long(0))
        await eventually(lambda: follower.status().adopted)
        disk.files = 20
        taken = 1
        while owner.status().failure is None and taken < 20_000:
            taken += owner.record_many(Long(n) for n in range(taken, taken + 50))
            await anyio.sleep(0.02)
        assert disk.files > 0
        disk.files = 0 if is_filled_by_others else disk.files
        handler.always = lambda _: None
        if is_filled_by_others:
            await eventually(lambda: disk.files)
        await eventually(lambda: owner.status().failure is None)
        await eventually(lambda: len(handler.delivered) == taken)

    assert handler.delivered == list(range(taken))
    assert_conserved(owner.status(), offered=taken)


async def test_the_room_that_is_left_is_used_though_much_is_taken_at_once(tmp_path: Path, disk: SmallDisk) -> None:
    recorder = EventRecorder(ScriptedHandler(always=DOWN), log=tmp_path, options=options(64 << 20))
    await recorder.open()
    recorder.record(Long(0))
    await eventually(lambda: recorder.status().appended == 1)
    room = 300_000
    disk.pages = (SPARED + room) // PAGE

    recorder.record_many(Long(n) for n in range(1, 6_001))
    await eventually(lambda: recorder.status().failure is not None)
    left = disk.pages * PAGE
    status = await recorder.close(1)

    assert left < SPARED + 20_000
    assert status.subscriptions[NAME].pending > room / 200


@pytest.mark.parametrize("files", [0, 2])
async def test_what_follows_begins_on_a_disk_that_its_owner_has_filled(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    for module in ("log_delivery", "needs"):
        monkeypatch.setattr(f"eventrec.delivery.{module}.OTHERS_SECONDS", 0.1)
    handler = ScriptedHandler()
    following = options().model_copy(update={"follow": True})

    async with EventRecorder(log=tmp_path, options=options()) as owner:
        for start in range(0, 1_000, 50):
            owner.record_many(Long(n) for n in range(start, start + 50))
            await anyio.sleep(0.02)
        await eventually(lambda: owner.status().appended == 1_000)
        disk.files = files
        async with EventRecorder(handler, log=tmp_path, options=following) as follower:
            await eventually(lambda: len(handler.delivered) == 1_000)
            await eventually(lambda: owner.status().elsewhere == {})
            await eventually(lambda: follower.status().failure is None)

    assert handler.delivered == list(range(1_000))
