"""A handler as a relay uses it: timed, and called only while the lease is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.handler import EventHandler
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.handler import DestinationCheckpoints
    from eventrec.records.batch import Batch
    from eventrec.relay.phases import Phases

_logger = get_logger("eventrec.relay")


class WatchedHandler(EventHandler):
    """Stands for `handler`. `certain` returns while a batch may be sent; `on_handled` is told of each that was."""

    def __init__(
        self,
        handler: EventHandler,
        phases: Phases,
        *,
        certain: Callable[[], Awaitable[None]],
        on_handled: Callable[[Batch], object],
    ) -> None:
        self._handler = handler
        self._phases = phases
        self._certain = certain
        self._on_handled = on_handled

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        return self._handler.checkpoints

    async def open(self) -> None:
        await self._handler.open()

    async def prepare(self, batch: Batch) -> None:
        await self._handler.prepare(batch)

    async def handle(self, batch: Batch) -> None:
        await self._certain()
        with self._phases.timing("insert"):
            await self._handler.handle(batch)
        try:
            self._on_handled(batch)
        except Exception as exc:  # noqa: BLE001 - it is delivered all the same
            _logger.warning("batch not told of", error=described(exc))

    async def close(self) -> None:
        await self._handler.close()
