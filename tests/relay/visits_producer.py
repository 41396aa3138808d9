"""A producer that may be killed at any time: chunks of visits into a log, and from there onto a bus.

    visits_producer.py NOTES LOG URL NAME CHUNKS BEGAN EVERY

Before a chunk is recorded `b NUMBER` is noted, and `d NUMBER` once it is written. Started again it goes on behind the
last one that was begun. A device is in one chunk alone, and a chunk in one log. It ends when what it recorded itself
is on the bus. No chunk is begun before its time, which is EVERY seconds behind the one before it, from BEGAN (seconds
since the epoch) on: so a producer that lost time to a kill catches up, and none is done early.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from random import Random
from uuid import NAMESPACE_OID, uuid5

import anyio
import msgspec

from eventrec import Backoff, EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.testing.sessions import VisitEvent

PER_CHUNK = 200
BEGIN = 1_760_000_000_000


def visits(name: str, chunk: int) -> list[VisitEvent]:
    """The events of a chunk, in the order in which they come: of ten devices, each with visits and breaks."""
    chance = Random(f"{name}-{chunk}")
    clock = {f"{name}-{chunk}-{number}": BEGIN + chance.randrange(3_600_000) for number in range(10)}
    events = []
    for number in range(PER_CHUNK):
        device = chance.choice([*clock])
        clock[device] += chance.choice((200, 4_000, 60_000, 60_000, 2_000_000))
        at = clock[device] - (chance.randrange(1_000) if chance.random() < 0.1 else 0)
        is_view = chance.random() < 0.7
        events.append(
            VisitEvent(
                id=f"{name}-{chunk}-{number}",
                at=at,
                project="shop",
                device=device,
                type="screen_view" if is_view else "add_to_cart",
                path=f"/{chance.randrange(9)}" if is_view else "",
                revenue=float(chance.randrange(3)),
            )
        )
    return events


def event_id(event: VisitEvent) -> bytes:
    """What the event is called wherever it goes."""
    return uuid5(NAMESPACE_OID, event.id).bytes


def recorded(event: VisitEvent) -> ReceivedEvent:
    """As an application records it."""
    said = {
        "project_id": event.project,
        "device_id": event.device,
        "path": event.path,
        "revenue": event.revenue,
    }
    return ReceivedEvent(event.type, msgspec.json.encode(said), event.at * 1_000_000, id=event_id(event))


async def produce(notes: Path, log: str, url: str, *, name: str, chunks: int, began: float, every: float) -> None:
    """Record what is left of the chunks, and wait until all is on the bus."""
    begun = [int(line[2:]) for line in notes.read_text().splitlines() if line[:1] == "b"] if notes.exists() else []
    noted = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    options = EventRecorderOptions(
        flush_interval=0.05, retry=Backoff(first=0.05, max=0.5), sync_interval=0.2, close_timeout=60
    )
    async with EventRecorder(url, log=log, options=options) as recorder:
        for chunk in range(max(begun, default=-1) + 1, chunks):
            await anyio.sleep(max(0.0, began + chunk * every - time.time()))
            os.write(noted, b"b %d\n" % chunk)
            events = [recorded(event) for event in visits(name, chunk)]
            await recorder.record_all_durable(events, atomic=True, until="written")
            os.write(noted, b"d %d\n" % chunk)
        assert await recorder.flush(timeout=300)


if __name__ == "__main__":
    _, notes_, log_, url_, name_, chunks_, began_, every_ = sys.argv
    times = {"began": float(began_), "every": float(every_)}
    anyio.run(partial(produce, Path(notes_), log_, url_, name=name_, chunks=int(chunks_), **times))
