"""Frames on their way to a mirror: in order, at the bandwidth that it has, while what comes next is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from eventrec.mirroring.connection import Connection

PIECE_BYTES: Final = 4 << 20
"""What is read of a log in one turn: handing it from thread to loop takes as long as sending a good part of it."""

_READ_AHEAD: Final = 1
"""Turns that are read while the one before is sent."""


class Outgoing:
    """Sends frames over `connection`, at most `bandwidth` bytes a second. For the tasks of one loop.

    Attributes:
        is_bounded: Whether there is a bandwidth: then frames of others may be sent between any two of ours.
        piece_bytes: How much of a log is to be sent in one turn.
    """

    def __init__(self, connection: Connection, *, bandwidth: int | None) -> None:
        self.is_bounded = bandwidth is not None
        # Where little goes in a second, no log keeps the way to itself for long.
        self.piece_bytes = PIECE_BYTES if bandwidth is None else max(1, min(PIECE_BYTES, bandwidth // 8))
        self._connection = connection
        self._bandwidth = bandwidth
        self._entry, self._exit = anyio.create_memory_object_stream[tuple[bytes | memoryview, ...]](_READ_AHEAD)

    def __repr__(self) -> str:
        return f"<Outgoing {self._bandwidth or 'any'} bytes a second>"

    async def say(self, *frames: bytes | memoryview) -> None:
        """Have `frames` sent, after those before them. On return they may still wait."""
        if frames:
            await self._entry.send(frames)

    async def run(self) -> None:
        """Send what is said, until cancelled or closed.

        Raises:
            MirrorError: The connection is lost.
        """
        async for frames in self._exit:
            if self._bandwidth is None:
                await self._connection.send(*frames)
                continue
            for frame in frames:
                await self._connection.send(frame)
                await anyio.sleep(len(frame) / self._bandwidth)

    def close(self) -> None:
        """Nothing more is sent; what still waits is not either."""
        self._entry.close()
        self._exit.close()
