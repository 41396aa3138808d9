"""Records that are set aside: dead letters, and suspects of which it is not known yet whose fault it was."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Final

from eventrec.delivery.dead_letters import DeadLetter
from eventrec.delivery.health import HoldError
from eventrec.delivery.piece import Piece
from eventrec.delivery.retry import Brake

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from eventrec.delivery.dead_letters import DeadLetters
    from eventrec.delivery.source import Source
    from eventrec.delivery.subscription import Subscription
    from eventrec.record import Entry

_SUSPECTS: Final = 16
"""Records in a row that fail alone, with none passing: enough to call it an outage."""


class Aside:
    """What one subscription sets aside of one source. A letter is written first, and counted after."""

    def __init__(self, subscription: Subscription, source: Source, letters: DeadLetters) -> None:
        self.brake = Brake()
        self._judged: list[tuple[int, str, bool]] = []
        """Offset, type, and whether it died: what the brake has not heard yet."""
        self._suspects: list[tuple[int, Entry, str]] = []
        self._subscription = subscription
        self._source = source
        self._letters = letters

    def __len__(self) -> int:
        """How many suspects there are."""
        return len(self._suspects)

    def known_dead(self) -> Collection[int]:
        """The offsets of which there are letters already: they are never sent again, except by replay."""
        return self._letters.known(self._source.id, self._subscription.name)

    async def bury(self, piece: Piece, dead: Mapping[int, tuple[Entry, str]]) -> None:
        """Write letters of `dead`, which are in `piece` and open, and settle them there.

        Raises:
            HoldError: The letters cannot be written: nothing is settled.
        """
        await self._write(dead)
        piece.settle(dead=list(dead))
        self._judged += [(offset, entry[0].type, True) for offset, (entry, _) in dead.items()]

    def passed(self, piece: Piece) -> None:
        """The destination has these, whoever delivered them: they speak for their types."""
        if self.brake or self._judged:
            self._judged += [
                (offset, entry[0].type, False) for offset, entry in zip(piece.offsets, piece.entries, strict=True)
            ]

    def verdict(self) -> HoldError | None:
        """Once what was judged is settled: what the brake says of it, in the order of the log."""
        judged, self._judged = sorted(self._judged), []
        pulled = [kind for _, kind, is_dead in judged if self.brake.note(kind, dead=is_dead)]
        if not pulled:
            return None
        return HoldError(
            f"over half of the last {Brake.WINDOW:,} records of type {pulled[0]!r} were refused for good",
            slowly=False,
        )

    # -- suspects

    def suspect(self, piece: Piece, reason: str) -> bool:
        """The one record of `piece` failed alone, while nothing passed; True: that makes too many."""
        self._suspects.append((piece.offsets[0], piece.entries[0], reason))
        return len(self._suspects) >= _SUSPECTS

    async def bury_suspects(self, piece: Piece) -> None:
        """The destination judges single records, so it works, and what failed alone is at fault itself."""
        if self._suspects:
            await self._write({offset: (entry, reason) for offset, entry, reason in self._suspects})
            piece.dead.extend(offset for offset, _, _ in self._suspects)
            self._judged += [(offset, entry[0].type, True) for offset, entry, _ in self._suspects]
            self._suspects.clear()

    def acquit(self, piece: Piece) -> None:
        """The destination has them after all: they count with `piece`."""
        piece.delivered.extend(offset for offset, _, _ in self._suspects)
        self._suspects.clear()

    def take_back(self) -> list[Piece]:
        """The suspects, as pieces of one record each, the first one last: nobody knows whose fault it is."""
        pieces = [Piece(offset + 1, [offset], [entry]) for offset, entry, _ in reversed(self._suspects)]
        self._suspects.clear()
        return pieces

    def forget_suspects(self) -> int:
        """How many there were."""
        count = len(self._suspects)
        self._suspects.clear()
        return count

    async def _write(self, dead: Mapping[int, tuple[Entry, str]]) -> None:
        handler = type(self._subscription.handler).__name__
        letters = [
            DeadLetter(
                log_id=self._source.id,
                offset=offset,
                subscription=self._subscription.name,
                handler=handler,
                reason=reason,
                seconds=time(),
                entry=entry,
                static_context=self._source.static_context,
            )
            for offset, (entry, reason) in sorted(dead.items())
        ]
        if not letters:
            return
        try:
            await self._letters.write(letters)
        except OSError as exc:
            raise HoldError(f"dead letters cannot be written: {exc}", is_paused=False) from exc
