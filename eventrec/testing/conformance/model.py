"""A destination in memory that can be cut, forbidden, restored and late: what the suite itself is tested with.

`ModelHandler` is a sound handler for it, in small steps, each of which a test may plant a defect into.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID, uuid4

import anyio

from eventrec import (
    Batch,
    BatchTooLargeError,
    DestinationCheckpoints,
    EventHandler,
    FencedError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.testing.conformance.harness import Delivered, HandlerHarness
from eventrec.testing.conformance.log import Sample
from eventrec.testing.conformance.model_reader import ModelReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from eventrec import Event

MAX_ROWS: Final = 1_000
"""Rows that the model destination takes at once."""

POISON: Final = "poison"
"""The type of the events that it refuses."""

Key: TypeAlias = tuple[UUID, str]


class ModelError(Exception):
    """What the destination's driver raises: none of our errors. `code` is what it is about, `row` which row."""

    def __init__(self, code: str, row: int | None = None) -> None:
        super().__init__(f"model: {code}")
        self.code = code
        self.row = row


@dataclass
class State:
    """What is committed."""

    rows: list[Delivered] = field(default_factory=list)
    next: dict[Key, int] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid4()))

    def copy(self) -> State:
        """The same, to be changed."""
        return State(list(self.rows), dict(self.next), self.id)


class ModelDestination:
    """Commits changes one after the other, each whole or not at all."""

    def __init__(self) -> None:
        self.state = State()
        self.is_reachable = True
        self.is_allowed = True
        self.epoch = 0
        """Counts outages: a connection of an earlier one is dead."""
        self.lose_next: float | None = None
        self._late: list[tuple[float, Callable[[State], None]]] = []

    def connect(self) -> int:
        """A connection: the epoch it belongs to."""
        if not self.is_reachable:
            raise ModelError("unreachable")
        if not self.is_allowed:
            raise ModelError("forbidden")
        return self.epoch

    async def transact(self, connection: int, change: Callable[[State], None]) -> None:
        """Commit `change`, or raise what it raises and change nothing."""
        for _ in range(3):  # a request, its way, its answer: where a cancellation or an outage may come between
            await anyio.lowlevel.checkpoint()
            self._check(connection)
        self.catch_up()
        late, self.lose_next = self.lose_next, None
        if late:
            self._late.append((anyio.current_time() + late, change))
        else:
            self._commit(change)
        if late is not None:
            self.epoch += 1
            raise ModelError("connection lost")

    def catch_up(self) -> None:
        """Commit what was late, as far as it is due."""
        due = [change for at, change in self._late if at <= anyio.current_time()]
        self._late = [(at, change) for at, change in self._late if at > anyio.current_time()]
        for change in due:
            try:
                self._commit(change)
            except (ModelError, FencedError):
                continue  # rolled back, and no caller listens any more

    def _check(self, connection: int) -> None:
        if not self.is_reachable or connection != self.epoch:
            raise ModelError("connection lost")
        if not self.is_allowed:
            raise ModelError("forbidden")

    def _commit(self, change: Callable[[State], None]) -> None:
        state = self.state.copy()
        change(state)
        self.state = state


