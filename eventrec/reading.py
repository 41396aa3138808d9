"""What a destination lets us read back: the newest events, those of a time, and those that arrive.

A handler whose destination can be read overrides `EventHandler.reader`; `eventrec.reader_from_url` gives the reader of
a URL. `eventrec tail` is built on this interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from eventrec.records.layout_reading import parts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from eventrec.records.layout import Layout

Cursor: TypeAlias = str
"""Where a reader goes on. Opaque: it is handed back as it was given, to a reader of the same destination."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it is stored: one row, so an event of several rows is several of these.

    Attributes:
        table: Where it is stored.
        id: The id of its row.
        type: What kind of thing happened.
        timestamp: When: nanoseconds since the epoch, UTC, as exact as the destination keeps them.
        payload: JSON. A text of another program that is not JSON is given as it is.
        context: JSON, or None where there is none.
        columns: The extra columns, name to value as the destination's driver gives it.
    """

    table: str
    id: str
    type: str
    timestamp: int
    payload: str
    context: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_row(cls, layout: Layout, values: Mapping[str, Any], *, row: str) -> StoredEvent | str:
        """The event of a row of a table with a layout; or, as text, why the row is not one.

        `values` are those of the row's columns by name: ids and JSON as text, the time in nanoseconds. `row` is the
        event's id where the layout has no column for it.
        """
        parts = parts_of(layout, values, row)
        return parts if isinstance(parts, str) else cls(table=layout.table, **parts)


@dataclass(frozen=True, slots=True)
class EventPage:
    """What one call has read.

    Attributes:
        events: Sorted by their timestamps; equal ones in the order of arrival, where the destination knows it.
        cursor: Goes on after them: from `latest` and `follow` to `follow`, from `range` to the next part of that range.
        foreign: Rows that were passed over because they are not events: why, with the table or file → how many. A
            reader looks no further than it has to, so a page tells of those that it met. A table that cannot be read is
            among them, as one.
    """

    events: tuple[StoredEvent, ...]
    cursor: Cursor
    foreign: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[StoredEvent], cursor: Cursor, foreign: Mapping[str, int] | None = None) -> EventPage:
        """A page of `events`, given in the order of arrival."""
        return cls(tuple(sorted(events, key=lambda event: event.timestamp)), cursor, foreign or {})


class EventReader(ABC):
    """Reads one destination back, beside its writers: it changes nothing, and never makes a writer wait.

    It belongs to one task, which opens it, and closes it; `async with` does both. The handler that gave it need not be
    open. A destination that was never written to has no events; one that is not there at all raises, unless
    `is_awaited`.

    **Arrival.** `latest` and `follow` go by the order in which rows arrived, as far as the destination knows it: each
    reader documents how far that is. Chained by its cursors, `follow` misses no event that arrives and stays, whatever
    was deleted, dropped, renamed, rotated or replaced meanwhile. It repeats none either while events only arrive; after
    any other change it may show again what it has shown before.

    **Foreign rows.** A destination may hold what other programs wrote. A row without an id, a type, a timestamp or a
    payload of the kind that we store is passed over, and counted in `EventPage.foreign`. It never counts against
    `limit`, and never raises.

    Every method raises:
        DeliveryError: The destination cannot be read: a TransientError where it may be later, a PauseError where an
            operator has to act first.
        ValueError: `limit` is negative, or the cursor is not one that a reader of this kind has given.

    Attributes:
        is_awaited: Set by a caller that knows of a writer: one that is not there yet, and that the writer makes with
            its first batch, has no events. Else it may be a name that was mistyped.
    """

    is_awaited: bool = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @staticmethod
    def check_limit(limit: int) -> None:
        """Refuse a negative `limit`: what a reader calls first.

        Raises:
            ValueError: It is negative.
        """
        if limit < 0:
            raise ValueError(f"limit must not be negative, got {limit}")

    async def open(self) -> None:
        """Connect, where there is something to connect to. After a failure it may be called again."""

    async def close(self) -> None:
        """Disconnect. May be called twice, and without `open`."""

    @abstractmethod
    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        """The newest events, at most `limit`, only of `types` if given. `limit=0` gives the cursor of this moment.

        The newest are those that arrived last, and of those that arrived together the ones of the latest time. The
        cursor stands behind everything that is stored now, also behind what `types` leaves out.
        """

    @abstractmethod
    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: Cursor | None = None,
    ) -> EventPage:
        """Events with `start` <= timestamp < `end`, in nanoseconds, by timestamp; None: unbounded.

        At most `limit`; with the `cursor` of the page before, and the same arguments, those that follow. The last page
        has fewer than `limit`.
        """

    @abstractmethod
    async def follow(self, cursor: Cursor, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        """What arrived since `cursor` was given, at most `limit`; at once, also where nothing did.

        A page of fewer than `limit` is up to date: a caller waits a little before it asks for the next.
        """
