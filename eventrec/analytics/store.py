"""What a destination answers of its rollups, and how it brings them up to date."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from eventrec.analytics.answer import Answer, Question
    from eventrec.analytics.rollup_plan import RollupPlan

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many buckets are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh has done.

    Attributes:
        buckets: How many were computed again.
        remaining: How many wait still: others work on them, or the time was up.
        late: Rows that arrived for buckets whose events are no longer stored: these buckets stay as they are.
        remarks: What an operator should know, a sentence each: why events were not removed, say.
    """

    buckets: int = 0
    remaining: int = 0
    late: int = 0
    remarks: tuple[str, ...] = ()

    def __add__(self, other: Refreshed) -> Refreshed:
        return Refreshed(
            self.buckets + other.buckets,
            self.remaining + other.remaining,
            self.late + other.late,
            tuple(dict.fromkeys((*self.remarks, *other.remarks))),
        )


class RollupStore(ABC):
    """Answers what rollups tell of the events of one destination, beside its writers: it never makes one wait.

    It belongs to one task, which opens it, and closes it; `async with` does both. The handler that gave it need not be
    open. Every answer equals what `brute_force` computes from the events that are stored, but for the last digits of
    floats; it says itself how far it is complete.

    Every method raises:
        DeliveryError: The destination cannot be read: a TransientError where it may be later, a PauseError where an
            operator has to act first.

    Attributes:
        is_awaited: As `EventReader.is_awaited`: what a writer has yet to make has no events.
    """

    is_awaited: bool = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, where there is something to connect to. After a failure it may be called again."""

    async def close(self) -> None:
        """Disconnect. May be called twice, and without `open`."""

    @abstractmethod
    async def answer(self, question: Question) -> Answer:
        """What the rollup tells.

        Raises:
            ValueError: The question cannot be answered here, in words for who has asked.
        """

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        """Bring the tables of `plans` up to date. `now` is in nanoseconds since the epoch; None: the present.

        It may be ended at any point and called again; several processes share the work. A store that answers from the
        events themselves has nothing to do.
        """
        del plans, now
        return Refreshed()

    async def backfill(self, plan: RollupPlan, *, progress: Progress | None = None) -> Refreshed:
        """Compute a rollup that is new from all events that are stored."""
        del plan, progress
        return Refreshed()
