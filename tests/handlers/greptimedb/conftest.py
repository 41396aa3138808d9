"""A GreptimeDB for each test: there is no real one to be had here, so a fake that decodes with its own code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.greptimedb import GreptimeDBHandler


@pytest.fixture(scope="session")
def fake(load_module: Callable[[Path], Any]) -> Any:
    """The module of the fake server."""
    return load_module(Path(__file__).with_name("fake_server.py"))


@pytest.fixture(scope="session")
def samples(load_module: Callable[[Path], Any]) -> Any:
    """The module that draws values of each type."""
    return load_module(Path(__file__).with_name("samples.py"))


@pytest.fixture
def make_server(fake: Any) -> Iterator[Callable[..., Any]]:
    """Makes servers, and ends them."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(fake.FakeGreptimeDB(**options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    """One server."""
    return make_server()


@pytest.fixture
def proxy(server: Any) -> Iterator[FaultProxy]:
    """Before that server."""
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Any]]:
    """Makes handlers for servers, opened; closes them at the end."""
    made: list[GreptimeDBHandler] = []

    async def make(*servers: Any, database: str = "", identity: str = "", **options: Any) -> GreptimeDBHandler:
        hosts = ",".join(f"127.0.0.1:{getattr(server, 'port', server)}" for server in servers)
        handler = GreptimeDBHandler(f"greptimedb://{identity}{hosts}/{database}", **{"timeout": 20, **options})
        made.append(handler)
        await handler.open()
        return handler

    yield make
    for handler in made:
        await handler.close()
