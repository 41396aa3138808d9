"""What the delivery of one log gives up to the disk bound: segments that are delivered, then records that are not.

It owns nothing: what is lost is counted by the workers, and by `needs` for the subscriptions of others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.errors import LogError, LogFullError
from eventrec.runs.retention import SealedSegment
from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    from eventrec.delivery.log_delivery import LogDelivery

_FORFEIT_SECONDS: Final = 5.0


def sealed(delivery: LogDelivery) -> list[SealedSegment]:
    """Blocking. What could go of its log, oldest first."""
    try:
        return [SealedSegment(first, end, size) for first, end, size, _ in delivery.log.sealed()]
    except LogError:
        return []


async def needed_from(delivery: LogDelivery) -> list[int]:
    """From which offset on each subscription and each mirror needs it, those of others too, which are looked at."""
    needs = delivery.needs
    with suppress(OSError):  # The bound holds all the same.
        await in_thread(needs.look)
    of_ours = [worker.progress.scanned for worker in delivery.workers.values()]
    return [*of_ours, *needs.of_others.values(), *await in_thread(needs.of_mirrors)]


async def trim(delivery: LogDelivery) -> None:
    """Delete what is delivered, retained or not: the disk is full."""
    delivery.needs.retain_nothing()
    await delivery.save(sync=True, must_delete=True)


async def renew(delivery: LogDelivery) -> bool:
    """Delete all that is written, where it is delivered, the segment that is written now included; whether it was.

    Else a segment that is larger than its disk would keep that full for ever. Where there is no room for another one,
    the index of this one goes for it: where a quota binds, no other bytes are spared.
    """
    end = delivery.source.end
    if delivery.needs.lowest(delivery.settled_below(end)) >= end:  # here, and as far as we know elsewhere
        first = delivery.log.extent.first
        try:
            await in_thread(delivery.log.begin_segment)
        except LogFullError:
            delivery.needs.retain_nothing()
            await delivery.save(sync=True, must_delete=True, must_renew=True)
        except LogError:
            return False  # It is tried again.
        if delivery.log.extent.first > first:
            await trim(delivery)
            await delivery.source.let_go()
            return True
    return False


def forfeit(delivery: LogDelivery, end: int) -> dict[str, int]:
    """The subscriptions that are behind `end`, those of others too, lose what lies below it.

    How many records each, at most.
    """
    lost = delivery.needs.forfeit(end)
    for name, worker in delivery.workers.items():
        if worker.progress.scanned < end:
            lost[name] = end - worker.progress.scanned
            worker.forfeit(end)
    return lost


async def delete_forfeited(delivery: LogDelivery, end: int) -> None:
    """Once no subscription is behind `end` any more, delete what lies below."""
    with anyio.move_on_after(_FORFEIT_SECONDS):
        while any(worker.progress.scanned < end for worker in delivery.workers.values()):
            await delivery.moved_once()
    await delivery.save(sync=True, must_delete=True)
    await delivery.source.let_go()


def forfeit_all(delivery: LogDelivery) -> dict[str, int]:
    """All that is open is lost, for everybody: how many records, by subscription."""
    end = delivery.source.end
    lost = {name: end - worker.progress.scanned for name, worker in delivery.workers.items()}
    lost |= delivery.needs.give_up(end)
    for worker in delivery.workers.values():
        worker.forfeit(end)
    return {name: count for name, count in lost.items() if count}
