"""Delivers without end, to be killed: `jsonl_writer.py DIRECTORY LOG_ID`. Goes on where the directory says."""

from __future__ import annotations

import sys
from uuid import UUID

import anyio

from eventrec.testing.conformance import Log
from eventrec.testing.conformance.log import numbered
from eventrec_handlers.jsonl import JsonlHandler


async def deliver(directory: str, log_id: str) -> None:
    handler = JsonlHandler(directory, rotate_bytes=20_000)
    await handler.open()
    log = Log(*numbered(0, 20_000), id_=UUID(log_id))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while await log.resume(handler) < log.end:
        await handler.handle(log.batch(log.acknowledged, log.acknowledged + 20))
    await handler.close()


if __name__ == "__main__":
    anyio.run(deliver, sys.argv[1], sys.argv[2])
