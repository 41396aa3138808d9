"""A PostHog of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventrec.testing.posthog import FakePostHog


@pytest.fixture
def posthog() -> Iterator[FakePostHog]:
    with FakePostHog() as fake:
        yield fake
