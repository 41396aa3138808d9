"""A process with a producer and a relay that forks: `forking_relay.py URL DIRECTORY`.

Its children look at what they inherited, close it, and collect garbage. It prints what the relay delivered, whether it
has the lease that it had before, and how often it lost one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.relay import RelayOptions
from eventrec_handlers.memory import MemoryHandler

EACH = 50


def numbered(start: int) -> list[ReceivedEvent]:
    return [ReceivedEvent("forked", b'{"n":%d}' % n, n) for n in range(start, start + EACH)]


def live_as_child(inherited: EventRecorder) -> NoReturn:
    """Whatever a program may do there."""
    asyncio.events._set_running_loop(None)
    try:
        gc.collect()
        inherited.status()
        asyncio.run(inherited.close(timeout=1))
        gc.collect()
    finally:
        os._exit(0)


async def main(url: str, directory: Path) -> None:
    options = EventRecorderOptions(flush_interval=0.02)
    relay = EventRecorder(
        log=directory / "relay", bus=url, relay=RelayOptions(lease_seconds=1.5, save_seconds=0.02), options=options
    )
    handler = MemoryHandler()
    relay.register(handler, name="tested")
    producer = EventRecorder(url, log=directory / "producer", options=options)

    async def delivered(count: int) -> None:
        async with asyncio.timeout(100):
            while relay.status().subscriptions["tested"].delivered < count:  # noqa: ASYNC110 - has no event
                await asyncio.sleep(0.02)

    async with producer, relay:
        producer.record_many(numbered(0))
        await delivered(EACH)
        before = relay.status().relay[0]
        for inherited in (relay, producer):
            if not (child := os.fork()):
                live_as_child(inherited)
            await asyncio.to_thread(os.waitpid, child, 0)
        producer.record_many(numbered(EACH))
        await delivered(2 * EACH)
        await asyncio.sleep(2.5)  # longer than a lease lasts that is not renewed
        after = relay.status().relay[0]
        count = relay.status().subscriptions["tested"].delivered
        print(count, before.since == after.since, after.leases_lost, after.state)  # noqa: T201 - what it is for


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
