"""Checking every byte of a directory of segments, and naming each fault with its file and byte. Changes nothing."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import Damage
from eventrec.log.commit import MAX_OFFSET, Commit
from eventrec.log.compressed import CompressedFile
from eventrec.log.disk import DiskStorage
from eventrec.log.index import ENTRY_SIZE, OffsetIndex
from eventrec.log.segment import (
    HEADER_SIZE,
    MAX_INDEX_BYTES,
    Segment,
    index_name,
    list_odd_segments,
    list_segments,
    segment_name,
)
from eventrec.log.walk import Gap, Tail, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.log.resync import IsOurs
    from eventrec.log.storage import Storage

_LOOKS: Final = 12
_BETWEEN_LOOKS: Final = 0.02


class Fault(NamedTuple):
    """What is wrong in `file` at byte `position`, and what it costs.

    Attributes:
        file: Name of a segment or an index.
        position: In the uncompressed segment, except for the reason FRAME: there in the file.
        size: Bytes concerned, 0 where bytes are absent.
        offset: The record expected there.
        missing: Records lost by it, as far as that is known: what a torn tail was to hold is not known.
        reason: What is wrong.
    """

    file: str
    position: int
    size: int
    offset: int
    missing: int
    reason: Damage

    def __str__(self) -> str:
        return f"{self.file} byte {self.position}: {self.reason}, {self.size} bytes, {self.missing} records missing"


class Description(NamedTuple):
    """Where a log stands, by its last segment with content.

    Attributes:
        first: First offset of that segment.
        position: The byte after its last commit.
        end: The next offset.
        epoch: The greatest epoch in it.
        last: Its last commit.
        tail: What is left behind it.
        damage: What is wrong there, if anything is.
        claimed: Records that a torn or damaged tail says it was to hold: at least one, if it is one.
    """

    first: int
    position: int
    end: int
    epoch: int
    last: Commit | None
    tail: Tail
    damage: Damage | None
    claimed: int


def describe(storage: Storage, *, is_ours: IsOurs | None = None) -> Description | None:
    """Where the log in `storage` stands; None if it holds nothing. Reads the last segment only, and changes nothing.

    Raises:
        OSError: The directory cannot be read.
        LogError: The segment is compressed, and zstd is not installed.
    """
    firsts = list_segments(storage)
    while True:
        try:
            return _describe(storage, firsts, is_ours)
        except FileNotFoundError:
            # Its owner deletes segments, or renames the directory: each time there is less, or it is gone.
            before, firsts = firsts, list_segments(storage)
            if firsts == before:
                raise


def _describe(storage: Storage, firsts: Sequence[int], is_ours: IsOurs | None) -> Description | None:
    for first in reversed(firsts):
        segment = Segment.open(storage, first)
        try:
            walk = Walk(segment, is_ours=is_ours)
            epoch, last = 0, None
            while step := walk.step():
                if isinstance(step, Commit):
                    epoch, last = max(epoch, step.epoch), step
            if last is not None or walk.tail not in (Tail.CLEAN, Tail.ZEROS):
                claimed = walk.claimed() if walk.tail in (Tail.TORN, Tail.DAMAGED) else 0
                return Description(first, walk.position, walk.offset, epoch, last, walk.tail, walk.damage, claimed)
        finally:
            segment.close()
    return None


def verify(storage: Storage, *, is_ours: IsOurs | None = None, is_live: bool = False) -> Iterator[Fault]:
    """Every fault of the log in `storage`, ours or another's, segment by segment. None: it is whole.

    No fault are: reserved space (zeros) at the end, superseded bytes, segments without content, a missing index; and
    of a log that `is_live`, what its writer has not finished, which is looked at again for up to a quarter of a second.

    Raises:
        OSError: The directory cannot be read.
        LogError: A segment is compressed, and zstd is not installed.
    """
    for odd in list_odd_segments(storage) if isinstance(storage, DiskStorage) else ():
        yield Fault(segment_name(odd), 0, 0, odd, 0, Damage.NOT_A_FILE)
    firsts = list_segments(storage)
    for first, upper in itertools.pairwise([*firsts, None]):
        assert first is not None  # noqa: S101 - only the last one is
        try:
            segment = Segment.open(storage, first)
        except FileNotFoundError:
            if not is_live:
                raise
            continue  # Its owner deleted it meanwhile.
        try:
            yield from _verify_segment(storage, segment, upper, is_ours, is_live=is_live)
        finally:
            segment.close()


def _walked(
    segment: Segment, upper: int | None, is_ours: IsOurs | None, *, is_live: bool
) -> Iterator[tuple[Walk, Commit | Gap | None]]:
    """Every step through the segment; the last one is None. What is live is followed while it moves."""
    walk = Walk(segment, upper=upper, is_ours=is_ours)
    looks = 0
    while True:
        while step := walk.step():
            yield walk, step
        if not is_live or upper is not None or looks >= _LOOKS or walk.tail in (Tail.CLEAN, Tail.ZEROS):
            yield walk, None
            return
        before = walk.position
        time.sleep(_BETWEEN_LOOKS)
        walk = Walk(segment, position=walk.position, offset=walk.offset, upper=upper, is_ours=is_ours)
        looks = looks + 1 if walk.position == before else 0


def _verify_segment(
    storage: Storage, segment: Segment, upper: int | None, is_ours: IsOurs | None, *, is_live: bool
) -> Iterator[Fault]:
    name, file = segment.name, segment.file
    if segment.damage:
        yield Fault(name, 0, HEADER_SIZE, segment.first, 0, segment.damage)
    commits: dict[int, int] = {}
    unreadable: list[range] = []
    for walk, step in _walked(segment, upper, is_ours, is_live=is_live):
        if isinstance(step, Commit):
            commits[step.offset] = walk.start
        elif step is not None:
            unreadable.append(range(step.position, step.position + step.size))
            yield Fault(name, step.position, step.size, step.offset, step.missing, step.reason)
    rest = max(0, walk.size - walk.position)
    unreadable.append(range(walk.position, MAX_OFFSET))
    if upper is not None and walk.offset < upper:
        missing = upper - walk.offset
        yield Fault(name, walk.position, rest, walk.offset, missing, walk.damage or Damage.HOLE)
    elif walk.tail in (Tail.TORN, Tail.DAMAGED):
        # A whole commit says what it held; of one that was torn by a crash that is not known.
        missing = walk.claimed() if walk.tail is Tail.DAMAGED else 0
        yield Fault(name, walk.position, rest, walk.offset, missing, walk.damage or Damage.SHORT)
    if isinstance(file, CompressedFile):
        for position, size in file.bad_frames:
            yield Fault(name, position, size, segment.first, 0, Damage.FRAME)
    yield from _verify_index(storage, segment.first, commits, unreadable)


def _verify_index(storage: Storage, first: int, commits: dict[int, int], unreadable: list[range]) -> Iterator[Fault]:
    """The entries that name no commit, other than one that was there before it went bad: that is a fault already."""
    name = index_name(first)
    try:
        file = storage.open(name, "read")
    except FileNotFoundError:
        return
    try:
        content = file.read(0, MAX_INDEX_BYTES)
    finally:
        file.close()
    index = OffsetIndex(content)
    for number, entry in enumerate(index):
        is_lost = any(entry.position in part for part in unreadable)
        if commits.get(entry.offset) != entry.position and not is_lost:
            yield Fault(name, number * ENTRY_SIZE, ENTRY_SIZE, entry.offset, 0, Damage.INDEX)
    used = len(index) * ENTRY_SIZE
    if content[used:].strip(b"\0"):
        yield Fault(name, used, len(content) - used, first, 0, Damage.INDEX)
