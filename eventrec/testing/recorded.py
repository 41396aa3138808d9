"""For tests of code that records: what it recorded, seen at once; and whether the account balances."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

from eventrec import Batch, EventHandler, EventRecorder, EventRecorderOptions
from eventrec.records.extra_rows import decode_rows
from eventrec.testing.account import assert_conserved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.events.reasons import Reason
    from eventrec.intake.queue import Cell
    from eventrec.life import Life
    from eventrec.records.entry import Entry

R = TypeVar("R", bound=EventRecorder)


@dataclass(frozen=True)
class RecordedEvent:
    """One event as a destination would be given it: `timestamp` in nanoseconds since the epoch, values decoded."""

    type: str
    payload: Any
    timestamp: int
    table: str = "events"
    columns: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


class RecordedEvents(Sequence[RecordedEvent]):
    """The events that `recorder` has taken so far, in their order.

    `recorder` is an `EventRecorder` whose one handler keeps nothing: hand it to the code under test, which may open and
    close it, or only record. An event is here as soon as `record()` has returned True, open or not; one that is refused
    or filtered is not.
    """

    def __init__(self, options: EventRecorderOptions | None = None) -> None:
        self._events: list[RecordedEvent] = []
        self.recorder: EventRecorder = _Telling(self._note, options)

    def __repr__(self) -> str:
        return f"<RecordedEvents {self._events!r}>"

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | Sequence[RecordedEvent]:
        return self._events[index]

    @property
    def types(self) -> list[str]:
        """The type of each event."""
        return [event.type for event in self._events]

    def of_type(self, kind: str) -> list[RecordedEvent]:
        """The events of one type."""
        return [event for event in self._events if event.type == kind]

    def clear(self) -> None:
        """Forget them; the recorder's account does not."""
        self._events.clear()

    def _note(self, entry: Entry) -> None:
        shape, timestamp, payload, context, extras, _, _ = entry
        row = decode_rows(extras)[0] if extras is not None else ()
        self._events.append(
            RecordedEvent(
                type=shape.type,
                payload=json.loads(payload),
                timestamp=timestamp,
                table=shape.table,
                columns={column.name: value for column, value in zip(shape.columns, row, strict=True)},
                context={} if context is None else json.loads(context),
            )
        )


class Conservation:
    """Watches recorders: `watched = conservation(recorder)`."""

    def __init__(self) -> None:
        self._watched: list[tuple[EventRecorder, Callable[[], int] | None]] = []

    def __call__(self, recorder: R, *, offered: Callable[[], int] | None = None) -> R:
        """Watch `recorder`, and return it. `offered` tells how many events it was offered, counted elsewhere."""
        self._watched.append((recorder, offered))
        return recorder

    def check(self) -> None:
        """Assert that every account balances, and that of a closed recorder leaves nothing pending.

        Raises:
            AssertionError: One does not; the message is the account.
        """
        for recorder, offered in self._watched:
            status = recorder.status()
            assert_conserved(status, offered=None if offered is None else offered())
            pending = sum(part.pending for part in status.subscriptions.values())
            assert status.state != "closed" or not pending, f"closed, but {pending} events are neither here nor there"


class _Telling(EventRecorder):
    """Tells of every entry that its intake takes."""

    def __init__(self, note: Callable[[Entry], None], options: EventRecorderOptions | None) -> None:
        self._note = note
        super().__init__(options=options, environment={})  # A test sees what is recorded wherever it runs.
        self.register(_Nowhere(), name="recorded_events")

    def _begin(self, life: Life) -> None:
        super()._begin(life)
        life.stay_unopened()
        take, note = self._offer, self._note

        def offer(cell: Cell, entry: Entry) -> Reason | None:
            refused = take(cell, entry)
            if refused is None:
                note(entry)
            return refused

        self._offer = offer


class _Nowhere(EventHandler):
    async def handle(self, batch: Batch) -> None:
        """What was recorded was seen when it was recorded."""
