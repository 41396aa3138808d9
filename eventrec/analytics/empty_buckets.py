"""Rows for buckets without events: as many as an answer shows, in its order, and no more than can be meant."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventrec.analytics.buckets import Bucket

MAX_EMPTY: Final = 1_000_000
"""How many rows an answer with empty buckets may have."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Which rows an answer shows. Moments are in nanoseconds since the epoch.

    Attributes:
        start: Buckets that begin then or later; None: from the first that is known.
        end: Buckets that begin before; None: to the last that is known.
        after: Rows after this bucket and these groups; None: all.
        limit: So many rows, and one more; None: all.
        newest_first: From the latest bucket to the earliest.
        place: Where in a row its bucket stands.
        groups: Where its groups do.
        empty: A row of a bucket without events, but for these.
    """

    start: int | None
    end: int | None
    after: tuple[Any, ...] | None
    limit: int | None
    newest_first: bool
    place: int
    groups: Sequence[int]
    empty: Sequence[Any]


def with_empty_buckets(
    bucket: Bucket, rows: Sequence[tuple[Any, ...]], shown: Shown, *, rank: Callable[[Sequence[Any]], Any]
) -> list[tuple[Any, ...]]:
    """`rows`, and one for each bucket and combination of groups that has none: those that are `shown`, in order.

    `rows` are in any order, and may lack those that are not shown. Groups are sorted by `rank`.

    Raises:
        ValueError: There are more than `MAX_EMPTY`. They are not made first.
    """
    after, groups = shown.after, shown.groups
    start, end = _range(shown, [row[shown.place] for row in rows])
    there = {(row[shown.place], tuple(row[group] for group in groups)): row for row in rows}
    keys = sorted({key for _, key in there} or ({()} if not groups else set()), key=rank)
    if start is None or end is None or not keys:
        return []
    limit = sys.maxsize if shown.limit is None else shown.limit
    if min(limit, _least(bucket, start, end) * len(keys)) > MAX_EMPTY:
        raise _too_many()

    def row_of(moment: int, key: tuple[Any, ...]) -> tuple[Any, ...]:
        made = list(shown.empty)
        made[shown.place] = moment
        for place, value in zip(groups, key, strict=True):
            made[place] = value
        return tuple(made)

    def made() -> Iterator[tuple[Any, ...]]:
        starts = _starts(bucket, start, end, newest_first=shown.newest_first)
        # Rows of buckets that begin elsewhere, as another program made them, are shown too.
        known = sorted({at for at, _ in there if start <= at <= end}, reverse=shown.newest_first)
        for moment, _ in groupby(merge(starts, known, reverse=shown.newest_first)):
            for key in keys:
                if after is None or moment != after[0] or rank(key) > rank(after[1]):
                    yield there.get((moment, key)) or row_of(moment, key)

    found = list(islice(made(), min(limit, MAX_EMPTY) + 1))
    if len(found) > MAX_EMPTY and limit > MAX_EMPTY:
        raise _too_many()
    return found


def _range(shown: Shown, known: Sequence[int]) -> tuple[int | None, int | None]:
    """Between which moments buckets begin, both included: those that are asked for, else the first and the last known.

    From the bucket on that rows come after: that is one of them, though no row that is known has to be.
    """
    start = min(known, default=None) if shown.start is None else shown.start
    end = max(known, default=None) if shown.end is None else shown.end - 1
    if shown.after is not None and shown.newest_first:
        end = shown.after[0] if shown.end is None else min(shown.end - 1, shown.after[0])
    elif shown.after is not None:
        start = shown.after[0] if shown.start is None else max(shown.start, shown.after[0])
    return start, end


def _least(bucket: Bucket, start: int, end: int) -> int:
    """How many buckets begin after `start`, up to `end`, at least: none is twice as long as it says."""
    return (end - start) // (bucket.step if bucket.is_fixed else 2 * bucket.step) - 1


def _starts(bucket: Bucket, start: int, end: int, *, newest_first: bool) -> Iterator[int]:
    """The buckets that begin in [`start`, `end`]."""
    if not newest_first:
        yield from bucket.starts(start, end + 1)
        return
    at = bucket.floor(end)
    while at >= start:
        yield at
        at = bucket.floor(at - 1)


def _too_many() -> ValueError:
    return ValueError(
        f"with empty buckets the answer has over {MAX_EMPTY} rows: ask for less time, for no groups, or for a limit"
    )
