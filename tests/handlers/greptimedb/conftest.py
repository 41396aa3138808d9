"""A GreptimeDB for each test: there is no real one to be had here, so a fake that decodes with its own code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.greptimedb import GreptimeDBHandler


def _load(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"greptimedb_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake() -> Any:
    """The module of the fake server."""
    return _load("fake_server")


@pytest.fixture(scope="session")
def samples() -> Any:
    """The module that draws values of each type."""
    return _load("samples")


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
