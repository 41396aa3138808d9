"""100,000 lines into PostHog by `eventrec record`, and by the official client: one server, the same events, in turns.

    python tests/benchmarks/bench_posthog.py [ROUNDS] [LINES]

Each round runs every way once, as a process of its own that reads the same file, start and imports included; ratios are
taken inside a round. The server is another process: it decodes what it gets, counts the events, and keeps none. CPU is
that of the sending process alone.

What it must come to: `eventrec record` ≥ 1 × the official client, at its defaults and with batches of 1,000.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from eventrec.testing.posthog import FakePostHog, Said

LINES = 100_000
KEY = "phc_bench"

PEER = """
import json, sys
from datetime import datetime, timezone
from posthog.client import Client

path, host, flush_at, gzip = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "gzip"
client = Client("phc_bench", host=host, flush_at=flush_at, gzip=gzip, max_queue_size=1_000_000, disable_geoip=False)
with open(path, "rb") as file:
    for line in file:
        said = json.loads(line)
        client.capture(
            said["type"],
            distinct_id=said["context"]["distinct_id"],
            properties={**said["payload"], "session_id": said["context"]["session_id"]},
            timestamp=datetime.fromtimestamp(said["timestamp"] / 1e9, timezone.utc),
            uuid=said["id"],
        )
client.shutdown()
"""


@dataclass(frozen=True)
class Measured:
    """Events per second, and microseconds of CPU per event."""

    rate: float
    cpu: float


class Counting(FakePostHog):
    """Counts events, and keeps nothing."""

    count = 0

    def _whole(self, events: list[dict[str, Any]]) -> Said:
        self.count += len(events)
        self.requests.clear()
        return Said(200, {"status": 1})


def serve() -> None:
    """Print the port; then, for each line that comes, how many events there were since the last one."""
    with Counting(key=KEY) as posthog:
        print(posthog.port, flush=True)
        for _ in sys.stdin:
            print(posthog.count, flush=True)
            posthog.count = 0


def write(path: Path, lines: int) -> None:
    """Events as eventrec writes them into JSON Lines files: with an id, a time, and a context."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(lines):
            payload = {
                "order_id": f"order-{n:012d}",
                "amount": n % 1_000 / 4,
                "currency": "EUR",
                "items": n % 7,
                "url": f"https://shop.example/orders/{n}?from=mail",
                "is_first": n % 5 == 0,
            }
            context = {"distinct_id": f"user-{n % 1_000}", "session_id": f"session-{n % 5_000}"}
            said = {
                "id": str(UUID(int=n, version=4)),
                "type": f"kind {n % 10}",
                "timestamp": 1_790_000_000_000_000_000 + n * 1_000_000,
                "table": "events",
                "payload": payload,
                "context": context,
            }
            file.write(json.dumps(said, separators=(",", ":")) + "\n")


def run(arguments: list[str], lines: int) -> Measured:
    """One process to its end."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, arguments
    return Measured(lines / seconds, (used.ru_utime + used.ru_stime) / lines * 1e6)


OURS, PLAIN = "eventrec record", "eventrec record, gzip=false"
DEFAULTS, LARGE, ZIPPED = "posthog client, defaults", "posthog client, 1,000 a batch", "posthog client, 1,000, gzip"


def main(rounds: int, lines: int) -> None:
    """Measure every way in turns, and print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        write(path, lines)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        host, url = f"http://127.0.0.1:{port}", f"posthog://{KEY}@127.0.0.1:{port}?tls=false"
        record = ["-m", "eventrec.cli", "record", str(path), "--to"]
        ways = {
            OURS: [*record, url],
            PLAIN: [*record, f"{url}&gzip=false"],
            DEFAULTS: ["-c", PEER, str(path), host, "100", "plain"],
            LARGE: ["-c", PEER, str(path), host, "1000", "plain"],
            ZIPPED: ["-c", PEER, str(path), host, "1000", "gzip"],
        }
        got: dict[str, list[Measured]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways) if number % 2 else reversed(ways):
                got[name].append(run(ways[name], lines))
                server.stdin.write("\n")
                server.stdin.flush()
                arrived = int(server.stdout.readline())
                assert arrived == lines, f"{name}: {arrived} of {lines} events arrived"
        server.stdin.close()
        server.wait(20)
    print(f"{lines:,} lines; medians of {rounds} rounds (range)\n")
    print(f"{'':32} {'events/s':>24} {'CPU us/event':>13}")
    for name, all_ in got.items():
        rates = [one.rate for one in all_]
        shown = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
        print(f"{name:32} {shown:>24} {statistics.median(one.cpu for one in all_):13.1f}")
    print()
    for ours, theirs in ((OURS, DEFAULTS), (OURS, ZIPPED), (PLAIN, LARGE)):
        ratio(f"{ours} / {theirs}", got[ours], got[theirs])


def ratio(name: str, ours: list[Measured], base: list[Measured]) -> None:
    """Print the medians of the ratios of each round, and the range of the first."""
    each = [one.rate / other.rate for one, other in zip(ours, base, strict=True)]
    cpu = statistics.median(one.cpu / other.cpu for one, other in zip(ours, base, strict=True))
    print(f"{name:60} rate {statistics.median(each):5.2f} ({min(each):.2f}-{max(each):.2f})  ≥ 1   CPU {cpu:.2f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        numbers = [int(each) for each in sys.argv[1:]]
        main(numbers[0] if numbers else 3, numbers[1] if numbers[1:] else LINES)
