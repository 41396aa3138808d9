"""`eventrec record FILE --to https?://… | otlp://…` beside the OpenTelemetry SDK's batch exporter of the same events.

Each reads a file of 100,000 lines of JSON in a process of its own, and sends them to a local server that counts what
arrives; a run counts only if all did. Prints events per second, and microseconds of CPU per event, of each (median of
interleaved rounds, with the range; what it takes to start and to send nothing is subtracted), and the medians of the
rounds' ratios to the SDK. `python tests/benchmarks/bench_http.py [ROUNDS [LINES]]`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MARK = b"order_id"
"""Is in each event once, and in nothing that is sent around it."""

HEAD = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
GZIP = re.compile(rb"\r\ncontent-encoding: gzip", re.IGNORECASE)


class Cost(NamedTuple):
    """Seconds that passed, and seconds of CPU."""

    wall: float
    cpu: float


class Counter(asyncio.Protocol):
    """Answers each POST with an empty 200, and a GET with how many events the POSTs held."""

    arrived = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        """Count each request that is whole."""
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end])
            size = int(found[1]) if (found := HEAD.search(head)) else 0
            if len(self.received) < end + 4 + size:
                return
            body = bytes(self.received[end + 4 : end + 4 + size])
            del self.received[: end + 4 + size]
            Counter.arrived += (gzip.decompress(body) if GZIP.search(head) else body).count(MARK)
            said = b"%d" % Counter.arrived if head.startswith(b"GET") else b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


async def serve() -> None:
    """Say the port, and serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Counter, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def send_by_sdk(path: str, endpoint: str, compression: str) -> None:
    """What a program does with OpenTelemetry: a queue that holds all, batches of 1,000."""
    from opentelemetry._logs import LogRecord, SeverityNumber  # noqa: PLC0415 - the peer's, in its process alone
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter  # noqa: PLC0415
    from opentelemetry.sdk._logs import LoggerProvider  # noqa: PLC0415
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor  # noqa: PLC0415

    provider = LoggerProvider()
    exporter = OTLPLogExporter(endpoint=f"{endpoint}/v1/logs", compression=Compression(compression))
    provider.add_log_record_processor(
        BatchLogRecordProcessor(exporter, max_queue_size=1_000_000, max_export_batch_size=1_000)
    )
    logger = provider.get_logger("bench")
    with Path(path).open("rb") as lines:
        for line in lines:
            event = json.loads(line)
            kind = event.pop("type")
            logger.emit(
                LogRecord(timestamp=time.time_ns(), body=event, event_name=kind, severity_number=SeverityNumber.INFO)
            )
    provider.force_flush(600_000)
    provider.shutdown()


def timed(*command: str) -> Cost:
    """What a process of its own costs."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def at_rest(command: Sequence[str], empty: Path) -> Cost:
    """What it costs to start and to send nothing: the least of three."""
    return min(timed(*(word.replace("FILE", str(empty)) for word in command)) for _ in range(3))


def measure(endpoint: str, file: Path, lines: int, command: Sequence[str], nothing: Cost) -> Cost:
    """What sending the file costs, less what sending nothing does."""
    before = arrived(endpoint)
    cost = timed(*(word.replace("FILE", str(file)) for word in command))
    assert arrived(endpoint) - before == lines, f"{arrived(endpoint) - before} of {lines} arrived"
    return Cost(cost.wall - nothing.wall, cost.cpu - nothing.cpu)


def arrived(endpoint: str) -> int:
    """How many events the server has seen."""
    with urllib.request.urlopen(endpoint, timeout=60) as answer:  # noqa: S310 - of a server of ours
        return int(answer.read())


def main() -> None:
    """Measure all in turns."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    lines = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    endpoint = f"http://127.0.0.1:{port}"
    record = ("-m", "eventrec", "record", "FILE", "--to")
    commands = {
        "SDK": (__file__, "sdk", "FILE", endpoint, "none"),
        "SDK gzip": (__file__, "sdk", "FILE", endpoint, "gzip"),
        "otlp": (*record, f"otlp://127.0.0.1:{port}?compression=none"),
        "otlp gzip": (*record, f"otlp://127.0.0.1:{port}"),
        "otlp json": (*record, f"otlp://127.0.0.1:{port}?encoding=json&compression=none"),
        "CloudEvents": (*record, f"{endpoint}/"),
        "NDJSON": (*record, f"{endpoint}/?format=ndjson"),
    }
    peers = {"otlp gzip": "SDK gzip"}
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    try:
        with tempfile.TemporaryDirectory() as directory:
            file, empty = Path(directory) / "events.jsonl", Path(directory) / "empty.jsonl"
            empty.touch()
            with file.open("w", encoding="utf-8") as out:
                for number in range(lines):
                    items = [{"sku": f"A-{number % 97}", "count": 2}, {"sku": "B-1", "count": 1}]
                    event = {"type": "order_placed", "order_id": number, "customer": "ada", "total": 12.5}
                    out.write(json.dumps({**event, "items": items, "note": "x" * 60}) + "\n")
            nothing = {name: at_rest(command, empty) for name, command in commands.items()}
            for _ in range(rounds):
                for name, command in commands.items():
                    costs[name].append(measure(endpoint, file, lines, command, nothing[name]))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    for name, found in costs.items():
        peer = costs[peers.get(name, "SDK")]
        rate = statistics.median(other.wall / one.wall for one, other in zip(found, peer, strict=True))
        cpu = statistics.median(one.cpu / other.cpu for one, other in zip(found, peer, strict=True))
        print(
            f"{name:12} {shown([lines / cost.wall for cost in found])} events/s, {rate:.2f} x the SDK's;"
            f" {shown([cost.cpu / lines * 1e6 for cost in found])} us of CPU, {cpu:.2f} x"
        )


def shown(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["sdk", path, endpoint, compression]:
            send_by_sdk(path, endpoint, compression)
        case _:
            main()
