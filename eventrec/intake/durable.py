"""`record_durable`: take an event, and wait until the log has it; waiting for several (`several.py`) as well."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

import anyio

from eventrec.errors import (
    DurableTimeoutError,
    EncodeError,
    EventrecError,
    LogClosedError,
    LogError,
    LogFullError,
    OptionsError,
    RecorderStateError,
    UnruledError,
)
from eventrec.intake.tickets import Ticket
from eventrec.records.entry import SIZE
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.events.encoder import Encoder
    from eventrec.events.event import Event, Eventable
    from eventrec.events.reasons import Reason
    from eventrec.intake.mirrored import MirrorWatch
    from eventrec.intake.queue import Cell, Intake
    from eventrec.intake.writer import Writer
    from eventrec.records.entry import Entry


Until: TypeAlias = Literal["written", "synced", "mirrored"]
"""What a caller waits for: in the page cache; on the disk; on the disks of mirrors too."""

_UNTIL: Final = get_args(Until)

_PATIENCE: Final = 0.05


class Watched(Protocol):
    """Where a waiter learns that the writer, or a mirror, got on."""

    writer: Writer
    mirrors: MirrorWatch

    def next_change(self) -> anyio.Event:
        """Set when more is written or synced, or the disk refused."""


class Position(NamedTuple):
    """Where a record stands: its log, and its number there."""

    log_id: UUID
    offset: int


def take(
    event: Event | Eventable,
    *,
    encoder: Encoder,
    intake: Intake,
    writer: Writer | None,
) -> Ticket | None:
    """Take `event`; None where it is not wanted. The `writer`, where there is a log, is not woken by itself.

    Raises as `EventRecorder.record_durable`, and counts.
    """
    cell = intake.cell()
    cell.offered += 1
    entry = _encoded(event, encoder, cell)
    if entry is None:
        return None
    ticket = Ticket(entry)
    if writer is not None:
        writer.tickets.expect(ticket)
    try:
        refused = intake.offer(cell, entry)
    except BaseException as exc:
        if writer is not None:
            writer.tickets.dismiss(ticket)
        if not cell.is_taken:
            cell.refuse("not_encodable" if isinstance(exc, Exception) else "interrupted")
        cell.is_taken = False
        raise
    if refused is None:
        ticket.is_offered = True
        return ticket
    if writer is not None:
        writer.tickets.dismiss(ticket)
    raise error_of(refused, event, entry) from None if writer is None else writer.failure


def error_of(refused: Reason, event: object, entry: Entry) -> EventrecError:
    """What a caller is told who waits for `event`, which the intake refused."""
    match refused:
        case "overflow":
            return LogFullError("the intake is full: the log does not keep up, or the disk refuses")
        case "too_large":
            return EncodeError(f"{type(event).__name__} takes {entry[SIZE]} bytes, more than max_event_bytes")
        case _:
            return RecorderStateError(f"the recorder takes nothing any more: {refused}", state=refused)


def _encoded(event: Event | Eventable, encoder: Encoder, cell: Cell) -> Entry | None:
    """The entry that `event` becomes; None where it is not wanted. What it does not become is counted."""
    entry = attempt(event, encoder)
    if isinstance(entry, Unfit):
        cell.refuse(entry.reason)
        raise entry.error
    if isinstance(entry, str):
        cell.refuse(entry)
        return None
    return entry


class Unfit(NamedTuple):
    """An event that cannot become an entry: the reason that is counted, and what its caller is told."""

    reason: Reason
    error: BaseException


def attempt(event: Event | Eventable, encoder: Encoder) -> Entry | Reason | Unfit:
    """The entry that `event` becomes, why it is not wanted, or why it cannot become one. Nothing is counted."""
    try:
        return encoder.encode(event)
    except EncodeError as exc:
        return Unfit("not_encodable", exc)
    except EventrecError as exc:
        return Unfit("not_allowed" if isinstance(exc, UnruledError) else "invalid", exc)
    except Exception as exc:  # noqa: BLE001 - an event's own code may raise anything
        if error_of_signal_handler(exc) is not None:
            return Unfit("interrupted", exc)
        error = EncodeError(f"{type(event).__name__} cannot be recorded: {exc}")
        error.__cause__ = exc
        return Unfit("not_encodable", error)
    except BaseException as exc:  # noqa: BLE001 - it goes on to the caller, once it is counted
        return Unfit("interrupted", exc)


def check_until(until: str) -> None:
    """Raise OptionsError where `until` is none of these: a caller that waited for less than it meant would not know."""
    if until not in _UNTIL:
        raise OptionsError(f"until is one of {', '.join(map(repr, _UNTIL))}, not {until!r}")


async def wait_durably(
    ticket: Ticket, supervisor: Watched, *, until: Until, mirrors: int = 1, timeout: float | None = None
) -> Position:
    """Where the record stands, as soon as it is written, or synced, or so many `mirrors` have it.

    Raises as `EventRecorder.record_durable`.
    """
    (position,) = await wait_for_all([ticket], supervisor, until=until, mirrors=mirrors, timeout=timeout)
    if isinstance(position, LogFullError):
        raise position
    return position


async def wait_for_all(
    tickets: Sequence[Ticket], supervisor: Watched, *, until: Until, mirrors: int = 1, timeout: float | None = None
) -> list[Position | LogFullError]:
    """Where each record stands, as soon as all are as safe as `until` says; the error for one that was pushed out.

    Raises as `EventRecorder.record_durable`.
    """
    with anyio.move_on_after(timeout):
        found = await _wait_here(tickets, supervisor, until="written" if until == "written" else "synced")
        last = max((each for each in found if isinstance(each, Position)), key=_offset, default=None)
        if until == "mirrored" and last is not None:
            await _wait_there(last, supervisor, mirrors)
        return found
    raise DurableTimeoutError(f"not {until} within {timeout:g} s: what was taken stays taken")


_offset: Final = attrgetter("offset")


async def _wait_there(position: Position, supervisor: Watched, count: int) -> None:
    while supervisor.mirrors.count_past(position.offset) < count:
        if supervisor.writer.is_ended:
            raise LogClosedError("the recorder was closed before it was mirrored")
        try:
            await supervisor.mirrors.look(position.log_id)
        except OSError:
            await anyio.sleep(_PATIENCE)  # Descriptors ran out: it is looked again.


async def _wait_here(
    tickets: Sequence[Ticket], supervisor: Watched, *, until: Literal["written", "synced"]
) -> list[Position | LogFullError]:
    """One after the other: those of one thread are numbered in the order in which they were taken."""
    writer = supervisor.writer
    found: list[Position | LogFullError] = []
    while True:
        change = supervisor.next_change()
        log, run = writer.log, writer.run
        reached = 0 if log is None else log.synced if until == "synced" else log.written
        for ticket in islice(tickets, len(found), None):
            offset = ticket.offset
            if ticket.is_lost:
                found.append(
                    LogFullError("dropped before it was written: the intake overflowed, or no log can hold it")
                )
            elif run is not None and offset is not None and offset < reached:
                found.append(Position(run.id, offset))
            else:
                break
        else:
            return found
        if log is not None and until == "synced":
            _ask_to_sync(tickets, writer, log.written)
        failure = _not_written(writer, tickets[len(found)])
        if failure is not None:
            raise failure
        await change.wait()


def _ask_to_sync(tickets: Sequence[Ticket], writer: Writer, written: int) -> None:
    """Have synced what is written of `tickets`, the last of them in one go with those before."""
    last = max((ticket.offset for ticket in tickets if ticket.offset is not None), default=written)
    if last < written:
        writer.want_synced(last + 1)


def _not_written(writer: Writer, ticket: Ticket) -> LogError | None:
    """Why `ticket`'s record is not, or may never be, written; None: nothing speaks against it."""
    if writer.failure is not None:
        return writer.failure
    if writer.is_ended and (ticket.offset is None or writer.log is None or writer.log.written <= ticket.offset):
        return LogClosedError("the writer ended before it was written")
    return None
