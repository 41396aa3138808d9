"""Unpacks bodies piece by piece: never more at once than a piece, never more in all than is allowed."""

from __future__ import annotations

import io
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from eventrec.errors import LogError
from eventrec.log.compressed import load_zstd
from eventrec.server.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE: Final = 1 << 16
MAX_MEMBERS: Final = 10_000
"""Members of gzip, or frames of zstd, in one body: each costs some time, though it may hold nothing."""

MAX_WINDOW: Final = 23
"""The largest window of zstd as a content coding: 8 MiB, RFC 9659."""

_GZIP: Final = 31
_ZLIB: Final = 15
_RAW: Final = -15
_DEFLATED: Final = 8


class Unpacking:
    """One body on its way. `room` is how many bytes it may unpack to; `grown` is told of each piece before it is kept.

    Raises:
        RefusedError: 415: such bodies are not unpacked here.
    """

    def __init__(self, coding: str, packed: bytes, *, room: int, grown: Callable[[int], object]) -> None:
        self._next = _decompressors(coding, packed)
        self._packed = memoryview(packed)
        self._is_zstd = coding == "zstd"
        self._errors: tuple[type[Exception], ...] = (zlib.error, EOFError)
        if self._is_zstd:
            self._errors += (load_zstd().ZstdError,)
        self._place = 0
        self._room = room
        self._grown = grown
        self._out = io.BytesIO()
        self._members = 1
        self._one: Any = self._next()
        self._rest = b""
        """Of zlib: what was given to it, and waits for the next piece."""

    def run(self, *, pieces: int | None = None) -> bool:
        """Go on for so many pieces, or to the end; whether it is at the end. Blocking.

        Raises:
            RefusedError: 413: there is more than there is room for; 400: it cannot be unpacked; or what `grown` raises.
        """
        done = 0
        try:
            while pieces is None or done < pieces:
                if self._one.eof and not self._begin_member():
                    return True
                self._keep(self._piece())
                done += 1
        except self._errors as exc:
            raise _broken(type(exc).__name__) from None
        return False

    def result(self) -> bytes:
        """What it was."""
        return self._out.getvalue()

    def _piece(self) -> bytes:
        """The next bytes, PIECE at most; b"" where it only took some."""
        needs_input = self._one.needs_input if self._is_zstd else not self._rest
        given = self._take() if needs_input else self._rest
        piece: bytes = self._one.decompress(given, PIECE)
        if not self._is_zstd:
            self._rest = self._one.unconsumed_tail
        is_stuck = needs_input and not given and not piece and not self._one.eof
        if is_stuck:
            raise _broken("it ends too early")
        return piece

    def _take(self) -> bytes:
        piece = bytes(self._packed[self._place : self._place + PIECE])
        self._place += len(piece)
        return piece

    def _begin_member(self) -> bool:
        """Whether another member follows; zeros at the end are padding."""
        unused = self._one.unused_data
        self._place -= len(unused)
        if not bytes(self._packed[self._place : self._place + PIECE]).strip(b"\0"):
            if bytes(self._packed[self._place :]).strip(b"\0"):
                raise _broken("something follows its end")
            return False
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise _broken(f"it has more than {MAX_MEMBERS:,} parts")
        self._one, self._rest = self._next(), b""
        return True

    def _keep(self, piece: bytes) -> None:
        self._room -= len(piece)
        if self._room < 0:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body unpacks to more bytes than are allowed")
        if piece:
            self._grown(len(piece))
            self._out.write(piece)


def known_codings() -> tuple[str, ...]:
    """What can be unpacked here, as Accept-Encoding names it."""
    try:
        load_zstd()
    except LogError:
        return "gzip", "deflate"
    return "gzip", "deflate", "zstd"


def _decompressors(coding: str, packed: bytes) -> Callable[[], Any]:
    """What makes one for each member."""
    if coding in {"gzip", "x-gzip"}:
        return lambda: zlib.decompressobj(_GZIP)
    if coding == "deflate":
        # RFC 9110 means zlib's format; some clients send what is inside of that.
        has_head = len(packed) > 1 and packed[0] & 15 == _DEFLATED and int.from_bytes(packed[:2]) % 31 == 0
        return lambda: zlib.decompressobj(_ZLIB if has_head else _RAW)
    known = known_codings()
    if coding == "zstd" and coding in known:
        zstd = load_zstd()
        options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW}
        return lambda: zstd.ZstdDecompressor(options=options)
    missing = "; eventrec[zstd] is not installed" if coding == "zstd" else ""
    raise RefusedError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"bodies may be packed by one of {', '.join(known)}{missing}",
        headers={"Accept-Encoding": ", ".join(known)},
    )


def _broken(why: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, f"the body cannot be unpacked: {why}")
