"""What one maintenance of the partitions of a table has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Maintained:
    """What one maintenance has done: it grows while that goes on, and is not changed once it is returned.

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
