"""The end of a log that is written: what was taken is to get into it, also where its disk is full at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.forfeiting import renew, trim
from eventrec.errors import LogFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.intake.writer import Writer

_ROOM_SECONDS: Final = 0.3
"""How long a writer that closes has to find room that was made: it tries every tenth of a second."""


async def write_rest(
    writer: Writer,
    own: LogDelivery | None,
    *,
    ways: Sequence[Callable[[], Awaitable[object]]],
    next_change: Callable[[], anyio.Event],
) -> None:
    """Close `writer`, and return when it has ended. Where its disk is full, what is delivered makes room for the rest.

    `ways` deliver what there is, one after the other; `own` is the delivery of the log that is written, None: there is
    none. `next_change()` is set when the writer has written, or was refused. Cancelled, the writer is still at it.
    """
    writer.close(waits_for_room=True)
    waits = own is not None
    while not writer.is_ended:
        change = next_change()
        if waits and own is not None and writer.failure is not None:
            is_full = isinstance(writer.failure, LogFullError)
            waits = is_full and await _makes_room(writer, own, ways=ways, next_change=next_change)
        if not waits:
            writer.close()
        if not writer.is_ended:
            await change.wait()


async def _makes_room(
    writer: Writer,
    own: LogDelivery,
    *,
    ways: Sequence[Callable[[], Awaitable[object]]],
    next_change: Callable[[], anyio.Event],
) -> bool:
    """Whether the writer goes on once something was delivered and deleted."""
    written = own.log.written
    for deliver in ways:
        await deliver()
        await trim(own)
        await renew(own)
        writer.wake()
        with anyio.move_on_after(_ROOM_SECONDS):
            while own.log.written == written and not writer.is_ended:
                await next_change().wait()
        if own.log.written > written or writer.is_ended:
            return True
    return False
