"""A real TimescaleDB, a schema for each test, and a second program that looks into it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import pytest

from eventrec.testing.timescale import TimescaleServer

_numbers = count()
_NUMBERED = re.compile(r"(?<=_hypertable_)\d+|(?<=cagg_watermark\()\d+|(?<=invalidation_trigger\(')\d+")
"""What the extension counts up for each table that it makes."""

_DUMP = """
UNION ALL SELECT 'hypertable', hypertable_name, compression_enabled || ' ' || num_dimensions
 FROM timescaledb_information.hypertables WHERE hypertable_schema = '{0}'
UNION ALL SELECT 'compression', hypertable::text, segmentby || ' by ' || orderby
 FROM timescaledb_information.hypertable_compression_settings s JOIN pg_class c ON c.oid = s.hypertable
 WHERE c.relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'chunks', hypertable_name, time_interval::text
 FROM timescaledb_information.dimensions WHERE hypertable_schema = '{0}'
UNION ALL SELECT 'aggregate', view_name, materialized_only || ' ' || view_definition
 FROM timescaledb_information.continuous_aggregates WHERE view_schema = '{0}'
UNION ALL SELECT 'policy', coalesce(hypertable_name, '') || ' ' || proc_name,
 schedule_interval || ' ' || (config - 'hypertable_id' - 'mat_hypertable_id')
 FROM timescaledb_information.jobs WHERE hypertable_schema = '{0}'
ORDER BY 1, 2, 3
"""


@dataclass
class Schema:
    """A schema as another program sees it. Its methods block."""

    name: str
    server: TimescaleServer
    loop: asyncio.AbstractEventLoop
    dump_of_schema: str = ""

    def url(self, name: str | None = None) -> str:
        return f"{self.server.url()}&namespace={name or self.name}"

    def dump(self, name: str | None = None) -> list[str]:
        """What stands in the schema, without the name of that: tables, hypertables, aggregates, policies."""
        name = name or self.name
        rows = self.rows(f"{self.dump_of_schema.format(name).replace('ORDER BY 1, 2, 3', '')}{_DUMP.format(name)}")
        return [_NUMBERED.sub("N", "|".join(map(str, row))).replace(f"{name}.", "") for row in rows]

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        async def fetch(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await connection.fetch(sql, *values)]

        found: list[tuple[Any, ...]] = self._run(fetch)
        return found

    def records(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """The same rows by the names of their columns."""

        async def fetch(connection: asyncpg.Connection) -> list[dict[str, Any]]:
            return [dict(row) for row in await connection.fetch(sql, *values)]

        found: list[dict[str, Any]] = self._run(fetch)
        return found

    def execute(self, *statements: str) -> None:
        async def run(connection: asyncpg.Connection) -> None:
            for statement in statements:
                await connection.execute(statement)

        self._run(run)

    def run_jobs(self, kind: str) -> int:
        """Run the jobs of this schema that are of one kind, as the scheduler would; how many there are."""
        jobs = self.rows(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = $1 AND hypertable_schema = $2",
            kind,
            self.name,
        )
        self.execute(*(f"CALL public.run_job({job})" for (job,) in jobs))
        return len(jobs)

    def _run(self, work: Any) -> Any:
        async def connected() -> Any:
            connection = await asyncpg.connect(
                self.server.url(scheme="postgresql"),
                statement_cache_size=0,
                server_settings={"search_path": f"{self.name}, public"},
            )
            try:
                await connection.execute(f"SET search_path = {self.name}, public")  # one session for all
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run_coroutine_threadsafe(connected(), self.loop).result(50)


@pytest.fixture
def anyio_backend() -> str:
    """One is enough here: calls under trio are tried with PostgreSQL."""
    return "asyncio"


@pytest.fixture(scope="session")
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread: the other program."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def schema(
    timescale_server: TimescaleServer, other_loop: asyncio.AbstractEventLoop, dump_of_schema: str
) -> Iterator[Schema]:
    """A schema for this test alone."""
    home = Schema("public", timescale_server, other_loop)
    schema = Schema(f"test_{next(_numbers)}", timescale_server, other_loop, dump_of_schema)
    home.execute(f"CREATE SCHEMA {schema.name}")
    yield schema
    home.execute(f"DROP SCHEMA {schema.name} CASCADE")
