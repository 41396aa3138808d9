from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pytest
from anyio import to_thread

from eventrec import EventHandler, ReceivedEvent
from eventrec.testing.clickhouse_http import ClickHouseDatabase, ClickHouseServer, new_database
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec.testing.conformance.lifecycle import LifecycleClaims
from eventrec.testing.conformance.recorders import RecorderClaims
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.clickhouse import ClickHouseHandler

pytestmark = pytest.mark.handlers

BASE = ("id", "type", "timestamp", "payload", "context")


class ClickHouseHarness(HandlerHarness):
    """A database of its own, reached through a proxy."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "checkpoints": "ClickHouse has no transactions: it knows batches by their tokens",
        "order": "the rows of a block are sorted by the key of their table",
        "restore": "without a checkpoint nothing notices it",
        "too_large": "a batch of any size is inserted in chunks",
    }

    def __init__(self, server: ClickHouseServer) -> None:
        self.server = server
        self.database: ClickHouseDatabase | None = None
        self.proxy = FaultProxy("127.0.0.1", server.port)

    async def start(self) -> None:
        self.database = await to_thread.run_sync(new_database, self.server)

    async def stop(self) -> None:
        await self.permit()
        await to_thread.run_sync(partial(self.server.lose_answers, times=0))
        await to_thread.run_sync(self.proxy.close)
        assert self.database is not None
        await self.query(f"DROP DATABASE {self.database.name}")

    async def query(self, sql: str) -> list[list[Any]]:
        return await to_thread.run_sync(self.server.query, sql)

    def handler(self) -> EventHandler:
        name = "default" if self.database is None else self.database.name
        return ClickHouseHandler(
            self.server.url(name, port=self.proxy.port), chunk_rows=100, timeout=5, connect_timeout=2
        )

    async def delivered(self) -> Sequence[Delivered]:
        return await to_thread.run_sync(self.read)

    def read(self) -> list[Delivered]:
        database = self.database
        assert database is not None
        found: list[Delivered] = []
        for (table,) in database.query("SELECT name FROM system.tables WHERE database = currentDatabase()"):
            if table.startswith("eventrec_"):
                continue
            columns = [
                name
                for (name,) in database.query(
                    f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}'"
                )
            ]
            listed = ", ".join(
                "toUnixTimestamp64Nano(timestamp)" if name == "timestamp" else f"`{name}`" for name in columns
            )
            rows = self.server.query(
                f"SELECT {listed} FROM `{table}` ORDER BY _block_number, _block_offset",
                database=database.name,
                output_format_json_quote_64bit_integers="0",
            )
            found += [self.row(table, dict(zip(columns, row, strict=True))) for row in rows]
        return found

    def row(self, table: str, row: dict[str, Any]) -> Delivered:
        id_, kind, timestamp, payload = (row[name] for name in BASE[:4])
        columns = {name: value for name, value in row.items() if name not in BASE}
        return Delivered(id_, kind, timestamp, payload.encode(), table, columns)

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def reconnect(self) -> None:
        self.proxy.mend()

    def poison(self) -> ReceivedEvent:
        return ReceivedEvent("poison", b'"\xff"')

    async def forbid(self) -> None:
        await to_thread.run_sync(self.server.change_password, "another")

    async def permit(self) -> None:
        await to_thread.run_sync(self.server.change_password, self.server.password)

    async def lose_answer(self, *, late: float = 0.0) -> None:
        # Twice: the client tries once more by itself, under the same token.
        await to_thread.run_sync(partial(self.server.lose_answers, times=2, late=late))

    async def replace(self) -> None:
        database = self.database
        assert database is not None
        await self.query(f"DROP DATABASE {database.name}")
        await self.query(f"CREATE DATABASE {database.name}")


class TestClickHouseHandler(HandlerConformance):
    @pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def harness(self, clickhouse_server: ClickHouseServer) -> HandlerHarness:
        return ClickHouseHarness(clickhouse_server)


class TestClickHouseHandlerOnTrio(LifecycleClaims, RecorderClaims):
    """What differs is the way to a driver that knows asyncio alone: opening, calling, cancelling, closing."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.fixture
    def harness(self, clickhouse_server: ClickHouseServer) -> HandlerHarness:
        return ClickHouseHarness(clickhouse_server)
