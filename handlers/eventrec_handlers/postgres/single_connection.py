"""One connection to the server, for what asks one thing after another: readers, and what counts rollups."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import asyncpg
from anyio import CancelScope

from eventrec_handlers.postgres.calls import Calls
from eventrec_handlers.postgres.connections import end_query
from eventrec_handlers.postgres.errors import raise_refused_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from eventrec_handlers.postgres.options import Options
    from eventrec_handlers.postgres.target import Target

T = TypeVar("T")


class SingleConnection:
    """A connection to `target`: made by `open`, and again where it was lost. A call takes at most `timeout` seconds.

    `on_connect` is called when it is made. `connected` and `end` are for coroutines that `run` runs, on asyncio.
    """

    def __init__(
        self, target: Target, options: Options, *, timeout: float, on_connect: Callable[[], object] = lambda: None
    ) -> None:
        self._target = target
        self._options = options
        self._calls = Calls(str(target), timeout=timeout)
        self._on_connect = on_connect
        self._connection: asyncpg.Connection | None = None

    def __repr__(self) -> str:
        return f"<SingleConnection '{self._target}' {self.state}>"

    @property
    def state(self) -> str:
        """Whether it is "open" or "closed"."""
        return "closed" if self._connection is None else "open"

    async def open(self) -> None:
        """Connect.

        Raises:
            DeliveryError: What an error of the driver means. Nothing is left open.
        """
        try:
            await self.run(self.connected)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect. May be called again, and `open` after it."""
        with CancelScope(shield=True):
            if self._connection is not None:
                await self._calls.run(self._disconnect)
            await self._calls.stop()

    async def run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        """What `job` gives, run on asyncio whatever the caller runs on. Raises as `Calls.run`."""
        self._calls.start()
        return await self._calls.run(job)

    async def connected(self) -> asyncpg.Connection:
        """The connection, which is made where there is none."""
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await asyncpg.connect(
                    **self._target.arguments(), statement_cache_size=0, timeout=self._options.connect_timeout
                )
            except Exception as exc:
                raise_refused_connection(exc, str(self._target))
                raise
            await self._target.watch(self._connection)
            self._on_connect()
        return self._connection

    async def end(self, connection: asyncpg.Connection) -> None:
        """What `connection` is in the middle of is not known: the next call makes another one."""
        self._connection = None
        await end_query(connection)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
