"""Reads events back from a SQLite file, beside its writers."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from eventrec import EventPage, EventReader, StoredEvent
from eventrec_handlers._sql import KeptLayouts, fold_ascii
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.sqlite.arrival import (
    CURSORS,
    HIGHEST,
    LOWEST,
    Arrival,
    RangeCursor,
    Seen,
    go_on_after,
    is_seen,
    seen_up_to,
)
from eventrec_handlers.sqlite.kept_layouts import read_layouts
from eventrec_handlers.sqlite.snapshot import Snapshots
from eventrec_handlers.sqlite.tables import EventTable, event_tables, rows, unless_unreadable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from eventrec import Layout
    from eventrec_handlers.sqlite.tables import Found

MAX_FOREIGN: Final = 100_000
"""Rows of other programs that a page of `latest` or `follow` passes over in one table before it looks no further."""

TOGETHER: Final = 1_000
"""Events of a batch: they arrive together, type by type, so `latest` looks at as many more to find the newest."""


class SqliteReader(EventReader):
    """Reads the file `path`: each call on a read-only connection of its own, in one snapshot of all tables.

    An event is a row of a table that has the columns id, type, timestamp and payload, or a layout with one for the
    time: one of `layouts`, or one that the file keeps. Each table has an order of
    arrival; those that arrived together, and those of several tables, go by their timestamps. `arrival.py` says what
    deleting rows does to it. `busy_timeout` is how many seconds to wait for a lock, which no writer in WAL mode holds
    against readers.

    A table of which the rows cannot be read, for a column that is computed or a virtual table that fails, is passed
    over and named. `follow` goes on in it from where it was once it can be read again.
    """

    def __init__(self, path: Path, *, busy_timeout: float, layouts: Mapping[str, Layout] | None = None) -> None:
        self._path = path
        self._snapshots = Snapshots(path, busy_timeout=busy_timeout)
        self._layouts = layouts or {}
        self._thread = WorkThread("eventrec-sqlite-reader")

    def __repr__(self) -> str:
        return f"<SqliteReader {str(self._path)!r}>"

    async def close(self) -> None:
        self._thread.end()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        return await self._read(partial(_latest, limit=limit, types=types))

    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: str | None = None,
    ) -> EventPage:
        self.check_limit(limit)
        high = None if end is None or end > HIGHEST else max(end, LOWEST)
        low = LOWEST if start is None else min(max(start, LOWEST), HIGHEST)
        after = RangeCursor(low, "", LOWEST) if cursor is None else CURSORS.decoded(cursor, RangeCursor)
        return await self._read(partial(_range, end=high, limit=limit, types=types, after=after))

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        seen = CURSORS.decoded(cursor, Arrival).tables
        return await self._read(partial(_follow, seen=seen, limit=limit, types=types))

    async def _read(self, job: Callable[[sqlite3.Connection, KeptLayouts], EventPage]) -> EventPage:
        def read(connection: sqlite3.Connection) -> EventPage:
            layouts = KeptLayouts(self._layouts, fold=fold_ascii)
            layouts.learn(read_layouts(connection))
            return job(connection, layouts)

        return await self._thread.run(lambda: self._snapshots.read(read, is_awaited=self.is_awaited))


# -- from here on everything runs in the thread, in one transaction


def _latest(
    connection: sqlite3.Connection, layouts: KeptLayouts, *, limit: int, types: Collection[str] | None
) -> EventPage:
    look_at = limit + TOGETHER if limit else 0

    def read(table: EventTable) -> tuple[_Part, Seen]:
        found = rows(connection, table, types=types, order=f"{table.number} DESC")
        part = _Part.of(table, found, limit=look_at, max_foreign=MAX_FOREIGN)
        return part, seen_up_to(connection, table, HIGHEST)

    parts = []
    seen = {}
    foreign: Counter[str] = Counter()
    for table in event_tables(connection, layouts, foreign):
        if (readable := unless_unreadable(table, foreign, read)) is not None:
            part, seen[table.name] = readable
            parts.append(part)
    newest = heapq.nlargest(limit, (found for part in parts for found in part.events), key=_timestamp)
    foreign.update(why for part in parts for _, why in part.foreign)
    return EventPage.of((event for _, event in reversed(newest)), CURSORS.encoded(Arrival(seen)), foreign)


def _follow(
    connection: sqlite3.Connection,
    layouts: KeptLayouts,
    *,
    seen: Mapping[str, Seen],
    limit: int,
    types: Collection[str] | None,
) -> EventPage:
    def read(table: EventTable) -> tuple[_Part, Seen]:
        known = _known(connection, table, seen)
        start = go_on_after(connection, table, known)
        has_moved = bool(known.anchors) and start != known.anchors[0].number
        found = rows(connection, table, types=types, where=f"{table.number} > ?", values=[start], order=table.number)
        if has_moved:
            found = _without(found, known.events)
        part = _Part.of(table, found, limit=limit, max_foreign=MAX_FOREIGN, start=start, has_moved=has_moved)
        return part, known

    parts = []
    before = {}
    foreign: Counter[str] = Counter()
    # A table that cannot be read stays where it was.
    after = {}
    for table in event_tables(connection, layouts, foreign):
        if (readable := unless_unreadable(table, foreign, read)) is not None:
            part, before[table.name] = readable
            parts.append(part)
        elif table.name in seen:
            after[table.name] = seen[table.name]
    is_whole = False
    while not is_whole:
        events, reached = _given(connection, parts, before, foreign, limit=limit, is_typed=bool(types))
        is_whole = len(reached) == len(parts)
        # Of what else was read it cannot be remembered how far, so it is not given.
        parts = [part for part in parts if part.table.name in reached]
    after |= before | reached
    taken = Counter(event.table for event in events)
    for part in parts:
        end = part.end_of(taken[part.table.name])
        foreign.update(why for number, why in part.foreign if number <= end)
    return EventPage.of(events, CURSORS.encoded(Arrival(after)), foreign)


def _given(
    connection: sqlite3.Connection,
    parts: Sequence[_Part],
    before: Mapping[str, Seen],
    foreign: Counter[str],
    *,
    limit: int,
    is_typed: bool,
) -> tuple[list[StoredEvent], dict[str, Seen]]:
    """The first events of `parts`, and what a cursor remembers of each table from then on.

    A table of which that cannot be read is missing there, and `foreign` gets why.
    """
    events = [event for _, event in islice(heapq.merge(*(part.events for part in parts), key=_timestamp), limit)]
    taken = Counter(event.table for event in events)
    reached = {}
    for part in parts:
        name = part.table.name
        remember = partial(_seen_of, connection, part, taken[name], before[name], is_typed=is_typed)
        if (seen := unless_unreadable(part.table, foreign, remember)) is not None:
            reached[name] = seen
    return events, reached


def _seen_of(
    connection: sqlite3.Connection, part: _Part, taken: int, before: Seen, table: EventTable, *, is_typed: bool
) -> Seen:
    """What a cursor remembers of `table`, of which the first `taken` events of `part` were given."""
    end = part.end_of(taken)
    is_unchanged = end == HIGHEST and not (part.events or part.foreign or part.has_moved or is_typed)
    return before if is_unchanged else seen_up_to(connection, table, end)


def _known(connection: sqlite3.Connection, table: EventTable, seen: Mapping[str, Seen]) -> Seen:
    """What was seen of `table`, also under another name."""
    if table.name in seen:
        return seen[table.name]
    return next((other for other in seen.values() if is_seen(connection, table, other)), Seen(()))


def _without(found: Iterator[Found], events: Collection[tuple[str | None, int | None]]) -> Iterator[Found]:
    """What of `found` is not among `events`, each by its id and timestamp."""
    for number, event in found:
        if isinstance(event, str) or (event.id, event.timestamp) not in events:
            yield number, event


def _range(
    connection: sqlite3.Connection,
    layouts: KeptLayouts,
    *,
    end: int | None,
    limit: int,
    types: Collection[str] | None,
    after: RangeCursor,
) -> EventPage:
    def read(table: EventTable) -> _Part:
        # Equal timestamps are parted by table, then by row number.
        number = after.number if table.name == after.table else HIGHEST if table.name < after.table else LOWEST
        where, values = f"({table.time}, {table.number}) > (?, ?)", [after.timestamp, number]
        if end is not None:
            where, values = f"{where} AND {table.time} < ?", [*values, end]
        found = rows(connection, table, types=types, where=where, values=values, order=f"{table.time}, {table.number}")
        return _Part.of(table, found, limit=limit, max_foreign=None)

    foreign: Counter[str] = Counter()
    tables = event_tables(connection, layouts, foreign)
    found_in = [unless_unreadable(table, foreign, read) for table in tables]
    parts = [part for part in found_in if part is not None]
    merged = list(islice(heapq.merge(*(part.events for part in parts), key=_timestamp), limit))
    if merged:
        number, event = merged[-1]
        after = RangeCursor(event.timestamp, event.table, number)
    foreign.update(why for part in parts for _, why in part.foreign)
    return EventPage.of((event for _, event in merged), CURSORS.encoded(after), foreign)


@dataclass(slots=True)
class _Part:
    """What one table has to offer to a page.

    Attributes:
        table: Which one.
        start: The number behind which it was read.
        has_moved: Whether rows were deleted or moved since the cursor was given.
        events: Events with their row numbers, in the order asked for.
        foreign: Rows that are not events: their numbers, and why.
        last: The number of the last row that was looked at; `HIGHEST` where there are no more.
    """

    table: EventTable
    start: int = LOWEST
    has_moved: bool = False
    events: list[tuple[int, StoredEvent]] = field(default_factory=list)
    foreign: list[tuple[int, str]] = field(default_factory=list)
    last: int = LOWEST

    @classmethod
    def of(
        cls,
        table: EventTable,
        found: Iterator[Found],
        *,
        limit: int,
        max_foreign: int | None,
        start: int = LOWEST,
        has_moved: bool = False,
    ) -> _Part:
        """At most `limit` events, and at most `max_foreign` rows of other programs."""
        part = cls(table, start, has_moved, last=start)
        while len(part.events) < limit and (max_foreign is None or len(part.foreign) < max_foreign):
            number, event = next(found, _NO_MORE)
            part.last = number
            if event is None:
                break
            if isinstance(event, str):
                part.foreign.append((number, event))
            else:
                part.events.append((number, event))
        return part

    def end_of(self, taken: int) -> int:
        """How far the table was read, where the first `taken` of its events were given."""
        return self.events[taken][0] - 1 if taken < len(self.events) else self.last


_NO_MORE: Final[tuple[int, None]] = (HIGHEST, None)


def _timestamp(found: tuple[int, StoredEvent]) -> int:
    return found[1].timestamp
