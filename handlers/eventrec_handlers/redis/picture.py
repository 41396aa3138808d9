"""What the hash `meta` of a shard says, as `scripts/shard.lua` keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from eventrec import PauseError
from eventrec.bus import LogBounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Picture:
    """A shard's logs at one moment.

    Attributes:
        joined: The ids of the logs, as meta has them.
        held_bytes: Bytes of content that each log holds.
        is_known: There is a shard.
    """

    logs: Sequence[LogBounds] = ()
    joined: str = ""
    held_bytes: Mapping[UUID, int] = field(default_factory=dict)
    is_known: bool = True

    @property
    def ids(self) -> list[UUID]:
        """Of all logs, the oldest first."""
        return [log.id for log in self.logs]

    @property
    def records(self) -> int:
        """How many all logs hold."""
        return sum(log.end - log.oldest for log in self.logs)


def picture(answer: Sequence[bytes], run_id: bytes, where: str) -> Picture:
    """The logs of `answer`, fields and values in turn; `run_id` is the life that the server lives now.

    Raises:
        PauseError: It is not what a script of ours has written.
    """
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    joined = fields.get(b"logs", b"").decode(errors="replace")
    is_same_life = fields.get(b"run_id") == run_id
    logs, held = [], {}
    try:
        for text in joined.split():
            start = f"{text}:".encode()
            is_live = fields.get(b"live") == text.encode() and is_same_life
            log = LogBounds(
                UUID(text),
                int(fields[start + b"oldest"]),
                int(fields[start + b"end"]),
                is_live,
                may_have_lost_tail=not is_live,
            )
            logs.append(log)
            held[log.id] = int(fields[start + b"put"]) - int(fields[start + b"cut"])
    except (KeyError, ValueError) as exc:
        raise PauseError(f"{where}: its meta key holds what is not ours: {exc!r}") from exc
    return Picture(logs, joined, held)
