"""What comes next of one log, as the frames that say it to a mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec.mirroring.messages import CarriedCheckpoint, Trimmed, data_parts, encode, encode_data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.mirroring.served_run import LogTurn

DATA_BYTES: Final = 508 << 10
"""Of a log in one frame of its data."""


@dataclass(frozen=True, slots=True)
class TurnFrames:
    """The frames of one turn.

    Attributes:
        data: The log's bytes: to be sent first, and in this order.
        checkpoints: Those that the mirror may have once it has the dead letters that they speak of, by their names.
        others: What may be sent at any time after the data.
    """

    data: Sequence[bytes | memoryview]
    checkpoints: Mapping[str, bytes]
    others: Sequence[bytes]

    @classmethod
    def of(cls, turn: LogTurn, stream: int, *, are_whole: bool) -> TurnFrames:
        """The frames of `turn` in `stream`.

        `are_whole`: each frame is one piece of bytes, so that those of others may be sent between two of them; else a
        frame may be two pieces, which saves a copy.
        """
        data: list[bytes | memoryview] = []
        for part in turn.parts:
            for at in range(0, len(part), DATA_BYTES):
                piece = memoryview(part)[at : at + DATA_BYTES]
                data += [encode_data(stream, piece)] if are_whole else data_parts(stream, piece)
        saved = {
            name: encode(CarriedCheckpoint(stream=stream, name=name, content=content))
            for name, content in turn.checkpoints.items()
        }
        others = [frame for name, frame in saved.items() if turn.checkpoints[name] is None]
        if turn.first is not None:
            others.append(encode(Trimmed(stream=stream, first=turn.first)))
        kept = {name: frame for name, frame in saved.items() if turn.checkpoints[name] is not None}
        return cls(data, kept, others)
