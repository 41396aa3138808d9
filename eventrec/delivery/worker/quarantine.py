"""Records that are set aside: dead letters, and suspects of which it is not known yet whose fault it was."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from time import time
from typing import TYPE_CHECKING, Final

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.worker.health import HoldError
from eventrec.delivery.worker.outcome import Hold
from eventrec.delivery.worker.retry import Brake
from eventrec.records.entry import SHAPE
from eventrec.runs.holds import OVER_HALF_REFUSED
from eventrec.runtime.logging import described, text_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.worker.piece import Piece
    from eventrec.records.entry import Entry

_SUSPECTS: Final = 16
"""Records in a row that fail alone, with none passing: enough to call it an outage."""


class Quarantine:
    """What one subscription sets aside of the log `log_id`. A letter is written first, and counted after."""

    def __init__(self, subscription: Subscription, log_id: UUID, letters: DeadLetters, brake: Brake) -> None:
        self.brake = brake
        self._judged: list[tuple[int, str, bool]] = []
        """Offset, type, and whether it died: what the brake has not heard yet."""
        self._suspects: list[tuple[Piece, str]] = []
        self._skips: set[int] = set()
        self._subscription = subscription
        self._log_id = log_id
        self._letters = letters

    def __len__(self) -> int:
        """How many suspects there are."""
        return len(self._suspects)

    def known_dead(self) -> Collection[int]:
        """The offsets of which there are letters already: they are never sent again, except by replay."""
        return self._letters.known(self._log_id, self._subscription.name)

    async def bury(self, piece: Piece, dead: Mapping[int, tuple[Entry, str]]) -> None:
        """Write letters of `dead`, which are in `piece` and open, and settle them there.

        Raises:
            HoldError: The letters cannot be written: nothing is settled.
        """
        await self._write([(offset, entry, why, piece.static_context) for offset, (entry, why) in dead.items()])
        piece.settle(dead=list(dead))
        self._skips.difference_update(dead)
        self._judged += [(offset, entry[SHAPE].type, True) for offset, (entry, _) in dead.items()]

    def note_passed(self, arrived: Iterable[tuple[int, Entry]]) -> None:
        """The destination has these, whichever process delivered them: they speak for their types."""
        if self.brake or self._judged:
            self._judged += [(offset, entry[SHAPE].type, False) for offset, entry in arrived]

    def too_many(self, dead: Mapping[int, tuple[Entry, str]]) -> int | None:
        """Where to part a piece in which `dead` die: before too many of one type do for the brake; None: nowhere.

        Of a type of which one more pulls it, that one is enough.
        """
        died: Counter[str] = Counter()
        for offset, (entry, _) in sorted(dead.items()):
            kind = entry[SHAPE].type
            died[kind] += 1
            if died[kind] > (1 if self.brake.is_tight(kind) else Brake.MAX):
                return offset
        return None

    def verdict(self, settled: int) -> Hold | None:
        """What the brake says of the records below `settled`, in the order of the log."""
        judged = sorted(each for each in self._judged if each[0] < settled)
        self._judged = [each for each in self._judged if each[0] >= settled]
        pulled = [kind for _, kind, is_dead in judged if self.brake.note(kind, dead=is_dead)]
        if not pulled:
            return None
        return Hold(
            f"{OVER_HALF_REFUSED} {Brake.WINDOW:,} records of type {pulled[0]!r} were refused for good",
            slowly=False,
        )

    # -- suspects

    def suspect(self, piece: Piece, reason: str) -> bool:
        """The one record of `piece` failed alone, while nothing passed; True: that makes too many."""
        self._suspects.append((piece, reason))
        return len(self._suspects) >= _SUSPECTS

    def suspects(self) -> dict[int, str]:
        """Why, by offset."""
        return {suspect.offsets[0]: reason for suspect, reason in self._suspects}

    async def bury_suspects(self, piece: Piece) -> None:
        """The destination judges single records, so it works, and what failed alone is at fault itself."""
        await self._bury_some(self._suspects, piece)

    async def pass_below(self, answer: int, piece: Piece) -> None:
        """The destination is at `answer`, past suspects; `piece` is what comes after them.

        Where a batch of ours may have arrived, it left out every suspect but its own: rather a letter too many than a
        record that is nowhere. Else another process sent them.
        """
        passed = [each for each in self._suspects if each[0].offsets[0] < answer]
        sent = [each for each in passed if each[0].end == answer]
        if not sent and not (piece.is_tried and piece.end <= answer):
            sent = passed
        await self._bury_some([each for each in passed if each not in sent], piece)
        for suspect, _ in sent:
            piece.dead += suspect.dead
            piece.delivered += [*suspect.delivered, *suspect.offsets]
        self._suspects = [each for each in self._suspects if each not in passed]

    async def _bury_some(self, suspects: list[tuple[Piece, str]], piece: Piece) -> None:
        """Write letters of `suspects`, which count with `piece` from then on."""
        await self._write(
            [(suspect.offsets[0], suspect.entries[0], why, suspect.static_context) for suspect, why in suspects]
        )
        for suspect, _ in suspects:
            piece.dead += [*suspect.dead, *suspect.offsets]
            piece.delivered += suspect.delivered
            self._judged.append((suspect.offsets[0], suspect.entries[0][SHAPE].type, True))
        self._suspects = [each for each in self._suspects if each not in suspects]

    def take_back(self) -> list[Piece]:
        """The suspects, in the order of their offsets: it is not known whose fault it is."""
        pieces = [suspect for suspect, _ in self._suspects]
        self._suspects.clear()
        return pieces

    # -- what an operator wants

    def skip(self, offset: int) -> None:
        """Set the record at `offset` aside once it is its turn."""
        self._skips.add(offset)

    def skipped(self, piece: Piece) -> dict[int, tuple[Entry, str]]:
        """The open records of `piece` that are to be skipped: until they are buried, also where that is interrupted."""
        return piece.open_among(dict.fromkeys(self._skips, "skipped by an operator")) if self._skips else {}

    async def _write(self, dead: Iterable[tuple[int, Entry, str, bytes | None]]) -> None:
        """Write letters of these: offset, entry, reason, static context."""
        handler = text_of(type(self._subscription.handler).__name__)
        letters = [
            DeadLetter(
                log_id=self._log_id,
                offset=offset,
                subscription=self._subscription.name,
                handler=handler,
                reason=reason,
                seconds=time(),
                entry=entry,
                static_context=static_context,
            )
            for offset, entry, reason, static_context in sorted(dead, key=itemgetter(0))
        ]
        if not letters:
            return
        try:
            await self._letters.write(letters)
        except Exception as exc:
            # Nothing is skipped because of a letter that cannot be kept, whatever the reason.
            raise HoldError(Hold(f"dead letters cannot be written: {_reason(exc)}", is_paused=False)) from exc


def _reason(exc: Exception) -> str:
    return text_of(exc) if isinstance(exc, OSError) else described(exc)
