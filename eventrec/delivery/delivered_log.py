"""What delivery asks of a log, be it one that this process owns or one that another process writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from eventrec.delivery.sources.readable_log import ReadableLog

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class DeliveredLog(ReadableLog, Protocol):
    """As `eventrec.log.log.Log` has them, which see. A log of another process has nothing that could be deleted."""

    @property
    def appended(self) -> int:
        """The next offset to be given out."""

    def sealed(self) -> list[tuple[int, int, int, float]]:
        """The segments that are not written any more, and that may be deleted here."""

    def has_grown(self) -> bool:
        """Whether another process has written into it, where none should."""

    def begin_segment(self) -> bool:
        """Write no more into the segment that is written now; False: it holds nothing, or is not ours."""

    def delete_below(self, offset: int) -> int:
        """Delete the sealed segments below `offset`. Returns how many."""

    def drop_index(self, *, of_head: bool = False) -> bool:
        """Delete an index, which readers do without; False: there is none, or it is not ours.

        `of_head`: where no sealed segment has one, that of the segment that is written may go.
        """

    def standing_still(self) -> AbstractContextManager[object]:
        """Nothing is written while it is entered, where it is ours to say so: on a full disk, each try takes room."""

    def close(self) -> None:
        """Give the descriptors back."""

    def abandon(self) -> None:
        """Likewise, in the child of a fork."""
