"""What the tests of the catalogue share."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from eventrec import Record
from eventrec.events.encoder import Encoder
from eventrec.records.batch import Batch

NOW = 1_700_000_000_000_000_000


@pytest.fixture
def recorded() -> Callable[[object], Record]:
    """Gives what a handler is given of an event."""

    def record(event: object) -> Record:
        entry = Encoder(now=lambda: NOW).encode(event)
        assert isinstance(entry, tuple), entry
        batch = Batch(log_id=uuid4(), subscription="test", start=0, end=1, offsets=[0], entries=[entry])
        return batch.records[0]

    return record
