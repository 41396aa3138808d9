"""The end of a log that is written: what was taken is to get into it, also where its disk is full at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.delivery.forfeiting import renew, trim
from eventrec.errors import LogFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import anyio

    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.intake.writer import Writer


async def write_rest(
    writer: Writer,
    own: LogDelivery | None,
    *,
    give_up_delivered: Callable[[], Awaitable[bool]],
    ways: Sequence[Callable[[], Awaitable[object]]],
    next_change: Callable[[], anyio.Event],
) -> None:
    """Close `writer`, and return when it has ended. Where its disk is full, what is delivered makes room for the rest.

    `give_up_delivered` deletes some of what was delivered before; False: there was nothing. `ways` deliver what there
    is, one after the other; `own` is the delivery of the log that is written, None: there is none. `next_change()` is
    set when the writer has written, or was refused. Cancelled, the writer is still at it.
    """
    tries = writer.tries
    writer.close(waits_for_room=True)
    waits = own is not None
    while not writer.is_ended:
        change = next_change()
        # What was refused before may not be now: the next try that begins from here on says so.
        if waits and own is not None and writer.failure is not None and writer.tries >= tries + 2:
            is_full = isinstance(writer.failure, LogFullError)
            waits = is_full and await _makes_room(writer, own, give_up_delivered, ways=ways, next_change=next_change)
        if not waits:
            writer.close()
        if not writer.is_ended:
            await change.wait()


async def _makes_room(
    writer: Writer,
    own: LogDelivery,
    give_up_delivered: Callable[[], Awaitable[bool]],
    *,
    ways: Sequence[Callable[[], Awaitable[object]]],
    next_change: Callable[[], anyio.Event],
) -> bool:
    """Whether the writer goes on once something was delivered and deleted."""
    written = own.log.written

    def goes_on() -> Awaitable[bool]:
        return try_again(writer, lambda: own.log.written > written, next_change=next_change)

    while await give_up_delivered():
        if await goes_on():
            return True
    for deliver in ways:
        await deliver()
        await trim(own)
        await renew(own)
        if await goes_on():
            return True
    return False


async def try_again(writer: Writer, is_done: Callable[[], bool], *, next_change: Callable[[], anyio.Event]) -> bool:
    """Have `writer` try, now that there may be room: whether it `is_done`, or ended, before it is refused."""
    tries = writer.tries
    writer.wake()
    # The one that is under way may have begun before there was room; the next one did not.
    while not is_done() and not writer.is_ended and writer.tries < tries + 2:
        await next_change().wait()
    return is_done() or writer.is_ended
