"""Events into PostgreSQL: `python examples/postgres.py postgresql://user:password@host/database`.

Rows and checkpoint go in one transaction, so a connection that is cut in the middle neither loses nor doubles.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated
from uuid import UUID, uuid4

from eventrec import Column, ColumnType, EventModel, EventRecorder, EventRecorderOptions, Status


class OrderPlaced(EventModel, table="orders"):
    """`customer` becomes a column of type text, `total` one of type numeric; the rest is the jsonb payload."""

    order_id: UUID
    customer: Annotated[str, Column(tag=True)]
    total: Annotated[int, Column(ColumnType.DECIMAL128, precision=12, scale=0)]


async def main(url: str) -> Status:
    """Record a thousand orders, wait until they are stored, and give the account."""
    options = EventRecorderOptions(batch_rows=500, flush_interval="200ms", service="shop")
    async with EventRecorder(url, options=options) as recorder:
        for number in range(1_000):
            recorder.record(OrderPlaced(order_id=uuid4(), customer=f"customer {number % 10}", total=number))
        print("all stored:", await recorder.flush(timeout="30s"))
    return recorder.status()


if __name__ == "__main__":
    destination = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DATABASE_URL")
    if destination is None:
        raise SystemExit("give a URL: python examples/postgres.py postgresql://user:password@host/database")
    print(asyncio.run(main(destination)))
