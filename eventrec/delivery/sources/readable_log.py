"""What a source asks of the log that it reads: of one of our own, an orphan's, or one that another process writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from eventrec.log.reader import Extent, LogReader
    from eventrec.log.resync import IsOurs


class ReadableLog(Protocol):
    """Numbered records on a disk, of which some are written; see `eventrec.log.log.Log`."""

    @property
    def first(self) -> int:
        """The first offset of the oldest segment that is there. Blocking."""

    @property
    def written(self) -> int:
        """Every record below is in the page cache."""

    @property
    def readable(self) -> int:
        """Every record below can be read."""

    @property
    def extent(self) -> Extent:
        """How far it can be read, and which bytes those are."""

    def reader(self, start: int = 0, *, is_ours: IsOurs | None = None) -> LogReader:
        """A reader from record `start` on. Blocking."""

    def was_torn(self, offset: int) -> bool:
        """Whether what stood at `offset` was cut off as the rest of a write that a crash broke off."""

    def restore_deleted(self) -> int:
        """Have what another program deleted there again, as far as that can be done. Blocking.

        Returns below which offset what cannot be found is lost.

        Raises:
            OSError, LogError: It cannot be put there, or known, for now.
        """
