"""What follows a directory is remembered there: while it does not run, what it lacks is held, and that is said."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, TransientError
from eventrec.delivery.following import sole_follower
from eventrec.delivery.following.live_logs import LiveLogs
from eventrec.runs.followers import FOLLOWING, Followers
from eventrec.runs.run import new_run_id
from eventrec.runs.survey import see_all
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising

Recorder = Callable[..., EventRecorder]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Runs = Callable[[], list[str]]
IsSaid = Callable[[str], int]

NAME = "ScriptedHandler"


async def remember(directory: Path, name: str = NAME) -> None:
    await anyio.to_thread.run_sync(Followers(directory / "log").remember, name, new_run_id())


async def forget(directory: Path, name: str = NAME) -> bool:
    return await anyio.to_thread.run_sync(Followers(directory / "log").forget, name)


@pytest.fixture
def is_said(caplog: pytest.LogCaptureFixture) -> IsSaid:
    """How often some words were logged."""
    return lambda words: len(caplog.text.split(words)) - 1


def remembered(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "log" / FOLLOWING).glob("*.subscription"))


async def test_what_it_never_saw_is_kept_while_it_does_not_run(
    owner: Recorder, follower: Recorder, eventually: Eventually, runs: Runs, tmp_path: Path
) -> None:
    handler, own = ScriptedHandler(), FencedHandler()
    async with follower(handler):
        await eventually(lambda: remembered(tmp_path) == [f"{NAME}.subscription"])
    assert runs() == []

    async with owner(own) as writing:
        writing.record_many(Numbered(number) for number in range(10))
        assert await writing.flush(60)
    assert len(runs()) == 1
    assert own.delivered == list(range(10))

    async with follower(handler):
        await eventually(lambda: handler.delivered == list(range(10)))
    # What was kept for the owner's own is not: it has had all of it.
    assert runs() == []


async def test_segments_are_kept_for_one_that_never_began(
    owner: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    own = FencedHandler()
    await remember(tmp_path)
    async with owner(own, segment_bytes=500) as writing:
        for number in range(40):
            await writing.record_durable(Numbered(number), until="written")
        await eventually(lambda: len(own.delivered) == 40)
        await eventually(lambda: writing.status().elsewhere == {NAME: 40})
        first = min(path.name for path in (tmp_path / "log").glob("0*/*.stdb.log"))
        assert int(first[:20]) == 0

        assert await forget(tmp_path)

        def oldest() -> int:
            return min(int(path.name[:20]) for path in (tmp_path / "log").glob("0*/*.stdb.log"))

        await eventually(oldest)


async def test_where_it_cannot_be_told_who_follows_nothing_is_deleted_and_all_else_goes_on(
    owner: Recorder, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_said: IsSaid
) -> None:
    own = FencedHandler()

    def refuse(_: Followers) -> dict[str, str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def segments() -> list[int]:
        return sorted(int(path.name[:20]) for path in (tmp_path / "log").glob("0*/*.stdb.log"))

    async with owner(own, segment_bytes=500, max_log_bytes=100_000, keep_free=0) as writing:
        with monkeypatch.context() as patch:
            patch.setattr(Followers, "names", refuse)
            for number in range(40):
                await writing.record_durable(Numbered(number), until="written")
            assert await writing.flush(60)
            await eventually(lambda: is_said("what others need is not known"))
            assert segments()[0] == 0
            assert is_said("checkpoint not saved") == 0
            # The bound is one all the same.
            for start in range(40, 6_000, 100):
                writing.record_many(Numbered(number) for number in range(start, start + 100))
                assert await writing.flush(60)
            await eventually(lambda: segments()[0] > 0)
            assert writing.status().forfeited.keys() == {"?"}
        kept = segments()[0]

        await eventually(lambda: segments()[0] > kept)
    assert is_said("what others need is not known") == 1


async def test_orphans_are_kept_for_one_that_never_began(
    owner: Recorder, eventually: Eventually, runs: Runs, tmp_path: Path
) -> None:
    # So many that they would be delivered, and deleted, in groups.
    for number in range(20):
        async with owner() as writing:
            writing.record(Numbered(number))
    await remember(tmp_path)
    own = FencedHandler()

    async with owner(own) as writing:
        await eventually(lambda: len(own.delivered) == 20)
        await eventually(lambda: len(writing.status().left) == 20)
        assert set(writing.status().left.values()) == {f"kept for {NAME!r}, not registered here"}

    assert len(runs()) == 20


async def test_the_bound_forfeits_for_one_that_never_began_and_that_is_counted(
    owner: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    own = FencedHandler()
    await remember(tmp_path)
    async with owner(own, max_log_bytes=20_000, keep_free=0, segment_bytes=1_000) as writing:
        for start in range(0, 4_000, 100):
            writing.record_many(Numbered(number) for number in range(start, start + 100))
            await writing.flush(10)
        await eventually(lambda: writing.status().forfeited)
        status = writing.status()

    assert status.forfeited.keys() == {NAME}
    assert 0 < status.forfeited[NAME] <= 4_000
    assert any(f"{status.forfeited[NAME]:,} ({NAME})" in reason for reason in status.health.reasons)
    assert status.subscriptions["FencedHandler"].dropped == {}


async def test_what_is_lost_for_a_subscription_that_is_not_known_is_counted(
    tmp_path: Path, eventually: Eventually
) -> None:
    told: list[tuple[str, int]] = []
    options = quickly(max_log_bytes=20_000, keep_free=0, segment_bytes=1_000, overflow="drop_old")
    async with EventRecorder(
        log=tmp_path / "log", options=options, on_drop=lambda reason, count: told.append((reason, count))
    ) as writing:
        for start in range(0, 4_000, 100):
            writing.record_many(Numbered(number) for number in range(start, start + 100))
            await anyio.sleep(0.01)
        await eventually(lambda: writing.status().forfeited)
        await eventually(lambda: told)
        lost = writing.status().forfeited["?"]

    assert lost > 0
    assert {reason for reason, _ in told} == {"retention"}


async def test_a_directory_that_gives_no_locks_is_said_and_followed_once_it_does(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path, is_said: IsSaid
) -> None:
    handler = ScriptedHandler()
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / FOLLOWING).write_bytes(b"other people's")
    async with owner() as writing, follower(handler) as delivering:
        writing.record(Numbered(0))
        await eventually(lambda: delivering.status().follow_refusals > 4)
        status = delivering.status()
        assert status.following is not None
        assert status.following.startswith("refused: NotADirectoryError")
        assert not status.health.ready
        assert any("live logs: not followed: NotADirectoryError" in reason for reason in status.health.reasons)
        assert is_said("live logs cannot be followed") == 1

        (tmp_path / "log" / FOLLOWING).unlink()

        await eventually(lambda: handler.delivered == [0])
        status = delivering.status()
        assert (status.following, status.not_followed) == ("following", None)
        assert status.health.ready


async def test_where_descriptors_run_out_that_is_said_while_it_lasts(
    owner: Recorder, follower: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = ScriptedHandler()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with owner() as writing, follower(handler) as delivering:
        await eventually(lambda: delivering.status().following == "following")
        with monkeypatch.context() as patch:
            patch.setattr(LiveLogs, "wait", refuse)
            patch.setattr(Followers, "remember", refuse)
            await eventually(lambda: delivering.status().follow_refusals > 1)
            await eventually(lambda: not delivering.status().health.ready)
            status = delivering.status()
            assert (status.following or "").startswith("refused: OSError: [Errno 24]")
            assert (status.not_followed or "").startswith("not followed: OSError: [Errno 24]")

        writing.record(Numbered(0))

        await eventually(lambda: handler.delivered == [0])
        await eventually(lambda: delivering.status().health.ready)
        assert delivering.status().following == "following"


async def test_where_the_disk_is_full_it_is_followed_and_remembered_later(
    follower: Recorder, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_said: IsSaid
) -> None:
    handler = ScriptedHandler()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with EventRecorder(log=tmp_path / "log", options=quickly()) as writing:
        with monkeypatch.context() as patch:
            patch.setattr(Followers, "remember", refuse)
            async with follower(handler) as delivering:
                writing.record(Numbered(0))
                await eventually(lambda: handler.delivered == [0])
                status = delivering.status()
                assert status.health.ready
                assert "live logs: followed, and not remembered: OSError" in "\n".join(status.health.reasons)
                assert remembered(tmp_path) == []
                patch.undo()
                await eventually(lambda: delivering.status().not_followed is None)
                assert remembered(tmp_path) == [f"{NAME}.subscription"]
    assert is_said("not remembered as followed") == 1


async def test_one_that_waits_says_for_whom_and_is_remembered_already(
    follower: Recorder, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole_follower, "_AGAIN_SECONDS", 0.01)
    async with follower(ScriptedHandler()) as leading:
        await eventually(lambda: leading.status().following == "following")
        async with follower(FencedHandler(), ScriptedHandler()) as waiting:
            await eventually(lambda: waiting.status().following == f"waiting: {NAME!r} by process {os.getpid()}")
            # Of the other one nothing is delivered to meanwhile; it is kept.
            assert remembered(tmp_path) == ["FencedHandler.subscription", f"{NAME}.subscription"]
            status = waiting.status()
            assert (status.health.ready, status.not_followed, status.follow_refusals) == (True, None, 0)


async def test_what_is_wrong_with_what_follows_stands_in_the_log_that_it_follows(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("the warehouse is down"))])
    async with owner() as writing, follower(handler, retry={"first": 0.5, "max": 0.5, "jitter": "none"}):
        writing.record(Numbered(0))

        async def says(state: str, scanned: int) -> None:
            with anyio.fail_after(120):
                while True:
                    logs = await anyio.to_thread.run_sync(see_all, tmp_path / "log")
                    (saved,) = [log.checkpoints.get(NAME) for log in logs if log.end] or [None]
                    if saved is not None and (saved.state, saved.progress.scanned) == (state, scanned):
                        assert saved.last_error == "the warehouse is down"
                        return
                    await anyio.sleep(0.02)

        await says("retrying", 0)
        await says("", 1)
