"""Stores records in tables of a PostgreSQL database, by binary COPY.

Effectively once: rows and checkpoint are one transaction, and the checkpoint moves only from where the batch starts.
Any number of processes may share a database. A table has the columns id, type, timestamp, payload and, where there is
any, context, then the extra ones: `columns.py` has the table of types. Names are taken as they are, whatever they hold:
a dot in the name of a table is a dot, not the end of a schema's name. Names longer than PostgreSQL's 63 bytes are
refused, never cut off. Works through PgBouncer in transaction mode.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg
from anyio import CancelScope

from eventrec import (
    Batch,
    DeliveryError,
    DestinationCheckpoints,
    EventHandler,
    HandlerURL,
    HandlerURLError,
    TransientError,
)
from eventrec_handlers._thread import Portal, is_trio
from eventrec_handlers.postgres import checkpoints as checkpoint_rows
from eventrec_handlers.postgres.catalog import MAX_COLUMNS
from eventrec_handlers.postgres.columns import BASE_DECLARED
from eventrec_handlers.postgres.errors import (
    READ_ONLY,
    consume_errors,
    errors_translated,
    is_stale,
    state,
    without_frames,
)
from eventrec_handlers.postgres.expiry import Expiry
from eventrec_handlers.postgres.store import Store
from eventrec_handlers.postgres.target import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Self
    from uuid import UUID

    from eventrec_handlers._sql import SchemaMode
    from eventrec_handlers.postgres.checkpoints import Namespace

__all__ = ["PostgresHandler", "from_url"]

T = TypeVar("T")

SCHEMA_MODES: Final[tuple[SchemaMode, ...]] = ("evolve", "strict")
DEFAULT_MAX_COLUMNS: Final = 200
POOL_SIZE: Final = 4
TIMEOUT: Final = 60.0
CONNECT_TIMEOUT: Final = 10.0
LOCK_TIMEOUT: Final = 10.0
CLOSING: Final = 2.0
"""Seconds that a server may take to say goodbye."""

_OWN_OPTIONS: Final = (
    "schema",
    "max_columns",
    "ttl",
    "namespace",
    "pool_size",
    "timeout",
    "connect_timeout",
    "lock_timeout",
)


def from_url(url: str) -> PostgresHandler:
    """The handler for `postgresql://user:password@host:port/database?option=value`.

    Options are the keyword arguments of `PostgresHandler`, and libpq's for the connection: `sslmode`, `sslrootcert` ….

    Raises:
        HandlerURLError: An option is unknown, or a value is not allowed.
    """
    given = HandlerURL(url)
    Target(url, others=_OWN_OPTIONS)
    split = urlsplit(url)
    rest = [pair for pair in parse_qsl(split.query, keep_blank_values=True) if pair[0] not in _OWN_OPTIONS]
    try:
        return PostgresHandler(
            urlunsplit(split._replace(query=urlencode(rest, quote_via=quote))),
            schema=given.choice("schema", SCHEMA_MODES, default="evolve"),
            max_columns=given.integer("max_columns", default=DEFAULT_MAX_COLUMNS),
            ttl=given.seconds("ttl", default=0) if "ttl" in given.options else None,
            namespace=given.text("namespace"),
            pool_size=given.integer("pool_size", default=POOL_SIZE),
            timeout=given.seconds("timeout", default=TIMEOUT),
            connect_timeout=given.seconds("connect_timeout", default=CONNECT_TIMEOUT),
            lock_timeout=given.seconds("lock_timeout", default=LOCK_TIMEOUT),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a {given.scheme} URL: {exc}") from None


class PostgresHandler(EventHandler, DestinationCheckpoints):
    """Stores batches in the database `dsn`, effectively once.

    `schema="evolve"` makes tables and missing columns, up to `max_columns` a table; `"strict"` makes only its own two
    tables, `eventrec_checkpoints` and `eventrec_destination`. Nothing is ever dropped or retyped. All tables are in the
    PostgreSQL schema `namespace`; None: where the server puts what has no schema, mostly `public`.

    `ttl`, in seconds, else the recorder's option: events whose timestamp is older are deleted from the tables that this
    handler writes to, a slice at a time after a batch; that is never a batch's failure. `timeout` is how many seconds
    one call may take, `connect_timeout` connecting, `lock_timeout` waiting for a lock that others hold. At most
    `pool_size` connections.

    A batch is stored whole or not at all, also when it is cancelled or its connection is cut. Records that do not fit
    are named with their reasons in one PermanentError.

    Raises:
        HandlerURLError: `dsn` is no URL of PostgreSQL.
        ValueError: An argument is not one of those allowed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: SchemaMode = "evolve",
        max_columns: int = DEFAULT_MAX_COLUMNS,
        ttl: float | None = None,
        namespace: str | None = None,
        pool_size: int = POOL_SIZE,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self._target = Target(dsn)
        if schema not in SCHEMA_MODES:
            raise ValueError(f"schema must be one of {', '.join(SCHEMA_MODES)}, got {schema!r}")
        if not len(BASE_DECLARED) <= max_columns <= MAX_COLUMNS:
            raise ValueError(f"max_columns must be {len(BASE_DECLARED)} to {MAX_COLUMNS}, got {max_columns}")
        if pool_size < 1:
            raise ValueError(f"pool_size must be 1 or more, got {pool_size}")
        times = {"timeout": timeout, "connect_timeout": connect_timeout, "lock_timeout": lock_timeout}
        for name, seconds in {**times, "ttl": ttl}.items():
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {seconds:g}")
        self._may_make = schema == "evolve"
        self._schema_name = namespace
        self._pool_size = pool_size
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._lock_timeout = max(1, round(lock_timeout * 1_000))
        self._expiry = Expiry(ttl)
        self._store = Store(str(self._target), schema=schema, max_columns=max_columns)
        self._portal: Portal | None = None
        self._pool: asyncpg.Pool | None = None
        self._namespace: Namespace | None = None

    def __repr__(self) -> str:
        return f"<PostgresHandler '{self._target}' {'closed' if self._pool is None else 'open'}>"

    @property
    def checkpoints(self) -> Self:
        return self

    def inherit_ttl(self, seconds: float) -> None:
        self._expiry.inherit(seconds)

    async def open(self) -> None:
        """Connect, and make our own two tables.

        Raises:
            PauseError: Credentials or rights are refused, or there is no such database or schema.
            TransientError: The server cannot be reached, or is not ready.
        """
        if self._portal is None and is_trio():
            self._portal = Portal("eventrec-postgres")
        try:
            await self._run(self._open)
        except BaseException:
            await self.close()
            raise

    async def prepare(self, batch: Batch) -> None:
        await self._store.prepare(batch)

    async def handle(self, batch: Batch) -> None:
        await self._run(lambda: self._handle(batch))

    async def close(self) -> None:
        with CancelScope(shield=True):
            if self._pool is not None:
                await self._run(self._close)
            portal, self._portal = self._portal, None
            if portal is not None:
                await portal.close()

    async def destination_id(self) -> str:
        async def find() -> str:
            async with self._connected() as (connection, namespace):
                return await checkpoint_rows.destination_id(connection, namespace)

        return await self._run(find)

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        async def find() -> int:
            async with self._connected() as (connection, namespace):
                return await checkpoint_rows.resume(connection, namespace, log_id, subscription, start)

        return await self._run(find)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        async def stamp() -> None:
            async with self._connected() as (connection, namespace):
                await checkpoint_rows.retire(connection, namespace, log_id, subscription, end)

        await self._run(stamp)

    # -- from here on everything runs on asyncio: on the caller's loop, or on that of the portal

    async def _run(self, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._portal is None and is_trio():
            raise RuntimeError(f"{self!r} is not open")

        async def bounded() -> T:
            with errors_translated(str(self._target)):
                async with asyncio.timeout(self._timeout):
                    return await job()

        return await (bounded() if self._portal is None else self._portal.run(bounded))

    async def _open(self) -> None:
        if self._pool is None:
            # No connection is made before it is needed, and none is reset: nothing that we do outlives a transaction.
            self._pool = asyncpg.create_pool(
                **self._target.arguments(),
                min_size=0,
                max_size=self._pool_size,
                statement_cache_size=0,
                timeout=self._connect_timeout,
                reset=_nothing,
            )
            await self._pool
        async with self._connected():
            pass

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        self._forget()
        if pool is not None:
            try:
                with suppress(Exception):
                    async with asyncio.timeout(CLOSING):
                        await pool.close()
            finally:
                pool.terminate()  # what does not answer is cut off
                await asyncio.sleep(0)

    def _forget(self) -> None:
        self._namespace = None
        self._store.forget()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncpg.Connection, Namespace]]:
        """A connection, and where our tables are. An exception rolls back; one that leaves doubts, disconnects."""
        pool = self._pool
        if pool is None:
            raise RuntimeError(f"{self!r} is not open")
        try:
            connection = await pool.acquire()
        except Exception as exc:
            self._forget()
            without_frames(exc)
            raise
        try:
            if self._namespace is None:
                with errors_translated(str(self._target), makes_tables=True):
                    self._namespace = await checkpoint_rows.find_namespace(
                        connection,
                        self._schema_name,
                        lock_timeout=self._lock_timeout,
                        may_make=self._may_make,
                    )
            yield connection, self._namespace
        except BaseException as exc:
            await self._cleared(connection, exc)
            raise
        finally:
            await pool.release(connection)

    async def _cleared(self, connection: asyncpg.Connection, exc: BaseException) -> None:
        """Undo what `exc` has interrupted: roll back where the server is well, else disconnect."""
        cause = exc.__cause__ if isinstance(exc, DeliveryError) and exc.__cause__ is not None else exc
        if is_stale(cause):
            self._forget()
        is_read_only = state(cause) == READ_ONLY
        if isinstance(cause, (asyncpg.PostgresError, DeliveryError)) and not is_read_only:
            with suppress(Exception):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                if not connection.is_closed():
                    return
        self._forget()
        consume_errors(connection)
        connection.terminate()
        if is_read_only and self._pool is not None:
            await self._pool.expire_connections()  # they lead to the same server, which is a standby by now

    # -- a batch

    async def _handle(self, batch: Batch) -> None:
        async with self._connected() as (connection, namespace):
            if not await self._store.store(connection, namespace, batch):
                self._forget()
                raise TransientError(f"{self._target}: others change the tables all the time")
            if self._expiry.is_due:
                try:
                    await self._expiry.sweep(connection, namespace, self._store.written)
                except Exception as exc:  # noqa: BLE001 - the batch is stored, and there will be another sweep
                    await self._cleared(connection, exc)


async def _nothing(_: asyncpg.Connection) -> None:
    pass
