"""The bound on the log directory: who forfeits, who does not, and what goes on by itself when there is room."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, LogError, PauseError, TransientError
from eventrec.delivery.directory_look import DirectoryLook, DirectoryNews
from eventrec.delivery.disk import DiskQuota
from eventrec.delivery.orphans.adoption import MAX_ADOPTED
from eventrec.intake.writer import Writer
from eventrec.log import descriptors, segment
from eventrec.log.head import SPARED, Head
from eventrec.runs.directory import DONE, list_runs
from eventrec.runs.survey import tree_size
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")

DOWN = raising(TransientError("down"))


class Long(Numbered):
    """A number in some hundred bytes."""

    @property
    def payload(self) -> object:
        return {"number": self.number, "text": "x" * 100}


async def eventually(condition: object, seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.02)


async def runs_of(directory: Path) -> list[UUID]:
    return await anyio.to_thread.run_sync(list_runs, directory)


async def test_only_the_dead_subscription_forfeits_and_the_others_get_everything(tmp_path: Path) -> None:
    bound = 400_000
    dead, fine = ScriptedHandler(always=DOWN), ScriptedHandler()
    drops: Counter[str] = Counter()
    recorder = EventRecorder(
        log=tmp_path,
        options=quickly(max_log_bytes=bound, keep_free=0, flush_interval=0.05, close_timeout=1.0),
        on_drop=lambda reason, count: drops.update({reason: count}),
    )
    recorder.register(dead, name="dead")
    recorder.register(fine, name="fine")
    offered = 0

    async with recorder:
        for _ in range(60):
            offered += recorder.record_many(Long(n) for n in range(offered, offered + 200))
            await anyio.sleep(0.02)
        await eventually(lambda: len(fine.delivered) == offered)
        status = recorder.status()
        with anyio.fail_after(40):  # It is judged five times a second, where there is time for it.
            while await anyio.to_thread.run_sync(tree_size, tmp_path) > bound * 2:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        dead.always = lambda _: None
        await eventually(lambda: recorder.status().subscriptions["dead"].pending == 0)

    assert fine.delivered == list(range(offered))
    assert status.subscriptions["fine"].dropped == status.refused == {}
    lost = recorder.status().subscriptions["dead"].dropped
    assert lost == drops == {"retention": offered - len(dead.delivered)}
    assert dead.delivered == sorted(set(dead.delivered))
    assert dead.delivered[-1] == offered - 1
    assert_conserved(recorder.status(), offered=offered)


async def test_where_all_are_behind_new_events_are_refused_until_there_is_room(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=DOWN)
    options = quickly(max_log_bytes=200_000, keep_free=0, queue_bytes=50_000, flush_interval=0.05)

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        taken = 0

        async def fill() -> None:
            nonlocal taken
            # The intake of a busy machine may be full before the directory is.
            while not (recorder.status().failure and recorder.status().refused):
                taken += recorder.record_many(Long(n) for n in range(taken, taken + 50))
                await anyio.sleep(0.05)

        with anyio.fail_after(60):
            await fill()
        refused = recorder.status().refused["overflow"]
        assert recorder.status().failure == "the log directory has reached its bound"
        assert not recorder.status().health.ready
        handler.always = lambda _: None
        await eventually(lambda: recorder.status().failure is None)
        assert recorder.record(Numbered(10**6))
        assert await recorder.flush(timeout=60)

    assert handler.delivered[-1] == 10**6
    assert len(handler.delivered) == taken + 1
    assert recorder.status().subscriptions["ScriptedHandler"].dropped == {}
    assert_conserved(recorder.status(), offered=taken + refused + 1)


async def test_what_all_have_behind_them_goes_before_anything_is_refused(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    # Checkpoints become durable, and segments go, once a minute: much too seldom for this bound.
    options = quickly(max_log_bytes=100_000, keep_free=0, flush_interval=0.02, sync_interval=60)
    taken = 0

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        for end in range(400, 2_001, 400):
            taken += recorder.record_many(Long(n) for n in range(taken, end))
            await eventually(lambda end=end: len(handler.delivered) == end)
            with anyio.fail_after(60):
                while await anyio.to_thread.run_sync(tree_size, tmp_path) > 100_000:
                    assert recorder.status().failure is None
                    await anyio.sleep(0.005)

    assert taken == 2_000
    assert recorder.status().refused == {}
    assert_conserved(recorder.status(), offered=taken)


@pytest.mark.parametrize("at_once", [200, 20_000])
async def test_a_disk_that_is_full_of_what_is_delivered_is_written_again(small_volume: Path, at_once: int) -> None:
    handler = ScriptedHandler(always=DOWN)
    options = quickly(keep_free=0, flush_interval=0.05)

    async with EventRecorder(handler, log=small_volume / "log", options=options) as recorder:
        taken = 0
        while taken < 20_000:
            taken += recorder.record_many(Long(n) for n in range(taken, taken + at_once))
            await anyio.sleep(0.01)
        await eventually(lambda: recorder.status().failure is not None)
        handler.always = lambda _: None
        await eventually(lambda: len(handler.delivered) == taken)
        assert await recorder.flush(timeout=60)

    assert taken == 20_000
    assert handler.delivered == list(range(taken))
    assert_conserved(recorder.status(), offered=taken)


@pytest.mark.parametrize("small_volume", ["1m", "1m,nr_inodes=12"], indirect=True)
@pytest.mark.parametrize("pause", [0.0, 0.2])
async def test_what_a_full_disk_keeps_out_is_written_while_close_delivers(small_volume: Path, pause: float) -> None:
    """What is in the log makes room for what is not, as soon as it is delivered, and `close` has the time for it."""
    handler = ScriptedHandler(always=DOWN)
    retry = Backoff(first=0.01, max=0.05)
    options = quickly(keep_free=0, flush_interval=0.05, segment_bytes=100_000, retry=retry)
    recorder = EventRecorder(handler, log=small_volume / "log", options=options)
    await recorder.open()
    taken = 0
    while taken < 20_000:
        taken += recorder.record_many(Long(n) for n in range(taken, taken + 200))
        await anyio.sleep(0.01)
    await eventually(lambda: recorder.status().failure is not None)
    handler.always = lambda _: None
    await anyio.sleep(pause)

    status = await recorder.close(30)

    assert status.refused == {}
    assert_conserved(status, offered=taken)
    assert sorted(set(handler.delivered)) == list(range(taken))


@pytest.mark.parametrize("small_volume", ["1m,nr_inodes=12"], indirect=True)
async def test_a_writer_that_tries_again_leaves_a_checkpoint_its_place(
    small_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try to begin a segment has the last file of the disk, for a moment. Nothing that was taken is lost."""
    replace = segment.replace_file

    def slowly(*args: Any, **options: Any) -> None:
        try:
            replace(*args, **options)
        except OSError:
            time.sleep(0.5)  # as where another thread has the interpreter
            raise

    monkeypatch.setattr(segment, "replace_file", slowly)
    handler = ScriptedHandler(always=DOWN)
    options = quickly(keep_free=0, flush_interval=0.05, segment_bytes=100_000, retry=Backoff(first=0.01, max=0.05))
    recorder = EventRecorder(handler, log=small_volume / "log", options=options)
    await recorder.open()
    taken = recorder.record_many(Long(n) for n in range(9_000))
    await eventually(lambda: recorder.status().failure is not None)
    handler.always = lambda _: None

    status = await recorder.close(30)

    assert status.refused == {}
    assert_conserved(status, offered=taken)


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_the_bytes_that_are_spared_are_used_before_anything_is_given_up(
    small_volume: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Nothing makes room, and what waits fits in what a checkpoint would need."""
    look = Writer._sync_by_itself

    def slowly(self: Writer) -> float | None:
        time.sleep(pause * self._is_closing)  # as where another thread has the interpreter
        return look(self)

    monkeypatch.setattr(Writer, "_sync_by_itself", slowly)
    handler = ScriptedHandler(always=raising(PauseError("no rights")))
    recorder = EventRecorder(handler, log=small_volume / "log", options=quickly(keep_free=0))
    await recorder.open()
    recorder.record(Long(0))
    await eventually(lambda: recorder.status().appended == 1)
    free = shutil.disk_usage(small_volume).free
    await anyio.to_thread.run_sync((small_volume / "filler").write_bytes, b"\0" * (free - SPARED + 8_192))
    recorder.record_many(Long(n) for n in range(1, 21))
    await eventually(lambda: recorder.status().failure is not None)

    status = await recorder.close(10)

    assert status.refused == {}
    assert_conserved(status, offered=21)


async def test_what_is_retained_stays_where_the_disk_is_full_no_more(small_volume: Path) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=small_volume / "log", options=quickly(keep_free=0, retain="1h"))
    await recorder.open()
    recorder.record_many(Long(n) for n in range(50))
    assert await recorder.flush(timeout=30)
    filler = small_volume / "filler"
    await anyio.to_thread.run_sync(filler.write_bytes, b"\0" * (shutil.disk_usage(small_volume).free - 30_000))
    recorder.record(Long(50))
    await eventually(lambda: recorder.status().failure is not None)
    await anyio.to_thread.run_sync(filler.unlink)

    status = await recorder.close(30)

    assert status.refused == {}
    assert len(await runs_of(small_volume / "log" / DONE)) == 1


async def leave_retained(directory: Path, options: EventRecorderOptions, *, logs: int) -> list[UUID]:
    """Logs that are delivered and retained, of some 200,000 bytes each, oldest first."""
    for _ in range(logs):
        async with EventRecorder(ScriptedHandler(), log=directory, options=options) as recorder:
            recorder.record_many(Long(n) for n in range(1_500))
            assert await recorder.flush(timeout=60)
    retained = await runs_of(directory / DONE)
    assert len(retained) == logs
    return retained


async def is_there(directory: Path, ids: Iterable[UUID]) -> list[bool]:
    """Of each log, whether it is retained, or was taken up again."""
    found = await runs_of(directory) + await runs_of(directory / DONE)
    return [id_ in found for id_ in ids]


def refuse_while_more_are_retained(directory: Path, monkeypatch: pytest.MonkeyPatch, *, than: int) -> None:
    """The disk takes nothing while more than so many logs are retained, and tells of room: a quota, or no file left."""
    write = Head.write

    def write_or_refuse(head: Head, commits: Sequence[bytes]) -> None:
        if len(list_runs(directory / DONE)) > than:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        write(head, commits)

    monkeypatch.setattr(Head, "write", write_or_refuse)


async def test_of_what_is_retained_the_oldest_go_where_the_disk_refuses_though_it_tells_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, options = ScriptedHandler(), quickly(keep_free=0, flush_interval=0.05, retain="1h")
    retained = await leave_retained(tmp_path, options, logs=5)
    refuse_while_more_are_retained(tmp_path, monkeypatch, than=3)

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        recorder.record(Long(0))
        await eventually(lambda: handler.delivered == [0])
        await eventually(lambda: recorder.status().failure is None)
        oldest, _, *newer = await is_there(tmp_path, retained)

    assert not oldest
    assert all(newer)
    assert_conserved(recorder.status(), offered=1)


async def test_at_the_end_what_is_retained_goes_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def judge_nothing(_: DiskQuota) -> None:
        """As where the end comes before the next look."""

    handler, options = ScriptedHandler(), quickly(keep_free=0, flush_interval=0.05, retain="1h")
    retained = await leave_retained(tmp_path, options, logs=5)
    monkeypatch.setattr(DiskQuota, "enforce", judge_nothing)
    recorder = EventRecorder(handler, log=tmp_path, options=options)
    await recorder.open()
    refuse_while_more_are_retained(tmp_path, monkeypatch, than=3)
    recorder.record(Long(0))

    status = await recorder.close(30)

    assert (handler.delivered, status.refused) == ([0], {})
    oldest, _, *newer = await is_there(tmp_path, retained)
    assert not oldest
    assert all(newer)


BLOCK = 4_096


def bind(directory: Path, monkeypatch: pytest.MonkeyPatch, *, blocks: int) -> None:
    """A quota on the files in `directory`, by which the last bytes go; what the system says of its room is no help."""
    write = descriptors._pwrite

    def used() -> Iterator[int]:
        for path in directory.rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    yield -(-path.stat().st_size // BLOCK)

    def write_or_refuse(fd: int, piece: bytes, position: int) -> int:
        own = -(-os.fstat(fd).st_size // BLOCK)
        room = (blocks - sum(used()) + own) * BLOCK - position
        if room <= 0:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(fd, piece[:room], position)

    monkeypatch.setattr(descriptors, "_pwrite", write_or_refuse)


@pytest.mark.parametrize("is_closing", [False, True])
async def test_what_a_quota_keeps_out_is_written_once_what_is_there_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_closing: bool
) -> None:
    """There is one segment, and not one byte for a checkpoint, nor for another segment."""
    handler = ScriptedHandler(always=DOWN)
    retry = Backoff(first=0.01, max=0.05)
    options = quickly(keep_free=0, flush_interval=0.05, sync="take", retry=retry)
    bind(tmp_path, monkeypatch, blocks=32)

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        taken = 0
        with anyio.fail_after(60):
            while recorder.status().failure is None:
                taken += recorder.record_many(Long(n) for n in range(taken, taken + 5))
                await anyio.sleep(0.01)
        handler.always = lambda _: None
        if not is_closing:
            await eventually(lambda: len(handler.delivered) == taken, 30)
            await eventually(lambda: recorder.status().failure is None, 30)

    assert recorder.status().refused == {}
    assert_conserved(recorder.status(), offered=taken)
    assert handler.delivered == list(range(taken))
    assert await runs_of(tmp_path) == []


async def test_a_full_disk_that_nothing_makes_room_on_does_not_hold_up_the_end(small_volume: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=small_volume / "log", options=quickly(keep_free=0))
    await recorder.open()
    recorder.record(Long(0))
    assert await recorder.flush(timeout=30)
    filler = small_volume / "filler"
    await anyio.to_thread.run_sync(filler.write_bytes, b"\0" * shutil.disk_usage(small_volume).free)
    recorder.record_many(Long(n) for n in range(1, 5_001))
    began = anyio.current_time()

    status = await recorder.close(30)

    assert anyio.current_time() - began < 15
    assert_conserved(status, offered=5_001)
    assert status.refused["not_written"] > 0


async def test_a_disk_that_is_nearly_full_keeps_the_bytes_that_a_checkpoint_needs(small_volume: Path) -> None:
    handler = ScriptedHandler(always=DOWN)
    filler = small_volume / "filler"

    async with EventRecorder(handler, log=small_volume / "log", options=quickly(keep_free=0)) as recorder:
        recorder.record(Long(0))
        await eventually(lambda: recorder.status().appended == 1)
        await anyio.to_thread.run_sync(filler.write_bytes, b"\0" * (shutil.disk_usage(small_volume).free - 200_000))
        taken = 1 + recorder.record_many(Long(n) for n in range(1, 1_201))  # They take some 170,000.
        await eventually(lambda: recorder.status().failure is not None or not recorder.status().in_intake)
        free = shutil.disk_usage(small_volume).free
        await anyio.to_thread.run_sync(filler.unlink)
        handler.always = lambda _: None
        await eventually(lambda: len(handler.delivered) == taken)

    assert free >= SPARED
    assert taken == 1_201
    assert_conserved(recorder.status(), offered=taken)


async def test_with_drop_old_the_oldest_go_for_all(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=DOWN)
    options = quickly(max_log_bytes=200_000, keep_free=0, flush_interval=0.05, overflow="drop_old")

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        for start in range(0, 5_000, 100):
            recorder.record_many(Long(n) for n in range(start, start + 100))
            await anyio.sleep(0.02)
        handler.always = lambda _: None
        assert await recorder.flush(timeout=20)

    status = recorder.status()
    assert status.refused == {}
    assert status.subscriptions["ScriptedHandler"].dropped == {"retention": 5_000 - len(handler.delivered)}
    assert handler.delivered[-1] == 4_999
    assert_conserved(status, offered=5_000)


async def test_far_from_the_bound_an_idle_recorder_is_not_judged_until_it_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.delivery.disk._IDLE", 10_000)
    monkeypatch.setattr("eventrec.delivery.disk.LOOKS_SELDOM", 10_000)
    counts: Counter[str] = Counter()
    enforce, look = DiskQuota.enforce, DirectoryLook.look

    async def judge(self: DiskQuota) -> None:
        await enforce(self)
        counts["judged"] += 1

    def noted(self: DirectoryLook, asked: Iterable[UUID]) -> DirectoryNews:
        counts["looks"] += 1
        return look(self, asked)

    monkeypatch.setattr(DiskQuota, "enforce", judge)
    monkeypatch.setattr(DirectoryLook, "look", noted)

    async with EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly(keep_free=0)) as recorder:
        await eventually(lambda: counts["looks"] > 5)
        assert counts["judged"] == 1
        recorder.record(Numbered(0))
        await eventually(lambda: counts["judged"] == 2)


async def leave_orphans(directory: Path, count: int, *handlers: tuple[str, ScriptedHandler], records: int = 3) -> None:
    for number in range(count):
        recorder = EventRecorder(log=directory, options=quickly(close_timeout=0.05))
        for name, handler in handlers:
            recorder.register(handler, name=name)
        recorder.record_many(Long(number * records + n) for n in range(records))
        await recorder.close()


async def test_orphans_go_before_anybody_forfeits_the_oldest_first(tmp_path: Path) -> None:
    await leave_orphans(tmp_path, 10, records=100)
    before = await runs_of(tmp_path)
    drops: Counter[str] = Counter()
    options = quickly(max_log_bytes=80_000, keep_free=0, close_timeout=0.05)
    recorder = EventRecorder(log=tmp_path, options=options, on_drop=lambda reason, count: drops.update({reason: count}))
    recorder.register(ScriptedHandler(always=DOWN), name="dead")

    async with recorder:
        await eventually(lambda: drops)
        await anyio.sleep(0.5)
    left = [id_ for id_ in before if id_ in await runs_of(tmp_path)]

    assert left == before[-len(left) :]
    assert 0 < len(left) < 10
    assert drops["retention"] >= 100


async def test_a_dead_destination_does_not_keep_orphans_from_a_healthy_one(tmp_path: Path) -> None:
    await leave_orphans(tmp_path, 2 * MAX_ADOPTED + 3)
    dead, fine = ScriptedHandler(always=DOWN), ScriptedHandler()
    recorder = EventRecorder(log=tmp_path, options=quickly(flush_interval=0.02, close_timeout=0.2))
    recorder.register(dead, name="dead")
    recorder.register(fine, name="fine")

    async with recorder:
        recorder.record(Numbered(10**6))
        await eventually(lambda: len(fine.delivered) == 3 * (2 * MAX_ADOPTED + 3) + 1, seconds=60)
        dead.always = lambda _: None
        await eventually(lambda: len(dead.delivered) == 3 * (2 * MAX_ADOPTED + 3) + 1, seconds=60)

    assert sorted(fine.delivered) == sorted(dead.delivered) == [*range(3 * (2 * MAX_ADOPTED + 3)), 10**6]
    assert list(tmp_path.iterdir()) == []
    assert_conserved(recorder.status(), offered=1)


async def test_an_adopted_log_that_grows_is_let_go_and_never_deleted(tmp_path: Path) -> None:
    await leave_orphans(tmp_path, 1)
    (orphan,) = await runs_of(tmp_path)
    handler = ScriptedHandler(always=DOWN)

    async with EventRecorder(handler, log=tmp_path, options=quickly(close_timeout=0.1)) as recorder:
        await eventually(lambda: recorder.status().adopted)

        def grow() -> None:
            (path,) = (tmp_path / str(orphan)).glob("*.stdb.log")
            with path.open("ab") as file:
                file.write(b"somebody else's")

        await anyio.to_thread.run_sync(grow)
        await eventually(lambda: not recorder.status().adopted)
        assert not recorder.status().health.ready
        assert "locks mean nothing" in recorder.status().health.reasons[0]
        handler.always = lambda _: None

    assert orphan in await runs_of(tmp_path)
    assert_conserved(recorder.status(), offered=0)


async def test_retained_logs_are_taken_up_again_when_a_destination_went_back(tmp_path: Path) -> None:
    handler = FencedHandler()
    options = quickly(retain=3600, flush_interval=0.02)
    for start in (0, 10):
        async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
            recorder.record_many(Numbered(n) for n in range(start, start + 10))
            assert await recorder.flush(timeout=60)
    assert await runs_of(tmp_path) == []
    assert len(await runs_of(tmp_path / DONE)) == 2

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(20, 25))
        assert await recorder.flush(timeout=60)
        # Restored from a backup that was made before the second run.
        for key in list(handler.next)[1:]:
            handler.next[key] = 0
        del handler.batches[1:]
        handler.acts = [DOWN]
        recorder.record(Numbered(25))
        assert await recorder.flush(timeout=60)
        await eventually(lambda: len(handler.delivered) == 26)
    assert_conserved(recorder.status(), offered=6)
    # What it took up in its last moment waits for the next run, which finds it delivered.
    with anyio.fail_after(60):
        while await runs_of(tmp_path):
            async with EventRecorder(handler, log=tmp_path, options=options):
                await anyio.lowlevel.checkpoint()

    assert sorted(handler.delivered) == list(range(26))
    assert await runs_of(tmp_path) == []
    assert len(await runs_of(tmp_path / DONE)) == 3


async def test_without_an_age_left_retained_logs_go(tmp_path: Path) -> None:
    handler = FencedHandler()
    for _ in range(2):
        async with EventRecorder(handler, log=tmp_path, options=quickly(retain=3600)) as recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=60)
    assert len(await runs_of(tmp_path / DONE)) == 2

    async with EventRecorder(handler, log=tmp_path, options=quickly()) as recorder:
        done = tmp_path / DONE
        await eventually(lambda: not any(done.iterdir()) if done.exists() else True)


async def test_a_log_on_a_network_file_system_is_refused_at_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.runs.mounts.network_file_system", lambda _: "nfs4")
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly())

    with pytest.raises(LogError, match=r"is on a network file system \(nfs4\)"):
        await recorder.open()

    assert list(tmp_path.iterdir()) == []


async def test_a_log_whose_owner_ends_later_is_adopted_then(tmp_path: Path) -> None:
    handler, down = ScriptedHandler(), ScriptedHandler(always=DOWN)
    sibling = EventRecorder(log=tmp_path, options=quickly(close_timeout=0.05))
    sibling.register(down, name="scripted")
    await sibling.open()
    recorder = EventRecorder(log=tmp_path, options=quickly(flush_interval=0.02))
    recorder.register(handler, name="scripted")

    async with recorder:
        sibling.record_many(Numbered(n) for n in range(5))
        await eventually(lambda: sibling.status().appended == 5)
        await anyio.sleep(0.6)  # Both have looked at each other by now.
        await sibling.close()
        await eventually(lambda: handler.delivered == list(range(5)))

    assert_conserved(recorder.status(), offered=0)
