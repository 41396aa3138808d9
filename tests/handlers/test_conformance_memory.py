from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from eventrec import Batch, EventHandler, TransientError
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec_handlers.memory import MemoryHandler

pytestmark = pytest.mark.handlers


class MemoryHarness(HandlerHarness):
    """A list in this process, which its handlers share as they would a database."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "late_commit": "a list is appended to at once, or not at all",
        "outage": "a list in this process is never out of reach",
        "pause": "a list asks for no credentials",
        "poison": "a list takes anything",
        "too_large": "a list takes a batch of any size",
    }

    def __init__(self) -> None:
        self.kept = MemoryHandler()
        self.answers_to_lose = 0

    def handler(self) -> EventHandler:
        return _Sharing(self)

    async def delivered(self) -> Sequence[Delivered]:
        return [
            Delivered(
                record.id,
                record.type,
                record.timestamp,
                record.payload,
                record.table,
                {column.name: value for column, value in zip(record.columns, values, strict=True)},
            )
            for record in self.kept.records
            for values in record.rows
        ]

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.answers_to_lose += 1

    async def backup(self) -> object:
        return list(self.kept.records), dict(self.kept._next)

    async def restore(self, backup: Any) -> None:
        self.kept.records[:], next_ = backup
        self.kept._next.clear()
        self.kept._next.update(next_)

    async def replace(self) -> None:
        self.kept = MemoryHandler()


class _Sharing(MemoryHandler):
    def __init__(self, harness: MemoryHarness) -> None:
        super().__init__()
        self.harness = harness
        self.records, self._next, self._id = harness.kept.records, harness.kept._next, harness.kept._id

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        if self.harness.answers_to_lose:
            self.harness.answers_to_lose -= 1
            raise TransientError("staged: kept, but the answer was lost")


class TestMemoryHandler(HandlerConformance):
    @pytest.fixture
    def harness(self) -> HandlerHarness:
        return MemoryHarness()
