"""What is in flight to a mirror: sent, and not acknowledged; within a bound."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True)
class _Stream:
    """`end` is the record after the last one that was sent; `sent` that after each piece in flight, and its bytes."""

    end: int
    sent: deque[tuple[int, int]] = field(default_factory=deque)


class Window:
    """At most about `size` bytes are in flight, of all streams. For the tasks of one loop."""

    def __init__(self, size: int) -> None:
        self.in_flight = 0
        self._size = size
        self._streams: dict[int, _Stream] = {}
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Window {self.in_flight} of {self._size} bytes>"

    def begin(self, stream: int, end: int) -> None:
        """A stream begins behind record `end`."""
        self._streams[stream] = _Stream(end)

    def note_sent(self, stream: int, end: int, size: int) -> None:
        """A piece is in flight: `size` bytes, up to record `end`."""
        found = self._streams[stream]
        found.end = end
        found.sent.append((end, size))
        self.in_flight += size

    def acknowledge(self, stream: int, end: int) -> int | None:
        """The mirror has what lies below `end`; returned is that, or what was sent. None: that stream is over."""
        found = self._streams.get(stream)
        if found is None:
            return None
        end = min(end, found.end)
        while found.sent and found.sent[0][0] <= end:
            self.in_flight -= found.sent.popleft()[1]
        self._note_change()
        return end

    def drop(self, stream: int) -> None:
        """A stream is over: what of it is in flight is not waited for."""
        found = self._streams.pop(stream, None)
        if found is not None:
            self.in_flight -= sum(size for _, size in found.sent)
        self._note_change()

    async def wait_for_room(self) -> None:
        """Return once there is room."""
        while self.in_flight >= self._size:
            await self._changed.wait()

    def _note_change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
