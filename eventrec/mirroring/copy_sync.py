"""One copy of a mirror that is to be synced, and the frames that acknowledge what is synced of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.errors import EventrecError
from eventrec.mirroring.messages import NAMES_IN_A_FRAME, Ack, encode

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class CopySync:
    """One copy that is to be synced, by any thread, beside one that writes.

    Attributes:
        stream: What was written of it.
        work: Syncs it, and returns the record after what is synced then.
        checkpoints: Those that it got since the last one.
        records: Those that were written since.
        end: After `run`: the record after what is synced.
        error: After `run`: why that failed.
    """

    stream: int
    work: Callable[[], int]
    checkpoints: dict[str, int]
    records: int
    end: int = 0
    error: Exception | None = None

    def run(self) -> None:
        """Sync it."""
        try:
            self.end = self.work()
        except (EventrecError, OSError) as exc:
            self.error = exc

    def acks(self) -> list[bytes]:
        """After `run`: the frames that acknowledge it; more than one where it has more checkpoints than fit."""
        names = list(self.checkpoints)
        return [
            encode(
                Ack(
                    stream=self.stream,
                    next_offset=self.end,
                    checkpoints={name: self.checkpoints[name] for name in names[at : at + NAMES_IN_A_FRAME]},
                )
            )
            for at in range(0, max(1, len(names)), NAMES_IN_A_FRAME)
        ]
