"""What subscriptions of other processes still need of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress, Saved
from eventrec.runs.others import UNKNOWN, OtherCheckpoints
from eventrec.runs.run import Run, new_run_id

NOTHING = Saved({}, frozenset(), frozenset())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path, new_run_id())
    yield made
    made.release()


def save(run: Run, name: str, scanned: int) -> None:
    progress = Progress(0, scanned, scanned, delivered=scanned)
    CheckpointFiles(run.storage).save(Checkpoint(subscription=name, progress=progress), sync=False)


def test_those_that_appear_later_count_and_ours_do_not(run: Run) -> None:
    others = OtherCheckpoints(run, {"ours"}, NOTHING, first=0)
    assert others.lowest(100) == 100

    save(run, "ours", 3)
    save(run, "theirs", 7)
    others.look()

    assert (others.needed, others.lowest(100), others.lowest(5)) == ({"theirs": 7}, 7, 5)
    assert repr(others) == "<OtherCheckpoints {'theirs': 7}>"


def test_a_run_that_no_subscription_delivers_is_held_for_one_that_is_to_come(run: Run) -> None:
    others = OtherCheckpoints(run, (), NOTHING, first=4)
    assert others.needed == {UNKNOWN: 4}

    save(run, "theirs", 7)
    others.look()

    assert others.needed == {"theirs": 7}


def test_one_that_cannot_be_read_holds_what_it_held_or_all(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    save(run, "theirs", 7)
    others = OtherCheckpoints(run, {"ours"}, CheckpointFiles(run.storage).look(), first=2)
    folder = run.path / CHECKPOINTS
    (folder / "theirs.json").write_bytes(b"\xff")
    (folder / "new.json").write_bytes(b'{"subscription":"new","version":99}')
    (folder / "ours.json").write_bytes(b"\xff")

    others.look()
    others.look()

    assert others.needed == {"theirs": 7, UNKNOWN: 2}
    assert caplog.text.count("theirs.json") == 1


def test_one_that_is_removed_holds_nothing(run: Run) -> None:
    save(run, "theirs", 7)
    others = OtherCheckpoints(run, {"ours"}, CheckpointFiles(run.storage).look(), first=0)

    CheckpointFiles(run.storage).remove("theirs")
    others.look()

    assert others.needed == {}


def test_where_they_cannot_be_listed_that_is_raised(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    others = OtherCheckpoints(run, {"ours"}, NOTHING, first=0)

    def refuse(*_: object, **__: object) -> DiskStorage:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(DiskStorage, "folder", refuse)
    with pytest.raises(OSError, match="too many"):
        others.look()
    assert others.needed == {UNKNOWN: 0}

    assert others.forfeit(7) == {UNKNOWN: 7}
    with pytest.raises(OSError, match="too many"):
        others.look()
    assert others.needed == {UNKNOWN: 7}

    others.give_up()
    with pytest.raises(OSError, match="too many"):
        others.look()
    assert others.needed == {}


def test_what_they_forfeit_they_hold_no_more(run: Run) -> None:
    save(run, "slow", 3)
    save(run, "quick", 9)
    others = OtherCheckpoints(run, {"ours"}, CheckpointFiles(run.storage).look(), first=0)

    assert others.forfeit(5) == {"slow": 2}

    others.look()
    assert others.needed == {"slow": 5, "quick": 9}
    others.give_up()
    others.look()
    assert (others.needed, others.lowest(100)) == ({}, 100)


def test_what_was_seen_of_them_is_made_durable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, "theirs", 3)
    others = OtherCheckpoints(run, {"ours"}, CheckpointFiles(run.storage).look(), first=0)
    synced: list[int] = []
    monkeypatch.setattr("eventrec.log.descriptors.sync", lambda fd, **_: synced.append(fd))

    others.sync()
    assert len(synced) == 1

    (run.path / CHECKPOINTS / "theirs.json").unlink()
    others.sync()
    others.give_up()
    others.sync()
    assert len(synced) == 1
