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
    Kind.BEGIN: _CONTROL,
    Kind.DATA: 1 << 20,
    Kind.CHECKPOINT: 16 << 20,
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
    body: bytes


def encode_frame(kind: Kind, body: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEAD.pack(kind, len(body)) + body


class FrameParser:
    """Takes what a peer sends, piece by piece; `limits` say which frames it may send, and how long they may be.

    It keeps no more than one frame that is not complete, beside the piece that came last.
    """

    def __init__(self, limits: Mapping[Kind, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._needed = 0
        """Bytes of the frame that is not complete, where that is known."""

    def __repr__(self) -> str:
        return f"<FrameParser holding {len(self._buffer)} bytes>"

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of a frame has come that is not complete."""
        return not self._buffer

    def feed(self, piece: bytes) -> list[Frame]:
        """The frames that have become complete by the next `piece`, in order.

        Raises:
            ProtocolError: A frame is of a kind that may not be sent, or too long: its body is not waited for.
        """
        buffer, at = self._buffer, 0
        buffer += piece
        found: list[Frame] = []
        if len(buffer) < self._needed:
            return found
        self._needed = 0
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
            found.append(Frame(Kind(number), bytes(memoryview(buffer)[at + _HEAD.size : end])))
            at = end
        del buffer[:at]
        return found
