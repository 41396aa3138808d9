from __future__ import annotations

import pytest

from eventrec.testing.bus_conformance import BusConformance
from eventrec.testing.bus_conformance.model import MemoryHarness


class TestMemoryBus(BusConformance):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()
