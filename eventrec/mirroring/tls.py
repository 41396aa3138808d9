"""TLS over a connection, in large pieces: what a record of 16 KiB costs each time is paid once for many."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

if TYPE_CHECKING:
    from anyio.abc import SocketStream

_PIECE_BYTES: Final = 256 << 10


async def wrap_tls(stream: SocketStream, context: ssl.SSLContext, *, hostname: str | None = None) -> ByteStream:
    """`stream` with TLS: the client's side where `hostname`, which the certificate has to have, is given.

    Raises:
        OSError: There is no TLS to be had; ssl.SSLError is one. The stream is closed then.
        anyio.EndOfStream, anyio.BrokenResourceError: The peer is gone. Likewise.
    """
    try:
        return _LargePieces(
            await TLSStream.wrap(
                _LargeReads(stream),
                server_side=hostname is None,
                hostname=hostname,
                ssl_context=context,
                standard_compatible=False,
            )
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


class _Wrapper(ByteStream):
    """Another stream, with another way to receive."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        """As the other."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """As the other."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the other."""
        await self._stream.aclose()


class _LargeReads(_Wrapper):
    """Gives TLS what there is, up to the size of a large piece, however little it asks for."""

    async def receive(self, max_bytes: int = _PIECE_BYTES) -> bytes:  # noqa: ARG002 - see above
        """The next piece. Raises as the other."""
        return await self._stream.receive(_PIECE_BYTES)


class _LargePieces(_Wrapper):
    """Gives out all that is deciphered at once, not each record alone."""

    def __init__(self, stream: TLSStream) -> None:
        super().__init__(stream)
        self._tls = stream.extra(TLSAttribute.ssl_object)  # noqa: S610 - not Django's

    async def receive(self, max_bytes: int = _PIECE_BYTES) -> bytes:
        """The next piece. Raises as the other."""
        piece = await self._stream.receive(max_bytes)
        pieces, size = [piece], len(piece)
        try:
            while size < max_bytes and (piece := self._tls.read(max_bytes - size)):
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLError:
            pass  # There is no more yet, or no more at all: the next call meets that.
        return b"".join(pieces)
