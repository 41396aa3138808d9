"""Appends events to a CSV file, at least once: a batch whose write was interrupted is written again."""

import csv
from pathlib import Path

import anyio.to_thread

from eventrec import Batch, EventHandler, HandlerURL


def from_url(url: str) -> "CsvHandler":
    """The handler for `csv:///relative.csv` or `csv:////absolute.csv`, with `?delimiter=;` if wanted."""
    given = HandlerURL(url)
    given.accept("delimiter", parts=["path"])
    return CsvHandler(Path(given.path), delimiter=given.choice("delimiter", [",", ";", "|"], default=","))


class CsvHandler(EventHandler):
    """A line for each event: id, type, timestamp in nanoseconds, payload as JSON."""

    def __init__(self, path: Path, *, delimiter: str = ",") -> None:
        self.path = path
        self.delimiter = delimiter

    async def handle(self, batch: Batch) -> None:
        """Append `batch`. What goes wrong is raised: the recorder waits, and tries again."""
        await anyio.to_thread.run_sync(self._append, batch)

    def _append(self, batch: Batch) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter=self.delimiter)
            rows.writerows((rec.id, rec.type, rec.timestamp, rec.payload.decode()) for rec in batch.records)
