"""The body of an answer, taken in pieces: bounded in bytes before and after decompression."""

from __future__ import annotations

import zlib
from typing import Final

_GZIP: Final = zlib.MAX_WBITS | 16
_IDENTITY: Final = frozenset({"", "identity"})


class BodyError(Exception):
    """The body is not what its headers say."""


class Body:
    """Collects what a body holds, `limit` bytes at most; `encoding` is the answer's Content-Encoding.

    Attributes:
        content: What it holds so far.
        is_cut: It goes on beyond `limit`.

    Raises:
        BodyError: The encoding is neither gzip nor identity: nothing else was asked for.
    """

    def __init__(self, encoding: str, *, limit: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in _IDENTITY | {"gzip", "x-gzip"}:
            raise BodyError("it is in an encoding that was not asked for")
        self.content = bytearray()
        self.is_cut = False
        self._limit = limit
        self._received = 0
        self._gzip = None if encoding in _IDENTITY else zlib.decompressobj(_GZIP)

    def add(self, piece: bytes) -> bool:
        """Take the next piece as it was received. False: no more is wanted.

        Raises:
            BodyError: It is not gzip.
        """
        self._received += len(piece)
        if self._gzip is None:
            self.content += piece[: self._limit - len(self.content)]
        else:
            self._decompress(piece)
        self.is_cut = self.is_cut or self._received > self._limit
        return not self.is_cut

    def finish(self) -> None:
        """All was received.

        Raises:
            BodyError: The compressed stream goes on.
        """
        if self._gzip is not None and self._received and not self._gzip.eof:
            raise BodyError("its gzip stream breaks off")

    def _decompress(self, piece: bytes) -> None:
        # A stream may have several members; each makes at least 18 bytes shorter what is left.
        while piece and self._gzip is not None:
            if self._gzip.eof:
                self._gzip = zlib.decompressobj(_GZIP)
            try:
                self.content += self._gzip.decompress(piece, self._limit - len(self.content) + 1)
            except zlib.error as exc:
                raise BodyError(f"it is not gzip: {exc}") from exc
            if len(self.content) > self._limit:
                del self.content[self._limit :]
                self.is_cut = True
                return
            piece = self._gzip.unused_data
