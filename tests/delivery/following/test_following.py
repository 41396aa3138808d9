"""A recorder that follows what other processes write, and delivers it while they write it."""

from __future__ import annotations

import errno
import gc
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import EventHandler, EventRecorder, PermanentError, TransientError
from eventrec.delivery.following import opening, turns
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import LogDirectory
from eventrec.runs.followed import find_held
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing

Recorder = Callable[..., EventRecorder]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Runs = Callable[[], list[str]]

HOUR = {"first": 3_600, "max": 3_600, "jitter": "none"}


def segments(directory: Path) -> list[int]:
    """First offsets of the segments of the only log that holds records, rising."""
    found = [sorted(int(file.name[:20]) for file in path.glob("*.stdb.log")) for path in directory.glob("0*")]
    return max(found, default=[])


def log_with_records(directory: Path) -> Path:
    """The only log that holds some."""
    return max(directory.glob("0*"), key=lambda path: max(file.stat().st_size for file in path.glob("*.stdb.log")))


def parts_of(root: object) -> Iterator[object]:
    """All of ours that `root` holds."""
    seen, left = set[int](), [root]
    while left:
        each = left.pop()
        is_ours = str(type(each).__module__).startswith("eventrec.")
        if id(each) not in seen and (is_ours or isinstance(each, (dict, list, tuple, set, MethodType, partial))):
            seen.add(id(each))
            left += gc.get_referents(each)
            if is_ours:
                yield each


def has_all(handler: ScriptedHandler, count: int) -> Callable[[], bool]:
    """Whether it was given the first `count` numbers, in any order."""
    return lambda: sorted(handler.delivered) == list(range(count))


def delete(directory: Path) -> None:
    """Also where files are made in it meanwhile."""
    while True:
        try:
            shutil.rmtree(directory)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
        else:
            return


async def record_apart(recorder: EventRecorder, numbers: Iterable[int]) -> None:
    """Each in a commit of its own, so that there are several segments."""
    for number in numbers:
        await recorder.record_durable(Numbered(number), until="written")


