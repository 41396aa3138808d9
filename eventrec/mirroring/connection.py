"""A connection that carries frames both ways, and notices that the other end is gone."""

from __future__ import annotations

import ssl
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, cast

import anyio

from eventrec.errors import MirrorError
from eventrec.mirroring.frames import FrameParser, Kind, encode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from eventrec.mirroring.frames import Frame

_RECEIVE_BYTES: Final = 256 << 10

_SEND_BYTES: Final = 256 << 10
_LEAST_SEND_BYTES: Final = 16 << 10
"""So many bytes have to go within the time that silence may last."""

_LOOKS: Final = 4
"""So many times it is looked, in the time that silence may last, whether it has."""

LOST: Final = (
    OSError,
    anyio.EndOfStream,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,
    ssl.SSLError,
)
"""What a stream raises where its peer, or the way there, is gone."""


class ConnectionLostError(MirrorError):
    """The peer, or the way to it, is gone: what was sent last may or may not have arrived."""


class Connection:
    """Frames over `stream`. `takes` says what the peer may send.

    A peer from which nothing comes for `silence` seconds is gone; with `by_frame` whole frames have to come. For the
    tasks of one loop.
    """

    def __init__(
        self, stream: ByteStream, takes: Mapping[Kind, int], *, silence: float, by_frame: bool = False
    ) -> None:
        self._stream = stream
        self._parser = FrameParser(takes)
        self._silence = silence
        self._by_frame = by_frame
        self._frames: deque[Frame] = deque()
        self._sending = anyio.Lock()
        self._heard = self._sent = monotonic()
        self._is_sending = self._is_receiving = False
        self._send_bytes = _SEND_BYTES // 2

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send `parts`, which are whole frames together, with nothing between them. On return they are on their way.

        Raises:
            ConnectionLostError: The peer is gone.
        """
        async with self._sending:
            try:
                for part in parts:
                    at = 0
                    while at < len(part):
                        self._is_sending, self._sent = True, monotonic()
                        # A view is as good as bytes to streams of sockets and of TLS.
                        await self._stream.send(cast("bytes", part[at : at + self._send_bytes]))
                        at += self._send_bytes
                        self._measure(monotonic() - self._sent)
            except LOST as exc:
                _lose(exc)
            finally:
                self._is_sending, self._sent = False, monotonic()

    def _measure(self, seconds: float) -> None:
        """Send as much at once as goes within a small part of the time that silence may last."""
        if seconds > self._silence / 8:
            self._send_bytes = max(_LEAST_SEND_BYTES, self._send_bytes // 2)
        elif self._send_bytes < _SEND_BYTES:
            self._send_bytes *= 2

    async def receive(self) -> Frame:
        """The next frame, heartbeats left out.

        Raises:
            ConnectionLostError: The peer is gone.
            ProtocolError: It sends what it may not.
        """
        self._heard = monotonic()  # It may be long since the last call.
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.kind is not Kind.HEARTBEAT:
                    return frame
            self._is_receiving = True
            try:
                piece = await self._stream.receive(_RECEIVE_BYTES)
            except LOST as exc:
                _lose(exc)
            finally:
                self._is_receiving = False
            self._frames.extend(self._parser.feed(piece))
            if self._frames or not self._by_frame:
                self._heard = monotonic()

    async def keep_alive(self) -> NoReturn:
        """Send a heartbeat wherever nothing else was sent for a while; until cancelled. Raises as `send`."""
        interval = self._silence / 3
        while True:
            await anyio.sleep(interval / _LOOKS)
            if not self._is_sending and monotonic() - self._sent >= interval:
                await self.send(encode_frame(Kind.HEARTBEAT))

    async def watch(self) -> NoReturn:
        """Notice that the peer is gone; until cancelled.

        Raises:
            ConnectionLostError: Nothing came, or nothing could be sent, for too long.
        """
        while True:
            await anyio.sleep(self._silence / _LOOKS)
            now = monotonic()
            if self._is_receiving and now - self._heard > self._silence:
                raise ConnectionLostError(f"nothing came for {now - self._heard:.1f} s")
            if self._is_sending and now - self._sent > self._silence:
                raise ConnectionLostError(f"nothing was taken for {now - self._sent:.1f} s")

    async def close(self) -> None:
        """End the connection at once."""
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)


def cancelled_of(exc: BaseException) -> BaseException | None:
    """What of `exc` is not an error but says that this task is cancelled; None: nothing is.

    Of tasks that run beside each other one may lose its connection while the others are cancelled.
    """
    return exc.split(Exception)[1] if isinstance(exc, BaseExceptionGroup) else None


def _lose(exc: BaseException) -> NoReturn:
    what = str(exc) or type(exc).__name__
    raise ConnectionLostError(f"the connection is lost: {what}") from exc
