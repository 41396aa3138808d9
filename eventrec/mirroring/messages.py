"""What the bodies of frames say: JSON, checked against its type; of DATA, the number of a stream and its bytes."""

from __future__ import annotations

import struct
from typing import Annotated, Final, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from eventrec.log.mirror import LastCommit
from eventrec.mirroring.frames import VERSION, Frame, Kind, ProtocolError, encode_frame, encode_head
from eventrec.runtime.decoding import decodable
from eventrec.runtime.texts import encoded_json

_Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Word: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4_096)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]

_STREAM: Final = struct.Struct(">I")
_SMALL: Final = 16 << 10

CLAIMS_IN_A_FRAME: Final = 200

NAMES_IN_A_FRAME: Final = 200
"""Of files of checkpoints: where there are more, further frames follow."""


@decodable
class Last(msgspec.Struct, frozen=True):
    """The last commit of a mirror's copy: see `LastCommit`."""

    segment: _Offset
    offset: _Offset
    next_offset: _Offset
    checksum: _Word

    def as_commit(self) -> LastCommit:
        """The same, as the log has it."""
        return LastCommit(self.segment, self.offset, self.next_offset, self.checksum)


@decodable
class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a mirror has of one log, synced; `is_dead`: a log of dead letters."""

    run: UUID
    is_dead: bool = False
    last: Last | None = None


@decodable
class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A mirror's first frame. `instance` is the process's own, `place` says which directory it has.

    `takes_layouts`: the source says how tables are laid out; a mirror of a version without that is told nothing of it.
    `more`: further RUNS follow before it is answered.
    """

    version: int = VERSION
    token: _Text = ""
    name: _Name
    instance: UUID
    place: _Text = ""
    bandwidth: Annotated[int, msgspec.Meta(ge=1)] | None = None
    takes_layouts: bool = False
    runs: list[Claim] = []
    more: bool = False


@decodable
class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """More of what a mirror has; later, what it wants to go on with."""

    runs: list[Claim]
    more: bool = False


@decodable
class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The mirror is known, and what it lacks follows."""

    version: int = VERSION


@decodable
class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The connection ends here, and why."""

    reason: _Text


@decodable
class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """The stream of a log begins. `is_fresh`: what the mirror has of it goes first.

    `checkpoints` are the names of the files that the log has: the mirror deletes others. What is not named, since there
    are more than fit, is sent again.
    """

    run: UUID
    is_dead: bool = False
    stream: _Word
    is_fresh: bool = False
    checkpoints: list[_Name] = []


@decodable
class CarriedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as its file stands; None: the file is gone."""

    stream: _Word
    name: _Name
    content: bytes | None


@decodable
class KeptLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of a table, as its file stands in the log directory, with its checksum."""

    content: bytes


@decodable
class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """The log begins at `first` by now."""

    stream: _Word
    first: _Offset


@decodable
class Retired(msgspec.Struct, frozen=True, kw_only=True):
    """The source has no such log any more."""

    run: UUID
    is_dead: bool = False


@decodable
class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing more of that log, for now, and why: as DIVERGED the source says it, as STOP the mirror."""

    run: UUID
    is_dead: bool = False
    why: _Text


@decodable
class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What the mirror has of a stream's log, synced: records below `next_offset`.

    `checkpoints` are those that it got since it said so last, by their files; others of that stream it has still.
    """

    stream: _Word
    next_offset: _Offset
    checkpoints: dict[_Name, _Offset] = {}


_KINDS: Final[dict[type[msgspec.Struct], Kind]] = {
    Hello: Kind.HELLO,
    Runs: Kind.RUNS,
    Welcome: Kind.WELCOME,
    Refused: Kind.REFUSED,
    Begin: Kind.BEGIN,
    CarriedCheckpoint: Kind.CHECKPOINT,
    KeptLayout: Kind.LAYOUT,
    Trimmed: Kind.TRIMMED,
    Retired: Kind.RETIRED,
    Ack: Kind.ACK,
}

_T = TypeVar("_T", bound=msgspec.Struct)


def encode(message: msgspec.Struct, kind: Kind | None = None) -> bytes:
    """The frame of `message`; of the `kind`, where its type is that of several."""
    return encode_frame(_KINDS[type(message)] if kind is None else kind, encoded_json(message))


def decode(frame: Frame, kind: type[_T]) -> _T:
    """What `frame` says.

    Raises:
        ProtocolError: Its body is not such a message.
    """
    try:
        return msgspec.json.decode(frame.body, type=kind)
    except Exception as exc:
        # Whatever a decoder makes of odd bytes: UnicodeDecodeError, RecursionError, ValueError.
        raise ProtocolError(f"a frame {frame.kind.name} cannot be read: {exc}") from exc


def encode_data(stream: int, piece: bytes | memoryview) -> bytes:
    """The frame of the next bytes of a stream."""
    return encode_head(Kind.DATA, _STREAM.size + len(piece)) + _STREAM.pack(stream) + piece


def data_parts(stream: int, piece: memoryview) -> list[bytes | memoryview]:
    """The same frame, in parts to be sent one behind the other: many bytes are not copied for it."""
    if len(piece) <= _SMALL:
        return [encode_data(stream, piece)]
    return [encode_head(Kind.DATA, _STREAM.size + len(piece)) + _STREAM.pack(stream), piece]


def decode_data(frame: Frame) -> tuple[int, bytes | memoryview]:
    """The number of the stream, and its next bytes.

    Raises:
        ProtocolError: There is no number.
    """
    if len(frame.body) < _STREAM.size:
        raise ProtocolError("a frame DATA without the number of its stream")
    return _STREAM.unpack_from(frame.body)[0], frame.body[_STREAM.size :]
