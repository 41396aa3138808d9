"""Which logs other processes hold, which grew, which were let go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from uuid import UUID

import pytest

from eventrec.delivery.following.live_logs import MOVING_PAUSE, QUIET_PAUSE, LiveLogs, LiveMoves
from eventrec.errors import LogWriteError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.runs.directory import LOCK, LogDirectory
from eventrec.runs.followed import FollowedRun, find_held
from eventrec.runs.run import Run, new_run_id


class Owner:
    """Holds a run, and writes its log."""

    def __init__(self, directory: Path) -> None:
        self.run = Run.create(directory, new_run_id())
        self.log = Log.create(self.run.storage, LogOptions(segment_bytes=200))

    @property
    def id(self) -> UUID:
        return self.run.id

    def write(self, content: bytes = b"record") -> None:
        self.log.append_encoded(content, 1)
        self.log.write()

    def let_go(self) -> None:
        self.log.close()
        self.run.release()


@pytest.fixture
def directory(tmp_path: Path) -> LogDirectory:
    return LogDirectory(tmp_path)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    yield made
    made.let_go()


@pytest.fixture
def live(directory: LogDirectory) -> LiveLogs:
    return LiveLogs(directory, guard=nullcontext(), ours=set)


def until(live: LiveLogs, condition: Callable[[LiveMoves], bool]) -> LiveMoves:
    """What it saw when it was so."""
    for _ in range(500):
        if condition(seen := live.wait(0.05)):
            return seen
    raise AssertionError(live)


def settle(live: LiveLogs) -> None:
    """Nothing moves any more, as it is seen."""
    until(live, lambda seen: not seen)


def test_a_log_that_is_held_appears_and_moves_when_it_is_written(live: LiveLogs, owner: Owner) -> None:
    assert live.wait(0).appeared == [owner.id]
    settle(live)

    owner.write()

    assert until(live, bool).moved == [owner.id]
    settle(live)


def test_a_new_segment_is_noticed_though_the_old_one_stays_as_it_is(live: LiveLogs, owner: Owner) -> None:
    owner.write(b"x" * 300)
    settle(live)

    owner.write()

    assert until(live, bool).moved == [owner.id]


def test_one_that_appears_later_is_seen(live: LiveLogs, owner: Owner, tmp_path: Path) -> None:
    settle(live)

    other = Owner(tmp_path)

    assert until(live, lambda seen: bool(seen.appeared)).appeared == [other.id]
    other.let_go()


def test_one_that_is_let_go_is_freed_and_no_more_looked_at(
    live: LiveLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path)
    settle(live)

    owner.let_go()

    assert until(live, lambda seen: bool(seen.freed)).freed == [owner.id]
    assert repr(live) == f"<LiveLogs 0 in {tmp_path}>"


def test_one_that_is_deleted_is_freed(live: LiveLogs, owner: Owner, tmp_path: Path) -> None:
    settle(live)

    shutil.rmtree(tmp_path / str(owner.id))

    assert until(live, lambda seen: bool(seen.freed)).freed == [owner.id]


def test_what_is_ours_is_not_looked_at(directory: LogDirectory, owner: Owner) -> None:
    ours: set[UUID] = {owner.id}
    live = LiveLogs(directory, guard=nullcontext(), ours=lambda: ours)

    assert not live.wait(0).appeared

    ours.clear()
    (directory.path / "something").mkdir()
    assert until(live, lambda seen: bool(seen.appeared)).appeared == [owner.id]
    ours.add(owner.id)
    assert until(live, lambda seen: bool(seen.freed)).freed == [owner.id]


def test_where_the_system_does_not_say_it_counts_as_held(
    live: LiveLogs, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(24, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "is_locked", refuse)
        assert live.wait(0).appeared == [owner.id]
        assert not any(live.wait(0.05).freed for _ in range(5))


def test_a_log_that_cannot_be_asked_does_not_move(
    live: LiveLogs, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(live)

    def refuse(*_: object) -> os.stat_result:
        raise OSError(5, "input/output error")

    owner.write()
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "stat_of", refuse)
        assert not live.wait(0.05).moved

    assert until(live, bool).moved == [owner.id]


def test_a_look_that_has_more_or_fails_is_repeated(live: LiveLogs, owner: Owner) -> None:
    settle(live)
    answers: list[bool | Exception] = [True, LogWriteError("for now"), OSError(5, "for now"), False]
    looked: list[int] = []

    def look() -> bool:
        looked.append(len(answers))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    live.follow(owner.id, look)
    settle(live)

    assert (looked, answers) == ([4, 3, 2, 1], [])
    live.unfollow(owner.id)
    owner.write()
    assert until(live, bool).moved == [owner.id]
    assert len(looked) == 4


def test_what_is_forgotten_is_seen_again_when_the_directory_is_listed(
    live: LiveLogs, owner: Owner, tmp_path: Path
) -> None:
    settle(live)

    live.forget(owner.id)
    assert repr(live) == f"<LiveLogs 0 in {tmp_path}>"

    (tmp_path / "something").mkdir()
    assert until(live, lambda seen: bool(seen.appeared)).appeared == [owner.id]


def test_it_returns_when_it_is_to_stop(live: LiveLogs) -> None:
    live.stop()

    assert not live.wait(60)


def test_orphans_are_asked_for_once_a_minute(directory: LogDirectory, tmp_path: Path) -> None:
    now = [100.0]
    live = LiveLogs(directory, guard=nullcontext(), ours=set, clock=lambda: now[0])
    owner = Owner(tmp_path)
    owner.let_go()
    assert not live.wait(0).appeared
    run = Run.adopt(tmp_path, owner.id)
    assert run is not None

    now[0] += 30
    assert not live.wait(0).appeared
    now[0] += 31
    assert live.wait(0).appeared == [owner.id]
    run.release()


def test_many_logs_cost_a_twentieth_of_a_processor_at_most(
    directory: LogDirectory, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, used = [100.0], [0.0]
    live = LiveLogs(directory, guard=nullcontext(), ours=set, clock=lambda: now[0])

    def is_held(*_: object) -> bool:
        used[0] += 0.01
        return True

    monkeypatch.setattr("eventrec.delivery.following.live_logs.time.thread_time", lambda: used[0])
    monkeypatch.setattr(DiskStorage, "is_locked", is_held)
    live.wait(0)

    assert live._not_before - now[0] >= 0.2 > QUIET_PAUSE > MOVING_PAUSE


# -- a run that another process holds


def test_a_run_that_is_held_is_found_and_never_deleted(directory: LogDirectory, owner: Owner) -> None:
    found = find_held(directory, owner.id, guard=nullcontext())

    assert isinstance(found, FollowedRun)
    assert repr(found) == f"<FollowedRun {owner.id} in {directory}>"
    for delete in (found.retire, found.retain):
        with pytest.raises(RuntimeError, match="held by another process"):
            delete()
    found.release()
    assert owner.run.is_in_place()


def test_what_is_not_held_or_not_ours_is_told_apart(directory: LogDirectory, tmp_path: Path) -> None:
    owner, foreign, marked = Owner(tmp_path), new_run_id(), new_run_id()
    owner.let_go()
    (tmp_path / str(foreign)).mkdir()
    (tmp_path / str(foreign) / LOCK).write_bytes(b"somebody's")
    (tmp_path / str(marked)).symlink_to(tmp_path / str(owner.id))

    assert find_held(directory, owner.id, guard=nullcontext()) == "free"
    assert find_held(directory, foreign, guard=nullcontext()) == "gone"
    assert find_held(directory, marked, guard=nullcontext()) == "gone"
    assert find_held(directory, new_run_id(), guard=nullcontext()) == "gone"


def test_what_the_system_does_not_show_is_raised(
    directory: LogDirectory, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, answer in ((FileNotFoundError(2, "gone"), "gone"), (OSError(24, "too many open files"), None)):

        def refuse(*_: object, error: OSError = error) -> bool:
            raise error

        monkeypatch.setattr(DiskStorage, "is_locked", refuse)
        if answer is None:
            with pytest.raises(OSError, match="too many"):
                find_held(directory, owner.id, guard=nullcontext())
        else:
            assert find_held(directory, owner.id, guard=nullcontext()) == answer
