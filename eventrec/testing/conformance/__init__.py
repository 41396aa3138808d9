"""What every handler must do, as tests: an author writes a harness, never a test.

    from eventrec.testing.conformance import Delivered, HandlerConformance, HandlerHarness

    class WarehouseHarness(HandlerHarness):
        lacks = {"too_large": "it takes a batch of any size", ...}

        def handler(self): ...                  # a new handler for the destination, not open
        async def delivered(self): ...          # what the destination holds, read without the handler
        async def disconnect(self): ...         # out of reach …
        async def reconnect(self): ...          # … and back
        def poison(self): ...                   # an event that it refuses for good

    class TestWarehouseHandler(HandlerConformance):
        @pytest.fixture
        def harness(self):
            return WarehouseHarness()

Each claim runs on asyncio and on trio, with a harness of its own, hence an empty destination. What a harness cannot do
it must name in `lacks` with the reason: those claims are skipped with that reason, and one claim fails where something
is neither there nor named. Needs `eventrec[testing]`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{room}"
        for room in ("blocking", "checkpoints", "delivery", "failures", "lifecycle", "reading", "recorders", "rows")
    )
)

from eventrec.testing.conformance.claim import Claims  # noqa: E402 - after it was registered for rewriting
from eventrec.testing.conformance.harness import Capability, Delivered, HandlerHarness  # noqa: E402 - likewise
from eventrec.testing.conformance.log import Log, Sample  # noqa: E402 - likewise
from eventrec.testing.conformance.suite import HandlerConformance  # noqa: E402 - likewise

__all__ = ["Capability", "Claims", "Delivered", "HandlerConformance", "HandlerHarness", "Log", "Sample"]
