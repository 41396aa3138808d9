"""Several events at once: each taken by itself, or all of them or none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeAlias

from anyio.lowlevel import checkpoint

from eventrec.errors import BatchRefusedError, EventrecError
from eventrec.intake.durable import Unfit, attempt, error_of, take
from eventrec.intake.tickets import Ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.events.encoder import Encoder
    from eventrec.events.event import Event, Eventable
    from eventrec.events.reasons import Reason
    from eventrec.intake.queue import Cell, Intake
    from eventrec.intake.writer import Writer
    from eventrec.records.entry import Entry

Outcome: TypeAlias = "Ticket | EventrecError | None"
"""What became of one event: it was taken, refused, or is not wanted."""

SLICE: Final = 200
"""Events that are encoded in one go, half a millisecond or so."""

TURN_SECONDS: Final = 0.003
"""After so long the event loop is others'. Not more often: it costs a turn of the interpreter's lock each time."""


class Turns:
    """Lets others have the event loop now and then."""

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_SECONDS

    async def pause_if_due(self) -> None:
        """Let them, if it has been ours for long enough."""
        if time.perf_counter() >= self._ends:
            await checkpoint()
            self._ends = time.perf_counter() + TURN_SECONDS


def take_all(
    events: Sequence[Event | Eventable], *, atomic: bool, encoder: Encoder, intake: Intake
) -> Sequence[Outcome]:
    """Take each of `events`, or all or none, at once; what became of each. It is counted as `record` counts.

    Raises:
        BatchRefusedError: As `take_together`.
    """
    if atomic:
        return take_together(events, _attempts(events, encoder, intake), intake=intake, writer=None)
    return [_taken_or_why_not(event, encoder, intake, None) for event in events]


async def take_in_slices(
    events: Sequence[Event | Eventable], *, atomic: bool, encoder: Encoder, intake: Intake, writer: Writer
) -> Sequence[Outcome]:
    """The same, in slices, for the log of `writer`, which is not woken by itself."""
    attempts: list[Entry | Reason | Unfit] = []
    outcomes: list[Outcome] = []
    turns = Turns()
    for start in range(0, len(events), SLICE):
        if start:
            await turns.pause_if_due()
        part = events[start : start + SLICE]
        if atomic:
            attempts += _attempts(part, encoder, intake)
        else:
            outcomes += [_taken_or_why_not(event, encoder, intake, writer) for event in part]
    return take_together(events, attempts, intake=intake, writer=writer) if atomic else outcomes


def _taken_or_why_not(event: Event | Eventable, encoder: Encoder, intake: Intake, writer: Writer | None) -> Outcome:
    try:
        return take(event, encoder=encoder, intake=intake, writer=writer)
    except EventrecError as exc:
        return exc.with_traceback(None)


def _attempts(events: Sequence[Event | Eventable], encoder: Encoder, intake: Intake) -> list[Entry | Reason | Unfit]:
    """What each of `events` becomes, for `take_together`. Nothing is counted yet."""
    attempts = []
    for event in events:
        found = attempt(event, encoder)
        if isinstance(found, Unfit) and not isinstance(found.error, EventrecError):
            # An exception that is not the event's: it goes on, and none of the others was offered.
            cell = intake.cell()
            cell.offered += 1
            cell.refuse(found.reason)
            raise found.error
        attempts.append(found)
    return attempts


def take_together(
    events: Sequence[Event | Eventable],
    attempts: Sequence[Entry | Reason | Unfit],
    *,
    intake: Intake,
    writer: Writer | None,
) -> list[Ticket | None]:
    """Take all of `events`, as `attempts` to encode them came out, or none; None for one that is not wanted.

    Raises:
        BatchRefusedError: One cannot be taken, or there is no room for all. Those at fault are counted with their
            reasons, the others as `incomplete`.
    """
    cell = intake.cell()
    cell.offered += len(attempts)
    errors: dict[int, EventrecError] = {}
    tickets: dict[int, Ticket] = {}
    for index, found in enumerate(attempts):
        if isinstance(found, str):
            cell.refuse(found)
        elif isinstance(found, Unfit):
            cell.refuse(found.reason)
            if isinstance(found.error, EventrecError):
                errors[index] = found.error
        elif intake.is_too_large(found):
            errors[index] = error_of(cell.refuse("too_large"), events[index], found)
        else:
            tickets[index] = Ticket(intake.keeps(found))
    if errors:
        for _ in tickets:
            cell.refuse("incomplete")
        raise _refused(errors, len(attempts))
    refused = _offered(list(tickets.values()), cell, intake, writer)
    if refused is not None:
        errors = {
            index: error_of(cell.refuse(refused), events[index], ticket.entry) for index, ticket in tickets.items()
        }
        never_fits = refused == "overflow" and intake.never_fits([ticket.entry for ticket in tickets.values()])
        raise _refused(errors, len(attempts), never_fits=never_fits)
    return [tickets.get(index) for index in range(len(attempts))]


def _offered(tickets: Sequence[Ticket], cell: Cell, intake: Intake, writer: Writer | None) -> Reason | None:
    """Have all taken, or none; why none is."""
    if writer is not None:
        writer.tickets.expect(*tickets)
    reason: Reason | None = "interrupted"
    try:
        reason = intake.offer_all(cell, [ticket.entry for ticket in tickets])
    except BaseException as exc:
        if not cell.is_taken:
            for _ in tickets:
                cell.refuse("not_encodable" if isinstance(exc, Exception) else "interrupted")
        cell.is_taken = False
        raise
    finally:
        if writer is not None and reason is not None:
            writer.tickets.dismiss(*tickets)
    if reason is None:
        for ticket in tickets:
            ticket.is_offered = True
    return reason


def _refused(errors: dict[int, EventrecError], count: int, *, never_fits: bool = False) -> BatchRefusedError:
    index, error = next(iter(errors.items()))
    return BatchRefusedError(
        f"{len(errors):,} of {count:,} events were refused, so that none is recorded; number {index}: {error}",
        errors=errors,
        never_fits=never_fits,
    )
