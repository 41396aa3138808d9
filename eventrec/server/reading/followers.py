"""One who follows events as they arrive: what waits for it, and what it has had already."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from eventrec.server.reading.stored import encoded_event

if TYPE_CHECKING:
    from eventrec.reading import Cursor, EventPage, StoredEvent

PAGE: Final = 1_000
"""Events that one look asks for."""

MAX_BUFFERED: Final = 8 * 2**20
"""Bytes of events that wait for one follower at most."""

MAX_OWN: Final = 10 * PAGE
"""Events that a follower has read by itself, and that are remembered, at most."""

EACH: Final = 64
"""Bytes that an event takes beside its JSON, about."""

Identity: TypeAlias = "tuple[str, str, int]"


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """An event as all followers are sent it."""

    table: str
    identity: Identity
    json: bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What has arrived, or that the destination cannot be read.

    Attributes:
        events: In the order of arrival.
        cursor: Goes on after them; None: there are none, only an outage that begins or ends.
        outage: Why the destination cannot be read; "": it can be read again; None: nothing has changed.
    """

    events: tuple[EncodedEvent, ...]
    cursor: Cursor | None
    outage: str | None = None

    @classmethod
    def of(cls, page: EventPage) -> Arrived:
        """What a page of a reader holds."""
        return cls(
            tuple(EncodedEvent(event.table, identity_of(event), encoded_event(event)) for event in page.events),
            page.cursor,
        )

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return EACH + sum(EACH + len(event.json) for event in self.events)


def identity_of(event: StoredEvent) -> Identity:
    """By what an event is known to be one that was sent already."""
    return event.table, event.id, event.timestamp


class TailFollower:
    """One who follows.

    Attributes:
        cursor: Behind the last event that it has read by itself.
        is_dropped: It is not given anything any more: it is slow, or the server ends.
        is_slow: Its buffer is full.
    """

    def __init__(self, table: str | None, cursor: Cursor) -> None:
        self.cursor = cursor
        self.is_dropped = False
        self.is_slow = False
        self._table = table
        self._buffer: deque[Arrived | None] = deque()
        self._size = 0
        self._is_wanted = anyio.Event()
        self._own: dict[Identity, None] = {}

    def read(self, page: EventPage) -> Arrived:
        """What of a page that it has read by itself is for it. It is not given that once more."""
        found = self._of(Arrived.of(page))
        for event in page.events:
            self._own[identity_of(event)] = None
        while len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]
        self.cursor = page.cursor
        return found

    def give(self, arrived: Arrived) -> None:
        """Leave `arrived` in its buffer."""
        self._size += arrived.size
        if self._size > MAX_BUFFERED:
            self.is_slow = True
            self.drop()
        else:
            self._buffer.append(arrived)
            self._is_wanted.set()

    def note_nothing_twice(self) -> None:
        """From here on it is not given what it has read by itself."""
        self._buffer.append(None)

    def drop(self) -> None:
        """It is given nothing any more."""
        self.is_dropped = True
        self._buffer.clear()
        self._is_wanted.set()

    async def next(self, seconds: float) -> Arrived | None:
        """What comes next; None: nothing within `seconds`, or `is_dropped`."""
        until = anyio.current_time() + seconds
        while not self.is_dropped:
            while self._buffer:
                arrived = self._buffer.popleft()
                if arrived is not None:
                    self._size -= arrived.size
                    return self._of(arrived)
                self._own.clear()
            self._is_wanted = anyio.Event()
            with anyio.CancelScope(deadline=until) as waiting:
                await self._is_wanted.wait()
            if waiting.cancelled_caught:
                return None
        return None

    def _of(self, arrived: Arrived) -> Arrived:
        if self._table is None and not self._own:
            return arrived
        kept = tuple(
            event for event in arrived.events if event.identity not in self._own and self._table in {None, event.table}
        )
        return Arrived(kept, arrived.cursor, arrived.outage)
