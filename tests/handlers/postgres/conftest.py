"""A real PostgreSQL, a database for each test, and a second program that looks into it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventrec.testing.servers import PostgresServer
from eventrec_handlers.postgres import PostgresHandler

_numbers = count()


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


@dataclass
class Database:
    """A database as another program sees it. Its methods block, for a few milliseconds."""

    name: str
    server: PostgresServer
    loop: asyncio.AbstractEventLoop
    dump_of_schema: str = ""

    def dump(self, schema: str = "public") -> list[str]:
        """What stands in a schema, without the name of that."""
        rows = self.rows(self.dump_of_schema.format(schema))
        return ["|".join(row).replace(f"{schema}.", "") for row in rows]

    def url(self, user: str = "postgres", **options: object) -> str:
        return self.server.url(self.name, user=user) + "".join(f"&{name}={value}" for name, value in options.items())

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return asyncio.run_coroutine_threadsafe(self._rows(sql, values), self.loop).result(20)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            asyncio.run_coroutine_threadsafe(self._execute(statement), self.loop).result(20)

    def declared(self, table: str = "events") -> dict[str, str]:
        return dict(
            self.rows(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute a JOIN pg_class c"
                " ON c.oid = attrelid WHERE relname = $1::text::name AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum",
                table,
            )
        )

    def tables(self) -> set[str]:
        found = {name for (name,) in self.rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")}
        return found - {"eventrec_checkpoints", "eventrec_destination"}

    def connections(self) -> int:
        """How many clients are connected, ourselves not counted."""
        ((number,),) = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return int(number)

    def connections_left(self) -> int:
        """How many are connected still, once the server had time to notice that clients have gone."""
        deadline = time.monotonic() + 5
        while (left := self.connections()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def session(self) -> asyncpg.Connection:
        """A connection that stays open, for `self.run`."""
        return self.run(asyncpg.connect(self.url()))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url())
        try:
            return [tuple(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


class Home(Database):
    """The database `postgres`, from where others are made and dropped, by one connection for the whole session.

    A connection for each statement takes more of the server's time than the statement. Once cut, it is made again.
    """

    kept: asyncpg.Connection | None = None

    def close(self) -> None:
        if self.kept is not None:
            self.run(self.kept.close())

    def connections_of(self, name: str) -> int:
        """How many clients are connected to another database, once the server had time to notice who has gone."""
        deadline = time.monotonic() + 5
        while (left := self._count(name)) and time.monotonic() < deadline:
            time.sleep(0.005)
        return left

    def _count(self, name: str) -> int:
        ((number,),) = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'", name
        )
        return int(number)

    async def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await (await self._connection()).fetch(sql, *values)]

    async def _execute(self, statement: str) -> None:
        await (await self._connection()).execute(statement)

    async def _connection(self) -> asyncpg.Connection:
        if self.kept is None or self.kept.is_closed():
            self.kept = await asyncpg.connect(self.url())
        return self.kept


@pytest.fixture(scope="session")
def home(postgres_server: PostgresServer, other_loop: asyncio.AbstractEventLoop) -> Iterator[Home]:
    home = Home("postgres", postgres_server, other_loop)
    yield home
    home.close()


@pytest.fixture
def database(
    postgres_server: PostgresServer, other_loop: asyncio.AbstractEventLoop, home: Home, dump_of_schema: str
) -> Iterator[Database]:
    """A database for this test alone. At the end nothing may still be connected."""
    database = Database(f"test_{next(_numbers)}", postgres_server, other_loop, dump_of_schema)
    home.execute(f"CREATE DATABASE {database.name} STRATEGY FILE_COPY")  # with a server in memory the faster one
    yield database
    left = home.connections_of(database.name)
    home.execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")
    assert not left, f"{left} connections were left open"


@pytest.fixture
async def handler(database: Database, log_id: UUID) -> AsyncIterator[PostgresHandler]:
    """A handler for `database`, open, whose checkpoint for the log of `batch` stands at 0."""
    handler = PostgresHandler(database.url())
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    yield handler
    await handler.close()


@pytest.fixture
async def opened(database: Database, log_id: UUID) -> AsyncIterator[Callable[..., Any]]:
    """Makes handlers with options of the test's choice, opened like `handler`; closes them at the end."""
    made: list[PostgresHandler] = []

    async def make(url: str, **options: Any) -> PostgresHandler:
        handler = PostgresHandler(url, **options)
        made.append(handler)
        await handler.open()
        await handler.resume(log_id, "tested", 0)
        return handler

    yield make
    for handler in made:
        await handler.close()
