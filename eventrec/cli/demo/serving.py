"""`eventrec demo --serve`: the shop stays open, and a page shows what becomes of its events, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import anyio

from eventrec.cli.demo.rollups import catalogue
from eventrec.cli.demo.shop import shop_events
from eventrec.cli.demo.stream import DATABASE, LOG
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.termination import Interruption
from eventrec.recorder import EventRecorder

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.cli.terminal import Terminal

EVENTS_A_SECOND: Final = 20
"""What visitors of the shop do while it is looked at."""

_GRACE: Final = 1.0
"""Seconds that requests have to be answered once it ends."""


def check_server() -> None:
    """Return where there is what it takes to serve.

    Raises:
        CommandError: It is not installed.
    """
    if any(find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise CommandError("--serve needs the extra server: pip install 'eventrec[server]'", ExitCode.USAGE)


async def serve(directory: Path, start: int, terminal: Terminal) -> None:
    """Serve the page of the demo in `directory`, on this machine alone, and record the shop's events from `start` on.

    It returns after Ctrl-C or SIGTERM; what was recorded is stored then.
    """
    from eventrec.server import ServerOptions, application  # noqa: PLC0415 - an extra brings what it takes
    from eventrec.server.web_server import WebServer  # noqa: PLC0415 - likewise

    url = f"sqlite:///{quote(os.fsencode(directory / DATABASE))}"
    recorder = EventRecorder(url, log=directory / LOG, environment={})
    app = application(recorder, to=url, catalogue=catalogue, log=directory / LOG)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def tell() -> None:
        terminal.say(f"the shop stays open: http://127.0.0.1:{port}/ shows it, Ctrl-C closes it")

    web = WebServer(app, [listening], ServerOptions(access_log=False), grace=_GRACE, on_started=tell)
    interruption = Interruption(terminal, "what was recorded is stored")
    is_over = anyio.Event()

    async def run() -> None:
        await web.run()
        is_over.set()

    async with recorder, anyio.create_task_group() as tasks:
        tasks.start_soon(_go_on, recorder, start)
        tasks.start_soon(run)
        with anyio.CancelScope() as scope:
            tasks.start_soon(interruption.watch, scope)
            await is_over.wait()
        web.end()
        await is_over.wait()
        tasks.cancel_scope.cancel()


async def _go_on(recorder: EventRecorder, start: int) -> None:
    """Record what happens in the shop after its first `start` events, for ever."""
    for event in islice(shop_events(sys.maxsize), start, None):
        recorder.record(event)
        await anyio.sleep(1 / EVENTS_A_SECOND)
