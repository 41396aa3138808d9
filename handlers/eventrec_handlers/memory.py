"""Keeps records in a list: the reference for a handler, and what tests deliver to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventrec import Batch, DestinationCheckpoints, EventHandler, FencedError, HandlerURL, Record

if TYPE_CHECKING:
    from typing import Self

__all__ = ["MemoryHandler", "from_url"]


def from_url(url: str) -> MemoryHandler:
    """The handler for `memory:`."""
    HandlerURL(url).accept()
    return MemoryHandler()


class MemoryHandler(EventHandler, DestinationCheckpoints):
    """Keeps what it is given in `records`, effectively once: the checkpoint moves with the records, or neither does."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._id = str(uuid4())
        self._next: dict[tuple[UUID, str], int] = {}

    @property
    def checkpoints(self) -> Self:
        return self

    async def handle(self, batch: Batch) -> None:
        key, records = (batch.log_id, batch.subscription), batch.records
        if self._next.get(key) != batch.start:
            raise FencedError(f"memory: next is {self._next.get(key)}, the batch starts at {batch.start}")
        self.records += records
        self._next[key] = batch.end

    async def destination_id(self) -> str:
        return self._id

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        return self._next.setdefault((log_id, subscription), start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        # A list dies with its process, so a finished row needs no date to be swept by.
        self._next[log_id, subscription] = end
