"""A server that lives several lives on one port.

It prints its port, and then an answer to each line of stdin. Each life is a fork of this process, which has imported
everything, started nothing, and has one thread: so a life costs what it does, not what Python's start does.

    live PATH     a life begins, with log and database in this directory; answered once it listens
    kill          it is killed
    end           it ends in peace; answered with the account of its recorder, as JSON
    refuse PATH   the next request of this path is answered 503, as by a server that has too much to do
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import sys

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from eventrec import EventRecorder, EventRecorderOptions
from eventrec.server import application
from eventrec.server.web_server import WebServer
from eventrec_handlers.sqlite import from_url  # noqa: F401 - before the fork

PATHS = ("/batch/", "/v1/batch", "/v1/logs")

refusing = mmap.mmap(-1, len(PATHS))
"""For each path, how many requests are to be refused. All lives share it."""


def refusing_at_times(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        at = PATHS.index(scope["path"]) if scope.get("path") in PATHS else None
        if at is None or not refusing[at]:
            await app(scope, receive, send)
            return
        refusing[at] -= 1
        await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"1")]})
        await send({"type": "http.response.body", "body": b""})

    return answer


async def live(listening: socket.socket, directory: str) -> None:
    options = EventRecorderOptions(flush_interval=0.02, write_interval=0.001, segment_bytes=20_000)
    url = f"sqlite:///{directory}/events.db?unique_ids=true"
    recorder = EventRecorder(url, log=f"{directory}/log", options=options)
    app = application(recorder)
    web = WebServer(
        refusing_at_times(app),
        [listening],
        app.state.server.options,
        grace=2.0,
        on_started=lambda: os.write(1, b"lives\n"),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, web.end)
    await web.run()
    status = recorder.status()
    os.write(1, msgspec.json.encode({**status.to_dict(), "is_balanced": status.is_balanced}) + b"\n")


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    os.write(1, b"%d\n" % listening.getsockname()[1])
    life = 0
    for line in sys.stdin:
        match line.split():
            case ["live", directory]:
                life = os.fork()
                if not life:
                    asyncio.run(live(listening, directory))
                    os._exit(0)
            case ["kill"]:
                os.kill(life, signal.SIGKILL)
                os.waitpid(life, 0)
                life = 0
                os.write(1, b"killed\n")
            case ["end"]:
                os.kill(life, signal.SIGTERM)
                os.waitpid(life, 0)
                life = 0
            case ["refuse", path]:
                refusing[PATHS.index(path)] += 1
                os.write(1, b"refuses\n")
            case other:
                raise ValueError(other)
    if life:  # the test was cut off
        os.kill(life, signal.SIGKILL)
        os.waitpid(life, 0)


if __name__ == "__main__":
    main()
