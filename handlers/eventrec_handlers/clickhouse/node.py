"""One node of a ClickHouse: its client, and what is known of its tables."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from clickhouse_connect import get_async_client
from clickhouse_connect.driver import options as client_options
from clickhouse_connect.driver.transform import NativeTransform

from eventrec_handlers._thread import WorkThread
from eventrec_handlers.clickhouse.errors import (
    TOO_MANY_QUERIES,
    Failure,
    broken_answer,
    failure_of,
    shown,
    without_values,
)
from eventrec_handlers.clickhouse.options import REFERENCE_SETTINGS
from eventrec_handlers.clickhouse.sql import is_utf8, quoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from clickhouse_connect.driver.asyncclient import AsyncClient
    from clickhouse_connect.driver.insert import InsertContext

    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.state import TableState
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

IN_PLACE: Final = (0.1, 0.3, 0.9)
"""Seconds of the pauses after which a node that has too many queries is asked again."""

ALWAYS: Final[Mapping[str, Any]] = {
    "async_insert": 0,  # it would answer before the rows are there
    "distributed_foreground_insert": 1,  # likewise, of a Distributed table
    "input_format_native_allow_types_conversion": 0,  # 300 would be 44 in a column that is an Int8 by now
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_partitions_per_insert_block": 0,  # of old events each may be in a month of its own
    "throw_on_max_partitions_per_insert_block": 0,
}


INLINE_ROWS: Final = 2_000
INLINE_BYTES: Final = 1 << 20
"""What is encoded on the loop, within about 2 ms: to hand it to a thread takes longer, beside a busy loop."""


class Node:
    """One of them, and its client. Belongs to one loop."""

    def __init__(self, target: Target, address: tuple[str, int], options: Options) -> None:
        self._target = target
        self._host, self._port = address
        self._options = options
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._encoding = asyncio.Lock()
        self.to_encode = 0
        """Inserts that are not sent yet."""
        self._thread = WorkThread("eventrec-clickhouse")
        self._settings: dict[str, Any] = {}
        self.absent_until = 0.0
        self.tables: dict[str, TableState] = {}
        """What is known of its tables."""
        self.ensured: set[str] = set()
        """Tables that were looked at for what an operator should know."""

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    @property
    def name(self) -> str:
        """Its address."""
        return f"{self._host}:{self._port}"

    @property
    def where(self) -> str:
        """How errors call it."""
        return f"{self._target.url.scheme}://{self.name}/{self._target.database}"

    async def query(self, sql: str, *, settings: Mapping[str, Any] | None = None) -> list[list[Any]]:
        """The rows of a statement that reads; values as ClickHouse writes them in JSON, which need not be UTF-8.

        A row in which a text is not is an `OddRow`.

        Raises:
            Failure: It has none.
        """
        given = {
            "output_format_json_quote_64bit_integers": 0,
            "output_format_json_quote_decimals": 1,
            **(settings or {}),
        }
        answer = await self._call(lambda client: client.raw_query(sql, settings=given, fmt="JSONCompactEachRow"))
        try:
            return [_row(line) for line in answer.split(b"\n") if line]
        except (TypeError, ValueError, RecursionError):
            # What fails after the first rows were sent is said behind them, under the status of a success.
            raise broken_answer(answer, self.where) from None

    async def run(self, sql: str) -> None:
        """Run a statement that gives no rows.

        Raises:
            Failure: It was not run, as far as is known.
        """
        await self._call(lambda client: client.command(sql))

    async def insert(
        self, table: str, names: Sequence[str], types: Sequence[str], columns: Sequence[Sequence[Any]], *, token: str
    ) -> None:
        """Insert rows, given as columns; a `token` that the table has seen inserts nothing.

        Raises:
            Failure: It does not have them, as far as is known.
        """
        client = await self.connect()
        settings = {**self._settings, "insert_deduplication_token": token}
        context = await client.create_insert_context(
            f"{quoted(self._target.database)}.{quoted(table)}",
            list(names),
            column_type_names=list(types),
            column_oriented=True,
            settings=settings,
            data=columns,
        )
        context.compression = client.write_compression
        # Whole before it is sent: a value that cannot be written never reaches the server, and the server is told how
        # long it is, so that it takes none that was cut off.
        self.to_encode += 1
        try:
            body = await self._encoded(context, columns)
        finally:
            self.to_encode -= 1
        if context.insert_exception is not None:
            raise Failure("data", f"{self.where}: {without_values(shown(str(context.insert_exception)))}")
        await self._call(
            lambda client: client.raw_insert(
                insert_block=body, settings=settings, fmt="Native", compression=client.write_compression
            ),
            hides_values=True,
        )

    async def _encoded(self, context: InsertContext, columns: Sequence[Sequence[Any]]) -> bytes:
        if len(columns[0]) > INLINE_ROWS or sum(map(_size, columns)) > INLINE_BYTES:
            return await self._thread.run(lambda: b"".join(NativeTransform.build_insert(context)))
        async with self._encoding:
            for _ in range(3):  # what is encoded goes out first: the server works on it meanwhile
                await asyncio.sleep(0)
            return b"".join(NativeTransform.build_insert(context))

    async def connect(self) -> AsyncClient:
        """Its client, connected if it was not.

        Raises:
            Failure: It cannot be reached, or refuses us.
        """
        async with self._connecting:
            if self._client is None:
                try:
                    async with asyncio.timeout(self._options.connect_timeout + self._options.timeout):
                        self._client = await self._made()
                except (Exception, TimeoutError) as exc:
                    raise failure_of(exc, self.where) from exc
                self._settings = _allowed(self._client)
        return self._client

    async def close(self) -> None:
        """Disconnect. May be called again."""
        client, self._client = self._client, None
        self._connecting = asyncio.Lock()  # the next loop may be another one
        self._encoding = asyncio.Lock()
        self.forget()
        self._thread.end()
        self.absent_until = 0.0
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call, unused-ignore]

    def forget(self, table: str | None = None) -> None:
        """What is known of a table, or of all, may be wrong."""
        if table is None:
            self.tables.clear()
            self.ensured.clear()
        else:
            self.tables.pop(table, None)
            self.ensured.discard(table)

    async def _made(self) -> AsyncClient:
        options = self._options
        if not vars(client_options).keys() >= _WANTED:
            await self._thread.run(_import_what_the_client_wants)
        return await get_async_client(
            host=self._host,
            port=self._port,
            username=self._target.user,
            password=self._target.password,
            database=self._target.database,
            interface="https" if self._target.is_secure else "http",
            compress=False if options.compression == "none" else options.compression,
            connect_timeout=options.connect_timeout,
            send_receive_timeout=options.timeout,
            ca_cert=options.tls_ca,
            client_cert=options.tls_cert,
            client_cert_key=options.tls_key,
            query_retries=0,
            autogenerate_session_id=False,
            connector_limit=options.concurrency + 2,
            client_name="eventrec",
        )

    async def _call(self, job: Callable[[AsyncClient], Awaitable[T]], *, hides_values: bool = False) -> T:
        client = await self.connect()
        for pause in (*IN_PLACE, None):
            try:
                async with asyncio.timeout(self._options.timeout):
                    return await job(client)
            except (Exception, TimeoutError) as exc:
                failure = failure_of(exc, self.where, hides_values=hides_values)
                if pause is None or failure.code != TOO_MANY_QUERIES:
                    if hides_values and failure.code is not None:
                        raise failure from None  # the client's error may quote rows, and would stand in the traceback
                    raise failure from exc
            await asyncio.sleep(pause)
        raise AssertionError  # the last pause is None


class OddRow(list[Any]):
    """A row with a text that is not UTF-8: each byte that is not is a lone surrogate in it, see `sql.py`."""


def _row(line: bytes) -> list[Any]:
    """A row of an answer.

    Raises:
        TypeError, ValueError: It is not one.
        RecursionError: It is too deep.
    """
    try:
        return msgspec.json.decode(line)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = line.decode(errors="surrogateescape")
        if is_utf8(text):
            raise
        return OddRow(json.loads(text))


_WANTED: Final = frozenset({"np", "pd"})


def _import_what_the_client_wants() -> None:
    """The client imports these, where they are installed, with its first insert: that takes seconds, on the loop."""
    for name in _WANTED:
        getattr(client_options, name, None)


def _size(column: Sequence[Any]) -> int:
    """Of its texts, in characters or bytes."""
    is_text = isinstance(next(filter(None, column), None), (bytes, str))
    return sum(map(len, filter(None, column))) if is_text else 0


def _allowed(client: AsyncClient) -> dict[str, Any]:
    """The settings of our inserts that this server knows, and lets us change."""
    known = client.server_settings
    return {
        name: value
        for name, value in {**REFERENCE_SETTINGS, **ALWAYS}.items()
        if name in client.valid_transport_settings or (name in known and not known[name].readonly)
    }
