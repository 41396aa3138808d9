"""The delivery of one log, alone: what it does where the disk refuses, and when it is over."""

from __future__ import annotations

import errno
import math
import os
import shutil
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import anyio
import pytest

from eventrec.delivery import checkpoint_keeper
from eventrec.delivery.forfeiting import renew, sealed
from eventrec.delivery.log_delivery import LogDelivery
from eventrec.delivery.shared_handler import SharedHandler
from eventrec.delivery.subscription import Subscription
from eventrec.errors import LogWriteError
from eventrec.log.log import Log
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.retention import Retain
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import ScriptedHandler, quickly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from pathlib import Path

    from eventrec.delivery.letters.dead_letters import DeadLetter


class NoLetters:
    async def write(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError(letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        del log_id, subscription
        return ()


def refuse(*_: object, **__: object) -> Any:
    raise LogWriteError("Input/output error")


def delivering(
    directory: Path,
    check: Callable[[LogDelivery], Awaitable[object]],
    *,
    incarnation: int = 1,
    sync: Literal["interval", "never", "take"] = "interval",
) -> Any:
    """What `check` returns of the delivery of an empty log in `directory` to one subscription.

    `incarnation`: how often the log's directory was made.
    """

    async def run() -> object:
        subscription = Subscription("s", ScriptedHandler(), quickly().resolve(has_log=True).delivery)
        delivery = LogDelivery(
            run_of,
            log,
            opened=None,
            subscriptions=[subscription],
            handlers={"s": SharedHandler(subscription.handler)},
            letters=NoLetters(),
            on_drop=lambda *_: None,
            sync=sync,
            sync_interval=1.0,
            retain=Retain(),
            on_rewind=lambda: None,
        )
        return await check(delivery)

    run_of = Run.create(directory, new_run_id())
    for _ in range(incarnation - 1):
        shutil.rmtree(run_of.path)
        run_of.make_again()
    log = Log.create(run_of.storage)
    return anyio.run(run)


def test_it_says_which_log_it_is_and_how_far_that_goes(tmp_path: Path) -> None:
    async def check(delivery: LogDelivery) -> str:
        await delivery.end()
        return repr(delivery).replace(str(delivery.run_of.id), "ID")

    assert delivering(tmp_path, check) == "<LogDelivery ID of <LogSource ID end=0>>"


def test_where_the_segments_cannot_be_listed_none_is_offered_to_the_disk_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Log, "sealed", refuse)

    async def check(delivery: LogDelivery) -> list[object]:
        return [*sealed(delivery)]

    assert delivering(tmp_path, check) == []


def test_a_disk_that_takes_no_new_segment_keeps_the_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(delivery: LogDelivery) -> bool:
        monkeypatch.setattr(Log, "begin_segment", refuse)
        await renew(delivery)
        return delivery.is_refused

    assert delivering(tmp_path, check) is False


def test_a_segment_with_what_is_not_delivered_is_not_left_for_a_checkpoint(tmp_path: Path) -> None:
    async def check(delivery: LogDelivery) -> int:
        assert isinstance(delivery.log, Log)
        delivery.log.append([b"record"])
        delivery.log.write()
        await delivery.save(sync=True, must_delete=True, must_renew=True)
        return delivery.log.extent.first

    assert delivering(tmp_path, check) == 0


def test_a_segment_that_cannot_be_begun_does_not_make_a_checkpoint_one_that_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(delivery: LogDelivery) -> tuple[bool, list[str]]:
        monkeypatch.setattr(Log, "begin_segment", refuse)
        await delivery.save(sync=True, must_delete=True, must_renew=True)
        return delivery.is_unsaved, CheckpointFiles(delivery.run_of.storage).names()

    assert delivering(tmp_path, check) == (False, ["s.json"])


def test_what_a_handler_settles_after_the_end_is_not_saved(tmp_path: Path) -> None:
    """The log may be another process's by then."""

    async def check(delivery: LogDelivery) -> tuple[bool, bool, bool]:
        await delivery.end()
        delivery.workers["s"].progress.filtered = 7
        await delivery.save(sync=True)
        return delivery.is_refused, delivery.is_unsaved, delivery.is_gone

    assert delivering(tmp_path, check) == (True, False, False)
    (id_,) = list_runs(tmp_path)
    (saved,) = CheckpointFiles(tmp_path / str(id_) / CHECKPOINTS).load().values()
    assert saved.progress.filtered == 0


@pytest.mark.parametrize(
    ("incarnation", "is_synced", "saved"), [(1, True, []), (1, False, ["s.json"]), (2, True, ["s.json"])]
)
def test_a_checkpoint_that_the_log_was_begun_with_is_saved_again_where_that_is_not_on_the_disk(
    tmp_path: Path, incarnation: int, saved: list[str], *, is_synced: bool
) -> None:
    begun = Checkpoint(subscription="s", progress=Progress(0, 0, 0), by_holder=True)

    async def check(delivery: LogDelivery) -> list[str]:
        delivery.note_saved({"s": begun}, is_synced=is_synced)
        await delivery.save(sync=True)
        names = CheckpointFiles(delivery.run_of.storage).names()
        await delivery.end()
        return names

    assert delivering(tmp_path, check, incarnation=incarnation) == saved


async def eventually(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


def refuse_checkpoints(monkeypatch: pytest.MonkeyPatch, *, times: float) -> list[str]:
    """Have a disk that is full refuse so many checkpoints. Returns the subscriptions, as these are tried."""
    tries: list[str] = []
    save = CheckpointFiles.save

    def save_or_refuse(files: CheckpointFiles, checkpoint: Checkpoint, *, sync: bool) -> None:
        tries.append(checkpoint.subscription)
        if len(tries) <= times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(files, checkpoint, sync=sync)

    monkeypatch.setattr(CheckpointFiles, "save", save_or_refuse)
    return tries


@pytest.mark.parametrize("sync", ["interval", "never", "take"])
def test_a_checkpoint_that_was_refused_is_tried_again_though_nothing_moves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sync: Literal["interval", "never", "take"],
) -> None:
    tries = refuse_checkpoints(monkeypatch, times=4)
    monkeypatch.setattr(checkpoint_keeper, "_BETWEEN_TRIES", 0.01)

    async def check(delivery: LogDelivery) -> list[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delivery.run)
            await anyio.sleep(0.1)
            await delivery.save(sync=False)
            await eventually(lambda: len(tries) > 4 and not delivery.is_refused)
            tasks.cancel_scope.cancel()
        return CheckpointFiles(delivery.run_of.storage).names()

    assert delivering(tmp_path, check, sync=sync) == ["s.json"]
    assert caplog.text.count("checkpoint not saved") == 1


def test_a_disk_that_stays_full_is_tried_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = refuse_checkpoints(monkeypatch, times=math.inf)

    async def check(delivery: LogDelivery) -> int:
        await delivery.save(sync=False)
        with anyio.move_on_after(2.5):
            await delivery.run()
        return len(tries)

    assert 2 <= delivering(tmp_path, check, sync="take") <= 4


def test_what_could_not_be_deleted_is_no_refusal_any_more_once_nothing_is_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(delivery: LogDelivery) -> tuple[bool, bool]:
        await delivery.save(sync=True)
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFiles, "sync_names", refuse)
            await delivery.save(sync=True, must_delete=True)
            before = delivery.is_refused
        await delivery.save(sync=True)
        return before, delivery.is_refused

    assert delivering(tmp_path, check) == (True, False)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_log_that_cannot_be_deleted_is_said_the_first_time_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_first: bool
) -> None:
    def refuse_to_open(_: object, **__: object) -> Any:
        raise OSError(5, "Input/output error")

    async def check(delivery: LogDelivery) -> bool:
        await delivery.stamp()
        with monkeypatch.context() as patch:
            patch.setattr(LogDirectory, "opened", refuse_to_open)
            await delivery.end(is_first=is_first)
        return delivery.is_gone

    assert delivering(tmp_path, check) is False
    assert ("log not deleted" in caplog.text) is is_first
    (id_,) = list_runs(tmp_path)
    run = Run.adopt(tmp_path, id_)
    assert run is not None
    run.release()


def test_a_loop_that_is_closed_after_the_end_leaves_nothing_to_do(tmp_path: Path) -> None:
    async def check(delivery: LogDelivery) -> bool:
        await delivery.end()
        before = delivery.is_gone
        delivery.end_stranded()
        return before is delivery.is_gone

    assert delivering(tmp_path, check) is True
