"""A handler that does what a test says, and events that say who they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from eventrec import (
    Backoff,
    Batch,
    DestinationCheckpoints,
    Event,
    EventHandler,
    EventRecorderOptions,
    FencedError,
)

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True)
class Numbered(Event):
    """An event with a number, of a type of the test's choice."""

    number: int
    kind: str = "numbered"

    @property
    def type(self) -> str:
        return self.kind

    @property
    def payload(self) -> object:
        return {"number": self.number}


def numbers(batch: Batch) -> list[int]:
    """The numbers of a batch's events."""
    return [msgspec.json.decode(record.payload)["number"] for record in batch.records]


Act = Callable[[Batch], None]


@dataclass
class ScriptedHandler(EventHandler):
    """Keeps what it is given. `acts` are done one per `handle` call, before keeping; after the last one it just keeps.

    `always` is done at every call. `times` are the (virtual) times of the calls.
    """

    acts: list[Act] = field(default_factory=list)
    always: Act = lambda _: None
    open_acts: list[Callable[[], None]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    async def open(self) -> None:
        self.opened += 1
        if self.open_acts:
            self.open_acts.pop(0)()

    async def handle(self, batch: Batch) -> None:
        self.times.append(anyio.current_time())
        self.tokens.append(batch.token)
        await anyio.lowlevel.checkpoint()
        if self.acts:
            self.acts.pop(0)(batch)
        self.always(batch)
        self.keep(batch)

    def keep(self, batch: Batch) -> None:
        self.batches.append(numbers(batch))

    async def close(self) -> None:
        self.closed += 1

    @property
    def delivered(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


def raising(error: BaseException) -> Act:
    """Fails with `error`."""

    def act(_: Batch) -> None:
        raise error

    return act


def refusing(bad: Iterable[int], error: Callable[[], Exception]) -> Act:
    """Fails every batch that holds one of `bad`."""
    poison = set(bad)

    def act(batch: Batch) -> None:
        if poison & set(numbers(batch)):
            raise error()

    return act


@dataclass
class FencedHandler(ScriptedHandler, DestinationCheckpoints):
    """Keeps its checkpoint with what it delivers, and compares it, like a database does in one transaction.

    `after_commit` acts are done once the batch is kept: a commit that succeeds and looks failed.
    """

    next: dict[tuple[UUID, str], int] = field(default_factory=dict)
    after_commit: list[Act] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    id: str = "destination"

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        return self

    async def destination_id(self) -> str:
        return self.id

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        answer = self.next.setdefault((log_id, subscription), start)
        self.resumed.append(answer)
        return answer

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self.next[log_id, subscription] = end

    def keep(self, batch: Batch) -> None:
        key = (batch.log_id, batch.subscription)
        if self.next[key] != batch.start:
            raise FencedError(f"at {self.next[key]}, not at {batch.start}")
        self.next[key] = batch.end
        super().keep(batch)
        if self.after_commit:
            self.after_commit.pop(0)(batch)


def quickly(**options: Any) -> EventRecorderOptions:
    """Options of a test recorder: no jitter, and no end of attempts, unless said otherwise."""
    return EventRecorderOptions(**{"retry": Backoff(jitter="none"), **options})
