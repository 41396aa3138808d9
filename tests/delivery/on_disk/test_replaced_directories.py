"""The directory of a run, with something else in its place: that is not touched, and nothing is lost by it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, LogError, TransientError
from eventrec.log.disk import DiskStorage
from eventrec.log.segment import create_segment
from eventrec.runs.directory import LOCK, list_runs
from eventrec.runs.run import Run, new_run_id, retire_all
from eventrec.runs.run_folder import is_locked
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often", "_looking_at_once")


@pytest.fixture
def _looking_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.intake.written_log._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("eventrec.intake.writer._RETRY_SECONDS", 0.02)
    monkeypatch.setattr("eventrec.delivery.sources.log._PATIENCE", 0.02)


Put = Callable[[Path], None]


def put_folder(path: Path) -> None:
    path.mkdir(mode=0o755)
    (path / "theirs.txt").write_text("theirs")
    (path / "checkpoints").mkdir()


def put_empty_folder(path: Path) -> None:
    path.mkdir(mode=0o755)


def put_file(path: Path) -> None:
    path.write_text("theirs")


def put_link(path: Path) -> None:
    other = path.with_name("other")
    put_folder(other)
    path.symlink_to(other)


FOREIGN = pytest.mark.parametrize("put", [put_folder, put_empty_folder, put_file, put_link])
FOLDER_OR_FILE = pytest.mark.parametrize("put", [put_empty_folder, put_file])


def taken_away(path: Path) -> None:
    path.rename(path.parents[1] / "away")


def deleted(path: Path) -> None:
    """Also what is written into it meanwhile."""
    taken_away(path)
    while (away := path.parents[1] / "away").exists():
        shutil.rmtree(away, ignore_errors=True)


def seen(path: Path) -> list[object]:
    """What stands at `path`, and in it: kinds, inodes, modes, contents."""
    return [
        (each.name, info.st_ino, info.st_mode, info.st_mtime_ns, each.read_bytes() if each.is_file() else None)
        for each in [path, *(sorted(path.rglob("*")) if path.is_dir() else [])]
        for info in [each.lstat()]
    ]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


async def eventually(condition: Callable[[], object]) -> None:
    with anyio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.01)


async def own_run(directory: Path) -> Path:
    (id_,) = await anyio.to_thread.run_sync(list_runs, directory)
    return directory / str(id_)


@pytest.mark.parametrize(
    ("take", "put"),
    [*((taken_away, put) for put in (put_folder, put_empty_folder, put_file, put_link)), (deleted, put_folder)],
)
async def test_what_took_the_place_of_the_own_log_is_left_and_recording_goes_on_once_it_is_free(
    tmp_path: Path, take: Put, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(sync="never")) as recorder:
        recorder.record_many(Numbered(n) for n in range(100))
        assert await recorder.flush(timeout=60)
        run = await own_run(tmp_path / "log")
        take(run)
        put(run)
        before = seen(run)
        recorder.record(Numbered(100))
        await eventually(lambda: recorder.status().failure)
        recorder.record_many(Numbered(n) for n in range(101, 200))
        assert "its name is taken by what is not ours" in str(recorder.status().failure)
        assert await recorder.flush(timeout=0.3) is False  # The place is looked at again meanwhile.
        after = seen(run)
        remove(run)
        await eventually(lambda: len(handler.delivered) == 200)

    assert after == before
    assert sorted(handler.delivered) == list(range(200))
    said = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
    assert said.count("log directory gone") == said.count("log cannot be written") == 1
    assert_conserved(recorder.status(), offered=200)


async def test_a_directory_that_is_back_in_its_place_is_written_on(tmp_path: Path) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        run = await own_run(tmp_path / "log")
        taken_away(run)
        put_folder(run)
        recorder.record(Numbered(1))
        await eventually(lambda: recorder.status().failure)
        run.rename(tmp_path / "theirs")
        (tmp_path / "away").rename(run)
        recorder.record(Numbered(2))
        await eventually(lambda: len(handler.delivered) == 3)

    assert handler.delivered == [0, 1, 2]
    assert list((tmp_path / "log").iterdir()) == []
    assert_conserved(recorder.status(), offered=3)


@FOLDER_OR_FILE
async def test_at_the_end_it_is_left_and_what_waits_is_written_for_the_next_run(tmp_path: Path, put: Put) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        run = await own_run(tmp_path / "log")
        taken_away(run)
        put(run)
        before = seen(run)
        recorder.record(Numbered(10))
        await eventually(lambda: recorder.status().failure)
        recorder.record_many(Numbered(n) for n in range(11, 20))
    assert_conserved(recorder.status(), offered=20)
    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as next_one:
        await eventually(lambda: len(handler.delivered) == 20 and not next_one.status().adopted)

    assert seen(run) == before
    assert handler.delivered == list(range(20))
    assert recorder.status().refused == {}


async def test_where_what_was_written_is_gone_too_the_rest_is_counted_as_lost(tmp_path: Path) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(sync="never")) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        run = await own_run(tmp_path / "log")
        deleted(run)
        put_folder(run)
        before = seen(run)
        recorder.record_many(Numbered(n) for n in range(10, 20))
        await eventually(lambda: recorder.status().failure)

    assert seen(run) == before
    status = recorder.status()
    assert len(handler.delivered) + status.refused.get("not_written", 0) == 20
    assert_conserved(status, offered=20)


async def test_a_recorder_that_is_not_open_writes_what_waits_elsewhere_too(tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path / "log")
    recorder.record(Numbered(0))
    await eventually(lambda: recorder.status().appended == 1)
    run = await own_run(tmp_path / "log")
    taken_away(run)
    put_file(run)
    recorder.record(Numbered(1))
    await eventually(lambda: recorder.status().failure)
    recorder.record(Numbered(2))

    await recorder.close()

    def is_any_locked() -> bool:
        (other,) = list_runs(tmp_path / "log")
        return is_locked(tmp_path / "log", other) or DiskStorage(tmp_path / "away").is_locked(LOCK)

    assert recorder.status().refused == {}
    assert not await anyio.to_thread.run_sync(is_any_locked)


@FOLDER_OR_FILE
async def test_what_took_the_place_of_an_orphan_is_left_when_that_is_delivered(tmp_path: Path, put: Put) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(close_timeout=0.05)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
    orphan = await own_run(tmp_path / "log")

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as recorder:
        await eventually(lambda: recorder.status().adopted)
        taken_away(orphan)
        put(orphan)
        before = seen(orphan)
        handler.always = lambda _: None
        await eventually(lambda: len(handler.delivered) == 10)

    assert seen(orphan) == before
    assert sorted(handler.delivered) == list(range(10))


@FOREIGN
@pytest.mark.parametrize(
    "end", [Run.retire, Run.retain, lambda run: next(iter(retire_all([run]).values()))], ids=["retire", "retain", "all"]
)
def test_a_run_whose_place_is_taken_is_let_go_and_no_more(
    tmp_path: Path, put: Put, end: Callable[[Run], OSError | None]
) -> None:
    run = Run.create(tmp_path / "log", new_run_id())
    taken_away(run.path)
    put(run.path)
    before = seen(run.path)

    try:
        failure = end(run)
    except OSError as exc:
        failure = exc

    assert "not in its place" in str(failure)
    assert seen(run.path) == before
    assert (tmp_path / "away" / "checkpoints").is_dir()


@FOREIGN
def test_a_run_is_not_made_where_its_name_is_taken(tmp_path: Path, put: Put) -> None:
    id_ = new_run_id()
    path = tmp_path / "log" / str(id_)
    path.parent.mkdir()
    put(path)
    before = seen(path)

    with pytest.raises(FileExistsError, match="its name is taken"):
        Run.create(tmp_path / "log", id_)

    assert seen(path) == before
    assert {each.name for each in path.parent.iterdir()} <= {path.name, "other"}


async def test_a_log_that_the_disk_did_not_let_move_at_first_moves_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, refusals = ScriptedHandler(), iter(range(3))

    def full(*given: Any, **named: Any) -> None:
        if next(refusals, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        create_segment(*given, **named)

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        monkeypatch.setattr("eventrec.log.writer.create_segment", full)
        deleted(await own_run(tmp_path / "log"))
        recorder.record(Numbered(1))
        await eventually(lambda: len(handler.delivered) == 2)

    assert handler.delivered == [0, 1]
    assert next(refusals, None) is None
    assert_conserved(recorder.status(), offered=2)


async def test_what_was_written_is_delivered_however_often_the_log_directory_is_deleted(tmp_path: Path) -> None:
    handlers = ScriptedHandler(), ScriptedHandler()
    log, count, before = tmp_path / "log", 0, 0
    options = quickly(sync_interval=0.03, flush_interval=0.02)

    async with (
        EventRecorder(handlers[0], log=log, options=options) as one,
        EventRecorder(handlers[1], log=log, options=options) as other,
    ):
        for _ in range(8):
            for n in range(count, count + 20):
                for recorder in (one, other):
                    await written(recorder, Numbered(n))
            # What comes back is one segment: what came back before is in another one, and has been delivered.
            await eventually(partial(have_all, handlers, before))
            before = count
            count += 20
            await anyio.to_thread.run_sync(partial(shutil.rmtree, log, ignore_errors=True))
        for recorder in (one, other):
            await written(recorder, Numbered(count))
        await eventually(partial(have_all, handlers, count + 1))
        statuses = [recorder.status() for recorder in (one, other)]

    for handler, status in zip(handlers, statuses, strict=True):
        assert sorted(set(handler.delivered)) == list(range(count + 1))
        assert [each.dropped for each in status.subscriptions.values()] == [{}]
    for recorder in (one, other):
        assert_conserved(recorder.status(), offered=recorder.status().offered)


def have_all(handlers: Iterable[ScriptedHandler], count: int) -> bool:
    return all(set(range(count)) <= set(handler.delivered) for handler in handlers)


async def written(recorder: EventRecorder, event: Numbered) -> None:
    """Record `event` until that is said to be written: while the log is made again, it is refused."""
    with anyio.fail_after(120):
        while True:
            try:
                await recorder.record_durable(event, until="written")
            except LogError:
                await anyio.sleep(0.01)
            else:
                return
