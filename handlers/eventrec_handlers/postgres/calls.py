"""Calls of the driver, which knows asyncio alone: bounded in time, under trio too, and errors as what they mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from eventrec_handlers._thread import Portal, is_trio
from eventrec_handlers.postgres.errors import errors_translated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Calls:
    """Runs coroutines on asyncio, whatever the caller runs on, each for at most `timeout` seconds.

    What the driver raises comes out as what it means; `where` is how errors call the database.
    """

    def __init__(self, where: str, *, timeout: float) -> None:
        self._where = where
        self._timeout = timeout
        self._portal: Portal | None = None

    def start(self) -> None:
        """Get ready; on trio, with a thread. May be called again."""
        if self._portal is None and is_trio():
            self._portal = Portal("eventrec-postgres")

    async def run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        """What `job` gives.

        Raises:
            RuntimeError: It was not started.
            DeliveryError: What an error of the driver means.
        """
        if self._portal is None and is_trio():
            raise RuntimeError(f"closed: the connection to {self._where} is not open")

        async def bounded() -> T:
            with errors_translated(self._where):
                async with asyncio.timeout(self._timeout):
                    return await job()

        return await (bounded() if self._portal is None else self._portal.run(bounded))

    async def stop(self) -> None:
        """End the thread, if there is one. May be called again."""
        portal, self._portal = self._portal, None
        if portal is not None:
            await portal.close()
