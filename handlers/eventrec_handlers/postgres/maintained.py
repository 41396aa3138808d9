"""What one maintenance of the partitions of a table has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one maintenance has done.

    Attributes:
        made: The partitions that were made.
        moved: Rows that went from the DEFAULT partition into one of their own.
        dropped: The partitions that were dropped.
        too_late: Rows that arrived for a day that was not kept any more, and were deleted.
        left: Why something was not done this time: table or partition to reason.
    """

    made: tuple[str, ...] = ()
    moved: int = 0
    dropped: tuple[str, ...] = ()
    too_late: int = 0
    left: tuple[str, ...] = ()


class Maintenance:
    """`Maintained`, while it grows."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.moved = 0
        self.dropped: list[str] = []
        self.too_late = 0
        self.left: list[str] = []

    def done(self) -> Maintained:
        return Maintained(tuple(self.made), self.moved, tuple(self.dropped), self.too_late, tuple(self.left))
