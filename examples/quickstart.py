"""Events of each kind into a SQLite file: `python examples/quickstart.py [events.db]`."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar
from uuid import UUID, uuid4

from eventrec import Column, ColumnSchema, ColumnType, Event, EventModel, EventRecorder, EventStruct, Row, Status


class OrderPlaced(EventModel, table="orders"):
    """A pydantic model: validated. Its type is "order_placed"; the marked field gets a column of its own."""

    order_id: UUID
    customer: Annotated[str, Column()]
    total: float


class PageView(EventStruct, frozen=True):
    """A msgspec Struct: the fastest kind."""

    table: ClassVar[str] = "page_views"
    path: Annotated[str, Column()]


@dataclass(frozen=True)
class JobDone(Event):
    """Any class of yours: it only has to say its payload."""

    name: str
    seconds: float

    @property
    def payload(self) -> object:
        """What there is to say about it."""
        return {"name": self.name, "seconds": self.seconds}


@dataclass(frozen=True)
class Measured(Event):
    """One event, a row for each sensor: the columns are declared by the event."""

    values: dict[str, float]

    @property
    def table(self) -> str:
        """Where its rows go."""
        return "measurements"

    @property
    def payload(self) -> object:
        """What all its rows have in common."""
        return {"sensors": len(self.values)}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        """The columns beside the base ones."""
        return (ColumnSchema("sensor", ColumnType.STRING), ColumnSchema("value", ColumnType.FLOAT64))

    def extra_rows(self) -> Sequence[Row]:
        """Their values, a row for each sensor."""
        return list(self.values.items())


async def main(path: Path) -> Status:
    """Record a few events into `path`, and return the account."""
    async with EventRecorder(f"sqlite:///{path}") as recorder:
        recorder.record(JobDone("import", seconds=0.25))
        recorder.record(Measured({"kitchen": 21.5, "cellar": 12.0}))
        with recorder.context(user_id=42):  # stored with every event that is recorded in here, in a column `context`
            recorder.record(PageView("/offers"))
            recorder.record(OrderPlaced(order_id=uuid4(), customer="ada", total=12.9))
        if not await recorder.flush(timeout=5):  # only who wants to know waits: leaving the block flushes as well
            print("not everything is delivered yet", file=sys.stderr)
    return recorder.status()


if __name__ == "__main__":
    database = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="eventrec-")) / "events.db"
    print(asyncio.run(main(database)))
    print(f"look at it: eventrec tail sqlite:///{database}")
