"""One of several processes that write into one file: `sqlite_writer.py PATH NUMBER`. Prints how many events it sent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import anyio

from eventrec import Batch, ColumnSchema, ColumnType, Event, Row, TransientError
from eventrec.events.encoder import Encoder
from eventrec_handlers.sqlite import SqliteHandler

BATCHES = 32


@dataclass(frozen=True)
class Written(Event):
    """An event whose number is its payload, and the value of its one column."""

    number: int
    writer: int
    column: str

    @property
    def type(self) -> str:
        return f"writer_{self.writer}"

    @property
    def payload(self) -> object:
        return self.number

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return (ColumnSchema(self.column, ColumnType.INT64),)

    def extra_rows(self) -> Sequence[Row]:
        return ((self.number,),)


async def deliver(path: str, writer: int) -> int:
    """Deliver as a worker does: after any error ask where to go on. Returns how many events went out."""
    log_id = UUID(int=writer)
    handler = SqliteHandler(path)
    encode = Encoder().encode
    sent = 0
    for turn in range(BATCHES):
        # Columns that all want, and columns of one's own.
        column = f"shared_{turn // 4}" if turn % 2 else f"own_{writer}_{turn // 8}"
        entries = [encode(Written(sent + n, writer, column)) for n in range(10 + writer)]
        end = sent + len(entries)
        while sent < end:
            try:
                await handler.open()
                if await handler.resume(log_id, "tested", 0) == sent:
                    await handler.handle(
                        Batch(
                            log_id=log_id,
                            subscription="tested",
                            start=sent,
                            end=end,
                            offsets=range(sent, end),
                            entries=[entry for entry in entries if not isinstance(entry, str)],
                        )
                    )
                sent = end
            except TransientError as exc:
                sys.stderr.write(f"writer {writer}: {exc}\n")
    await handler.close()
    return sent


if __name__ == "__main__":
    sys.stdout.write(f"{anyio.run(deliver, sys.argv[1], int(sys.argv[2]))}\n")
