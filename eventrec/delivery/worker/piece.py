"""What a worker has in hand: a range of offsets, split and reduced until all of it is settled. Pure values."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventrec.records.batch import Batch
from eventrec.records.context import merged_context
from eventrec.records.entry import CONTEXT, SIZE, total_size, with_context

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry


@dataclass(slots=True, eq=False)
class Piece:
    """The open records of a range that ends before `end` and begins where the last piece ended.

    `dead` and `delivered` are offsets of the range that are settled already; what is in none of the three was filtered,
    or is a hole. `generation` counts how often the piece was reduced or split: each makes another batch.
    """

    end: int
    offsets: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    size: int = 0
    static_context: bytes | None = None
    """What is true of all of its records."""
    generation: int = 0
    is_tried: bool = False
    """Whether it has been a batch: then it stays that batch, however large."""
    batch: Batch | None = None
    """The batch it was prepared as."""
    has_arrived: bool = False
    """Whether a batch up to its end went through."""
    is_doubtful: bool = False
    """Whether it may have arrived, in an attempt that failed in another way than the last one."""
    failure: str | None = None
    """What the last attempt failed with, where that was not one of a handler's own words."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def scanned(self) -> int:
        """Of how many offsets its records are, from the first of them on."""
        return self.end - self.offsets[0] if self.offsets else 0

    def add(self, offset: int, entry: Entry) -> None:
        """One more record, of the same static context as the others."""
        self.offsets.append(offset)
        self.entries.append(entry)
        self.size += entry[SIZE]

    def extend(self, offsets: Iterable[int], entries: Sequence[Entry], static_context: bytes | None) -> None:
        """More records. Where their static context is another one, each record has it in the context of its call."""
        if not self.entries:
            self.static_context = static_context
        elif static_context != self.static_context:
            self.entries = [_with_static(entry, self.static_context) for entry in self.entries]
            entries = [_with_static(entry, static_context) for entry in entries]
            self.static_context = None
            self.size = total_size(self.entries)
        self.offsets.extend(offsets)
        self.entries.extend(entries)
        self.size += total_size(entries)

    def halves(self) -> tuple[Piece, Piece]:
        """Two pieces of about the same number of records, left and right; there must be two records at least."""
        return self.split_at(self.offsets[len(self.offsets) // 2])

    def split_at(self, offset: int) -> tuple[Piece, Piece]:
        """What lies below `offset`, and the rest."""
        cut = bisect_left(self.offsets, offset)
        left = Piece(
            offset,
            self.offsets[:cut],
            self.entries[:cut],
            [dead for dead in self.dead if dead < offset],
            [done for done in self.delivered if done < offset],
            static_context=self.static_context,
            generation=self.generation + 1,
        )
        right = Piece(
            self.end,
            self.offsets[cut:],
            self.entries[cut:],
            [dead for dead in self.dead if dead >= offset],
            [done for done in self.delivered if done >= offset],
            static_context=self.static_context,
            generation=self.generation + 1,
        )
        return left, right

    def settle(self, *, dead: Collection[int] = (), delivered: Collection[int] = ()) -> None:
        """These offsets are open no more."""
        gone = {*dead, *delivered}
        self.dead.extend(dead)
        self.delivered.extend(delivered)
        open_ = [(offset, entry) for offset, entry in self.open() if offset not in gone]
        self.offsets = [offset for offset, _ in open_]
        self.entries = [entry for _, entry in open_]
        self.generation += 1

    def open(self) -> Iterator[tuple[int, Entry]]:
        """What is not settled, by offset."""
        return zip(self.offsets, self.entries, strict=True)

    def as_batch(self, log_id: UUID, subscription: str, start: int) -> Batch:
        """What is open, as the batch that follows what the destination acknowledged up to `start`."""
        offsets = self.offsets
        has_holes = offsets[-1] - offsets[0] + 1 != len(offsets)
        return Batch(
            log_id=log_id,
            subscription=subscription,
            start=start,
            end=self.end,
            offsets=tuple(offsets) if has_holes else range(offsets[0], offsets[-1] + 1),
            entries=tuple(self.entries),
            generation=self.generation,
            static_context=self.static_context,
        )

    def note_failure(self, failure: str | None) -> None:
        """An attempt failed: with what is not a handler's word, or (None) in a way that a later one may mend."""
        self.is_doubtful = self.is_doubtful or failure is None or self.failure not in (None, failure)
        self.failure = failure

    def open_among(self, reasons: Mapping[int, str]) -> dict[int, tuple[Entry, str]]:
        """The open records that `reasons` names by offset, each with its reason."""
        return {offset: (entry, reasons[offset]) for offset, entry in self.open() if offset in reasons}


def _with_static(entry: Entry, static_context: bytes | None) -> Entry:
    """`entry` with `static_context` merged into the context of its call."""
    if static_context is None:
        return entry
    return with_context(entry, merged_context(static_context, entry[CONTEXT]))
