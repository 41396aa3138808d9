"""What `record()` costs, beside the barest thing that does the same and today's clients, in one run.

    python tests/benchmarks/bench_record.py [ROUNDS]

Every round runs every way once, in turn; the ratio is taken within the round. A client that is not installed is left
out and named. One event: 6 fields, about 230 bytes of JSON, a dict that is ready.
"""

from __future__ import annotations

import gc
import logging
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, ClassVar

import msgspec

from eventrec import (
    Column,
    Event,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Hashed,
    Sampling,
    Truncated,
)

EVENTS = 1_000_000
PEER_EVENTS = 4_000
PAYLOAD: dict[str, object] = {
    "order_id": "ord_000000000000002a",
    "amount": 25.54,
    "currency": "EUR",
    "items": 4,
    "url": "/shop/checkout/step/3?utm_source=newsletter&utm_campaign=winter",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Firefox/131.0",
}

COLUMNS: dict[str, object] = {"user_id": "0b0d0a3c-54f7-4b2e-9a1e-4fd8d3f3c1a2", "service": "shop"}


class Checkout(Event):
    """A ready dict as payload."""

    @property
    def payload(self) -> object:
        return PAYLOAD


class CheckoutStruct(EventStruct, frozen=True):
    type: ClassVar[str] = "checkout"
    order_id: str
    amount: float
    currency: str
    items: int
    url: str
    user_agent: str


class CheckoutModel(EventModel, type="checkout"):
    order_id: str
    amount: float
    currency: str
    items: int
    url: str
    user_agent: str


class CheckoutOfUser(CheckoutStruct, frozen=True):
    """Two columns beside the payload."""

    user_id: Annotated[str, Column()]
    service: Annotated[str, Column()]


class CheckoutModelOfUser(CheckoutModel, type="checkout"):
    user_id: Annotated[str, Column()]
    service: Annotated[str, Column()]


class CheckoutMarked(EventModel, type="checkout"):
    """Two fields with a marker."""

    order_id: Annotated[str, Hashed()]
    amount: float
    currency: str
    items: int
    url: str
    user_agent: Annotated[str, Truncated(20)]


class CheckoutMarkedStruct(EventStruct, frozen=True):
    type: ClassVar[str] = "checkout"
    order_id: Annotated[str, Hashed()]
    amount: float
    currency: str
    items: int
    url: str
    user_agent: Annotated[str, Truncated(20)]


def timed(work: Callable[[], None], events: int) -> float:
    """Microseconds per event."""
    gc.collect()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / events * 1e6


def barest() -> float:
    queue: deque[bytes] = deque()
    append, encode = queue.append, msgspec.json.Encoder().encode

    def work() -> None:
        for _ in range(EVENTS):
            append(encode(PAYLOAD))

    return timed(work, EVENTS)


def recorder_of_all(**rules: Any) -> EventRecorder:
    return EventRecorder(
        options=EventRecorderOptions(
            queue_events=2 * EVENTS, queue_bytes=2_000 * EVENTS, hash_salt="a salt of this benchmark", **rules
        )
    )


def record(event: object, events: int = EVENTS, *, taken: bool = True, **rules: Any) -> Callable[[], float]:
    """`rules` are options of privacy; with some of them none is `taken`."""

    def way() -> float:
        recorder = recorder_of_all(**rules)

        def work() -> None:
            for _ in range(events):
                recorder.record(event)  # type: ignore[arg-type]

        cost = timed(work, events)
        assert recorder.status().in_intake == (events if taken else 0)
        return cost

    return way


def switched_off() -> float:
    recorder, event = EventRecorder(options=EventRecorderOptions(enabled=False)), Checkout()

    def work() -> None:
        for _ in range(EVENTS):
            recorder.record(event)

    cost = timed(work, EVENTS)
    assert recorder.status().refused == {"disabled": EVENTS}
    return cost


