"""What a relay keeps on the bus of a subscription and one log: its checkpoint, in the form that files have too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.errors import PauseError
from eventrec.runs.checkpoint import Checkpoint
from eventrec.runtime.decoding import decodable

if TYPE_CHECKING:
    from uuid import UUID

_encode: Final = msgspec.json.Encoder().encode
_VERSION: Final = 1


@decodable
class _Version(msgspec.Struct):
    version: int


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """As JSON, with its version."""
    return _encode(checkpoint)


def decode_checkpoint(content: bytes, subscription: str, log_id: UUID) -> Checkpoint:
    """What was kept of `subscription`.

    Raises:
        PauseError: It is of a version that comes after this one, or not a checkpoint: where it was is not known.
    """
    what = f"what the bus keeps of {subscription!r} and the log {log_id}"
    try:
        version = msgspec.json.decode(content, type=_Version).version
        if version != _VERSION:
            raise PauseError(f"{what} has version {version}, this eventrec knows {_VERSION}: update eventrec")
        found = msgspec.json.decode(content, type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise PauseError(f"{what} cannot be read: {exc}") from exc
    if not found.progress.is_balanced:
        raise PauseError(f"{what} contradicts itself")
    return found
