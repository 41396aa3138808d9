"""The bound on the log directory, judged alone: which logs of earlier runs go, and what is said of them."""

from __future__ import annotations

import errno
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest

from eventrec.delivery.disk import DiskQuota
from eventrec.events.encoder import Encoder
from eventrec.log.log import Log
from eventrec.log.segment import segment_name
from eventrec.records.content import encode_take
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import DONE, LogDirectory, list_runs
from eventrec.runs.measure import SharedMeasure
from eventrec.runs.retention import Bound, Retain
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import Numbered

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.log.disk import DiskStorage

RECORDS = 3


def leave(directory: Path, *, delivered: int = 0) -> Run:
    """A run of `RECORDS` records, locked, whose subscription "s" has the first `delivered`."""
    encoder = Encoder(types=None, context=lambda: None, now=time.time_ns)
    encoded = [encoder.encode(Numbered(n)) for n in range(RECORDS)]
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        entries = [each for each in encoded if isinstance(each, tuple)]
        for content, count in encode_take(entries, run.id, written=time.time_ns()):
            log.append_encoded(content, count)
    progress = Progress(0, delivered, delivered, delivered=delivered)
    CheckpointFiles(run.storage).save(Checkpoint(subscription="s", progress=progress), sync=False)
    return run


class Judged:
    """A quota of `max_bytes`, with no log of its own and no adopted one."""

    def __init__(self, directory: Path, *, max_bytes: int = 1, retain: Retain | None = None) -> None:
        self.drops: Counter[str] = Counter()
        self.held: list[str | None] = []
        log = LogDirectory(directory)
        writer: Any = SimpleNamespace(
            failure=None, log=None, consumer=SimpleNamespace(appended=0), hold=self.held.append
        )
        adoption: Any = SimpleNamespace(
            opening=anyio.Lock(), adopted={}, groups_ended=self._groups_ended, oldest=lambda: list_runs(log)
        )
        self.quota = DiskQuota(
            log,
            Bound(max_bytes, 0.0),
            retain or Retain(),
            writer=writer,
            adoption=adoption,
            own=lambda: None,
            by_all=False,
            on_drop=lambda reason, count: self.drops.update({reason: count}),
            next_change=anyio.Event,
        )

    async def _groups_ended(self) -> bool:
        return True


def test_what_another_user_retains_does_not_end_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path).release()
    real = LogDirectory.opened

    def refuse(log: LogDirectory, *, create: bool = False) -> DiskStorage:
        if log.path.name == DONE:
            raise PermissionError(errno.EACCES, "Permission denied", str(log.path))
        return real(log, create=create)

    monkeypatch.setattr(LogDirectory, "opened", refuse)
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert judged.drops == {"retention": RECORDS}
    assert list_runs(tmp_path) == []


def test_an_orphan_that_goes_is_counted_with_what_its_subscription_lacked(tmp_path: Path) -> None:
    run = leave(tmp_path, delivered=1)
    run.release()
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert (judged.drops, judged.quota.forfeited) == ({"retention": RECORDS - 1}, {"s": RECORDS - 1})
    assert (list(tmp_path.iterdir()), judged.held) == ([], [None])


def test_an_orphan_whose_bytes_this_version_does_not_know_goes_as_one_that_is_unknown(tmp_path: Path) -> None:
    run = leave(tmp_path)
    segment = run.path / segment_name(0)
    run.release()
    content = bytearray(segment.read_bytes())
    content[6] = 9
    segment.write_bytes(content)
    for byte in range(10, len(content)):
        content[byte] ^= 0xFF
    segment.write_bytes(content)
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert judged.quota.forfeited == {"?": 1}
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_that_another_process_holds_stays_and_new_events_are_refused(tmp_path: Path) -> None:
    run = leave(tmp_path)
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert (judged.drops, judged.held) == ({}, ["the log directory has reached its bound"])
    assert run.path.is_dir()
    run.release()


@pytest.mark.parametrize("where", ["", DONE])
def test_a_log_that_cannot_be_deleted_stays_is_said_and_counts_as_nothing_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    run = leave(tmp_path)
    if where:
        run.retain()
    run.release()
    kept = tmp_path / where / str(run.id)
    (kept / segment_name(RECORDS)).mkdir()
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert (judged.drops, judged.quota.forfeited, kept.is_dir()) == ({}, {}, True)
    assert ("retained log not deleted" if where else "orphan not deleted") in caplog.text
    assert judged.held[-1] is not None


def test_of_the_retained_logs_the_oldest_go_before_any_orphan(tmp_path: Path) -> None:
    def prepare() -> tuple[UUID, UUID, int]:
        retained, orphan = leave(tmp_path), leave(tmp_path)
        retained.retain()
        orphan.release()
        return retained.id, orphan.id, sum(each.stat().st_size for each in orphan.path.rglob("*") if each.is_file())

    retained, orphan, size = prepare()
    judged = Judged(tmp_path, max_bytes=size + 100, retain=Retain(bytes=1 << 30))

    anyio.run(judged.quota.enforce)

    assert list_runs(tmp_path) == [orphan]
    assert list_runs(tmp_path / DONE) == [], retained
    assert (judged.drops, judged.held) == ({}, [None])


def test_a_retained_log_that_stays_is_said_once_and_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it is asked to make room for by a writer that is refused; see `Writer.failure`."""
    stays, held, goes = leave(tmp_path), leave(tmp_path), leave(tmp_path)
    for run in (stays, held, goes):
        run.retain()
    (tmp_path / DONE / str(stays.id) / segment_name(RECORDS)).mkdir()
    lock = Run.adopt(tmp_path / DONE, held.id)
    judged = Judged(tmp_path, max_bytes=1 << 30, retain=Retain(bytes=1 << 30))

    went = [anyio.run(judged.quota.give_up_delivered) for _ in range(3)]

    assert went == [True, False, False]
    assert list_runs(tmp_path / DONE) == [stays.id, held.id]
    assert caplog.text.count("retained log not deleted") == 1
    assert judged.drops == {}
    assert lock is not None
    lock.release()


def test_while_another_process_judges_nothing_is_decided_here(tmp_path: Path) -> None:
    runs = [leave(tmp_path), leave(tmp_path)]
    for run in runs:
        run.release()
    lock = SharedMeasure(LogDirectory(tmp_path)).lock()
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert (judged.drops, judged.held) == ({}, [])
    assert list_runs(tmp_path) == sorted(run.id for run in runs)
    lock.release()


def test_a_directory_that_gives_no_lock_is_judged_without_one_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    runs = [leave(tmp_path), leave(tmp_path)]
    monkeypatch.setattr(SharedMeasure, "lock", refuse)
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)
    anyio.run(judged.quota.enforce)

    assert caplog.text.count("log directory judged without a lock") == 1
    assert len(judged.held) == 2
    for run in runs:
        run.release()


def test_what_another_process_has_just_measured_counts_while_it_makes_room(tmp_path: Path) -> None:
    runs = [leave(tmp_path), leave(tmp_path)]
    for run in runs:
        run.release()
    other = SharedMeasure(LogDirectory(tmp_path))
    lock = other.lock()
    other.measure()
    judged = Judged(tmp_path)

    anyio.run(judged.quota.enforce)

    assert (judged.drops, judged.held) == ({}, ["the log directory has reached its bound"])
    lock.release()