def four_threads() -> float:
    recorder, event = recorder_of_all(), Checkout()

    def produce() -> None:
        for _ in range(EVENTS // 4):
            recorder.record(event)

    def work() -> None:
        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    cost = timed(work, EVENTS)
    assert recorder.status().in_intake == EVENTS
    return cost


def model_to_json() -> float:
    model = CheckoutModel.model_validate(PAYLOAD)
    to_json = CheckoutModel.__pydantic_serializer__.to_json

    def work() -> None:
        for _ in range(EVENTS // 4):
            to_json(model)

    return timed(work, EVENTS // 4)


def opentelemetry() -> float:
    api, logs, export = (
        import_module("opentelemetry._logs"),
        import_module("opentelemetry.sdk._logs"),
        import_module("opentelemetry.sdk._logs.export"),
    )

    class Nowhere(export.LogRecordExporter):  # type: ignore[misc, name-defined]
        def export(self, batch: object) -> object:
            return export.LogRecordExportResult.SUCCESS

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    provider = logs.LoggerProvider()
    provider.add_log_record_processor(export.BatchLogRecordProcessor(Nowhere()))
    logger = provider.get_logger("bench")

    def work() -> None:
        for _ in range(PEER_EVENTS):
            logger.emit(
                api.LogRecord(timestamp=time.time_ns(), event_name="checkout", body="checkout", attributes=PAYLOAD)
            )

    cost = timed(work, PEER_EVENTS)
    provider.shutdown()
    return cost


@contextmanager
def collector() -> Iterator[str]:
    """An HTTP server in a process of its own that takes whatever it is sent; its URL."""
    with subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Taking(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
print(server.server_port, flush=True)
server.serve_forever()
"""


def segment() -> float:
    client_class = import_module("segment.analytics.client").Client
    with collector() as url:
        client = client_class("key", host=url, max_queue_size=2 * PEER_EVENTS, gzip=False)
        cost = _tracked(client)
        client.join()
    return cost


def _tracked(client: Any) -> float:

    def work() -> None:
        for _ in range(PEER_EVENTS):
            client.track("user", "checkout", PAYLOAD)

    return timed(work, PEER_EVENTS)


def posthog() -> float:
    client_class = import_module("posthog").Posthog
    with collector() as url:
        client = client_class("phc_key", host=url, max_queue_size=2 * PEER_EVENTS)

        def work() -> None:
            for _ in range(PEER_EVENTS):
                client.capture("checkout", distinct_id="user", properties=PAYLOAD)

        cost = timed(work, PEER_EVENTS)
        client.join()
    return cost


BASE = "deque.append + msgspec.json"
WAYS: dict[str, Callable[[], float]] = {
    BASE: barest,
    "record() of a ready dict": record(Checkout()),
    "the same from 4 threads": four_threads,
    "record() of an EventStruct": record(CheckoutStruct(**PAYLOAD)),  # type: ignore[arg-type]
    "record() of an EventModel": record(CheckoutModel.model_validate(PAYLOAD)),
    "that model's own to_json": model_to_json,
    "an EventStruct with two columns": record(CheckoutOfUser(**PAYLOAD, **COLUMNS)),  # type: ignore[arg-type]
    "an EventModel with two columns": record(CheckoutModelOfUser.model_validate({**PAYLOAD, **COLUMNS})),
    "record() that is switched off": switched_off,
    "with rules: a marked EventModel": record(CheckoutMarked.model_validate(PAYLOAD), EVENTS // 4),
    "a marked EventStruct": record(CheckoutMarkedStruct(**PAYLOAD), EVENTS // 4),  # type: ignore[arg-type]
    "a ready dict, redacted": record(Checkout(), EVENTS // 20, redact=True),
    "an allowlist of its keys": record(Checkout(), EVENTS // 20, policy="allowlist", plain_keys=frozenset(PAYLOAD)),
    "sampled by a key, all taken": record(
        Checkout(), EVENTS // 4, sample={"checkout": Sampling(rate=1.0, key="order_id")}
    ),
    "sampled by a key, none taken": record(
        Checkout(), EVENTS // 4, taken=False, sample={"checkout": Sampling(rate=0.0, key="order_id")}
    ),
    "limited to a rate, all taken": record(Checkout(), EVENTS // 4, rate_limits={"checkout": "1000000/s"}),
    "limited to a rate, none taken": record(Checkout(), EVENTS // 4, taken=False, rate_limits={"checkout": "0/s"}),
    "OpenTelemetry emit": opentelemetry,
    "segment track": segment,
    "posthog capture": posthog,
}


def main(rounds: int) -> None:
    """Print the median cost of each way, and its ratio to the base and to record()."""
    logging.getLogger("eventrec").setLevel(logging.CRITICAL)  # recorders that go with what they took say so
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name, way in reversed(WAYS.items()) if number % 2 else WAYS.items():
            try:
                costs[name].append(way())
            except ImportError as exc:
                print(f"left out: {name}: {exc}") if number == 0 else None
    ours = "record() of a ready dict"
    print(f"{'way':32} {'us/event':>9} {'x base':>8} {'x record()':>11}   medians of {rounds} rounds")
    for name, values in costs.items():
        if len(values) == rounds:
            to_base = statistics.median(a / b for a, b in zip(values, costs[BASE], strict=True))
            to_ours = statistics.median(a / b for a, b in zip(values, costs[ours], strict=True))
            print(f"{name:32} {statistics.median(values):9.3f} {to_base:8.2f} {to_ours:11.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
