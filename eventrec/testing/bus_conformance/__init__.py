"""What every bus must do, as tests: an author writes a harness, never a test.

    from eventrec.testing.bus_conformance import BusConformance, BusHarness

    class QueueHarness(BusHarness):
        lacks = {"lost_head": "it drops nothing before all have read it", ...}

        def bus(self): ...                                  # a new connection, not open, always to the same bus
        async def append(self, entries, context=None): ...  # what producers do, as one commit
        async def disconnect(self): ...                     # out of reach …
        async def reconnect(self): ...                      # … and back

    class TestQueueBus(BusConformance):
        @pytest.fixture
        def harness(self):
            return QueueHarness()

Each claim runs on asyncio and on trio, with a harness of its own, hence an empty bus. What a harness cannot do it must
name in `lacks` with the reason: those claims are skipped with that reason, and one claim fails where something is
neither there nor named. A bus on one backend alone says so in a fixture `anyio_backend`. Needs `eventrec[testing]`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{room}"
        for room in ("checkpoints", "claim", "leases", "losses", "outages", "presence", "reading", "stages")
    )
)

from eventrec.testing.bus_conformance.claim import BusClaims  # noqa: E402 - after it was registered for rewriting
from eventrec.testing.bus_conformance.harness import BusHarness, Capability  # noqa: E402 - likewise
from eventrec.testing.bus_conformance.suite import BusConformance  # noqa: E402 - likewise

__all__ = ["BusClaims", "BusConformance", "BusHarness", "Capability"]
