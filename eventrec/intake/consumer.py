"""The rule by which an intake is emptied: by the thread that writes a log, and by the loop that fills one in memory.

    take       the oldest entries; those of a take that was interrupted come first
    hold       they are kept in another form, ready to be appended
    append     they are numbered
    lose       they never will be, or not where anything finds them
    pauses     when to look again: after a take in a little while, and only where nothing came meanwhile when woken

What was taken is counted at every instant in exactly one place, so that the account can be read in between, from other
threads, from signal handlers, and from what the consumer itself calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from eventrec.intake.queue import Intake
    from eventrec.records.entry import Entry

_READINGS: Final = 100
"""Tries of a reader in another thread, which the consumer may overtake each time."""


class Counts(NamedTuple):
    """`appended` records are numbered, those `in_hand` left the intake and are not, those `lost` were one of these."""

    appended: int
    in_intake: int
    in_hand: int
    lost: int = 0

    @property
    def waiting(self) -> int:
        """Records that were taken, and may yet be numbered."""
        return self.in_intake + self.in_hand


class _State(NamedTuple):
    """Replaced as a whole. `taken` is what grows in between: by `Intake.take_into`, in one step."""

    appended: int
    held: int
    taken: list[Entry]
    lost: int = 0


class Consumer:
    """Empties `intake`; all methods but the counts are for one thread. `write_interval` is in seconds."""

    def __init__(self, intake: Intake, *, write_interval: float) -> None:
        self._intake = intake
        self._write_interval = write_interval
        self._state = _State(0, 0, [])

    def take(self, limit: int) -> list[Entry]:
        """The oldest entries, at most `limit`. They stay in hand until `append`."""
        taken = self._state.taken
        if not taken:
            self._intake.take_into(taken, limit)
        return taken

    def hold(self) -> None:
        """What was taken is kept by the caller from here on; the next `take` gives others."""
        appended, held, taken, lost = self._state
        self._state = _State(appended, held + len(taken), [], lost)

    def lose(self, entries: Collection[Entry]) -> None:
        """`entries`, which were taken, never will be numbered."""
        appended, held, taken, lost = self._state
        gone = set(map(id, entries))
        rest = [entry for entry in taken if id(entry) not in gone]
        self._state = _State(appended, held, rest, lost + len(taken) - len(rest))

    def append(self, count: int) -> None:
        """`count` of the records that are held were numbered."""
        appended, held, taken, lost = self._state
        self._state = _State(appended + count, held - count, taken, lost)

    def append_taken(self) -> None:
        """All that was taken was numbered."""
        appended, held, taken, lost = self._state
        self._state = _State(appended + len(taken), held, [], lost)

    def lose_rest(self, *, beyond: int) -> int:
        """Whatever waits is lost, and what was numbered `beyond` too. How many; the intake takes nothing any more."""
        while len(self._intake):
            self._intake.take_into(self._state.taken, len(self._intake))
        appended, held, taken, lost = self._state
        count = held + len(taken) + max(0, appended - beyond)
        self._state = _State(min(appended, beyond), 0, [], lost + count)
        return count

    def pauses(self, *, spent: float = 0.0) -> Iterator[float | None]:
        """How long to wait before the next take, in seconds, wait by wait; None: until woken.

        A wake-up for each event would cost more than the event. What the last take, with all that was done to write it,
        has `spent` counts twice: what comes just behind a take waits for that one, for the pause, and for its own.
        """
        yield max(0.0, self._write_interval - 2 * spent)
        if not len(self._intake) and self._intake.arm():
            yield None

    # -- the account

    @property
    def appended(self) -> int:
        """Records that are numbered."""
        return self._state.appended

    @property
    def in_hand(self) -> int:
        """Records that were taken and are not numbered yet."""
        return self._state.held + len(self._state.taken)

    @property
    def counts(self) -> Counts:
        """All of one instant. From any thread; never waits for the consumer."""
        for _ in range(_READINGS):
            state = self._state
            taken, waiting = len(state.taken), len(self._intake)
            if self._state is state and len(state.taken) == taken:
                break
        return Counts(state.appended, waiting, state.held + taken, state.lost)
