"""What may be kept on the disk, and what goes first: decisions about sizes and ages, without a disk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_KEPT_FREE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Bound:
    """`max_bytes` of the log directory; `keep_free` of the file system: a share (below 1, at most 1 GiB), or bytes."""

    max_bytes: int
    keep_free: float

    def excess(self, *, used: int, free: int, capacity: int) -> int:
        """Bytes that have to go; 0 or less where there is room."""
        keep = min(self.keep_free * capacity, _MAX_KEPT_FREE) if self.keep_free < 1 else self.keep_free
        return max(used - self.max_bytes, int(keep) - free)

    def is_far(self, *, used: int, free: int, capacity: int) -> bool:
        """Whether there would be room with twice as much used, and half as much free."""
        return self.excess(used=2 * used, free=free // 2, capacity=capacity) <= 0


@dataclass(frozen=True, slots=True)
class Retain:
    """How long, in seconds, and how many bytes of what is delivered are kept; neither: none of it."""

    seconds: float | None = None
    bytes: int | None = None

    def __bool__(self) -> bool:
        return self.seconds is not None or self.bytes is not None

    def outlived(self, kept: Sequence[Kept]) -> int:
        """How many of `kept`, oldest first, have to go."""
        if not self:
            return len(kept)
        size = sum(each.size for each in kept)
        count = 0
        for each in kept:
            is_old = self.seconds is not None and each.age > self.seconds
            is_much = self.bytes is not None and size > self.bytes
            if not (is_old or is_much):
                break
            size -= each.size
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Kept:
    """Something delivered: its bytes, and the seconds since it was written."""

    size: int
    age: float


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """Records `[first, end)` of a log, in `size` bytes that are not written any more."""

    first: int
    end: int
    size: int


def forfeited(segments: Iterable[SealedSegment], scanned: Iterable[int], excess: int, *, by_all: bool) -> int | None:
    """Up to which offset the subscriptions furthest behind forfeit, so that `excess` bytes go; None: they need not.

    `segments` are oldest first, `scanned` where each subscription is. What all of them still need only goes where
    `by_all`: else new events are refused before old ones are lost to all.
    """
    positions = list(scanned)
    to: int | None = None
    for segment in segments:
        if excess <= 0:
            break
        behind = [position for position in positions if position < segment.end]
        if len(behind) == len(positions) and positions and not by_all:
            break
        if behind:
            to = segment.end
        excess -= segment.size
    return to


def to_free(kept: Iterable[Kept], excess: int) -> int:
    """How many of `kept`, oldest first, have to go so that `excess` bytes do; all of them where that is too little."""
    count = 0
    for each in kept:
        if excess <= 0:
            break
        excess -= each.size
        count += 1
    return count


class BoundChange(Enum):
    """What is new about the bound of a log directory."""

    FULL = "log directory full"
    WITHIN = "log directory within its bound again"


_IS_OVER: Final = 0.25
"""The share of the bound that has to be free again, before a loss is a new one."""


class Overrun:
    """Whether a log directory is over its bound, and whether records are being lost to it: what is said, and when."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self.is_over = False
        """Whether it is, though all went that may: then new events are refused."""
        self._is_losing = False

    def note(self, excess: int) -> BoundChange | None:
        """Take note of the `excess` that is left once all went that may. What changed by it, to be said."""
        was_over, self.is_over = self.is_over, excess > 0
        if self.is_over:
            return None if was_over else BoundChange.FULL
        if was_over or (self._is_losing and excess < -self._bound.max_bytes * _IS_OVER):
            self._is_losing = False
            return BoundChange.WITHIN
        return None

    def note_lost(self) -> bool:
        """Records are lost to the bound. Whether that is new, and to be said: it is, once an outage."""
        was_losing, self._is_losing = self._is_losing, True
        return not was_losing