class ModelHandler(EventHandler, DestinationCheckpoints):
    """Delivers to a `ModelDestination`, effectively once."""

    def __init__(self, destination: ModelDestination) -> None:
        self.destination = destination
        self.connection: int | None = None
        self.prepared: tuple[Batch, list[Delivered]] | None = None

    @property
    def checkpoints(self) -> Self | None:
        return self

    def reader(self) -> ModelReader:
        return ModelReader(self.destination)

    async def open(self) -> None:
        with self.translated():
            self.connection = self.destination.connect()

    async def prepare(self, batch: Batch) -> None:
        """Encode the next batch while another one is handled."""
        self.prepared = batch, self.rows(batch)

    async def handle(self, batch: Batch) -> None:
        rows = self.prepared_rows(batch)
        with self.translated(batch):
            await self.transact(lambda state: self.write(state, batch, rows))

    async def close(self) -> None:
        self.connection = None

    async def destination_id(self) -> str:
        with self.translated():
            await self.transact(lambda _: None)
        return self.destination.state.id

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        def find(state: State) -> None:
            state.next.setdefault(self.key(log_id, subscription), start)

        with self.translated():
            await self.transact(find)
        return self.destination.state.next[self.key(log_id, subscription)]

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        def stamp(state: State) -> None:
            state.next[self.key(log_id, subscription)] = end

        with self.translated():
            await self.transact(stamp)

    # -- the steps

    def key(self, log_id: UUID, subscription: str) -> Key:
        """What a checkpoint is kept under."""
        return log_id, subscription

    def rows(self, batch: Batch) -> list[Delivered]:
        """What is to be written."""
        return [
            Delivered(
                f"{record.id}-{number}" if number else record.id,
                record.type,
                record.timestamp,
                record.payload,
                record.table,
                {column.name: value for column, value in zip(record.columns, values, strict=True)},
            )
            for record in batch.records
            for number, values in enumerate(record.rows)
        ]

    def prepared_rows(self, batch: Batch) -> list[Delivered]:
        """The rows of this very batch, where it was prepared."""
        prepared, self.prepared = self.prepared, None
        return prepared[1] if prepared is not None and prepared[0] is batch else self.rows(batch)

    def write(self, state: State, batch: Batch, rows: Sequence[Delivered]) -> None:
        """The transaction: rows, and the checkpoint where it stood at the start."""
        self.insert(state, rows)
        self.move(state, batch)

    def insert(self, state: State, rows: Sequence[Delivered]) -> None:
        """The rows, as the destination takes them."""
        if len(rows) > MAX_ROWS:
            raise ModelError("too large")
        for number, row in enumerate(rows):
            if row.type == POISON:
                raise ModelError("refused", number)
        state.rows += rows

    def move(self, state: State, batch: Batch) -> None:
        """The checkpoint."""
        key = self.key(batch.log_id, batch.subscription)
        if state.next.get(key) != batch.start:
            raise FencedError(f"model: next is {state.next.get(key)}, the batch starts at {batch.start}")
        state.next[key] = batch.end

    async def transact(self, change: Callable[[State], None]) -> None:
        """Commit `change`, on a connection that is made again where the last one broke."""
        if self.connection is None:
            self.connection = self.destination.connect()
        await self.destination.transact(self.connection, change)

    @contextmanager
    def translated(self, batch: Batch | None = None) -> Iterator[None]:
        """The driver's errors in our words."""
        try:
            yield
        except ModelError as exc:
            if exc.code in {"unreachable", "connection lost"}:
                self.connection = None
            raise self.meaning(exc, batch) from exc

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        """What `exc` means for delivery."""
        match exc.code:
            case "forbidden":
                return PauseError(str(exc))
            case "too large":
                return BatchTooLargeError(str(exc))
            case "refused" if batch is not None and exc.row is not None:
                return PermanentError(str(exc), records={batch.offsets[exc.row]: str(exc)})
            case _:
                return TransientError(str(exc))


class ModelHarness(HandlerHarness):
    """Lacks nothing. `handler_class` is the handler under test."""

    handler_class: type[ModelHandler] = ModelHandler

    def __init__(self) -> None:
        self.destination = ModelDestination()

    def handler(self) -> EventHandler:
        return self.handler_class(self.destination)

    async def delivered(self) -> Sequence[Delivered]:
        self.destination.catch_up()
        return self.destination.state.rows

    async def disconnect(self) -> None:
        self.destination.is_reachable = False
        self.destination.epoch += 1

    async def reconnect(self) -> None:
        self.destination.is_reachable = True

    def poison(self) -> Event:
        return Sample({"n": -1}, kind=POISON)

    def oversized(self) -> Sequence[Event]:
        return [Sample({"n": number}) for number in range(MAX_ROWS + 1)]

    async def forbid(self) -> None:
        self.destination.is_allowed = False

    async def permit(self) -> None:
        self.destination.is_allowed = True

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.destination.lose_next = late

    async def backup(self) -> object:
        return self.destination.state.copy()

    async def restore(self, backup: object) -> None:
        assert isinstance(backup, State)
        self.destination.state = backup.copy()

    async def replace(self) -> None:
        self.destination.state = State()
