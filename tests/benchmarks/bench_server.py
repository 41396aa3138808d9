"""`POST /events/batch` beside the same events recorded in a process: into a log, and from there into SQLite.

    python tests/benchmarks/bench_server.py [ROUNDS [EVENTS]]

One client sends batches of 1,000 over one connection, and sends the next one when it is answered 200; the other way
awaits `record_all_durable(batch, until="written")` for each. Both have a process of their own, with a log and SQLite.
Each round measures every way once: events per second until the last batch is written, and until the last row is there,
and the ratio to the process inside a round. What it must come to: 30,000 a second on two cores, or 0.5 ×.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

BATCH = 1_000

SERVER = """
import gc, socket, sys
import anyio
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.server import ServerOptions, application
from eventrec.server.web_server import WebServer

async def main():
    recorder = EventRecorder(sys.argv[1], log=sys.argv[2])
    options = ServerOptions(access_log=False)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    started = lambda: print(port, flush=True)
    web = WebServer(application(recorder, options=options), [listening], options, grace=1.0, on_started=started)
    gc.freeze()
    await web.run()

anyio.run(main)
"""

PROCESS = """
import json, sys, time
import anyio
from eventrec import EventRecorder, EventStruct

class ApiRequest(EventStruct):
    service: str
    endpoint: str
    method: str
    status_code: int
    duration_ms: int
    user_id: str

async def main(url, log, count, size):
    def batch(first):
        return [
            ApiRequest("gateway", "/v1/orders", "GET", 200, n % 500, f"6f9619ff-8b86-8011-b42d-{n:012x}")
            for n in range(first, first + size)
        ]
    async with EventRecorder(url, log=log) as recorder:
        await recorder.record_all_durable(batch(0), until="written")
        await recorder.flush()
        began = time.perf_counter()
        for first in range(0, count, size):
            await recorder.record_all_durable(batch(first), until="written")
        written = time.perf_counter() - began
        assert await recorder.flush() is True
        print(json.dumps([written, time.perf_counter() - began]))

anyio.run(main, *sys.argv[1:3], *map(int, sys.argv[3:]))
"""


class Cost(NamedTuple):
    """Seconds until all is written, and until all is delivered."""

    written: float
    delivered: float


def event(n: int) -> dict[str, Any]:
    """As the platform's client sends it."""
    return {
        "type": "api_request",
        "service": "gateway",
        "endpoint": "/v1/orders",
        "method": "GET",
        "status_code": 200,
        "duration_ms": n % 500,
        "user_id": f"6f9619ff-8b86-8011-b42d-{n:012x}",
    }


def envelope(n: int) -> dict[str, Any]:
    """Around it."""
    return {
        "timestamp": f"2026-01-31T10:{n // 60_000 % 60:02}:{n // 1_000 % 60:02}.{n % 1_000:03}456Z",
        "event": event(n),
        "hostname": "web-1",
        "environment": "production",
        "id": str(UUID(int=n)),
    }


def cloud_event(n: int) -> dict[str, Any]:
    """As the handler `http` sends it."""
    return {
        "specversion": "1.0",
        "id": str(UUID(int=n)),
        "source": "gateway",
        "type": "api_request",
        "time": f"2026-01-31T10:{n // 60_000 % 60:02}:{n // 1_000 % 60:02}.{n % 1_000:03}456789Z",
        "datacontenttype": "application/json",
        "table": "events",
        "context": '{"service":"gateway"}',
        "data": event(n),
    }


def bodies(make: Callable[[int], dict[str, Any]], count: int, content_type: str) -> list[bytes]:
    """Whole requests."""
    requests = []
    for first in range(0, count, BATCH):
        body = json.dumps([make(n) for n in range(first, first + BATCH)], separators=(",", ":")).encode()
        head = f"POST /events/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


def asked(connection: socket.socket, request: bytes) -> None:
    """Send it, and check that all of it was taken."""
    connection.sendall(request)
    answer = b""
    while b"}" not in answer:
        piece = connection.recv(65_536)
        assert piece, answer
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert answer.endswith(b'{"received":%d}' % BATCH), answer


def delivered(connection: socket.socket) -> int:
    """How many rows there are, by the server's own account."""
    connection.sendall(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    (subscription,) = json.loads(body)["status"]["subscriptions"].values()
    return int(subscription["delivered"])


def by_server(directory: Path, requests: Sequence[bytes]) -> Cost:
    """One client, one connection."""
    command = [sys.executable, "-c", SERVER, f"sqlite:///{directory}/events.db", str(directory / "log")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with closing(socket.create_connection(("127.0.0.1", port))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked(connection, requests[0])
            while delivered(connection) < BATCH:
                time.sleep(0.01)
            began = time.perf_counter()
            for request in requests:
                asked(connection, request)
            written = time.perf_counter() - began
            while delivered(connection) < BATCH * (len(requests) + 1):
                time.sleep(0.01)
            return Cost(written, time.perf_counter() - began)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()


def in_process(directory: Path, count: int) -> Cost:
    """The application records itself."""
    arguments = [f"sqlite:///{directory}/events.db", str(directory / "log"), str(count), str(BATCH)]
    done = subprocess.run([sys.executable, "-c", PROCESS, *arguments], check=True, capture_output=True, text=True)
    return Cost(*json.loads(done.stdout))


def main(rounds: int = 5, count: int = 100_000) -> None:
    """Measure, and print."""
    ways: dict[str, Callable[[Path], Cost]] = {"in process": lambda directory: in_process(directory, count)}
    for name, make, content_type in (
        ("server, envelopes", envelope, "application/json"),
        ("server, plain objects", event, "application/json"),
        ("server, CloudEvents", cloud_event, "application/cloudevents-batch+json"),
    ):
        requests = bodies(make, count, content_type)
        ways[name] = lambda directory, requests=requests: by_server(directory, requests)  # type: ignore[misc]
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            with tempfile.TemporaryDirectory() as directory:
                costs[name].append(measure(Path(directory)))
    print(f"{count:,} events in batches of {BATCH:,}, {rounds} rounds, {os.cpu_count()} cores")
    for name, found in costs.items():
        line = f"{name:24}"
        for what in ("written", "delivered"):
            rates = sorted(count / getattr(cost, what) for cost in found)
            base = [getattr(cost, what) for cost in costs["in process"]]
            ratio = statistics.median(one / getattr(other, what) for one, other in zip(base, found, strict=True))
            line += f"  {what} {statistics.median(rates):>8,.0f}/s ({rates[0]:,.0f} to {rates[-1]:,.0f}) {ratio:.2f} ×"
        print(line)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
