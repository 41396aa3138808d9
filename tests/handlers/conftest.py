"""Real batches, from real events, for whatever handler is tested."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from eventrec import Batch, Event, ReceivedEvent
from eventrec.events.encoder import Encoder
from eventrec.testing.conformance.log import Sample
from eventrec_handlers.sqlite import SqliteHandler

LOG = UUID("01990000-0000-7000-8000-000000000001")


def batch_of(
    *events: Event | ReceivedEvent,
    start: int = 0,
    log_id: UUID = LOG,
    subscription: str = "tested",
    context: bytes | None = None,
) -> Batch:
    """The batch that a worker would make of `events`, recorded one after the other from offset `start` on."""
    encode = Encoder(context=lambda: context).encode
    entries = [entry for event in events if not isinstance(entry := encode(event), str)]
    assert len(entries) == len(events)
    return Batch(
        log_id=log_id,
        subscription=subscription,
        start=start,
        end=start + len(entries),
        offsets=range(start, start + len(entries)),
        entries=entries,
    )


@pytest.fixture(name="event")
def _event() -> Callable[..., Event]:
    """An event that says whatever a test wants it to."""
    return partial(Sample, kind="happening")


@pytest.fixture(name="batch")
def _batch() -> Callable[..., Batch]:
    return batch_of


@pytest.fixture
def log_id() -> UUID:
    return LOG


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is, or will be."""
    return tmp_path / "events.db"


@pytest.fixture
async def handler(path: Path) -> AsyncIterator[SqliteHandler]:
    """A handler for `path`, open, whose checkpoint for the log of `batch` stands at 0."""
    handler = SqliteHandler(path, busy_timeout=0.2)
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    yield handler
    await handler.close()


class Posted(NamedTuple):
    """A request that an `Endpoint` was sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Endpoint:
    """A real HTTP server on a free port of 127.0.0.1, in threads; `answer` gives status, headers and body."""

    def __init__(self, answer: Callable[[Posted], tuple[int, Mapping[str, str], bytes]]) -> None:
        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, more, content = answer(Posted(self.path, headers, body))
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that is gone

        self._server = Server(("127.0.0.1", 0), Answers)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint_of() -> Iterator[Callable[..., Endpoint]]:
    """Makes an `Endpoint`; all are ended after the test."""
    made: list[Endpoint] = []

    def make(answer: Callable[[Posted], tuple[int, Mapping[str, str], bytes]]) -> Endpoint:
        made.append(Endpoint(answer))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()
