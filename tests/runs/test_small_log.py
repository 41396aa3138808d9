"""A small log that is whole is read at once; any other is left to be opened as any log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from eventrec.log.log import Log, LogOptions
from eventrec.log.segment import index_name, segment_name
from eventrec.records.content import ContentDecoder, encode_take
from eventrec.records.entry import PAYLOAD, Entry, make_entry
from eventrec.records.schema import Shape
from eventrec.runs import small_log
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.small_log import read_small_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

SHAPE = Shape("events", "a")


def append(run: Run, log: Log, *, count: int = 2, id_: UUID | None = None, static: bytes | None = None) -> None:
    entries: list[Entry] = [make_entry(SHAPE, 1, b"%d" % n) for n in range(count)]
    for content, n in encode_take(entries, id_ or run.id, written=time.time_ns(), static_context=static):
        log.append_encoded(content, n)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path, new_run_id())
    CheckpointFiles(made.storage).save(
        Checkpoint(subscription="s", progress=Progress(0, 1, 1, delivered=1)), sync=False
    )
    yield made
    made.release()


def read(run: Run) -> small_log.SmallLog | None:
    return read_small_log(run, ContentDecoder())


def test_what_is_whole_is_read_with_its_checkpoints(run: Run) -> None:
    with Log.create(run.storage) as log:
        append(run, log)
        append(run, log)

    found = read(run)

    assert found is not None
    assert [entry[PAYLOAD] for entry in found.entries] == [b"0", b"1", b"0", b"1"]
    assert (found.first, found.end, found.checkpoints["s"].progress.scanned) == (0, 4, 1)
    assert not found.has_grown()
    with (run.path / segment_name(0)).open("ab") as file:
        file.write(b"more")
    assert found.has_grown()


def two_segments(run: Run) -> None:
    with Log.create(run.storage, LogOptions(segment_bytes=1)) as log:
        for _ in range(2):
            append(run, log)
            log.write()


def another_file(run: Run) -> None:
    whole(run)
    (run.path / "notes.txt").touch()


def an_index(run: Run) -> None:
    whole(run)
    (run.path / index_name(0)).touch()


def whole(run: Run) -> None:
    with Log.create(run.storage) as log:
        append(run, log)


def of_another_log(run: Run) -> None:
    with Log.create(run.storage) as log:
        append(run, log)
        append(run, log, id_=new_run_id())


def two_contexts(run: Run) -> None:
    with Log.create(run.storage) as log:
        append(run, log, static=b'{"host":"a"}')
        append(run, log, static=b'{"host":"b"}')


def empty(run: Run) -> None:
    Log.create(run.storage).close()


def torn(run: Run) -> None:
    whole(run)
    segment = run.path / segment_name(0)
    segment.write_bytes(segment.read_bytes()[:-1])


def spoilt_checkpoint(run: Run) -> None:
    whole(run)
    (path,) = (run.path / CHECKPOINTS).iterdir()
    path.write_bytes(b"?")


def too_large(run: Run) -> None:
    with Log.create(run.storage) as log:
        entries: list[Entry] = [make_entry(SHAPE, 1, bytes(small_log.MAX_BYTES))]
        for content, n in encode_take(entries, run.id, written=1):
            log.append_encoded(content, n)


@pytest.mark.parametrize(
    "make", [two_segments, another_file, of_another_log, two_contexts, empty, torn, spoilt_checkpoint, too_large]
)
def test_what_takes_a_closer_look_is_not_read(run: Run, make: Callable[[Run], None]) -> None:
    make(run)

    assert read(run) is None


def test_an_index_beside_it_changes_nothing(run: Run) -> None:
    an_index(run)

    assert read(run) is not None
