"""Dead letters as bytes: what one commit of a log of letters holds.

    content = 0x02 value          version 2, so that it is never taken for records; then one msgpack value
    value   = [id, [letter, …]]   16 bytes, the id of the run whose log of letters it is
    letter  = [log id, offset, subscription, handler, reason, time,
               static context, shape, timestamp, payload, context, extra rows, id]
              the time in nanoseconds since the epoch; the shape as in `eventrec.records.content`;
              the rest as a record has it

A letter stands for itself: it can be read, and delivered again, when the log it came from is long gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import msgspec

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.errors import ContentError, InvalidEventError
from eventrec.records.content import PlainShape, Shapes, plain_shape
from eventrec.records.entry import entry_size

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = b"\x02"

_OPENING: Final = VERSION + b"\x92\xc4\x10"
_OPENING_END: Final = len(_OPENING) + 16

_PlainDeadLetter: TypeAlias = tuple[
    bytes, int, str, str, str, int, bytes | None, PlainShape, int, bytes, bytes | None, bytes | None, bytes | None
]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[bytes, list[_PlainDeadLetter]]).decode


def is_letters_of(opening: bytes, id_: UUID) -> bool:
    """Whether a content that begins with `opening` belongs to the log of letters of the run `id_`."""
    return opening[:_OPENING_END] == _OPENING + id_.bytes


def encode_letters(letters: Sequence[DeadLetter], id_: UUID) -> bytes:
    """The content of one commit that holds `letters`."""
    plain = []
    for letter in letters:
        shape, timestamp, payload, context, extras, explicit, _ = letter.entry
        plain.append(
            (
                letter.log_id.bytes,
                letter.offset,
                letter.subscription,
                letter.handler,
                letter.reason,
                round(letter.seconds * 1e9),
                letter.static_context,
                plain_shape(shape),
                timestamp,
                payload,
                context,
                extras,
                explicit,
            )
        )
    return VERSION + _encode((id_.bytes, plain))


class UnknownVersionError(ContentError):
    """Letters of a version that this eventrec does not read: a later one may."""


def decode_letters(content: bytes, shapes: Shapes) -> list[DeadLetter]:
    """The letters of one commit.

    Raises:
        UnknownVersionError: They are of another version.
        ContentError: These bytes are not letters of ours.
    """
    if content[:1] != VERSION:
        found = content[:1].hex() or "--"
        raise UnknownVersionError(f"letters of version 0x{found}: this eventrec reads 0x{VERSION.hex()}")
    try:
        return [_letter(plain, shapes) for plain in _decode(memoryview(content)[1:])[1]]
    except (msgspec.MsgspecError, InvalidEventError, ValueError, RecursionError) as exc:
        raise ContentError(f"{len(content)} bytes are not letters of ours: {exc}") from exc


def _letter(plain: _PlainDeadLetter, shapes: Shapes) -> DeadLetter:
    log_id, offset, subscription, handler, reason, time, static, shape, timestamp, payload, context, extras, id_ = plain
    size = entry_size(payload, context, extras)
    return DeadLetter(
        log_id=UUID(bytes=log_id),
        offset=offset,
        subscription=subscription,
        handler=handler,
        reason=reason,
        seconds=time / 1e9,
        entry=(shapes.of(shape), timestamp, payload, context, extras, id_, size),
        static_context=static,
    )
