"""A recorder behind a web server, until a signal comes: what commands that serve one have in common.

known_tokens, bound_sockets     what is checked, and taken, before anything opens
serve_until_signal              the recorder around the web server: it opens first, and closes last; at the end no more
                                requests, those that are on have half of the close timeout, delivery what is left of it
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.durations import duration_seconds
from eventrec.errors import LogError
from eventrec.mirroring.addresses import Address
from eventrec.recorder import subscriptions_of
from eventrec.registry import handler_from_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from starlette.applications import Starlette

    from eventrec.cli.terminal import Terminal
    from eventrec.server import Tokens
    from eventrec.server.serving import Server
    from eventrec.server.web_server import WebServer
    from eventrec.status import Status

_BACKLOG: Final = 2_048


def known_tokens(path: Path | None, option: str, address: Address) -> Tokens | None:
    """Those that count; None: this machine alone is answered.

    Raises:
        CommandError: There are none, and others reach the address.
        TokenFileError: The file cannot be used.
    """
    from eventrec.server import Tokens  # noqa: PLC0415 - see `needing_server`

    if path is None:
        if not address.is_loopback:
            raise CommandError(
                f"{option} {address}: other machines reach this address: give --tokens FILE (see eventrec token new)",
                ExitCode.USAGE,
            )
        return None
    tokens = Tokens(path)
    if not len(tokens):
        raise CommandError(f"{path} has no tokens: make one with eventrec token new", ExitCode.FILE)
    return tokens


def readable(urls: Sequence[str]) -> str | None:
    """The first destination that tells what it has stored; None: none does."""
    return next((url for url in urls if handler_from_url(url).reader() is not None), None)


def bound_sockets(option: str, address: Address) -> list[socket.socket]:
    """Sockets that are bound to `address`: one for each number that its host has, with one port.

    Raises:
        CommandError: It cannot be listened on.
    """
    bound: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            given = (where[0], port, *where[2:]) if bound else where
            each = socket.create_server(given, family=family, backlog=_BACKLOG)
            bound.append(each)
            port = each.getsockname()[1]
    except (OSError, OverflowError, UnicodeError) as exc:
        for each in bound:
            each.close()
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise CommandError(f"{option} {address}: {why}", ExitCode.FILE) from exc
    return bound


async def serve_until_signal(
    app: Starlette, sockets: Sequence[socket.socket], address: Address, terminal: Terminal
) -> Status:
    """Until a signal comes, and then for as long as closing may take; the account.

    Raises:
        CommandError: The log directory refuses the recorder's own, empty log.
    """
    from eventrec.server.web_server import WebServer  # noqa: PLC0415 - see `needing_server`

    server: Server = app.state.server
    recorder = server.recorder
    seconds = duration_seconds(subscriptions_of(recorder).options.close_timeout)

    def say() -> None:
        where = Address(address.host, sockets[0].getsockname()[1])
        alone = "" if server.access.has_tokens else ", for this machine alone: there are no tokens"
        terminal.say(f"eventrec: listening on http://{where}{alone}")

    web = WebServer(
        app,
        sockets,
        server.options,
        grace=seconds / 2,
        on_started=say,
        on_ending=server.end,
        count=server.measures.count_cut_off,
    )
    ending = _Ending(web, terminal)
    try:
        await recorder.open()
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ending.watch)
            await web.run()
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            spent = 0.0 if ending.since is None else anyio.current_time() - ending.since
            status = await recorder.close(max(0.0, seconds - spent))
    return status


class _Ending:
    """What signals do: the first one ends, the second one ends at once.

    Attributes:
        since: When the first one came, by the loop's clock.
    """

    def __init__(self, web: WebServer, terminal: Terminal) -> None:
        self.since: float | None = None
        self._web = web
        self._terminal = terminal

    async def watch(self) -> None:
        """Until cancelled."""
        if sys.platform == "win32":
            return  # It has no such receiver: there Ctrl-C cancels everything at once.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if self.since is not None:
                    self._web.cut()
                    continue
                self.since = anyio.current_time()
                self._terminal.say("eventrec: ending: requests that are on are answered", style="yellow")
                self._web.end()


@contextmanager
def uvicorn_silent() -> Iterator[None]:
    """Its own lines say what ours say already, and one of them any client that sends nonsense can cause."""
    logger, handler = logging.getLogger("uvicorn"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        with suppress(ValueError):
            logger.removeHandler(handler)
