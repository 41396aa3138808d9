"""Reads the model destination back: the reader that the claims about reading are tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from eventrec import EventPage, EventReader, StoredEvent, TransientError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from eventrec.testing.conformance.harness import Delivered


class _Rows(Protocol):
    @property
    def rows(self) -> list[Delivered]: ...


class _Destination(Protocol):
    """What is read of a `ModelDestination`."""

    is_reachable: bool
    is_allowed: bool

    @property
    def state(self) -> _Rows: ...
    def catch_up(self) -> object: ...


class ModelReader(EventReader):
    """Rows by their numbers, in small steps, each of which a test may plant a defect into."""

    def __init__(self, destination: _Destination) -> None:
        self.destination = destination

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        rows = self.rows()
        found = [row for row in rows if self.is_wanted(row, types)]
        return EventPage.of(map(stored, found[len(found) - min(limit, len(found)) :]), self.cursor("rows", len(rows)))

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
        given = 0 if cursor is None else self.number(cursor, "range")
        rows = sorted(self.rows(), key=lambda row: row.timestamp)
        found = [row for row in rows if self.is_wanted(row, types) and self.is_within(row, start, end)]
        page = found[given : given + limit]
        return EventPage.of(map(stored, page), self.cursor("range", given + len(page)))

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        at = self.number(cursor, "rows")
        found: list[StoredEvent] = []
        for row in self.rows()[at:]:
            if len(found) == limit:
                break
            at += 1
            if self.is_wanted(row, types):
                found.append(stored(row))
        return EventPage.of(self.ordered(found), self.cursor("rows", at))

    # -- the steps

    def rows(self) -> list[Delivered]:
        """What is committed."""
        if not (self.destination.is_reachable and self.destination.is_allowed):
            raise TransientError("model: unreachable")
        self.destination.catch_up()
        return self.destination.state.rows

    def is_wanted(self, row: Delivered, types: Collection[str] | None) -> bool:
        """Whether the row is of these types."""
        return types is None or row.type in types

    def is_within(self, row: Delivered, start: int | None, end: int | None) -> bool:
        """Whether the row is of this time."""
        return (start is None or start <= row.timestamp) and (end is None or row.timestamp < end)

    def ordered(self, found: Iterable[StoredEvent]) -> Iterable[StoredEvent]:
        """What `follow` has found."""
        return found

    def cursor(self, kind: str, number: int) -> str:
        """A number as text."""
        return f"{kind}:{number}"

    def number(self, cursor: str, kind: str) -> int:
        """The number that `cursor` says."""
        found, _, digits = cursor.partition(":")
        if found != kind:
            raise ValueError(f"not a cursor of a ModelReader: {cursor!r}")
        return int(digits)


def stored(row: Delivered) -> StoredEvent:
    """The row as an event."""
    return StoredEvent(row.table, row.id, row.type, row.timestamp, row.payload.decode(), None, row.columns)
