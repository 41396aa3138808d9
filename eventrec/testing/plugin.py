"""A pytest plugin, there as soon as eventrec is installed: two fixtures, and nothing loaded for them before their use.

def test_an_order_is_recorded(recorded_events):
    place_order(recorder=recorded_events.recorder)

    assert recorded_events.types == ["order_placed"]
    assert recorded_events[0].payload == {"order_id": 1}

async def test_nothing_is_lost(conservation):
    async with conservation(EventRecorder("sqlite:///events.db")) as recorder:
        ...                         # when the test has ended, its account must balance
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.testing.recorded import Conservation, RecordedEvents


@pytest.fixture
def recorded_events() -> RecordedEvents:
    """A recorder in memory, as `.recorder`, and the events it has taken: see `eventrec.testing.recorded`."""
    from eventrec.testing.recorded import RecordedEvents  # noqa: PLC0415 - only for who asks

    return RecordedEvents()


@pytest.fixture
def conservation() -> Iterator[Conservation]:
    """Call it with a recorder: when the test has ended, that recorder's account must balance."""
    from eventrec.testing.recorded import Conservation  # noqa: PLC0415 - only for who asks

    watched = Conservation()
    yield watched
    watched.check()
