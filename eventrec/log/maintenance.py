"""What is done to segments that are not written any more: delete, compress, cut, measure."""

from __future__ import annotations

import itertools
from typing import Final

from eventrec.log.commit import Commit
from eventrec.log.compressed import MAGIC, compress
from eventrec.log.repair import seek
from eventrec.log.segment import (
    Segment,
    delete_segment,
    delete_segments,
    list_segments,
    load_index,
    replace_file,
    segment_name,
)
from eventrec.log.storage import File, FileSize, Storage, write_all
from eventrec.log.walk import Walk

_CHUNK: Final = 1 << 20


def delete_below(storage: Storage, offset: int, *, head: int) -> int:
    """Delete the segments before `head` all of whose records are below `offset`, oldest first. Returns how many.

    On return their names are gone for good: only then may the caller rely on their being gone.
    """
    below = _sealed_below(storage, offset, head)
    delete_segments(storage, below)
    return len(below)


def sealed(storage: Storage, *, head: int) -> list[tuple[int, int, int, float]]:
    """The segments before `head`, oldest first: first offset, end, bytes, and seconds since it was written."""
    found = []
    for first, end in itertools.pairwise(list_segments(storage)):
        if end <= head:
            size = storage.size(segment_name(first))
            found.append((first, end, size.length, size.age))
    return found


def compress_below(storage: Storage, offset: int, *, head: int) -> tuple[int, int]:
    """Compress the segments before `head` all of whose records are below `offset`. Returns bytes before and after."""
    read = written = 0
    for first in _sealed_below(storage, offset, head):
        sizes = _compress(storage, first)
        read += sizes[0]
        written += sizes[1]
    return read, written


def _sealed_below(storage: Storage, offset: int, head: int) -> list[int]:
    pairs = itertools.pairwise(list_segments(storage))
    return [first for first, end in pairs if end <= min(offset, head)]


def _compress(storage: Storage, first: int) -> tuple[int, int]:
    source = storage.open(segment_name(first), "read")
    sizes = (0, 0)

    def fill(target: File) -> None:
        nonlocal sizes
        sizes = compress(source, target)

    try:
        if source.read(0, len(MAGIC)) != MAGIC:
            replace_file(storage, segment_name(first), fill)
    finally:
        source.close()
    return sizes


def delete_all(storage: Storage) -> None:
    """Delete every segment, newest first. Durable after `recover`."""
    for first in reversed(list_segments(storage)):
        delete_segment(storage, first)


def cut_after(storage: Storage, offset: int) -> None:
    """Cut everything after the commit that contains record `offset`. A compressed segment is decompressed for it.

    Newer segments go first, and for good, before a byte is cut: a crash leaves no hole. The cut is durable after
    `recover`, which syncs the last segment in any case.

    Raises:
        ValueError: That record is deleted.
    """
    firsts = list_segments(storage)
    if offset < firsts[0]:
        raise ValueError(f"record {offset} is deleted: the log begins at {firsts[0]}")
    last = max(first for first in firsts if first <= offset)
    for first in reversed(firsts):
        if first > last:
            delete_segment(storage, first)
    storage.sync_directory()
    size = _end_of(storage, last, offset)
    file = storage.open(segment_name(last), "write")
    try:
        if file.size() > size:
            file.truncate(size)
    finally:
        file.close()


def _end_of(storage: Storage, first: int, offset: int) -> int:
    """The byte after the commit that contains `offset`, or after the last one; and the segment is uncompressed."""
    segment = Segment.open(storage, first)
    try:
        if segment.is_compressed:
            replace_file(storage, segment_name(first), lambda target: _copy(segment, target))
        entry = seek(segment, load_index(storage, first), offset)
        walk = Walk(segment, position=entry.position, offset=entry.offset)
        while step := walk.step():
            if isinstance(step, Commit) and step.end > offset:
                break
        return walk.position
    finally:
        segment.close()


def _copy(segment: Segment, target: File) -> None:
    position = 0
    while piece := segment.file.read(position, _CHUNK):
        position = write_all(target, piece, position)


def directory_size(storage: Storage) -> FileSize:
    """Bytes of all files, and what the disk gave them. A file that goes meanwhile counts nothing."""
    length = allocated = 0
    for name in storage.list():
        try:
            size = storage.size(name)
        except FileNotFoundError:
            continue
        length += size.length
        allocated += size.allocated
    return FileSize(length, allocated)
