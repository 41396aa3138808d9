"""Calls of the client, which knows asyncio alone: under trio too, and failures as what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from eventrec import PauseError
from eventrec_handlers._thread import Portal, is_trio
from eventrec_handlers.clickhouse.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.nodes import Nodes

T = TypeVar("T")


class Calls:
    """Runs coroutines on asyncio, whatever the caller runs on."""

    def __init__(self) -> None:
        self._portal: Portal | None = None

    def start(self) -> None:
        """Get ready; on trio, with a thread. May be called again."""
        if self._portal is None and is_trio():
            self._portal = Portal("eventrec-clickhouse")

    async def run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        """What `job` gives.

        Raises:
            RuntimeError: It was not started.
            DeliveryError: What a failure of a node means.
        """
        if not self.can_run:
            raise RuntimeError("closed: the connection to ClickHouse is not open")

        async def translated() -> T:
            try:
                return await job()
            except Failure as exc:
                raise exc.as_delivery_error() from exc

        return await (translated() if self._portal is None else self._portal.run(translated))

    async def ask(self, nodes: Nodes, job: Callable[[Node], Awaitable[T]]) -> T:
        """What `job` gives of one of `nodes`, where no record is at fault for what fails.

        Raises:
            RuntimeError: It was not started.
            TransientError: It may pass by itself.
            PauseError: It does not: an operator must act. So it is where the server fails for what is stored.
        """

        async def asked() -> T:
            try:
                return await nodes.call(job)
            except Failure as exc:
                if exc.kind in {"data", "unknown"}:
                    raise PauseError(str(exc)) from exc
                raise

        return await self.run(asked)

    @property
    def can_run(self) -> bool:
        """Whether it was started, where that is needed."""
        return self._portal is not None or not is_trio()

    async def stop(self) -> None:
        """End the thread, if there is one. May be called again."""
        portal, self._portal = self._portal, None
        if portal is not None:
            await portal.close()
