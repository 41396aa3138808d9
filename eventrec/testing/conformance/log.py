"""A log of a claim's own: events by their numbers, batches of them as a worker makes them, and what should arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventrec import Batch, ColumnSchema, Event, Row
from eventrec.events.encoder import Encoder
from eventrec.testing.conformance.harness import Delivered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import EventHandler, ReceivedEvent, Record
    from eventrec.records.entry import Entry


@dataclass(frozen=True)
class Sample(Event):
    """An event that says what a claim wants it to. `at` is its timestamp, None: now; `more` are further rows."""

    content: object = None
    kind: str = "sample"
    into: str = "events"
    at: int | None = None
    columns: Sequence[ColumnSchema] = ()
    values: Row = ()
    more: Sequence[Row] = ()

    @property
    def type(self) -> str:
        return self.kind

    @property
    def table(self) -> str:
        return self.into

    @property
    def payload(self) -> object:
        return self.content

    @property
    def timestamp(self) -> int | None:
        return self.at

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return (self.values, *self.more)


class Log:
    """Numbered events of one log, and how far a handler without checkpoints has acknowledged them."""

    def __init__(self, *events: Event | ReceivedEvent, id_: UUID | None = None, subscription: str = "tested") -> None:
        self.id = uuid4() if id_ is None else id_
        self.subscription = subscription
        self.acknowledged = 0
        self._entries: list[Entry] = []
        self.add(*events)

    def __repr__(self) -> str:
        return f"<Log {self.id} for {self.subscription!r}: {self.end} records>"

    @property
    def end(self) -> int:
        """The next offset."""
        return len(self._entries)

    def add(self, *events: Event | ReceivedEvent) -> None:
        """Record `events` at the end."""
        encode = Encoder().encode
        for event in events:
            entry = encode(event)
            assert not isinstance(entry, str), f"{event!r} is not recorded: {entry}"
            self._entries.append(entry)

    def for_subscription(self, name: str) -> Log:
        """The same log, as another subscription reads it."""
        other = Log(id_=self.id, subscription=name)
        other._entries = self._entries
        return other

    def batch(self, start: int, end: int | None = None, *, offsets: Sequence[int] | None = None) -> Batch:
        """The batch of `[start, end)`, or of those `offsets` in it."""
        end = self.end if end is None else end
        offsets = range(start, end) if offsets is None else offsets
        return Batch(
            log_id=self.id,
            subscription=self.subscription,
            start=start,
            end=end,
            offsets=offsets,
            entries=[self._entries[offset] for offset in offsets],
        )

    def rows(self, start: int = 0, end: int | None = None) -> list[Delivered]:
        """What a destination should hold of `[start, end)`, where each record is one row."""
        return [_delivered(record, record.rows[0]) for record in self.batch(start, end).records]

    def every_row(self) -> list[Delivered]:
        """What it should hold where records have several rows; all rows of one have the id of its first here."""
        return [_delivered(record, values) for record in self.batch(0).records for values in record.rows]

    async def resume(self, handler: EventHandler) -> int:
        """Where to go on: the destination's own answer, where it has one."""
        if handler.checkpoints is not None:
            self.acknowledged = await handler.checkpoints.resume(self.id, self.subscription, self.acknowledged)
        return self.acknowledged


def _delivered(record: Record, values: Sequence[object]) -> Delivered:
    return Delivered(
        id=record.id,
        type=record.type,
        timestamp=record.timestamp,
        payload=record.payload,
        table=record.table,
        columns={column.name: value for column, value in zip(record.columns, values, strict=True) if value is not None},
    )


def numbered(start: int, end: int, *, kind: str = "sample") -> list[Sample]:
    """Events whose payloads count from `start` up to `end`."""
    return [Sample({"n": number}, kind) for number in range(start, end)]
