"""The end of a mirrored log: where its stream goes on, and where its last segment begins."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log.commit import MAX_OFFSET, Commit
from eventrec.log.index import Entry
from eventrec.log.repair import cut_index, is_empty, keep_gap, seek, sync_again
from eventrec.log.segment import (
    HEADER_SIZE,
    Segment,
    delete_segment,
    encode_header,
    list_leftovers,
    list_segments,
    load_index,
    replace_file,
    segment_name,
)
from eventrec.log.storage import File, Storage, write_all
from eventrec.log.walk import Gap, Tail, Walk

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK: Final = 1 << 20


class OnTrailing(StrEnum):
    """What becomes of bytes behind the last good commit of a mirror."""

    ERROR = "error"
    TRIM = "trim"


class LastCommit(NamedTuple):
    """The last commit of a log, by which a mirror and its source see whether they are one.

    Attributes:
        segment: First offset of the segment that it is in.
        offset: Its first record.
        next_offset: The record after its last one.
        checksum: CRC-32C of all its bytes but these four.
    """

    segment: int
    offset: int
    next_offset: int
    checksum: int


class Note(NamedTuple):
    """A commit as the index wants it: its first record, its byte, its size in bytes."""

    offset: int
    position: int
    size: int


class End(NamedTuple):
    """Where a log ends.

    Attributes:
        last: Its last commit.
        position: The byte after it.
        version: Of the commits in its segment.
        is_compressed: Whether that segment is.
        notes: The commits for which that segment's index may lack an entry.
        indexed: The offset of its last entry, 0 where there is none.
    """

    last: LastCommit
    position: int
    version: int
    is_compressed: bool
    notes: Sequence[Note]
    indexed: int


def find_end(storage: Storage, *, on_trailing: OnTrailing) -> End | None:
    """The end of the log in `storage`, made fit for what comes next; None where it holds nothing.

    On return what the log holds is synced, and nothing stands behind it: reserved space is cut off, a segment without
    a commit deleted, and so is with `TRIM` whatever stands behind the last good commit. Should commits stand behind
    damage, the bytes are kept in a side file, if that can be done. Of the last segment the end is read, from its last
    index entry on, but all of it written again.

    Raises:
        CorruptCommitError: `ERROR`, and there is something behind the last good commit. Nothing was changed.
        LogError: The last segment is compressed, and zstd is not installed; or of a version that is not known here.
        OSError: The disk refused.
    """
    firsts = list_segments(storage)
    empty: list[int] = []
    end = None
    while firsts and end is None:
        if is_empty(storage, firsts[-1]) or (end := _end_of(storage, firsts[-1], on_trailing)) is None:
            empty.append(firsts.pop())
    if len(firsts) > 1:
        _cut_superseded(storage, *firsts[-2:])
    # One that is empty may not come last: it would say by its name how far those before it go.
    for first in empty:
        delete_segment(storage, first)
    for name in list_leftovers(storage):
        storage.delete(name)
    storage.sync_directory()
    return end


def _end_of(storage: Storage, first: int, on_trailing: OnTrailing) -> End | None:
    segment = Segment.open(storage, first)
    try:
        if segment.damage and on_trailing is OnTrailing.ERROR:
            raise CorruptCommitError(segment.damage, segment=segment.name, offset=first)
        entry = seek(segment, index := load_index(storage, first), MAX_OFFSET)
        indexed = entry if entry in index else Entry(0, 0)
        if first == 0 and entry == next(iter(index), None):
            # Record 0 has no entry, but its bytes count for the first one.
            entry = Entry(first, HEADER_SIZE)
        walk = Walk(segment, position=entry.position, offset=entry.offset)
        last, notes, position = None, [], entry.position
        while isinstance(step := walk.step(), Commit):
            last = LastCommit(first, step.offset, step.end, step.checksum)
            notes.append(Note(step.offset, walk.start, step.size))
            position = walk.position
        is_clean = step is None and walk.tail in (Tail.CLEAN, Tail.ZEROS)
        if not is_clean and on_trailing is OnTrailing.ERROR:
            reason = walk.damage or (Damage.SHORT if step is None else step.reason)
            offset = first if last is None else last.next_offset
            raise CorruptCommitError(reason, segment=segment.name, position=position, offset=offset)
        if step is not None:
            keep_gap(storage, segment, Gap(first, position, walk.size - position, step.offset, 0, step.reason))
        if last is None:
            return None
        if not segment.is_compressed:
            _mend(storage, segment, position if walk.size > position else None)
            cut_index(storage, first, indexed.position + 1)
        return End(last, position, segment.version, segment.is_compressed, notes, indexed.offset)
    finally:
        segment.close()


def _cut_superseded(storage: Storage, first: int, upper: int) -> None:
    """Cut segment `first` where the next one begins: `recut` may not have come so far."""
    segment = Segment.open(storage, first)
    with contextlib.closing(segment):
        entry = seek(segment, load_index(storage, first), upper - 1)
        walk = Walk(segment, position=entry.position, offset=entry.offset, upper=upper)
        while isinstance(walk.step(), Commit):
            pass
        if walk.offset == upper and walk.position < walk.size and not segment.is_compressed:
            _cut(storage, first, walk.position)


def _cut(storage: Storage, first: int, position: int) -> None:
    cut_index(storage, first, position)
    with contextlib.closing(storage.open(segment_name(first), "write")) as file:
        file.truncate(position)
        # The next writer looks at one segment before the last: no older one may get its rest back.
        file.sync()


def _mend(storage: Storage, segment: Segment, size: int | None) -> None:
    """Have `size` bytes of the segment on the disk, or all of them, behind a header that is right."""
    if segment.damage:
        file = storage.open(segment_name(segment.first), "write")
        with contextlib.closing(file):
            write_all(file, encode_header(segment.version), 0)
    sync_again(storage, segment.first, size)


class Recut(NamedTuple):
    """A segment that begins at another record now.

    Attributes:
        size: The bytes that it has.
        notes: All of its commits.
    """

    size: int
    notes: Sequence[Note]


def recut(storage: Storage, old: int, first: int, header: bytes | None) -> Recut:
    """Have what the last segment, `old`, holds from record `first` on stand in a segment of its own, uncompressed.

    It begins with `header`, or as the old one does, and has no index yet. At any instant the files hold all that they
    held: it is whole and synced before the old one is cut, which only counts as far as the next one begins.

    Raises:
        OSError: The disk refused.
    """
    segment = Segment.open(storage, old)
    with contextlib.closing(segment):
        entry = seek(segment, load_index(storage, old), first)
        walk = Walk(segment, position=entry.position, offset=entry.offset)
        while walk.offset < first and walk.step() is not None:
            pass
        position = end = walk.position
        notes = []
        while isinstance(step := walk.step(), Commit):
            notes.append(Note(step.offset, walk.start - position + HEADER_SIZE, step.size))
            end = walk.position
        start = segment.file.read(0, HEADER_SIZE) if header is None else header

        def fill(target: File) -> None:
            at, to = position, write_all(target, start, 0)
            while piece := segment.file.read(at, min(_CHUNK, end - at)):
                at, to = at + len(piece), write_all(target, piece, to)

        replace_file(storage, segment_name(first), fill)
    if first != old:
        _cut(storage, old, position)
    return Recut(HEADER_SIZE + end - position, notes)
