"""uvicorn as `eventrec serve` runs it: on sockets that are bound already, ended by an event, quiet."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

import uvicorn

from eventrec.server.protocol import protocol_class

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from starlette.types import ASGIApp

    from eventrec.server.options import ServerOptions

_TICK_SECONDS: Final = 1.0
"""So often the header Date is made again."""

_CANCEL_SECONDS: Final = 1.0
"""So long requests that are cancelled may take to notice."""


class WebServer:
    """Serves `app` on `sockets`, which listen already, and closes them. On asyncio.

    `grace` is how many seconds requests have to be answered once it ends; then they are cancelled. `on_started` is
    called once it accepts connections, `on_ending` before it waits for its last answers; `count` is told of what
    `protocol_class` says.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        options: ServerOptions,
        *,
        grace: float,
        on_started: Callable[[], object] = lambda: None,
        on_ending: Callable[[], object] = lambda: None,
        count: Callable[[str], object] = lambda _: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol_class(options, count),
            ws="none",
            loop="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # else a header would say from where a request comes
            server_header=False,
            timeout_graceful_shutdown=cast("int", grace),  # what it is given to takes fractions
        )
        self._sockets = list(sockets)
        self._server = _Quiet(config, on_started, on_ending)

    def end(self) -> None:
        """Take no more requests, and return from `run` once the others are answered. From any thread."""
        self._server.end()

    def cut(self) -> None:
        """Likewise, without waiting for them."""
        self._server.force_exit = True
        self._server.end()

    async def run(self) -> None:
        """Until `end`, and then for `grace` seconds and a moment. Cancelled, it closes what is open."""
        try:
            await self._server.serve(sockets=self._sockets)
        finally:
            for each in self._sockets:
                each.close()


class _Quiet(uvicorn.Server):
    """Leaves signals to who runs it, says when it accepts connections, and wakes once a second instead of ten times."""

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], object], on_ending: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_ending = on_ending
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it is over
                self._loop.call_soon_threadsafe(self._ended.set)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)
        # Those that were not answered in time, or not waited for.
        left = list(self.server_state.tasks)
        for task in left:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.wait([*left, asyncio.ensure_future(asyncio.sleep(0))], timeout=_CANCEL_SECONDS)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _TICK_SECONDS)
