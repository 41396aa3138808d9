"""Connections to the server: a pool, where our tables are, and what to do with a connection after an error."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg
from anyio import CancelScope

from eventrec import DeliveryError, PauseError
from eventrec_handlers.postgres import checkpoints as checkpoint_rows
from eventrec_handlers.postgres.errors import (
    READ_ONLY,
    brief,
    consume_errors,
    errors_translated,
    is_stale,
    raise_refused_connection,
    state,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.options import Options
    from eventrec_handlers.postgres.target import Target

READ_ONLY_TIMES: Final = 3
"""How often in a row a server may say that it is read-only, each time on a new connection, before it is believed."""

CLOSING: Final = 2.0
"""Seconds that a server may take to say goodbye."""


async def end_query(connection: asyncpg.Connection) -> None:
    """Disconnect in the middle of a query, and have the server end it: by itself it would work on it to its end."""
    try:
        with CancelScope(shield=True), suppress(Exception):
            await connection.close(timeout=CLOSING)
    finally:
        connection.terminate()


class Connections:
    """Connections to `target`, on one asyncio loop. `on_doubt` is called when tables may be others than before.

    `on_found` is called when it is known where our tables are, again after each doubt.
    """

    def __init__(
        self,
        target: Target,
        options: Options,
        *,
        on_doubt: Callable[[], None],
        on_found: Callable[[asyncpg.Connection, Namespace], Awaitable[None]],
    ) -> None:
        self._target = target
        self._options = options
        self._on_doubt = on_doubt
        self._on_found = on_found
        self._pool: asyncpg.Pool | None = None
        self._times_read_only = 0
        self._namespace: Namespace | None = None

    def __repr__(self) -> str:
        return f"<Connections '{self._target}' {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and not `close` since."""
        return self._pool is not None

    async def open(self) -> None:
        """Connect, and make our own two tables. May be called again.

        Raises:
            PauseError: The target cannot be used as it is.
            Exception: Whatever the driver raises.
        """
        if self._pool is None:
            if (attributes := self._target.reads_only) is not None:
                raise PauseError(f"{self._target}: with target_session_attrs={attributes} nothing can be stored")
            # No connection is made before it is needed, and none is reset: nothing that we do outlives a transaction.
            self._pool = asyncpg.create_pool(
                **self._target.arguments(),
                min_size=0,
                max_size=self._options.pool_size,
                statement_cache_size=0,
                timeout=self._options.connect_timeout,
                init=self._target.watch,
                reset=_nothing,
            )
            await self._pool
        async with self.connected():
            pass

    async def close(self) -> None:
        """Disconnect; what does not answer is cut off. May be called again."""
        pool, self._pool = self._pool, None
        self.forget()
        if pool is not None:
            try:
                with suppress(Exception):
                    async with asyncio.timeout(CLOSING):
                        await pool.close()
            finally:
                pool.terminate()
                await asyncio.sleep(0)

    def forget(self) -> None:
        """What is known of the tables may not be true any more."""
        self._namespace = None
        self._on_doubt()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncpg.Connection, Namespace]]:
        """A connection, and where our tables are. An exception rolls back; one that leaves doubts, disconnects."""
        pool = self._pool
        if pool is None:
            raise RuntimeError(f"{self!r} is not open")
        try:
            connection = await pool.acquire()
        except Exception as exc:
            self.forget()
            raise_refused_connection(exc, str(self._target))
            if isinstance(exc, OSError):
                self._target.check_files()  # the driver reads them for each connection
            raise
        try:
            if self._namespace is None:
                with errors_translated(str(self._target), makes_tables=True):
                    self._namespace = await checkpoint_rows.find_namespace(
                        connection,
                        self._options.namespace,
                        lock_timeout=max(1, round(self._options.lock_timeout * 1_000)),
                        may_make=self._options.may_make,
                    )
                    try:
                        await self._on_found(connection, self._namespace)
                    except BaseException:
                        self._namespace = None
                        raise
            yield connection, self._namespace
        except BaseException as exc:
            await self.clear(connection, exc)
            if state(exc) == READ_ONLY:
                self._times_read_only += 1
                if self._times_read_only >= READ_ONLY_TIMES:
                    raise PauseError(f"{self._target}: nothing can be stored there: {brief(exc)}") from exc
            raise
        finally:
            await pool.release(connection)

    def note_stored(self) -> None:
        """Something was stored: the server is not one that may only be read."""
        self._times_read_only = 0

    async def clear(self, connection: asyncpg.Connection, exc: BaseException) -> None:
        """Undo what `exc` has interrupted: roll back where the server is well, else disconnect."""
        cause = exc.__cause__ if isinstance(exc, DeliveryError) and exc.__cause__ is not None else exc
        if is_stale(cause):
            self.forget()
        is_read_only = state(cause) == READ_ONLY
        if isinstance(cause, (asyncpg.PostgresError, DeliveryError)) and not is_read_only:
            with suppress(Exception):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                if not connection.is_closed():
                    return
        self.forget()
        consume_errors(connection)
        with suppress(asyncpg.InterfaceError):  # the driver has taken it back: the server ended it
            connection.terminate()
        if is_read_only and self._pool is not None:
            await self._pool.expire_connections()  # they lead to the same server, which is a standby by now


async def _nothing(_: asyncpg.Connection) -> None:
    pass
