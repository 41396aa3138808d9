"""A database of ClickHouse for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventrec.testing.clickhouse import ClickHouseEngine


@pytest.fixture
def engine(clickhouse_engine: ClickHouseEngine) -> Iterator[ClickHouseEngine]:
    """The engine, in a database of the test's own."""
    with clickhouse_engine.database():
        yield clickhouse_engine


@pytest.fixture
def query(engine: ClickHouseEngine) -> Callable[[str], list[list[Any]]]:
    """Runs a statement there."""
    return engine.query
