"""What an owner may do about damage: keep the bytes, rebuild an index, and open the last segment for append."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import CorruptCommitError, Damage, LogWriteError
from eventrec.log.commit import MAX_OFFSET, VERSION, Commit, header_size, read_header
from eventrec.log.holes import has_right_checksum, is_zero, pieces
from eventrec.log.index import ENTRY_SIZE, INDEX_INTERVAL, Entry, IndexPlan, OffsetIndex, encode_entries
from eventrec.log.segment import (
    HEADER_SIZE,
    Segment,
    create_segment,
    index_name,
    list_leftovers,
    list_segments,
    load_index,
    replace_file,
    segment_name,
)
from eventrec.log.storage import File, Storage, write_all
from eventrec.log.walk import Gap, Tail, Walk

if TYPE_CHECKING:
    from eventrec.log.resync import IsOurs

_TRIES: Final = 64


class Recovered(NamedTuple):
    """How a log was found, and where it goes on.

    Attributes:
        head: First offset of the segment to go on in; None: a new one must be made at `end`.
        position: The byte to go on at.
        end: The next offset.
        epoch: The greatest epoch seen in the last segment.
        gaps: What was passed over in the last segment.
        cut: Bytes of a torn tail that were cut off.
        empty: Segments without content, to be deleted once the head is there: till then their names alone may say how
            far offsets were given out.
        lost: Records that the tail which was cut says it was to hold, as far as it does: at least one, if it was one.
        lost_from: The offset of the first of them.
    """

    head: int | None
    position: int
    end: int
    epoch: int
    gaps: tuple[Gap, ...]
    cut: int
    empty: tuple[int, ...] = ()
    lost: int = 0
    lost_from: int = 0


def recover(
    storage: Storage, *, strict: bool, is_ours: IsOurs | None, at_least: int, counts_tail: bool = False
) -> Recovered:
    """Make the directory fit for append; reads the last segment only. On return what it holds is synced.

    With `counts_tail` the records of a tail that is cut keep their offsets: the log goes on behind them.

    Half-made segments are deleted; a torn tail is cut, after what may have been a commit of it was kept in a side
    file. A segment that cannot take more (old version, compressed, damaged,
    or what it ends with cannot be kept) is left as it is, to be followed by a new one.

    Raises:
        CorruptCommitError: `strict`, and the last segment is damaged. Nothing was changed.
        OSError: The disk refused.
    """
    firsts = list_segments(storage)
    empty = []
    while firsts and is_empty(storage, firsts[-1]):
        empty.append(firsts.pop())
    if firsts:
        found = _recover_segment(storage, firsts[-1], strict=strict, is_ours=is_ours, counts_tail=counts_tail)
    else:
        found = Recovered(None, 0, 0, 0, (), 0)
    for name in list_leftovers(storage):
        storage.delete(name)
    for first in empty:
        with contextlib.suppress(FileNotFoundError):
            storage.delete(index_name(first))
    storage.sync_directory()
    # An empty segment proves by its name that all offsets below were given out, even if their records are lost.
    end = max(found.end + (found.lost if counts_tail else 0), at_least, *empty)
    found = found._replace(empty=tuple(empty))
    return found if end == found.end else found._replace(head=None, end=end)


def is_empty(storage: Storage, first: int) -> bool:
    """Whether that segment holds no more than a header, and reserved space."""
    file = storage.open(segment_name(first), "read")
    try:
        size = file.size()
        return size <= HEADER_SIZE or (not any(file.read(0, HEADER_SIZE)) and is_zero(file, HEADER_SIZE, size))
    finally:
        file.close()


def _recover_segment(
    storage: Storage, first: int, *, strict: bool, is_ours: IsOurs | None, counts_tail: bool
) -> Recovered:
    segment = Segment.open(storage, first)
    try:
        if strict and segment.damage:
            raise CorruptCommitError(segment.damage, segment=segment.name, offset=first)
        entry = seek(segment, load_index(storage, first), MAX_OFFSET)
        walk = Walk(segment, position=entry.position, offset=entry.offset, is_ours=is_ours)
        gaps, epoch = [], 0
        while step := walk.step():
            if isinstance(step, Commit):
                epoch = max(epoch, step.epoch)
                continue
            if strict:
                raise CorruptCommitError(step.reason, segment=segment.name, position=step.position, offset=step.offset)
            gaps.append(step)
            keep_gap(storage, segment, step)
        rest = walk.size - walk.position
        if strict and walk.tail is Tail.DAMAGED:
            raise CorruptCommitError(Damage.CHECKSUM, segment=segment.name, position=walk.position, offset=walk.offset)
        tail = Gap(first, walk.position, rest, walk.offset, 0, walk.damage or Damage.SHORT)
        is_kept = walk.tail not in (Tail.TORN, Tail.DAMAGED) or walk.damage is Damage.SHORT
        is_kept = is_kept or keep_gap(storage, segment, tail)
        has_commits = walk.offset > first
        if not has_commits and not is_kept:
            raise LogWriteError(f"{segment.name} holds no commit, and its {rest} bytes cannot be set aside")
        lost = walk.claimed() if walk.tail in (Tail.TORN, Tail.DAMAGED) else 0
        is_closed = segment.is_compressed or segment.version != VERSION or bool(segment.damage) or bool(gaps)
        if is_closed or not is_kept or not has_commits:
            sync_again(storage, first, None)
            return Recovered(None, 0, walk.offset, epoch, tuple(gaps), 0, lost=lost, lost_from=walk.offset)
        if counts_tail and lost:
            # Before it is cut: should this be the last that we do, nothing else says that there were records.
            create_segment(storage, walk.offset + lost)
        sync_again(storage, first, walk.position if rest else None)
        if entry.position == HEADER_SIZE:
            rebuild_index(storage, first)
        else:
            cut_index(storage, first, walk.position)
        return Recovered(first, walk.position, walk.offset, epoch, tuple(gaps), rest, lost=lost, lost_from=walk.offset)
    finally:
        segment.close()


def sync_again(storage: Storage, first: int, size: int | None) -> None:
    """Cut the segment to `size`, and have it on the disk: what a writer that died left is relied on from now.

    Every byte that the disk holds is written again, in its place, and the length is set again. After a sync that
    failed, be it that writer's, the kernel's own or ours when this was tried before, ext4 and xfs keep the bytes in the
    page cache and take them for written (Rebello et al., USENIX ATC 2020): a sync of what is not written again
    succeeds, and the disk is without them.
    """
    file = storage.open(segment_name(first), "write")
    try:
        file.truncate(file.size() if size is None else size)
        for position, piece in pieces(file, 0, file.size()):
            write_all(file, piece, position)
        file.sync()
    finally:
        file.close()


def seek(segment: Segment, index: OffsetIndex, offset: int) -> Entry:
    """Where to begin reading to find `offset`: the nearest entry of `index` that proves right, else the beginning."""
    tries = _TRIES
    for entry in index.candidates(offset):
        if _is_right(segment, entry):
            return entry
        tries -= 1
        if not tries:
            break
    return Entry(segment.first, HEADER_SIZE)


def _is_right(segment: Segment, entry: Entry) -> bool:
    available = segment.file.size() - entry.position
    if available <= 0:
        return False  # Also of a position that no file can have.
    head = segment.file.read(entry.position, header_size(segment.version))
    try:
        header = read_header(head, 0, available, segment.version)
        if header.offset != entry.offset:
            return False
        return has_right_checksum(segment.file, entry.position, header)
    except CorruptCommitError:
        return False


def rebuild_index(storage: Storage, first: int, interval: int = INDEX_INTERVAL) -> bool:
    """Write the index of a segment again, from its commits. Returns whether that succeeded: an index may be missing."""
    plan = IndexPlan(interval)
    entries = []
    try:
        segment = Segment.open(storage, first)
        try:
            walk = Walk(segment)
            while step := walk.step():
                if isinstance(step, Commit) and (entry := plan.note(step.offset, walk.start, step.size)):
                    entries.append(entry)
        finally:
            segment.close()
        content = encode_entries(entries)
        replace_file(storage, index_name(first), lambda file: write_all(file, content, 0))
    except OSError:
        return False
    return True


def cut_index(storage: Storage, first: int, position: int) -> None:
    """Cut off the entries from `position` on, where other commits will stand, if that can be done."""
    size = ENTRY_SIZE * sum(entry.position < position for entry in load_index(storage, first))
    with contextlib.suppress(OSError):
        if not size:
            storage.delete(index_name(first))
            return
        file = storage.open(index_name(first), "write")
        try:
            if file.size() > size:
                file.truncate(size)
        finally:
            file.close()


def keep_gap(storage: Storage, segment: Segment, gap: Gap) -> bool:
    """Keep the bytes of `gap` in a side file, for a person to look at. Returns whether they are kept now.

    The file is `{segment:020d}.{position}.gap`; it is made once, never overwritten, and is not part of the log.
    """
    name = f"{gap.segment:020d}.{gap.position}.gap"
    if not gap.size:
        return True

    def copy(file: File) -> None:
        for position, piece in pieces(segment.file, gap.position, gap.position + gap.size):
            write_all(file, piece, position - gap.position)
        if file.size() < gap.size:  # It ends with a hole.
            file.truncate(gap.size)

    with contextlib.suppress(OSError):
        if name not in storage.list():
            replace_file(storage, name, copy)
        return True
    return False
