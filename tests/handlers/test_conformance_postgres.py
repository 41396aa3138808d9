"""The suite against a real PostgreSQL, which the handler reaches through a proxy that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar, Final, TypeVar

import asyncpg
import pytest
from anyio import to_thread

from eventrec import CONTEXT, GENERATED, ID, PAYLOAD, TIMESTAMP, TYPE, Event, EventHandler, Layout, LayoutColumn
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness, Sample
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.servers import PostgresServer
from eventrec_handlers.postgres import PostgresHandler

pytestmark = pytest.mark.handlers

T = TypeVar("T")

BASE: Final = ("id", "type", "timestamp", "payload", "context")
OWN: Final = ("eventrec_checkpoints", "eventrec_destination", "eventrec_layouts", "eventrec_seen")

_numbers = count()


class PostgresHarness(HandlerHarness):
    """A schema and a role of its own on a shared server."""

    lacks: ClassVar[Mapping[Capability, str]] = {"too_large": "PostgreSQL takes a batch of any size"}
    payloads = "value"  # jsonb keeps no bytes
    timestamp_unit = 1_000

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.name = f"conformance_{next(_numbers)}"
        self.proxy: FaultProxy | None = None

    async def start(self) -> None:
        await self.execute(
            f"CREATE ROLE {self.name} LOGIN",
            f"GRANT CREATE ON DATABASE postgres TO {self.name}",
            f"CREATE SCHEMA {self.name}",
        )
        await self.permit()
        self.proxy = await to_thread.run_sync(FaultProxy, self.server.host, self.server.port)

    async def stop(self) -> None:
        if self.proxy is not None:
            await to_thread.run_sync(self.proxy.close)
        await self.execute(f"DROP SCHEMA {self.name} CASCADE", f"DROP OWNED BY {self.name}", f"DROP ROLE {self.name}")

    @property
    def _proxy(self) -> FaultProxy:
        assert self.proxy is not None
        return self.proxy

    def handler(self) -> EventHandler:
        port = self.server.port if self.proxy is None else self.proxy.port
        return PostgresHandler(
            f"postgresql://{self.name}@127.0.0.1:{port}/postgres?sslmode=disable", namespace=self.name
        )

    async def delivered(self) -> Sequence[Delivered]:
        async def read(connection: asyncpg.Connection) -> list[Delivered]:
            found: list[Delivered] = []
            for table in await self._tables(connection):
                if table not in OWN:
                    rows = await connection.fetch(f'SELECT * FROM {self.name}."{table}" ORDER BY ctid')
                    found += [_delivered(table, self.row(table, dict(row))) for row in rows]
            return found

        return await self.elsewhere(read)

    def row(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        """A row of `table` with our names."""
        return row

    async def disconnect(self) -> None:
        self._proxy.cut()

    async def reconnect(self) -> None:
        self._proxy.mend()

    def poison(self) -> Event:
        return Sample({"n": -1, "text": "\0"})

    async def forbid(self) -> None:
        await self.execute(f"REVOKE ALL ON SCHEMA {self.name} FROM {self.name}")

    async def permit(self) -> None:
        await self.execute(f"GRANT ALL ON SCHEMA {self.name} TO {self.name}")

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self._proxy.cut_after(b"COMMIT", late=late)

    async def backup(self) -> object:
        async def copy(connection: asyncpg.Connection) -> dict[str, list[Any]]:
            return {
                table: await connection.fetch(f'SELECT * FROM {self.name}."{table}"')
                for table in await self._tables(connection)
            }

        return await self.elsewhere(copy)

    async def restore(self, backup: dict[str, list[Any]]) -> None:
        async def put_back(connection: asyncpg.Connection) -> None:
            async with connection.transaction():
                for table in await self._tables(connection):
                    await connection.execute(f'TRUNCATE {self.name}."{table}"')
                    await connection.copy_records_to_table(
                        table, schema_name=self.name, records=[tuple(row) for row in backup.get(table, ())]
                    )

        await self.elsewhere(put_back)

    async def replace(self) -> None:
        await self.execute(f"DROP SCHEMA {self.name} CASCADE", f"CREATE SCHEMA {self.name}")
        await self.permit()

    # -- as another program

    async def execute(self, *statements: str) -> None:
        async def run(connection: asyncpg.Connection) -> None:
            for statement in statements:
                await connection.execute(statement)

        await self.elsewhere(run)

    async def elsewhere(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What `work` gives, on a loop and a connection of its own, beside the proxy."""

        async def connected() -> T:
            connection = await asyncpg.connect(self.server.url())
            try:
                return await work(connection)
            finally:
                await connection.close()

        return await to_thread.run_sync(lambda: asyncio.run(connected()))

    async def _tables(self, connection: asyncpg.Connection) -> list[str]:
        rows = await connection.fetch("SELECT tablename::text FROM pg_tables WHERE schemaname = $1", self.name)
        return [name for (name,) in rows]


def _delivered(table: str, row: dict[str, Any]) -> Delivered:
    since = row["timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)
    columns = {name: value for name, value in row.items() if name not in BASE}
    timestamp = since // timedelta(microseconds=1) * 1_000
    return Delivered(str(row["id"]), row["type"], timestamp, row["payload"].encode(), table, columns)


class TestPostgresHandler(HandlerConformance):
    @pytest.fixture
    def harness(self, postgres_server: PostgresServer) -> HandlerHarness:
        return PostgresHarness(postgres_server)


class LaidOutPostgresHarness(PostgresHarness):
    """The same with a layout: the table of most events has other names, and a number that the server gives."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        **PostgresHarness.lacks,
        "columns": "a layout names its columns: an event with another one is refused, not stored without it",
    }
    layout: ClassVar[Layout] = Layout(
        "events",
        [
            LayoutColumn("n", GENERATED, "bigint"),
            LayoutColumn("moment", TIMESTAMP, "timestamptz"),
            LayoutColumn("key", ID, "uuid"),
            LayoutColumn("kind of it", TYPE, "varchar", length=200),
            LayoutColumn("body", PAYLOAD, "jsonb"),
            LayoutColumn("around", CONTEXT, "json"),
        ],
        primary_key=("n",),
    )

    def handler(self) -> EventHandler:
        handler = super().handler()
        handler.use_layouts({"events": self.layout})
        return handler

    def row(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        if table != "events":
            return row
        names = {"key": "id", "kind of it": "type", "moment": "timestamp", "body": "payload", "around": "context"}
        return {names[name]: value for name, value in row.items() if name != "n"}


class TestPostgresHandlerWithLayout(HandlerConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def harness(self, postgres_server: PostgresServer) -> HandlerHarness:
        return LaidOutPostgresHarness(postgres_server)
