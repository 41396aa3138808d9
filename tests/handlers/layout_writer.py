"""A process that stores the same records as others do: `layout_writer.py URL LOG`. Prints a line after each batch."""

from __future__ import annotations

import sys
from typing import Final
from uuid import UUID

import anyio

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Batch,
    FencedError,
    Layout,
    LayoutColumn,
    ReceivedEvent,
    TransientError,
    handler_from_url,
)
from eventrec.events.encoder import Encoder

LAYOUT: Final = Layout(
    "arrived",
    [
        LayoutColumn("n", GENERATED, "bigint"),
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "text"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
    primary_key=("n",),
)
BATCHES: Final = 40
RECORDS: Final = 25


async def deliver(url: str, log: int) -> None:
    """Deliver as a worker does: after any error ask where to go on."""
    handler = handler_from_url(url)
    handler.use_layouts({LAYOUT.table: LAYOUT})
    checkpoints = handler.checkpoints
    assert checkpoints is not None
    encode = Encoder().encode
    for start in range(0, BATCHES * RECORDS, RECORDS):
        end = start + RECORDS
        events = [
            ReceivedEvent("k", b'{"n":%d}' % n, timestamp=n, table=LAYOUT.table, id=UUID(int=n + 1).bytes)
            for n in range(start, end)
        ]
        entries = [entry for event in events if not isinstance(entry := encode(event), str)]
        while True:
            try:
                await handler.open()
                if await checkpoints.resume(UUID(int=log), "tested", 0) < end:
                    await handler.handle(
                        Batch(
                            log_id=UUID(int=log),
                            subscription="tested",
                            start=start,
                            end=end,
                            offsets=range(start, end),
                            entries=entries,
                        )
                    )
                break
            except (TransientError, FencedError):
                await anyio.sleep(0.01)
        sys.stdout.write(f"{end}\n")
        sys.stdout.flush()
    await handler.close()


if __name__ == "__main__":
    anyio.run(deliver, sys.argv[1], int(sys.argv[2]))
