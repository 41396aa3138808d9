"""What the hash `meta` of a shard says, as `scripts/shard.lua` keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventrec import PauseError
from eventrec.bus import LogBounds

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Picture:
    """A shard's logs at one moment.

    Attributes:
        joined: The ids of the logs, as meta has them.
        is_known: There is a shard.
    """

    logs: Sequence[LogBounds] = ()
    joined: str = ""
    is_known: bool = True

    @property
    def ids(self) -> list[UUID]:
        """Of all logs, the oldest first."""
        return [log.id for log in self.logs]


def picture(answer: Sequence[bytes], run_id: bytes, where: str) -> Picture:
    """The logs of `answer`, fields and values in turn; `run_id` is the life that the server lives now.

    Raises:
        PauseError: It is not what a script of ours has written.
    """
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    joined = fields.get(b"logs", b"").decode(errors="replace")
    is_same_life = fields.get(b"run_id") == run_id
    logs = []
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
    except (KeyError, ValueError) as exc:
        raise PauseError(f"{where}: its meta key holds what is not ours: {exc!r}") from exc
    return Picture(logs, joined)
