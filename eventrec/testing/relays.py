"""What tests of relays share: records with numbers, and stages that double them, or keep them for a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from eventrec.bus import Entry, MemoryBus, MemoryStore, Output, Records, Stage, make_entry
from eventrec.records.entry import PAYLOAD
from eventrec.records.schema import Shape
from eventrec.relay import RelayOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ABOVE: Final = 1_000_000
"""How much higher the second record of `Doubling` is."""

QUICK: Final = RelayOptions(lease_seconds=0.3, save_seconds=0.01, due_seconds=0.02)
"""A relay that hurries."""


STORES: Final[dict[str, MemoryStore]] = {}
"""What `named_bus` connects to."""


def named_bus(url: str) -> MemoryBus:
    """The bus in this process's memory whose name stands behind the colon: for tests that need one by its URL."""
    return MemoryBus(STORES.setdefault(url.partition(":")[2], MemoryStore()))


def numbered(start: int, end: int, *, kind: str = "numbered") -> list[Entry]:
    """Records of the numbers in `[start, end)`, each with an id that follows from it."""
    shape = Shape("events", kind, ())
    at = 1_700_000_000_000_000_000
    return [
        make_entry(shape, at + number, b'{"number":%d}' % number, explicit_id=_id(number))
        for number in range(start, end)
    ]


def _id(number: int) -> bytes:
    return UUID(int=0x8 << 76 | 0x2 << 62 | number).bytes


def number_of(entry: Entry) -> int:
    """Its number."""
    number: int = msgspec.json.decode(entry[PAYLOAD])["number"]
    return number


@dataclass
class Doubling(Stage):
    """Passes each record on, and another one `ABOVE` it; counts in its state; fails where a record is `bad`."""

    bad: set[int] = field(default_factory=set)
    called: int = 0

    @property
    def name(self) -> str:
        return "doubling"

    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        del log_id, records
        return ["count"]

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        del log_id, now
        self.called += 1
        found = [number_of(entry) for entry in records.entries]
        if self.bad & set(found):
            raise ValueError(f"cannot digest {sorted(self.bad & set(found))}")
        made = [entry for number in found for first in (number, number + ABOVE) for entry in numbered(first, first + 1)]
        count = int(state["count"] or b"0") + len(found)
        return Output(
            entries=made,
            state={"count": str(count).encode()},
            counts={"doubled": len(found)},
            tallies={"doubled": len(found)},
        )


@dataclass
class Shelf(Stage):
    """Keeps each record under its number, and passes it on once its time is over."""

    seconds: float = 0.1

    @property
    def name(self) -> str:
        return "shelf"

    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        del log_id, records
        return []

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        del log_id, state, now
        found = [str(number_of(entry)) for entry in records.entries]
        return Output(state=dict.fromkeys(found, b"kept"), deadlines=dict.fromkeys(found, self.seconds))

    def expire(self, due: Mapping[str, bytes], now: float) -> Output:
        del now
        made = [entry for key in due for entry in numbered(int(key), int(key) + 1)]
        return Output(entries=made, state=dict.fromkeys(due))
