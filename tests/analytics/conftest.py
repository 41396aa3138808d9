"""What the tests of the catalogue share."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from eventrec import Batch, Record
from eventrec.events.encoder import Encoder
from eventrec.events.privacy_plans import Privacy

NOW = 1_700_000_000_000_000_000


def made_batch(*events: object) -> Batch:
    """The batch that a handler is given of `events`."""
    encoder = Encoder(now=lambda: NOW, privacy=Privacy(salt=b"salt"))
    entries = []
    for event in events:
        entry = encoder.encode(event)
        assert isinstance(entry, tuple), entry
        entries.append(entry)
    offsets = list(range(len(entries)))
    return Batch(log_id=uuid4(), subscription="test", start=0, end=len(entries), offsets=offsets, entries=entries)


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Gives the batch that a handler is given of events."""
    return made_batch


@pytest.fixture
def recorded(batch_of: Callable[..., Batch]) -> Callable[[object], Record]:
    """Gives what a handler is given of an event."""
    return lambda event: batch_of(event).records[0]
