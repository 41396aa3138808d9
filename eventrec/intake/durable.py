"""`record_durable`: take one event, and wait until the log has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

import anyio

from eventrec.errors import (
    DurableTimeoutError,
    EncodeError,
    EventrecError,
    LogClosedError,
    LogError,
    LogFullError,
    RecorderStateError,
    UnruledError,
)
from eventrec.intake.tickets import Ticket
from eventrec.records.entry import SIZE
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from eventrec.events.encoder import Encoder, Reason
    from eventrec.events.event import Event, Eventable
    from eventrec.intake.mirrored import MirrorWatch
    from eventrec.intake.queue import Cell, Intake
    from eventrec.intake.writer import Writer
    from eventrec.records.entry import Entry


Until: TypeAlias = Literal["written", "synced", "mirrored"]
"""What a caller waits for: in the page cache; on the disk; on the disks of mirrors too."""

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


def take_durably(
    event: Event | Eventable,
    *,
    encoder: Encoder,
    intake: Intake,
    offer: Callable[[Cell, Entry], Reason | None],
    writer: Writer,
) -> Ticket | None:
    """Take `event`; None where it is not wanted. Raises as `EventRecorder.record_durable`, and counts."""
    cell = intake.cell()
    cell.offered += 1
    entry = _encoded(event, encoder, cell)
    if entry is None:
        return None
    ticket = Ticket(entry)
    writer.tickets.expect(ticket)
    try:
        refused = offer(cell, entry)
    except BaseException as exc:
        writer.tickets.dismiss(ticket)
        if not cell.is_taken:
            cell.refuse("not_encodable" if isinstance(exc, Exception) else "interrupted")
        cell.is_taken = False
        raise
    if refused is None:
        ticket.is_offered = True
        writer.wake()
        return ticket
    writer.tickets.dismiss(ticket)
    if refused == "overflow":
        raise LogFullError("the intake is full: the log does not keep up, or the disk refuses") from writer.failure
    if refused == "too_large":
        raise EncodeError(f"{type(event).__name__} takes {entry[SIZE]} bytes, more than max_event_bytes")
    raise RecorderStateError(f"the recorder takes nothing any more: {refused}", state=refused)


def _encoded(event: Event | Eventable, encoder: Encoder, cell: Cell) -> Entry | None:
    """The entry that `event` becomes; None where it is not wanted. What it does not become is counted."""
    try:
        entry = encoder.encode(event)
    except EncodeError:
        cell.refuse("not_encodable")
        raise
    except EventrecError as exc:
        cell.refuse("not_allowed" if isinstance(exc, UnruledError) else "invalid")
        raise
    except Exception as exc:
        if error_of_signal_handler(exc) is not None:
            cell.refuse("interrupted")
            raise
        cell.refuse("not_encodable")
        raise EncodeError(f"{type(event).__name__} cannot be recorded: {exc}") from exc
    except BaseException:
        cell.refuse("interrupted")
        raise
    if isinstance(entry, str):
        cell.refuse(entry)
        return None
    return entry


async def wait_durably(
    ticket: Ticket, supervisor: Watched, *, until: Until, mirrors: int = 1, timeout: float | None = None
) -> Position:
    """Where the record stands, as soon as it is written, or synced, or so many `mirrors` have it.

    Raises as `EventRecorder.record_durable`.
    """
    with anyio.move_on_after(timeout):
        position = await _wait_here(ticket, supervisor, until="written" if until == "written" else "synced")
        if until == "mirrored":
            await _wait_there(position, supervisor, mirrors)
        return position
    raise DurableTimeoutError(f"not {until} within {timeout:g} s: the event is taken all the same")


async def _wait_there(position: Position, supervisor: Watched, count: int) -> None:
    while supervisor.mirrors.count_past(position.offset) < count:
        if supervisor.writer.is_ended:
            raise LogClosedError("the recorder was closed before it was mirrored")
        try:
            await supervisor.mirrors.look(position.log_id)
        except OSError:
            await anyio.sleep(_PATIENCE)  # Descriptors ran out: it is looked again.


async def _wait_here(ticket: Ticket, supervisor: Watched, *, until: Literal["written", "synced"]) -> Position:
    writer = supervisor.writer
    while True:
        change = supervisor.next_change()
        log, run, offset = writer.log, writer.run, ticket.offset
        if log is not None and run is not None and offset is not None:
            if (log.synced if until == "synced" else log.written) > offset:
                return Position(run.id, offset)
            if until == "synced" and log.written > offset:
                writer.want_synced(offset + 1)
        failure = _not_written(writer, ticket)
        if failure is not None:
            raise failure
        await change.wait()


def _not_written(writer: Writer, ticket: Ticket) -> LogError | None:
    """Why `ticket`'s record is not, or may never be, written; None: nothing speaks against it."""
    if ticket.is_lost:
        return LogFullError("dropped before it was written: the intake overflowed")
    if writer.failure is not None:
        return writer.failure
    if writer.is_ended and (ticket.offset is None or writer.log is None or writer.log.written <= ticket.offset):
        return LogClosedError("the writer ended before it was written")
    return None
