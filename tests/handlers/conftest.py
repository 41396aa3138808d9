"""Real batches, from real events, for whatever handler is tested."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from eventrec import Batch, Event, ReceivedEvent
from eventrec.events.encoder import Encoder
from eventrec.testing.conformance.log import Sample
from eventrec_handlers.sqlite import SqliteHandler

LOG = UUID("01990000-0000-7000-8000-000000000001")


def batch_of(
    *events: Event | ReceivedEvent,
    start: int = 0,
    log_id: UUID = LOG,
    subscription: str = "tested",
    context: bytes | None = None,
) -> Batch:
    """The batch that a worker would make of `events`, recorded one after the other from offset `start` on."""
    encode = Encoder(context=lambda: context).encode
    entries = [entry for event in events if not isinstance(entry := encode(event), str)]
    assert len(entries) == len(events)
    return Batch(
        log_id=log_id,
        subscription=subscription,
        start=start,
        end=start + len(entries),
        offsets=range(start, start + len(entries)),
        entries=entries,
    )


@pytest.fixture(name="event")
def _event() -> Callable[..., Event]:
    """An event that says whatever a test wants it to."""
    return partial(Sample, kind="happening")


@pytest.fixture(name="batch")
def _batch() -> Callable[..., Batch]:
    return batch_of


@pytest.fixture
def log_id() -> UUID:
    return LOG


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is, or will be."""
    return tmp_path / "events.db"


@pytest.fixture
async def handler(path: Path) -> AsyncIterator[SqliteHandler]:
    """A handler for `path`, open, whose checkpoint for the log of `batch` stands at 0."""
    handler = SqliteHandler(path, busy_timeout=0.2)
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    yield handler
    await handler.close()