async def test_what_others_write_is_delivered_while_they_write_it(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    handler = FencedHandler()
    async with owner() as writing, follower(handler) as delivering:
        for number in range(50):
            writing.record(Numbered(number))
            if number % 10 == 9:
                await eventually(has_all(handler, number + 1))

        status = delivering.status()

    (log,) = status.adopted.values()
    assert log["FencedHandler"].delivered == 50
    assert_conserved(status)


async def test_all_that_it_is_made_of_shows_itself_in_a_line(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing, follower(handler) as recorder:
        writing.record(Numbered(0))
        await eventually(has_all(handler, 1))
        shown = {type(each).__qualname__: repr(each) for each in parts_of(recorder) if "__repr__" in vars(type(each))}
        status = await recorder.close()

    assert {"Following", "LiveOpener", "SoleFollower", "FollowTurns", "OrphanOpener", "LayoutFolder"} <= shown.keys()
    assert [name for name, text in shown.items() if not text or "\n" in text] == []
    assert_conserved(status, offered=0)


async def test_what_the_owner_leaves_is_adopted_where_following_stopped(
    owner: Recorder, follower: Recorder, eventually: Eventually, runs: Runs
) -> None:
    # It keeps no checkpoint: whatever was sent twice would show.
    handler = ScriptedHandler()
    async with follower(handler):
        for start in (0, 20):
            async with owner() as writing:
                writing.record_many(Numbered(number) for number in range(start, start + 10))
                await eventually(has_all(handler, start + 10))
                writing.record_many(Numbered(number) for number in range(start + 10, start + 20))
        await eventually(lambda: len(runs()) == 1)

    assert sorted(handler.delivered) == list(range(40))
    assert runs() == []


async def test_of_two_for_one_subscription_the_second_waits_and_takes_over(
    owner: Recorder, follower: Recorder, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = ScriptedHandler(), ScriptedHandler()
    async with owner() as writing, follower(first) as leading:
        writing.record(Numbered(0))
        await eventually(lambda: first.delivered == [0])
        async with follower(second) as waiting:
            await eventually(lambda: "waiting: another process delivers" in caplog.text)
            writing.record(Numbered(1))
            await eventually(lambda: first.delivered == [0, 1])
            assert waiting.status().adopted == {}

            await leading.close()
            writing.record(Numbered(2))

            await eventually(lambda: second.delivered == [2])
    assert caplog.text.count("waiting: another process delivers") == 1


async def test_one_that_waits_ends_at_once(follower: Recorder, eventually: Eventually, runs: Runs) -> None:
    async with follower(ScriptedHandler()) as leading:
        await eventually(lambda: leading.status().following == "following")
        async with follower(ScriptedHandler(), close_timeout=30.0) as waiting:
            await eventually(lambda: len(runs()) == 2)
            with anyio.fail_after(25):  # less than its `close_timeout`
                await waiting.close()


async def test_two_for_different_subscriptions_share_a_log(
    owner: Recorder, follower: Recorder, eventually: Eventually, runs: Runs
) -> None:
    handler, other = ScriptedHandler(), FencedHandler()
    async with follower(handler), follower(other):
        async with owner() as writing:
            writing.record_many(Numbered(number) for number in range(20))
            await eventually(lambda: handler.delivered == other.delivered == list(range(20)))
        await eventually(lambda: len(runs()) == 2)


async def test_a_log_whose_owner_delivers_it_is_left_to_the_owner(
    owner: Recorder, follower: Recorder, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = ScriptedHandler(), ScriptedHandler()
    async with owner(own) as writing:
        writing.record(Numbered(0))
        assert await writing.flush(60)
        async with follower(other) as delivering:
            await eventually(lambda: "left to their owners" in caplog.text)
            writing.record(Numbered(1))
            assert await writing.flush(60)
            assert delivering.status().adopted == {}

    assert (own.delivered, other.delivered) == ([0, 1], [])


async def test_an_owner_without_a_handler_says_so_and_who_needs_what(
    owner: Recorder, follower: Recorder, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    handler = ScriptedHandler(acts=[raising(TransientError("down"))])
    async with owner() as writing:
        writing.record_many(Numbered(number) for number in range(10))
        await eventually(lambda: writing.status().elsewhere == {"?": 10})
        async with follower(handler, retry=HOUR):
            await eventually(lambda: writing.status().elsewhere == {"ScriptedHandler": 10})
        assert "no handler registered: left to other processes" in caplog.text


async def test_the_owner_deletes_what_the_follower_is_past_and_nothing_before(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    async with owner(segment_bytes=500) as writing:
        await record_apart(writing, range(40))
        assert len(segments(tmp_path / "log")) > 3
        async with follower(handler, retry={"first": 0.01, "max": 0.01}):
            await eventually(lambda: len(handler.times) > 3)
            assert segments(tmp_path / "log")[0] == 0

            handler.always = lambda _: None

            await eventually(lambda: segments(tmp_path / "log")[0] > 0)
            await eventually(lambda: handler.delivered == list(range(40)))


async def test_a_subscription_that_appears_holds_the_log_of_an_owner_that_delivers(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    own, other = FencedHandler(), ScriptedHandler(always=raising(TransientError("down")))
    async with owner(own, segment_bytes=500) as writing:
        writing.record(Numbered(0))
        async with follower(other, retry={"first": 0.01, "max": 0.01}):
            await eventually(lambda: writing.status().elsewhere or other.times)
            await record_apart(writing, range(1, 40))
            await eventually(lambda: len(own.delivered) == 40)
            assert len(segments(tmp_path / "log")) > 3
            assert segments(tmp_path / "log")[0] == 0

            other.always = lambda _: None

            await eventually(lambda: other.delivered == list(range(40)))
            await eventually(lambda: segments(tmp_path / "log")[0] > 0)


async def test_an_owner_retires_nothing_that_a_follower_needs(
    owner: Recorder, follower: Recorder, eventually: Eventually, runs: Runs
) -> None:
    own, other = FencedHandler(), ScriptedHandler(always=raising(TransientError("down")))
    async with follower(other, retry={"first": 0.01, "max": 0.01}):
        async with owner(own) as writing:
            writing.record_many(Numbered(number) for number in range(10))
            await eventually(lambda: len(own.delivered) == 10 and other.times)
        assert len(runs()) == 2

        other.always = lambda _: None

        await eventually(lambda: len(runs()) == 1)
    assert other.delivered == list(range(10))


async def test_what_the_bound_takes_from_a_follower_is_counted_by_both(
    owner: Recorder, follower: Recorder, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    async with (
        owner(max_log_bytes=20_000, keep_free=0, overflow="drop_old", segment_bytes=1_000) as writing,
        follower(handler, retry={"first": 0.01, "max": 0.01}) as delivering,
    ):
        writing.record(Numbered(0))
        await eventually(lambda: handler.times)
        for start in range(1, 4_000, 100):
            writing.record_many(Numbered(number) for number in range(start, start + 100))
            await anyio.sleep(0.01)
        await eventually(lambda: "records forfeited to the disk bound" in caplog.text)

        handler.always = lambda _: None

        await eventually(lambda: handler.delivered and handler.delivered[-1] == 4_000)
        (log,) = delivering.status().adopted.values()
    lost = log["ScriptedHandler"].dropped
    assert lost.keys() == {"retention"}
    assert len(handler.delivered) + lost["retention"] == 4_001


async def test_an_owner_without_a_handler_refuses_what_is_beyond_its_bound(
    owner: Recorder, eventually: Eventually
) -> None:
    async with owner(max_log_bytes=20_000, keep_free=0) as writing:
        writing.record_many(Numbered(number) for number in range(500))

        def is_refused() -> bool:
            writing.record(Numbered(0))
            return "reached its bound" in (writing.status().failure or "")

        await eventually(is_refused)


async def test_a_refused_record_becomes_a_dead_letter_and_the_rest_is_delivered(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    handler = ScriptedHandler(always=refusing([3], lambda: PermanentError("no")))
    async with owner() as writing, follower(handler) as delivering:
        writing.record_many(Numbered(number) for number in range(10))

        await eventually(lambda: len(handler.delivered) == 9)

        (log,) = delivering.status().adopted.values()
        assert log["ScriptedHandler"].dead == 1


async def test_a_follower_that_ends_is_continued_by_the_next_one(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing:
        for start in (0, 10, 20):
            async with follower(handler):
                writing.record_many(Numbered(number) for number in range(start, start + 10))
                await eventually(has_all(handler, start + 10))

    assert handler.delivered == list(range(30))


async def test_what_is_there_when_it_closes_is_delivered_first(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing, follower(handler, flush_interval=3_600, close_timeout=20.0) as delivering:
        writing.record_many(Numbered(number) for number in range(10))
        await eventually(
            lambda: [log["ScriptedHandler"].pending for log in delivering.status().adopted.values()] == [10]
        )

        await delivering.close()

        assert handler.delivered == list(range(10))


async def test_an_operator_resumes_what_is_followed(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))])
    async with owner() as writing, follower(handler, retry=HOUR):
        writing.record(Numbered(0))
        await eventually(lambda: handler.times)
        request = OperatorRequest(subscription="ScriptedHandler", asked=time.time())

        await anyio.to_thread.run_sync(save_request, tmp_path / "log", request)

        await eventually(lambda: handler.delivered == [0])


async def test_more_logs_than_are_followed_at_once_take_turns(
    follower: Recorder, owner: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_FOLLOWED", 2)
    handler = ScriptedHandler()
    recorders = [owner() for _ in range(5)]
    async with follower(handler):
        for recorder in recorders:
            await recorder.open()
        for start in range(0, 25, 5):
            for number, recorder in enumerate(recorders, start):
                recorder.record(Numbered(number))
            await eventually(has_all(handler, start + 5))
        for recorder in recorders:
            await recorder.close()

    assert sorted(handler.delivered) == list(range(25))


async def test_where_descriptors_run_out_fewer_are_followed_and_all_are_delivered(
    follower: Recorder, owner: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FIRST_PAUSE", 0.05)
    open_ = [0]

    def find(*args: Any, **options: Any) -> Any:
        if open_[0] >= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return find_held(*args, **options)

    def count(delivering: EventRecorder) -> int:
        open_[0] = len(delivering.status().adopted)
        return open_[0]

    monkeypatch.setattr(opening, "find_held", find)
    handler = ScriptedHandler()
    recorders = [owner() for _ in range(6)]
    for number, recorder in enumerate(recorders):
        await recorder.open()
        await recorder.record_durable(Numbered(number), until="written")
    async with follower(handler) as delivering:
        await eventually(lambda: count(delivering) >= 0 and len(handler.delivered) == 6)
    for recorder in recorders:
        await recorder.close()

    assert sorted(handler.delivered) == list(range(6))


async def test_a_quiet_log_is_closed_and_opened_again_when_it_grows(
    owner: Recorder, follower: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "QUIET_SECONDS", 0.05)
    handler = ScriptedHandler()
    async with owner() as writing, follower(handler) as delivering:
        for number in range(3):
            writing.record(Numbered(number))
            await eventually(has_all(handler, number + 1))
            await eventually(lambda: delivering.status().adopted == {})


async def test_a_directory_that_is_deleted_under_all_is_followed_again(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = FencedHandler()
    async with owner() as writing, follower(handler):
        writing.record(Numbered(0))
        await eventually(lambda: handler.delivered == [0])

        await anyio.to_thread.run_sync(delete, tmp_path / "log")

        async def record() -> None:
            number = 0
            while len(handler.delivered) < 5:
                number += 1
                writing.record(Numbered(number))
                await anyio.sleep(0.05)

        with anyio.fail_after(120):
            await record()
    assert len(set(handler.delivered)) == len(handler.delivered)


async def test_a_run_that_is_replaced_by_its_owner_is_followed_again(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its lock is held again before it is asked for.
    monkeypatch.setattr("eventrec.delivery.following.live_logs.LOCKS_SECONDS", 3_600.0)
    handler = FencedHandler()
    async with owner() as writing, follower(handler):
        writing.record(Numbered(0))
        await eventually(lambda: handler.delivered == [0])

        await anyio.to_thread.run_sync(delete, log_with_records(tmp_path / "log"))

        def is_delivered_again() -> bool:
            writing.record(Numbered(len(handler.batches)))
            return len(handler.batches) > 3

        await eventually(is_delivered_again)


async def test_logs_that_this_user_may_not_open_are_told(
    follower: Recorder, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    barred = tmp_path / "log" / "01a224b8-d87d-710d-8913-e80512bef7af"
    barred.mkdir(parents=True)
    monkeypatch.setattr(LogDirectory, "may_be_ours", lambda _, id_: str(id_) == barred.name and barred.exists())
    async with follower(ScriptedHandler()) as delivering:
        await eventually(lambda: delivering.status().left == {barred.name: "not followed: this user may not open it"})

        barred.rmdir()

        await eventually(lambda: not delivering.status().left)


async def test_a_checkpoint_of_a_newer_version_leaves_its_log_alone_and_says_so(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = ScriptedHandler()
    async with owner() as writing:
        writing.record(Numbered(0))
        await eventually(lambda: segments(tmp_path / "log"))
        folder = log_with_records(tmp_path / "log") / CHECKPOINTS
        (folder / "s.json").write_bytes(b'{"subscription":"s","version":2}\n')
        async with follower(handler) as delivering:
            await eventually(lambda: delivering.status().left)
            assert "newer version: s.json" in next(iter(delivering.status().left.values()))
    assert handler.delivered == []


async def test_a_damaged_checkpoint_of_its_own_is_written_again(
    owner: Recorder, follower: Recorder, eventually: Eventually, tmp_path: Path
) -> None:
    handler = FencedHandler()
    async with owner() as writing:
        async with follower(handler):
            writing.record(Numbered(0))
            await eventually(lambda: handler.delivered == [0])
        file = log_with_records(tmp_path / "log") / CHECKPOINTS / "FencedHandler.json"
        file.write_bytes(b"\xff\x00{")
        async with follower(handler):
            writing.record(Numbered(1))
            await eventually(lambda: handler.delivered == [0, 1])
        assert msgspec.json.decode(file.read_bytes().partition(b"\n")[0])["progress"]["scanned"] == 2


async def test_what_a_handler_raises_ends_in_its_own_subscription(
    owner: Recorder, follower: Recorder, eventually: Eventually
) -> None:
    class Exploding(ScriptedHandler):
        pass

    exploding, fine = Exploding(acts=[raising(KeyboardInterrupt()), raising(SystemExit(3))]), ScriptedHandler()
    async with owner() as writing, follower(exploding, fine, retry={"first": 0.01, "max": 0.01}):
        writing.record_many(Numbered(number) for number in range(5))

        await eventually(lambda: fine.delivered == exploding.delivered == list(range(5)))


async def test_without_a_handler_there_is_nothing_to_follow(follower: Recorder, tmp_path: Path) -> None:
    async with follower():
        assert not (tmp_path / "log" / "following").exists()


def test_an_embedded_follower_delivers_its_own_log_too(tmp_path: Path) -> None:
    handler: EventHandler = ScriptedHandler()

    async def main() -> None:
        async with EventRecorder(handler, log=tmp_path / "log", options=quickly(follow=True)) as recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(60)

    anyio.run(main)
    assert isinstance(handler, ScriptedHandler)
    assert handler.delivered == [0]
