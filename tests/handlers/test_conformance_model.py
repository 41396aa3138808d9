from __future__ import annotations

import pytest

from eventrec.testing.conformance import HandlerConformance, HandlerHarness
from eventrec.testing.conformance.model import ModelHarness

pytestmark = pytest.mark.handlers


class TestModelHandler(HandlerConformance):
    """A destination that lacks nothing: every claim can be met, and none is skipped."""

    @pytest.fixture
    def harness(self) -> HandlerHarness:
        return ModelHarness()
