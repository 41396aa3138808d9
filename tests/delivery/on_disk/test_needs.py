"""What of one log may be deleted: told without a loop, from what is on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventrec.delivery.needs import OTHERS_SECONDS, Needs
from eventrec.log.log import Log, LogOptions
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress, Saved
from eventrec.runs.files import file_name
from eventrec.runs.mirrors import Acknowledged, Mirrors
from eventrec.runs.retention import Retain
from eventrec.runs.run import Run, new_run_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

NOTHING = Saved({}, frozenset(), frozenset())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path, new_run_id())
    yield made
    made.release()


@pytest.fixture
def log(run: Run) -> Iterator[Log]:
    """Three segments of one record each, of which the last one is written."""
    with Log.create(run.storage, LogOptions(segment_bytes=200)) as made:
        for record in (bytes(200), bytes(200), b"record"):
            made.append([record])
            made.write()
        assert made.extent.first == 2
        yield made


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def needs_of(
    run: Run, log: Log, ours: Collection[str] = ("ours",), *, retain: Retain | None = None, clock: Clock | None = None
) -> Needs:
    return Needs(run, log, ours, NOTHING, first=0, retain=retain or Retain(), clock=clock or Clock())


def save(run: Run, name: str, scanned: int) -> None:
    progress = Progress(0, scanned, scanned, delivered=scanned)
    CheckpointFiles(run.storage).save(Checkpoint(subscription=name, progress=progress), sync=False)


@pytest.mark.parametrize(("settled", "below"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_whole_segments_that_ours_are_past_may_go_but_for_the_one_that_is_written(
    run: Run, log: Log, settled: int, below: int
) -> None:
    needs = needs_of(run, log)

    assert needs.has_sealed
    assert needs.deletable_below(settled) == below
    assert needs.has_deletable(settled) is (below > 0)


def test_once_they_went_nothing_more_may_go(run: Run, log: Log) -> None:
    needs = needs_of(run, log)

    log.delete_below(needs.deletable_below(3))

    assert needs.deletable_below(3) == 0
    assert not needs.has_sealed


def test_subscriptions_of_others_keep_what_they_need_and_are_looked_at_seldom(run: Run, log: Log, clock: Clock) -> None:
    save(run, "theirs", 0)
    needs = needs_of(run, log, clock=clock)
    assert needs.deletable_below(3) == 0
    assert (needs.of_others, needs.lowest(3)) == ({"theirs": 0}, 0)
    save(run, "theirs", 1)

    clock.now += OTHERS_SECONDS / 2
    too_soon = needs.deletable_below(3)
    clock.now += OTHERS_SECONDS / 2

    assert (too_soon, needs.deletable_below(3)) == (0, 1)
    assert repr(needs) == f"<Needs of {run.id}: {{'theirs': 1}}>"


def test_where_nothing_is_delivered_here_others_are_looked_at_each_time(run: Run, log: Log) -> None:
    needs = needs_of(run, log, ())
    assert not needs.has_deletable(3)  # kept for one that is to come

    save(run, "theirs", 2)

    assert needs.has_deletable(3)


def test_where_it_cannot_be_told_nothing_may_go(run: Run, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[int]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("eventrec.delivery.needs.list_segments", refuse)
    needs = needs_of(run, log)

    assert not needs.has_deletable(3)
    with pytest.raises(OSError, match="Input/output"):
        needs.deletable_below(3)


def test_where_the_needs_of_others_cannot_be_told_nothing_may_go_and_it_is_said_once(
    run: Run, log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> Saved:
        raise PermissionError(13, "Permission denied")

    needs = needs_of(run, log, clock=clock)
    with monkeypatch.context() as patched:
        patched.setattr("eventrec.runs.others.CheckpointFiles.look", refuse)
        for _ in range(2):
            assert needs.deletable_below(3) == 0
            clock.now += OTHERS_SECONDS
        with pytest.raises(OSError, match="denied"):
            needs.look()

    assert caplog.text.count("what others need is not known, so nothing is deleted") == 1
    assert needs.deletable_below(3) == 2


def test_a_mirror_keeps_what_it_lacks_until_that_is_forfeited(tmp_path: Path, run: Run, log: Log) -> None:
    mirrors = Mirrors(tmp_path)
    mirrors.register("standby")
    mirrors.acknowledge("standby", Acknowledged(log=run.id, next_offset=1))
    needs = needs_of(run, log)
    assert (needs.deletable_below(3), needs.of_mirrors()) == (1, [1])

    assert needs.forfeit_of_mirrors(2) == {"standby": 1}

    assert needs.deletable_below(3) == 2


def test_it_is_mirrored_once_records_and_checkpoints_of_all_are(tmp_path: Path, run: Run, log: Log) -> None:
    mirrors = Mirrors(tmp_path)
    mirrors.register("standby")
    save(run, "theirs", 3)
    needs = needs_of(run, log)
    needs.look()
    assert not needs.is_mirrored({"ours": 3})
    assert needs.kept_for_mirrors == ["standby"]

    mirrors.acknowledge("standby", Acknowledged(log=run.id, next_offset=3, checkpoints={file_name("ours"): 3}))
    assert not needs.is_mirrored({"ours": 3})
    both = {file_name("ours"): 3, file_name("theirs"): 3}
    mirrors.acknowledge("standby", Acknowledged(log=run.id, next_offset=3, checkpoints=both))

    assert needs.is_mirrored({"ours": 3})
    assert needs.kept_for_mirrors == []


def test_what_is_retained_stays_until_the_disk_is_full(run: Run, log: Log) -> None:
    needs = needs_of(run, log, retain=Retain(seconds=3_600))
    before = (needs.is_retained, needs.deletable_below(3))

    needs.retain_nothing()

    assert before == (True, 0)
    assert (needs.is_retained, needs.deletable_below(3)) == (False, 2)


def test_what_others_forfeit_is_counted_and_may_go(run: Run, log: Log) -> None:
    save(run, "theirs", 0)
    needs = needs_of(run, log)
    needs.look()

    assert needs.forfeit(2) == {"theirs": 2}

    assert needs.deletable_below(3) == 2


def test_what_is_given_up_is_kept_for_no_one(tmp_path: Path, run: Run, log: Log) -> None:
    Mirrors(tmp_path).register("standby")
    save(run, "theirs", 1)
    needs = needs_of(run, log, retain=Retain(seconds=3_600))
    needs.look()
    assert not needs.is_mirrored({"ours": 3})

    assert needs.give_up(3) == {"theirs": 2}

    assert needs.is_given_up
    assert not needs.is_retained
    assert needs.is_mirrored({"ours": 3})
    needs.look()
    assert needs.lowest(3) == 3
