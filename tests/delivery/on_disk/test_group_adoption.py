"""Small logs that are adopted together: which of them the group gives back, and what it holds meanwhile."""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventrec.delivery.orphans import group_adoption
from eventrec.delivery.orphans.group_adoption import GroupAdoption
from eventrec.delivery.orphans.locks import OrphanLocks
from eventrec.delivery.orphans.queue import OrphanQueue
from eventrec.delivery.orphans.small_orphans import EndedGroup
from eventrec.log.log import Log
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import Run, new_run_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from uuid import UUID

REFUSED = OSError(errno.EIO, "Input/output error")


def leave(directory: Path, count: int) -> list[Run]:
    """Empty logs, each locked."""
    runs = [Run.create(directory, new_run_id()) for _ in range(count)]
    for run in runs:
        Log.create(run.storage).close()
    return runs


def stand_in(**attributes: object) -> Any:
    return SimpleNamespace(**attributes)


class Groups:
    """The groups of one recorder, whose own log is `own`; `deliver` is called with what was opened of each."""

    def __init__(self, directory: Path, ids: Sequence[UUID], own: UUID | None = None) -> None:
        self.opened: list[int] = []
        self.opening = anyio.Lock()
        self.queue = OrphanQueue()
        self.queue.look(ids)
        log = LogDirectory(directory)
        self.locks = OrphanLocks(log, nullcontext())
        self.small = stand_in(may_begin=True, deliver=self.deliver, plan=lambda _: None)
        self.letters = stand_in(learn=lambda: None)
        self.groups = GroupAdoption(
            log,
            small=self.small,
            letters=self.letters,
            queue=self.queue,
            locks=self.locks,
            opening=self.opening,
            own_id=lambda: own or new_run_id(),
            on_ended=lambda: None,
        )

    async def deliver(self, orphans: Sequence[object]) -> None:
        self.opened.append(len(orphans))

    async def run(self, meanwhile: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint) -> None:
        async with anyio.create_task_group() as tasks:
            self.groups.begin(tasks, spare=0)
            await meanwhile()

    def single(self) -> list[UUID]:
        """What is to be delivered singly."""
        return self.queue.next(99, own=new_run_id(), now=0.0, is_failing=lambda _: False, only_single=True)


def is_free(directory: Path, id_: UUID) -> bool:
    run = Run.adopt(directory, id_)
    if run is not None:
        run.release()
    return run is not None


def test_those_that_are_held_or_gone_are_not_asked_for_again_as_if_they_were_new(tmp_path: Path) -> None:
    held, free = leave(tmp_path, 2)
    free.release()
    gone = new_run_id()
    judged = Groups(tmp_path, [held.id, free.id, gone])

    anyio.run(judged.run)

    assert judged.single() == [free.id], "it holds nothing, which takes a closer look"
    assert judged.queue.waiting == 0
    assert judged.queue.by_rank(new_run_id()) == sorted([held.id, free.id])
    assert is_free(tmp_path, free.id)
    held.release()


def test_a_disk_that_does_not_give_one_of_them_leaves_that_one_for_a_closer_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = leave(tmp_path, 1)
    run.release()
    judged = Groups(tmp_path, [run.id])

    def refuse(*_: object) -> None:
        raise REFUSED

    monkeypatch.setattr(group_adoption, "read_small_log", refuse)

    anyio.run(judged.run)

    assert (judged.single(), judged.opened) == ([run.id], [0])
    assert is_free(tmp_path, run.id)


def test_letters_that_cannot_be_read_now_give_all_of_them_back(tmp_path: Path) -> None:
    runs = leave(tmp_path, 2)
    for run in runs:
        run.release()
    judged = Groups(tmp_path, [run.id for run in runs])

    def refuse() -> None:
        raise REFUSED

    judged.letters.learn = refuse

    anyio.run(judged.run)

    assert (judged.single(), judged.opened) == (sorted(run.id for run in runs), [])
    assert all(is_free(tmp_path, run.id) for run in runs)


def test_an_end_that_fails_gives_all_of_them_back_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = leave(tmp_path, 1)
    run.release()
    judged = Groups(tmp_path, [run.id])
    judged.small.plan = lambda log, **_: SimpleNamespace(log=log)

    def refuse(_: object) -> None:
        raise REFUSED

    monkeypatch.setattr(group_adoption, "end_group", refuse)
    monkeypatch.setattr(group_adoption, "read_small_log", lambda run, _: SimpleNamespace(run=run, checkpoints={}))

    async def once() -> bool:
        await judged.run()
        return judged.groups.is_at_work

    is_at_work = anyio.run(once)

    assert (judged.single(), judged.opened, is_at_work) == ([run.id], [1], False)
    assert is_free(tmp_path, run.id)


def test_a_log_that_cannot_be_deleted_is_said_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (run,) = leave(tmp_path, 1)
    run.release()
    monkeypatch.setattr(group_adoption, "end_group", lambda _: EndedGroup(refused={run.id: REFUSED}))
    judged = Groups(tmp_path, [run.id])

    async def twice() -> None:
        for _ in range(2):
            judged.queue.note_single([run.id])
            await judged.groups._end([])

    anyio.run(twice)

    assert caplog.text.count("log not deleted") == 1


def test_one_that_is_cancelled_before_its_turn_takes_no_lock(tmp_path: Path) -> None:
    (run,) = leave(tmp_path, 1)
    run.release()
    judged = Groups(tmp_path, [run.id])

    async def cancelled() -> None:
        async with judged.opening, anyio.create_task_group() as tasks:
            judged.groups.begin(tasks, spare=0)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    anyio.run(cancelled)

    assert (judged.single(), judged.groups.is_busy) == ([run.id], False)
    assert is_free(tmp_path, run.id)


def test_our_own_log_is_no_group(tmp_path: Path) -> None:
    own = new_run_id()
    judged = Groups(tmp_path, [own], own)

    anyio.run(judged.run)

    assert (judged.opened, judged.groups.is_busy) == ([], False)


def test_who_needs_all_locks_given_back_waits_for_the_group_that_has_them(tmp_path: Path) -> None:
    (run,) = leave(tmp_path, 1)
    run.release()
    judged = Groups(tmp_path, [run.id])
    begun, go_on = anyio.Event(), anyio.Event()
    order: list[object] = []

    async def deliver(_: object) -> None:
        begun.set()
        await go_on.wait()
        order.append("delivered")

    judged.small.deliver = deliver

    async def meanwhile() -> None:
        async def wait() -> None:
            order.append(await judged.groups.none_locked())

        await begun.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        order.append(await judged.groups.none_locked())

    anyio.run(judged.run, meanwhile)

    assert order == ["delivered", True, False]


def test_where_asyncio_itself_cancels_while_a_thread_takes_the_locks_they_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the end of `asyncio.run` does: no scope shields from that."""
    (run,) = leave(tmp_path, 1)
    run.release()
    judged = Groups(tmp_path, [run.id])
    judged.small.plan = lambda log: log
    has_locked, may_return = threading.Event(), threading.Event()
    take = OrphanLocks.take

    def slow(self: OrphanLocks, ids: Sequence[UUID]) -> Any:
        found = take(self, ids)
        has_locked.set()
        assert may_return.wait(60)
        return found

    monkeypatch.setattr(OrphanLocks, "take", slow)

    async def main() -> None:
        task = asyncio.create_task(judged.run())
        while not has_locked.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.001)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        asyncio.get_running_loop().call_later(0.05, may_return.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert judged.locks.ids() == []
    assert is_free(tmp_path, run.id)
