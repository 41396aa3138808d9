"""What follows for an orphan that could not be adopted, or is given back: decided without a disk and without a loop.

refused       its bytes, or the disk: tried again, after pauses that grow
later         delivered up to where only a later eventrec reads on: as refused
held, gone    another process has it; it is not there, or not ours
for mirrors   delivered, and kept until they have it
not saved     its checkpoints, or its end, were refused by the disk, or its delivery failed: tried again
parked        what it lacks waits for a destination that is down, and other orphans wait for us
for others    what it lacks is not ours to deliver: an operator is told for which subscriptions it is kept
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from eventrec.runtime.logging import get_logger, text_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from uuid import UUID

    from eventrec.delivery.orphans.opening import Refusal
    from eventrec.delivery.orphans.queue import OrphanQueue

_logger = get_logger("eventrec.delivery")


class _Needs(Protocol):
    @property
    def kept_for_mirrors(self) -> Sequence[str] | None: ...


class EndedDelivery(Protocol):
    """What is looked at of the delivery of a log that was given back; see `LogDelivery`."""

    is_gone: bool

    @property
    def is_refused(self) -> bool: ...
    @property
    def needs(self) -> _Needs: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def waiting(self) -> Collection[str]: ...
    @property
    def later(self) -> str: ...
    @property
    def held_for(self) -> Sequence[str]: ...


class OrphanOutcomes:
    """Tells `queue` what became of orphans.

    Attributes:
        left: Orphans that wait for an operator, and why.
    """

    def __init__(self, queue: OrphanQueue) -> None:
        self.left: dict[UUID, str] = {}
        self._queue = queue
        self._unserved: set[str] = set()
        """Subscriptions that are not registered here, and of which that was said."""

    def __repr__(self) -> str:
        return f"<OrphanOutcomes {len(self.left)} left>"

    def keep(self, ids: Collection[UUID]) -> None:
        """No others than `ids` are there."""
        self.left = {id_: why for id_, why in self.left.items() if id_ in ids}

    def note_adopted(self, id_: UUID) -> None:
        """It is ours."""
        self._queue.note_adopted(id_)
        self.left.pop(id_, None)

    def note_refused(self, id_: UUID, why: Refusal, *, now: float) -> None:
        """It could not be adopted."""
        if not isinstance(why, str):
            self._note_unreadable(id_, text_of(why), now=now)
            return
        self.left.pop(id_, None)
        if why == "held":
            self._queue.note_held(id_)
        else:
            self._queue.note_gone(id_)

    def note_ended(
        self,
        id_: UUID,
        delivery: EndedDelivery,
        *,
        parked_for: frozenset[str] | None,
        is_defect: bool,
        now: float,
    ) -> None:
        """It is given back. `parked_for`: for the sake of others, while these wait; `is_defect`: an error of ours."""
        if id_ in self._queue.untrusted:
            return
        if delivery.is_gone:
            self._queue.note_gone(id_)
        elif (mirrors := delivery.needs.kept_for_mirrors) != []:
            self._queue.note_paused(id_, now)
            names = "mirrors" if mirrors is None else ", ".join(map(repr, mirrors))
            self.left[id_] = f"kept for {names}, to be mirrored"
        elif delivery.is_done or delivery.is_refused or is_defect:
            self._queue.note_paused(id_, now)
            self.left[id_] = "delivery failed" if is_defect else "checkpoints cannot be saved, or the log not deleted"
        elif parked_for is not None:
            self._queue.note_parked(id_, parked_for)
        elif delivery.later:
            self._note_unreadable(id_, delivery.later, now=now)
        elif delivery.waiting:
            # Its checkpoints could not be saved before, and can again by now.
            self._queue.note_paused(id_, now)
        else:
            self._queue.note_left(id_)
            self.left[id_] = f"kept for {', '.join(map(repr, delivery.held_for))}, not registered here"
            self._say_unserved(delivery.held_for)

    def _note_unreadable(self, id_: UUID, why: str, *, now: float) -> None:
        self.left[id_] = f"left alone: {why}"
        if self._queue.note_paused(id_, now, is_unreadable=True):
            _logger.warning("orphan left alone", log=str(id_), error=why)

    def _say_unserved(self, names: Iterable[str]) -> None:
        unserved = set(names) - self._unserved
        if unserved:
            self._unserved |= unserved
            _logger.warning("logs kept for subscriptions that are not registered", subscriptions=sorted(unserved))
