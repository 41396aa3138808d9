"""What a look at one log says of it, and of what would be lost with it."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import pytest

from eventrec.log.log import Log
from eventrec.log.segment import Segment, segment_name
from eventrec.records.content import encode_take
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.runs import survey
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LOCK, LogDirectory
from eventrec.runs.followers import Followers
from eventrec.runs.mirrors import Mirrors
from eventrec.runs.others import UNKNOWN
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.survey import knows, list_foreign, see, see_opened

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.log.storage import Storage


def leave(directory: Path, *, records: int = 3, **delivered: int) -> Run:
    """A run with so many records, locked, and how many of them each subscription has."""
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        entries = [make_entry(Shape("events", "a"), 1, b"1") for _ in range(records)]
        for content, n in encode_take(entries, run.id, written=time.time_ns()):
            log.append_encoded(content, n)
    for name, count in delivered.items():
        progress = Progress(0, count, count, delivered=count)
        CheckpointFiles(run.storage).save(Checkpoint(subscription=name, progress=progress), sync=False)
    return run


def test_what_is_lost_with_a_log_is_what_its_subscriptions_lack(tmp_path: Path) -> None:
    run = leave(tmp_path, one=1, all=3)

    seen = see(tmp_path, run.id)

    assert seen is not None
    assert (seen.state, seen.end, seen.open_records(), seen.holders()) == ("held", 3, {"one": 2}, ["one"])
    assert seen.holders(excluding="one") == []
    run.release()


@pytest.mark.parametrize("is_spoilt", [True, False])
def test_of_a_log_whose_checkpoints_say_nothing_all_may_be_lost(tmp_path: Path, *, is_spoilt: bool) -> None:
    run = leave(tmp_path, **({"s": 2} if is_spoilt else {}))
    for path in (run.path / CHECKPOINTS).iterdir():
        path.write_bytes(b"?")

    seen = see(tmp_path, run.id)

    assert seen is not None
    assert seen.open_records() == {UNKNOWN: 3}
    assert seen.knows("s") is is_spoilt
    run.release()


def test_a_log_that_goes_while_it_is_looked_at_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = leave(tmp_path)
    (run.path / LOCK).unlink()
    assert see_opened(run.storage, run.id, run.path) is None

    again = leave(tmp_path)

    def gone(_: object) -> None:
        again.path.rename(tmp_path / f"gone-{again.id}")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(survey, "describe", gone)

    assert see_opened(again.storage, again.id, again.path) is None
    run.release()
    again.release()


def test_a_file_that_is_missing_of_a_log_that_is_there_is_not_taken_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave(tmp_path)

    def missing(_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(survey, "describe", missing)

    with pytest.raises(FileNotFoundError):
        see_opened(run.storage, run.id, run.path)
    run.release()


def test_a_lock_that_this_user_may_not_see_leaves_it_open_whose_the_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(run.storage), "is_locked", refuse)

    seen = see_opened(run.storage, run.id, run.path)

    assert seen is not None
    assert (seen.state, seen.end) == ("unknown", 0)
    run.release()


def test_a_subscription_is_known_by_an_older_log_alone(tmp_path: Path) -> None:
    """One after another is looked at, and those without its checkpoint are passed."""
    runs = [leave(tmp_path, other=1), leave(tmp_path, s=1), leave(tmp_path, s=1)]

    assert [knows(tmp_path, "s", before=run.id) for run in (*runs, leave(tmp_path))] == [False, False, True, True]
    for run in runs:
        run.release()


def test_segments_that_their_owner_deletes_meanwhile_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave(tmp_path)
    (run.path / segment_name(3)).write_bytes(b"")  # Begun, and nothing in it yet.
    opened = Segment.open

    def delete_the_first(storage: Storage, first: int) -> Segment:
        if first == 0:
            monkeypatch.setattr(Segment, "open", opened)
            (run.path / segment_name(0)).unlink()
        return opened(storage, first)

    monkeypatch.setattr(Segment, "open", delete_the_first)
    seen = see(tmp_path, run.id)

    assert seen is not None
    assert (seen.end, seen.state) == (3, "held")
    run.release()


def test_what_its_owner_makes_or_deletes_is_not_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = leave(tmp_path)
    names = [f"gone-{run.id}", f"gone-{new_run_id()}", f".new-{new_run_id()}", str(new_run_id()), "photo"]
    (tmp_path / str(run.id)).rename(tmp_path / names[0])
    for name in names[1:3]:  # Their lock is gone, or not there yet.
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o1700)
    (tmp_path / "photo").mkdir()
    (tmp_path / f"gone-{new_run_id()}").write_bytes(b"a file")
    assert not (tmp_path / names[3]).exists()

    listed = LogDirectory.names
    monkeypatch.setattr(LogDirectory, "names", lambda log: [*listed(log), names[3]])
    found = list_foreign(tmp_path)

    assert found == [next(path.name for path in tmp_path.iterdir() if path.is_file()), "photo"]
    run.release()


def test_where_it_cannot_be_told_who_follows_or_mirrors_the_log_itself_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    run = leave(tmp_path, one=1)
    monkeypatch.setattr(Followers, "names", refuse)
    monkeypatch.setattr(Mirrors, "of_log", refuse)

    seen = see(tmp_path, run.id)

    assert seen is not None
    assert (seen.end, seen.pending("one"), seen.awaited, seen.mirrored) == (3, 2, frozenset(), {})
    run.release()
