"""A burst in a process of its own: `burst.py CLIENT EVENTS [SECONDS]`. Prints what was kept as JSON.

Exit code 3: the client is not installed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

from eventrec import Batch, EventHandler, EventRecorder, TransientError
from eventrec.testing.scripted import Numbered

PAYLOAD = {"order_id": "ord_000000000000002a", "amount": 25.54, "currency": "EUR", "text": "x" * 160}
PER_SECOND = 5_000
SETTLING = 10.0
"""Seconds that a client has to send what it kept."""


class Down(EventHandler):
    """A destination out of reach."""

    async def handle(self, batch: Batch) -> None:
        """Raise."""
        raise TransientError("down")


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20


async def eventrec(events: int, seconds: float) -> dict[str, Any]:
    """Ours, with a log: kept is what the account says is in it."""
    with tempfile.TemporaryDirectory() as directory:
        recorder = EventRecorder(Down(), log=Path(directory) / "log")
        await recorder.open()
        await anyio.sleep(0.3)
        idle, memory = resident(), []
        recorder.record_many(Numbered(number) for number in range(events))
        start, offered = time.perf_counter(), 0
        peak = resident() - idle
        while (passed := time.perf_counter() - start) < seconds:
            due = int(passed * PER_SECOND)
            recorder.record_many(Numbered(number) for number in range(offered, due))
            offered = due
            memory.append((round(passed, 2), resident() - idle))
            await anyio.sleep(0.05)
        while recorder.status().in_intake:
            peak = max(peak, resident() - idle)
            await anyio.sleep(0.05)
        status = recorder.status()
        await recorder.close(0)
    most = max([peak, *(mib for _, mib in memory)])
    return {"kept": status.appended - offered, "refused": status.refused, "memory": memory, "most": most}


class Counting(BaseHTTPRequestHandler):
    """A collector that takes batches and counts their events."""

    count = 0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take whatever it is."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).count += len(body.get("batch", ()))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def collected(send: Callable[[str], Callable[[], object]], events: int) -> int:
    """How many of `events` a collector got that takes everything at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    end = send(f"http://127.0.0.1:{server.server_port}")
    deadline = time.monotonic() + SETTLING
    before = -1
    while time.monotonic() < deadline and Counting.count < events and before != Counting.count:
        before = Counting.count
        time.sleep(1.5)
    del end
    server.shutdown()
    return Counting.count


def segment(events: int) -> int:
    """Its defaults."""
    client_class = import_module("segment.analytics.client").Client

    def send(url: str) -> Callable[[], object]:
        client = client_class("key", host=url, gzip=False)
        for _ in range(events):
            client.track("user", "checkout", PAYLOAD)
        return client.join  # type: ignore[no-any-return]

    return collected(send, events)


def posthog(events: int) -> int:
    """Its defaults."""
    client_class = import_module("posthog").Posthog

    def send(url: str) -> Callable[[], object]:
        client = client_class("phc_key", host=url)
        for _ in range(events):
            client.capture("checkout", distinct_id="user", properties=PAYLOAD)
        return client.join  # type: ignore[no-any-return]

    return collected(send, events)


def opentelemetry(events: int) -> int:
    """Its batch processor with its defaults, and an exporter that takes everything."""
    api, logs, export = (
        import_module("opentelemetry._logs"),
        import_module("opentelemetry.sdk._logs"),
        import_module("opentelemetry.sdk._logs.export"),
    )
    exported = 0

    class Taking(export.LogRecordExporter):  # type: ignore[misc, name-defined]
        def export(self, batch: Any) -> object:
            nonlocal exported
            exported += len(batch)
            return export.LogRecordExportResult.SUCCESS

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    provider = logs.LoggerProvider()
    provider.add_log_record_processor(export.BatchLogRecordProcessor(Taking()))
    logger = provider.get_logger("bench")
    for _ in range(events):
        logger.emit(api.LogRecord(timestamp=time.time_ns(), event_name="checkout", body="checkout", attributes=PAYLOAD))
    provider.shutdown()
    return exported


def main(what: str, events: int, seconds: float) -> None:
    """Measure one client."""
    if what == "eventrec":
        print(json.dumps(anyio.run(eventrec, events, seconds)))
        return
    print(json.dumps({"kept": {"segment": segment, "posthog": posthog, "opentelemetry": opentelemetry}[what](events)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    except ImportError as exc:
        print(exc, file=sys.stderr)
        sys.exit(3)
    sys.stdout.flush()
    os._exit(0)  # What clients do at exit may take minutes.
