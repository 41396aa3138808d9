"""What follows a log beside an owner that has handlers of its own, and what is new to a subscription that follows."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest
from anyio.abc import TaskGroup

from eventrec import EventHandler, EventRecorder
from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.log.disk import DiskStorage
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import FOLLOWING, Followers
from eventrec.runs.run import new_run_id
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

Recorder = Callable[..., EventRecorder]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Runs = Callable[[], list[str]]


async def test_an_owner_that_delivers_itself_after_all_is_left_to_itself(
    owner: Recorder, follower: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has written before it could say so: its disk took no checkpoint when its log was begun.
    own, other, may_begin, begin = ScriptedHandler(), ScriptedHandler(), anyio.Event(), LogSupervisor._begin

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def begin_late(supervisor: LogSupervisor, tasks_of_it: TaskGroup) -> bool:
        await may_begin.wait()
        return await begin(supervisor, tasks_of_it)

    async with follower(other) as delivering, anyio.create_task_group() as tasks:
        monkeypatch.setattr(LogSupervisor, "_begin", begin_late)
        monkeypatch.setattr(CheckpointFiles, "begin", refuse)
        writing = owner(own)
        writing.record(Numbered(0))
        tasks.start_soon(writing.open)
        await eventually(lambda: other.delivered == [0])
        may_begin.set()
        await eventually(lambda: own.delivered == [0])

        writing.record(Numbered(1))
        await eventually(lambda: 1 in own.delivered and not delivering.status().adopted)
        writing.record(Numbered(2))
        await eventually(lambda: 2 in own.delivered)
        await writing.close()

    assert own.delivered == [0, 1, 2]
    assert 2 not in other.delivered


async def test_a_log_that_lives_but_shortly_is_kept_for_what_follows(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Following()
    # So slow that it sees none of them before its owner has ended.
    monkeypatch.setattr("eventrec.delivery.following.live_logs.QUIET_PAUSE", 1.0)
    async with follower(handler):
        await eventually((tmp_path / "log" / FOLLOWING / "Following.lock").exists)
        for number in range(5):
            async with owner(ScriptedHandler()) as writing:
                writing.record(Numbered(number))
                assert await writing.flush(60)
        await eventually(lambda: sorted(handler.delivered) == list(range(5)))


async def test_what_earlier_runs_left_is_kept_for_what_follows(
    owner: Recorder, eventually: Eventually, runs: Runs, tmp_path: Path
) -> None:
    # So many that they are delivered in groups, and not to the one that follows.
    for number in range(20):
        async with owner() as writing:
            writing.record(Numbered(number))
    handler = ScriptedHandler()
    locks = await anyio.to_thread.run_sync(_followed_for, tmp_path / "log", "Following")

    async with owner(handler):
        await eventually(lambda: sorted(handler.delivered) == list(range(20)))

    assert len(runs()) == 20
    await anyio.to_thread.run_sync(locks.release)
    async with owner(handler):
        await eventually(lambda: len(runs()) == 1)
    assert len(handler.delivered) == 20


def _followed_for(directory: Path, name: str) -> FollowerLocks:
    locks = FollowerLocks(LogDirectory.of(directory), [name])
    assert locks.take() == []
    return locks


async def test_what_began_before_is_not_what_comes(
    owner: Recorder, follower_from_now: Recorder, eventually: Eventually, runs: Runs
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing, owner() as quiet:
        await eventually(lambda: len(runs()) == 2)
        await writing.record_durable(Numbered(0), until="written")
        async with follower_from_now(handler) as delivering:
            await eventually(lambda: delivering.status().adopted)
            # A log that began later: by then all others were looked at. In the next there was nothing yet.
            async with owner() as later:
                await later.record_durable(Numbered(1), until="written")
                await eventually(lambda: handler.delivered == [1])
            await quiet.record_durable(Numbered(2), until="written")
            await eventually(lambda: handler.delivered == [1, 2])
            await writing.record_durable(Numbered(3), until="written")
            await eventually(lambda: handler.delivered == [1, 2, 3])
        await quiet.record_durable(Numbered(4), until="written")

        # It is not new any more.
        async with follower_from_now(handler):
            await eventually(lambda: handler.delivered == [1, 2, 3, 4])


async def test_its_own_log_does_not_make_a_subscription_known(
    owner: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing:
        await writing.record_durable(Numbered(0), until="written")
        last = new_run_id().int + 1_000
        falling = map(UUID, map("{:032x}".format, range(last, 0, -1)))
        # Made within one millisecond, ids fall as well as rise.
        options = quickly(follow=True, flush_interval=0.01)
        delivering = EventRecorder(log=tmp_path / "log", options=options, new_id=lambda: next(falling))
        delivering.register(handler, start="latest")
        async with delivering:
            await eventually(lambda: delivering.status().adopted)
            await writing.record_durable(Numbered(1), until="written")
            await eventually(lambda: handler.delivered)

    assert handler.delivered == [1]


@pytest.fixture
def follower_from_now(follower: Recorder) -> Recorder:
    """One that begins with what comes."""

    def make(handler: EventHandler) -> EventRecorder:
        recorder = follower()
        recorder.register(handler, start="latest")
        return recorder

    return make


class Following(ScriptedHandler):
    """Of a subscription that no owner has."""


def test_who_follows_is_known_by_what_is_locked(tmp_path: Path) -> None:
    directory = LogDirectory.of(tmp_path)
    assert Followers(directory).names() == {}
    locks = FollowerLocks(directory, ["a.b", "c"])
    assert locks.take() == []
    # Of one that was killed, and of others.
    (tmp_path / FOLLOWING / "left.lock").touch()
    (tmp_path / FOLLOWING / "folder.lock").mkdir()
    (tmp_path / FOLLOWING / "other").touch()

    assert Followers(directory).names() == {"a%2Eb.json": "a.b", "c.json": "c"}

    locks.release()
    assert Followers(directory).names() == {}


def test_a_checkpoint_says_whether_it_is_of_the_holder(tmp_path: Path) -> None:
    files = CheckpointFiles(DiskStorage(tmp_path))
    assert not files.is_of_holder("s")
    progress = Progress(0, 0, 0)
    files.save(Checkpoint(subscription="s", progress=progress), sync=False)
    assert not files.is_of_holder("s")
    files.save(Checkpoint(subscription="s", progress=progress, by_holder=True), sync=False)
    assert files.is_of_holder("s")
    (tmp_path / CHECKPOINTS / "s.json").write_bytes(msgspec.json.encode({"version": 99}))
    assert files.is_of_holder("s")
    (tmp_path / CHECKPOINTS / "s.json").write_bytes(b"\xff")
    assert not files.is_of_holder("s")
