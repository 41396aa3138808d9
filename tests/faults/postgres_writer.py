"""One of several processes that record into one database: `writer.py URL NUMBER TYPES TURNS EVENTS`.

In each turn every type has one column more; some types share a table. Prints the account as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from eventrec import ColumnSchema, ColumnType, Event, EventRecorder, EventRecorderOptions, Row
from eventrec_handlers.postgres import PostgresHandler

KINDS: Final = (ColumnType.INT64, ColumnType.STRING, ColumnType.JSON)


@dataclass(frozen=True)
class Written(Event):
    """The `number`-th event of a writer; its type has `turn` columns by now."""

    writer: int
    number: int
    kind: int
    turn: int

    @property
    def type(self) -> str:
        return f"kind_{self.kind}"

    @property
    def table(self) -> str:
        """Half of the types have a table of their own, the others share two."""
        return f"own_{self.kind}" if self.kind % 2 else f"shared_{self.kind % 4}"

    @property
    def payload(self) -> object:
        return {"writer": self.writer, "number": self.number}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return tuple(ColumnSchema(f"c{n}", KINDS[n % 3]) for n in range(self.turn))

    def extra_rows(self) -> Sequence[Row]:
        return (tuple((self.number, str(self.number), {"n": self.number})[n % 3] for n in range(self.turn)),)


async def main(url: str, *counts: int) -> None:
    writer, types, turns, events = counts
    options = EventRecorderOptions(batch_rows=97, flush_interval=0.02, queue_events=100_000)
    async with EventRecorder(PostgresHandler(url), options=options) as recorder:
        number = 0
        for turn in range(turns):
            for _ in range(events):
                for kind in range(types):
                    recorder.record(Written(writer, number, kind, turn))
                    number += 1
            await anyio.sleep(0.02)
        flushed = await recorder.flush(timeout=120)
    status = recorder.status()
    sys.stdout.write(
        json.dumps({"flushed": flushed, "balanced": status.is_balanced, "recorded": number, **status.to_dict()})
    )


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    anyio.run(lambda: main(url, *map(int, numbers)))
