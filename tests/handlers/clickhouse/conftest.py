"""A database of ClickHouse for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from anyio import to_thread

from eventrec import Layout
from eventrec.testing.clickhouse import ClickHouseEngine
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec_handlers.clickhouse import ClickHouseHandler


@pytest.fixture
def engine(clickhouse_engine: ClickHouseEngine) -> Iterator[ClickHouseEngine]:
    """The engine, in a database of the test's own."""
    with clickhouse_engine.database():
        yield clickhouse_engine


@pytest.fixture
def query(engine: ClickHouseEngine) -> Callable[[str], list[list[Any]]]:
    """Runs a statement there."""
    return engine.query


@pytest.fixture
def anyio_backend() -> str:
    """One is enough here: the conformance suite runs on both."""
    return "asyncio"


@pytest.fixture
async def opened(clickhouse: ClickHouseDatabase) -> AsyncIterator[Callable[..., Awaitable[ClickHouseHandler]]]:
    """Opens handlers for the test's database."""
    handlers: list[ClickHouseHandler] = []

    async def open_one(url: str | None = None, *, layouts: Sequence[Layout] = (), **options: Any) -> ClickHouseHandler:
        handler = ClickHouseHandler(url or clickhouse.url(), **{"timeout": 10, "connect_timeout": 2, **options})
        handler.use_layouts({layout.table: layout for layout in layouts})
        handlers.append(handler)
        await handler.open()
        return handler

    yield open_one
    for handler in handlers:
        await handler.close()


@pytest.fixture
def asked(clickhouse: ClickHouseDatabase) -> Callable[[str], Awaitable[list[list[Any]]]]:
    """Runs a statement in the test's database, beside the loop."""

    async def ask(sql: str) -> list[list[Any]]:
        return await to_thread.run_sync(clickhouse.query, sql)

    return ask
