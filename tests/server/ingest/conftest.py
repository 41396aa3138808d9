"""An application of ours that is asked without a socket: one request, one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from eventrec import EventRecorder
from eventrec.server import application, running
from eventrec.testing.asgi import Client

Serving: TypeAlias = Callable[..., Any]


@pytest.fixture
def serving() -> Serving:
    """The client of an application for a recorder, which is open inside the block."""

    @asynccontextmanager
    async def served(recorder: EventRecorder, **how: Any) -> AsyncIterator[Client]:
        app = application(recorder, **how)
        async with running(app):
            yield Client(app)

    return served
