"""Frames: what goes over a mirror's connection, cut at any byte, and put together again in bounded memory.

frame = kind (1 byte), length of the body (4 bytes, big-endian), body
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
"""Of the protocol: both sides must speak the same one."""

_HEAD: Final = struct.Struct(">BI")
_CONTROL: Final = 64 << 10
_SMALL: Final = 16 << 10


class Kind(IntEnum):
    """What a frame says. The numbers are the protocol's."""

    HELLO = 1
    RUNS = 2
    WELCOME = 3
    REFUSED = 4
    BEGIN = 5
    DATA = 6
    CHECKPOINT = 7
    TRIMMED = 8
    RETIRED = 9
    DIVERGED = 10
    HEARTBEAT = 11
    ACK = 12
    STOP = 13
    LAYOUT = 14


FROM_MIRROR: Final[Mapping[Kind, int]] = {
    Kind.HELLO: _CONTROL,
    Kind.RUNS: _CONTROL,
    Kind.ACK: _CONTROL,
    Kind.STOP: _CONTROL,
    Kind.HEARTBEAT: 0,
}
"""What a mirror may send, and how many bytes a body may have."""

FROM_SOURCE: Final[Mapping[Kind, int]] = {
    Kind.WELCOME: _CONTROL,
    Kind.REFUSED: _CONTROL,
    Kind.BEGIN: 1 << 20,
    Kind.DATA: 1 << 20,
    Kind.CHECKPOINT: 16 << 20,
    Kind.LAYOUT: 2 << 20,
    Kind.TRIMMED: _CONTROL,
    Kind.RETIRED: _CONTROL,
    Kind.DIVERGED: _CONTROL,
    Kind.HEARTBEAT: 0,
}
"""What a source may send, likewise."""


class ProtocolError(MirrorError):
    """The peer sends what it may not: it is not one of ours, or of another version."""


class Frame(NamedTuple):
    """One frame that came whole."""

    kind: Kind
    body: bytes | memoryview


def encode_frame(kind: Kind, body: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return encode_head(kind, len(body)) + body


def encode_head(kind: Kind, size: int) -> bytes:
    """The bytes before the `size` bytes of its body."""
    return _HEAD.pack(kind, size)


class FrameParser:
    """Takes what a peer sends, piece by piece; `limits` say which frames it may send, and how long they may be.

    It keeps no more than one frame that is not complete, beside the piece that came last.
    """

    def __init__(self, limits: Mapping[Kind, int]) -> None:
        self._limits = limits
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = _HEAD.size
        """Bytes of the frame that is not complete, as far as that is known."""

    def __repr__(self) -> str:
        return f"<FrameParser holding {self._held} bytes>"

    def feed(self, piece: bytes) -> list[Frame]:
        """The frames that have become complete by the next `piece`, in order.

        Raises:
            ProtocolError: A frame is of a kind that may not be sent, or too long: its body is not waited for.
        """
        found: list[Frame] = []
        if self._pieces and len(self._pieces[-1]) < _SMALL:
            self._pieces[-1] += piece  # A peer that sends byte after byte costs no more than one that does not.
        else:
            self._pieces.append(piece)
        self._held += len(piece)
        if self._held < self._needed:
            return found
        buffer, at = b"".join(self._pieces), 0
        self._needed = _HEAD.size
        while len(buffer) - at >= _HEAD.size:
            number, length = _HEAD.unpack_from(buffer, at)
            limit = self._limits.get(number)
            if limit is None:
                raise ProtocolError(f"a frame of kind {number} is not expected here")
            if length > limit:
                raise ProtocolError(f"a frame {Kind(number).name} of {length:,} bytes: at most {limit:,} are allowed")
            end = at + _HEAD.size + length
            if end > len(buffer):
                self._needed = end - at
                break
            found.append(Frame(Kind(number), memoryview(buffer)[at + _HEAD.size : end]))
            at = end
        self._held = len(buffer) - at
        self._pieces = [buffer[at:]] if self._held else []
        return found
