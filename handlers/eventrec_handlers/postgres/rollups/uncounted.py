"""Buckets that an answer computes from the events: found where events are, in the order of the answer, some at a time.

A span may be of any length: from an event of 1970 to the present are 29 million minutes. So its buckets are never
listed. The server is asked in which of them events are, for a window of time after another. A window that is not full
doubles the next one: what holds nothing costs a few statements, however long it is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.rollups.moments import LONGEST_RUN, Run, moment, nanoseconds, runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import asyncpg

    from eventrec.analytics import Bucket, RollupPlan
    from eventrec_handlers.postgres.rollups.fields import Columns

FOUND: Final = LONGEST_RUN
"""Places in time where events are, of which one statement tells at most."""


@dataclass(frozen=True, slots=True)
class Uncounted:
    """Buckets that an answer cannot take from the rollup's table. Moments are nanoseconds since the epoch.

    Attributes:
        starts: Single ones.
        spans: From the start of a bucket to that of another, in order, none meeting the next: of their buckets, those
            that hold events. None of `starts` is in one.
    """

    starts: frozenset[int]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, starts: Collection[int], spans: Iterable[tuple[int, int]]) -> Uncounted:
        """Of `starts`, and of `spans` in any order, of which some may be empty."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted(span for span in spans if span[0] < span[1]):
            if merged and low <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        lows = [low for low, _ in merged]

        def is_in_span(at: int) -> bool:
            place = bisect_right(lows, at) - 1
            return place >= 0 and at < merged[place][1]

        return cls(frozenset(at for at in starts if not is_in_span(at)), tuple(merged))

    def before(self, last: int, *, newest_first: bool) -> Uncounted:
        """Those that come before the bucket `last` in the order of the answer, which none of them is."""
        if newest_first:
            spans = [(max(low, last), high) for low, high in self.spans if high > last]
            return Uncounted(frozenset(at for at in self.starts if at > last), tuple(spans))
        spans = [(low, min(high, last)) for low, high in self.spans if low < last]
        return Uncounted(frozenset(at for at in self.starts if at < last), tuple(spans))


class Walk:
    """Goes through `uncounted` in the order of the answer; on a connection whose transaction is one snapshot.

    `events` is their table in SQL. The first run has at most `size` buckets, each later one up to twice as many as the
    one before, and at most `LONGEST_RUN`.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        plan: RollupPlan,
        columns: Columns,
        events: str,
        uncounted: Uncounted,
        *,
        newest_first: bool,
        size: int,
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._is_descending = newest_first
        self._size = size
        self._window = size * plan.bucket.step
        pieces: list[tuple[int, int | None]] = [*((at, None) for at in uncounted.starts), *uncounted.spans]
        pieces.sort(key=lambda piece: piece[0], reverse=not newest_first)
        self._left = pieces  # the next one comes last
        self._ready: list[Run] = []
        time, kind = quoted(columns.time), "" if plan.types is None else f" AND {quoted(columns.type)} = ANY ($4)"
        self._statement = (
            f"SELECT DISTINCT date_bin($3::interval, {time}, $1::timestamptz) AS at FROM {events}"  # noqa: S608 - quoted
            f" WHERE {time} >= $1::timestamptz AND {time} < $2::timestamptz{kind}"
            f" ORDER BY at{' DESC' * newest_first} LIMIT {FOUND}"
        )

    async def next(self) -> Run | None:
        """The next buckets; None: there are no more. Some may turn out to have no row."""
        while not self._ready and self._left:
            low, high = self._left.pop()
            self._ready = self._single(low) if high is None else await self._look(low, high)
            self._ready.reverse()
        return self._ready.pop() if self._ready else None

    def _single(self, first: int) -> list[Run]:
        """Runs of `first`, and of the single buckets that come next."""
        starts = [first]
        while len(starts) < self._size and self._left and self._left[-1][1] is None:
            starts.append(self._left.pop()[0])
        self._grow()
        return sorted(runs(self._plan.bucket, starts), key=lambda run: run.end, reverse=self._is_descending)

    async def _look(self, low: int, high: int) -> list[Run]:
        """Runs of the buckets with events in the next window of the span from `low` to `high`; what is left waits."""
        bucket = self._plan.bucket
        if self._is_descending:
            since, until = bucket.floor(max(low, high - self._window)), high
        else:
            since, until = low, bucket.ceiling(min(high, low + self._window))
        types = [] if self._plan.types is None else [list(self._plan.types)]
        step = timedelta(microseconds=bucket.step // 1_000)
        rows = await self._connection.fetch(self._statement, moment(since), moment(until), step, *types)
        found = sorted(nanoseconds(row[0]) for row in rows)
        if len(found) < FOUND:
            self._window *= 2
        else:
            if self._is_descending:
                since = bucket.floor(found[0])
            else:
                until = min(high, bucket.ceiling(found[-1] + bucket.step))
            self._window = until - since
        rest = (low, since) if self._is_descending else (until, high)
        if rest[0] < rest[1]:
            self._left.append(rest)
        return self._sparse(_touched(bucket, found, since, until))

    def _sparse(self, starts: Sequence[int]) -> list[Run]:
        """Runs of `starts`, between which no event is stored: they need not follow one another."""
        wanted, found = list(reversed(starts) if self._is_descending else starts), list[Run]()
        while wanted:
            part = sorted(wanted[: self._size])
            del wanted[: self._size]
            found.append(Run(tuple(part), self._plan.bucket.after(part[-1])))
            self._grow()
        return found

    def _grow(self) -> None:
        self._size = min(LONGEST_RUN, 2 * self._size)


def _touched(bucket: Bucket, places: Iterable[int], low: int, high: int) -> list[int]:
    """The buckets in [`low`, `high`), both starts of buckets, that may hold events: those of a step from each place."""
    found: list[int] = []
    reached = low
    for at in places:
        start = max(reached, bucket.floor(at))
        while start < min(high, at + bucket.step):
            found.append(start)
            start = reached = bucket.after(start)
    return found
