"""Where a reader goes on in a table whose row numbers may be given out again: cursors, as text.

Rows arrive in the order of their row numbers, until rows are deleted: SQLite then gives the highest numbers out again,
and VACUUM numbers all rows from one on. So a cursor remembers which events stood at its newest numbers and at some far
behind, and a reader goes on behind the newest of them that it finds again. A table that was renamed is found by them
too. What such a change moved may be shown again; no new event is left out, unless another program has used up the row
numbers (2^63 - 1), after which SQLite takes any that is free.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec_handlers._cursors import CursorText
from eventrec_handlers._sql import quoted

if TYPE_CHECKING:
    import sqlite3

    from eventrec_handlers.sqlite.tables import EventTable

LOWEST: Final = -(2**63)
"""Below every row number."""

HIGHEST: Final = 2**63 - 1
"""The highest row number."""

DENSE: Final = 32
"""How many of the newest rows a cursor remembers; behind them one each at 64, 256, 1,024 … rows' distance."""

_SPARSE: Final = tuple(4**power for power in range(3, 31))
_MAX_ID: Final = 200


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """A row that was seen: its number, and what stood there. `id` and `timestamp` are None where it is not an event."""

    number: int
    content: str
    id: str | None
    timestamp: int | None

    @property
    def is_event(self) -> bool:
        """Whether it is one of ours."""
        return self.id is not None


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """How far a table was read: up to the first of these rows, which is the newest. None: it was empty."""

    anchors: tuple[Anchor, ...]

    @property
    def events(self) -> frozenset[tuple[str | None, int | None]]:
        """The id and timestamp of each."""
        return frozenset((anchor.id, anchor.timestamp) for anchor in self.anchors if anchor.is_event)


class Arrival(msgspec.Struct, frozen=True, tag="arrival"):
    """The cursor of `latest` and `follow`: tables by name."""

    tables: dict[str, Seen]


class RangeCursor(msgspec.Struct, frozen=True, tag="range"):
    """The cursor of `range`: the last row that was given."""

    timestamp: int
    table: str
    number: int


CURSORS: Final = CursorText("SqliteReader", Arrival, RangeCursor)


def seen_up_to(connection: sqlite3.Connection, table: EventTable, last: int) -> Seen:
    """What a cursor remembers of a table that was read up to the number `last`."""
    select = f"{_select(table)} <= ? ORDER BY {table.number} DESC LIMIT ?"
    rows = connection.execute(select, (last, DENSE)).fetchall()
    if len(rows) == DENSE:
        newest = rows[0][0]
        for distance in _SPARSE:
            rows += connection.execute(select, (max(newest - distance, LOWEST), 1))
    anchors: dict[int, Anchor] = {}
    for row in rows:
        anchors.setdefault(row[0], _anchor(*row))
    return Seen(tuple(anchors.values()))


def go_on_after(connection: sqlite3.Connection, table: EventTable, seen: Seen) -> int:
    """The number behind which a new row stands: that of the last row, unless rows were deleted or moved."""
    if not seen.anchors:
        return LOWEST
    standing = _newest_standing(connection, table, seen)
    return _found_by_id(connection, table, seen) if standing is None else standing.number


def is_seen(connection: sqlite3.Connection, table: EventTable, seen: Seen) -> bool:
    """Whether `table` is the one of `seen`, under another name: an event that was seen stands where it stood."""
    return any(_stands(connection, table, anchor) for anchor in seen.anchors if anchor.is_event)


def _newest_standing(connection: sqlite3.Connection, table: EventTable, seen: Seen) -> Anchor | None:
    """The newest anchor that stands where it stood; None: none does.

    An event is known by its id. A row of another program may look like the one that stood at its number before, so it
    counts only where all anchors stand that are between it and an event.
    """
    newest: Anchor | None = None
    for anchor in seen.anchors:
        if not _stands(connection, table, anchor):
            newest = None
            continue
        newest = newest or anchor
        if anchor.is_event:
            break
    return newest


def _stands(connection: sqlite3.Connection, table: EventTable, anchor: Anchor) -> bool:
    row = connection.execute(f"{_select(table)} = ?", (anchor.number,)).fetchone()
    return row is not None and _anchor(*row) == anchor


def _found_by_id(connection: sqlite3.Connection, table: EventTable, seen: Seen) -> int:
    """Where the newest anchor stands now that the rows have other numbers; `LOWEST`: none is there any more."""
    ids = [anchor.id for anchor in seen.anchors if anchor.id is not None]
    marks = ", ".join("?" * len(ids))
    found = {
        (id_, timestamp): number
        for id_, timestamp, number in connection.execute(
            f"SELECT {table.id}, {table.time}, min({table.number}) FROM {quoted(table.name)}"  # noqa: S608 - quoted
            f" WHERE {table.id} IN ({marks}) GROUP BY 1, 2",
            ids,
        )
    }
    numbers = (found.get((anchor.id, anchor.timestamp)) for anchor in seen.anchors)
    return next((number for number in numbers if number is not None), LOWEST)


def _select(table: EventTable) -> str:
    kind = table.type or "''"
    columns = f"{table.number}, {table.id}, {kind}, {table.time}, substr({table.payload}, 1, 64)"
    return f"SELECT {columns} FROM {quoted(table.name)} WHERE {table.number}"  # noqa: S608 - quoted


def _anchor(number: int, id_: object, kind: object, timestamp: object, payload: object) -> Anchor:
    content = blake2b(repr((id_, kind, timestamp, payload)).encode(errors="replace"), digest_size=8).hexdigest()
    if (
        isinstance(id_, str)
        and len(id_) <= _MAX_ID
        and isinstance(kind, str)
        and isinstance(timestamp, int)
        and isinstance(payload, str)
    ):
        return Anchor(number, content, id_, timestamp)
    return Anchor(number, content, None, None)
