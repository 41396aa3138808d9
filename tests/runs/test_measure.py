"""The size of a log directory: one process measures it, and all read that, however it is spoilt."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.runs.directory import DEAD, DONE, LogDirectory
from eventrec.runs.measure import LOOKS_EVERY, LOOKS_SELDOM, Measured, SharedMeasure
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.survey import QUOTA


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[Run]]:
    made = [Run.create(tmp_path, new_run_id()) for _ in range(2)]
    yield made
    for run in made:
        run.release()


def test_what_one_measures_another_reads_while_it_is_new(tmp_path: Path, runs: list[Run]) -> None:
    one, other = (SharedMeasure(LogDirectory(tmp_path)) for _ in range(2))
    assert other.last() is None
    lock = one.lock()

    measured = one.measure()

    assert measured.used == sum(run.size() for run in runs)
    assert other.last(now=measured.at + 0.5) == measured
    assert other.last(now=measured.at + LOOKS_EVERY) is None
    assert other.last(now=measured.at - 1) is None
    with pytest.raises(LogLockedError):
        other.lock()
    lock.release()


@pytest.mark.parametrize("spoilt", [b"", b"\xf3", b"\0" * 80, b'{"used":1,"at":9e99,"seconds":0}\n', b"mine"])
def test_a_spoilt_measurement_is_none_and_is_replaced(tmp_path: Path, runs: list[Run], spoilt: bytes) -> None:
    del runs
    measure = SharedMeasure(LogDirectory(tmp_path))
    (tmp_path / QUOTA).write_bytes(spoilt)

    assert measure.last() is None
    lock = measure.lock()
    measured = measure.measure()
    lock.release()

    assert measure.last() == measured


def test_nothing_is_left_where_there_is_one_run(tmp_path: Path, runs: list[Run]) -> None:
    measure = SharedMeasure(LogDirectory(tmp_path))
    measure.lock().release()
    assert not measure.is_alone()
    runs.pop().retire()

    assert measure.is_alone()
    assert not (tmp_path / QUOTA).exists()


def test_what_another_run_left_half_made_reads_nothing(tmp_path: Path, runs: list[Run]) -> None:
    measure = SharedMeasure(LogDirectory(tmp_path))
    runs[1].path.rename(tmp_path / f".new-{runs[1].id}")

    assert measure.is_alone()


def test_a_run_that_changed_long_ago_is_not_opened_again_and_what_it_grows_by_counts(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [Log.create(run.storage) for run in runs]
    for run in runs:
        os.utime(run.path, (1, 1))
    measure = SharedMeasure(LogDirectory(tmp_path))
    assert measure.measure().used == sum(run.size() for run in runs)
    opened: list[str] = []
    real = DiskStorage.folder

    def noted(self: DiskStorage, name: str, **how: Any) -> DiskStorage:
        opened.append(name)
        return real(self, name, **how)

    monkeypatch.setattr(DiskStorage, "folder", noted)

    logs[0].append_encoded(b"12345", 1)
    logs[0].write()
    measured = measure.measure().used

    assert [name for name in opened if name not in (DONE, DEAD)] == []
    assert measured == sum(run.size() for run in runs)
    (runs[1].path / "00000000000000000000.7.gap").write_bytes(b"damage")
    assert measure.measure().used == sum(run.size() for run in runs)
    for log in logs:
        log.close()


def test_looking_takes_a_tenth_of_the_time_at_most() -> None:
    now = time.time()

    assert [Measured(0, now, seconds).lasts for seconds in (0.0, 0.5, 60.0)] == [LOOKS_EVERY, 5.0, LOOKS_SELDOM]
