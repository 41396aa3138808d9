"""The GreptimeDB handler beside the official client, greptimedb-ingester: the same lines into one server, in turns.

    python tests/benchmarks/bench_greptimedb.py [ROUNDS]

The server is the tests' fake, in a process of its own, that counts rows and keeps nothing. Each round measures every
way once, and ratios are taken inside a round. Four pairs, each from the same start to the same rows:

    rows      rows that are ready, batches of 1,000: the handler alone, the client alone
    events    dicts in memory: `record()` and a recorder; a program that makes rows and inserts a thousand at a time
    lines     a file of JSON lines, read and parsed alike by both of these
    command   `eventrec record FILE --to URL`; a script that does the same with the client; their start included

Each is measured with both forms of JSON: "binary", which takes 0.9 µs of CPU for these payloads, and "text", which
leaves that to the server, as the client does. CPU is that of this process, or of the command, alone. The client waits
for each answer, while a recorder encodes the next batch.

What it must come to: ≥ 1 × the client's rate with lines, and no more CPU than its script with the command, both sending
text.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import greptimedb_ingester as peer
import msgspec

from eventrec import Batch, Event, EventRecorder, EventRecorderOptions, handler_from_url
from eventrec.events.encoder import Encoder

EVENTS = 100_000
BATCH = 1_000
KINDS = 10

COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of commands: from the second time on, they do not compile what they import."""

SERVER = Path(__file__).parents[1] / "handlers" / "greptimedb" / "fake_server.py"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Firefox/131.0"
HINTS = [("ttl", "90d"), ("append_mode", "true"), ("compaction.twcs.time_window", "1day")]
COLUMNS = [
    peer.Column("id", peer.ColumnDataType.STRING, peer.SemanticType.FIELD),
    peer.Column("type", peer.ColumnDataType.STRING, peer.SemanticType.TAG),
    peer.Column("timestamp", peer.ColumnDataType.TIMESTAMP_NANOSECOND, peer.SemanticType.TIMESTAMP),
    peer.Column("payload", peer.ColumnDataType.JSON, peer.SemanticType.FIELD),
]


def payload(n: int) -> dict[str, Any]:
    """About 230 bytes of JSON."""
    return {
        "order_id": f"ord_{n:016x}",
        "amount": round(10 + n % 1_000 * 0.37, 2),
        "currency": "EUR",
        "items": n % 9 + 1,
        "url": f"/shop/checkout/step/{n % 7}?utm_source=newsletter&utm_campaign=winter",
        "user_agent": AGENT,
    }


class Placed(Event):
    """An event with a ready payload."""

    def __init__(self, kind: str, said: dict[str, Any]) -> None:
        self._kind = kind
        self._said = said

    @property
    def type(self) -> str:
        return self._kind

    @property
    def payload(self) -> object:
        return self._said


class Server:
    """The fake, in a process of its own."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def taken(self) -> tuple[int, int, int]:
        """Rows, calls and bytes since the last time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        rows, calls, size, _ = self._process.stdout.readline().split()
        return int(rows), int(calls), int(size)

    def url(self, form: str) -> str:
        return f"greptimedb://127.0.0.1:{self.port}/public?ttl=90d&json={form}"

    def client(self) -> Any:
        return peer.Client([f"127.0.0.1:{self.port}"], database="public")


@dataclass
class Measured:
    """Events a second, and microseconds of CPU per event."""

    rate: float
    cpu: float


@contextmanager
def measuring(server: Server) -> Iterator[list[Measured]]:
    """Measure what happens inside; the result is in the list afterwards. Every row must have arrived."""
    measured: list[Measured] = []
    gc.collect()
    server.taken()
    cpu, start = _cpu(), time.perf_counter()
    yield measured
    seconds, used = time.perf_counter() - start, _cpu() - cpu
    rows, _, _ = server.taken()
    assert rows == EVENTS, rows
    measured.append(Measured(EVENTS / seconds, used / EVENTS * 1e6))


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


# -- rows that are ready


def batches() -> list[Batch]:
    """What a worker would hand over."""
    encode = Encoder().encode
    made, log_id = [], uuid.uuid4()
    for start in range(0, EVENTS, BATCH):
        entries: Any = [encode(Placed(f"kind{n % KINDS}", payload(n))) for n in range(start, start + BATCH)]
        offsets = range(start, start + BATCH)
        made.append(
            Batch(log_id=log_id, subscription="bench", start=start, end=start + BATCH, offsets=offsets, entries=entries)
        )
    return made


def rows() -> list[list[list[Any]]]:
    """What the client takes."""
    when = time.time_ns()
    return [
        [
            [str(uuid.uuid4()), f"kind{n % KINDS}", when + n, msgspec.json.encode(payload(n)).decode()]
            for n in range(start, start + BATCH)
        ]
        for start in range(0, EVENTS, BATCH)
    ]


def by_handler(server: Server, form: str, given: Sequence[Batch]) -> Measured:
    """Batches through the handler."""

    async def work() -> None:
        handler = handler_from_url(server.url(form))
        await handler.open()
        for batch in given:
            await handler.handle(batch)
        await handler.close()

    with measuring(server) as measured:
        asyncio.run(work())
    return measured[0]


def by_client(server: Server, given: Sequence[list[list[Any]]]) -> Measured:
    """The same rows through the client."""
    with measuring(server) as measured:
        client = server.client()
        for batch in given:
            client.insert("events", columns=COLUMNS, rows=batch, hints=HINTS)
    return measured[0]


# -- events


def by_recorder(server: Server, form: str, said: Sequence[dict[str, Any]]) -> Measured:
    """From `record()` to the server."""

    async def work() -> None:
        options = EventRecorderOptions(queue_events=2 * EVENTS, queue_bytes=1 << 30, batch_rows=BATCH)
        async with EventRecorder(server.url(form), options=options) as recorder:
            for start in range(0, EVENTS, 100):
                for n in range(start, start + 100):
                    recorder.record(Placed(f"kind{n % KINDS}", said[n]))
                await asyncio.sleep(0)
            assert await recorder.flush(timeout=120)

    with measuring(server) as measured:
        asyncio.run(work())
    return measured[0]


def by_program(server: Server, said: Sequence[dict[str, Any]]) -> Measured:
    """What people write: an id, the time, the JSON, and an insert for each thousand."""
    with measuring(server) as measured:
        client = server.client()
        for start in range(0, EVENTS, BATCH):
            given = [
                [str(uuid.uuid4()), f"kind{n % KINDS}", time.time_ns(), json.dumps(said[n])]
                for n in range(start, start + BATCH)
            ]
            client.insert("events", columns=COLUMNS, rows=given, hints=HINTS)
    return measured[0]


# -- lines


def recorded_lines(server: Server, form: str, path: Path) -> Measured:
    """Lines read and parsed, and recorded."""

    async def work() -> None:
        options = EventRecorderOptions(queue_events=2 * EVENTS, queue_bytes=1 << 30, batch_rows=BATCH)
        async with EventRecorder(server.url(form), options=options) as recorder:
            for n, line in enumerate(path.read_bytes().splitlines()):
                said = json.loads(line)
                recorder.record(Placed(said.pop("type"), said))
                if n % 100 == 0:
                    await asyncio.sleep(0)
            assert await recorder.flush(timeout=120)

    with measuring(server) as measured:
        asyncio.run(work())
    return measured[0]


def inserted_lines(server: Server, path: Path) -> Measured:
    """Lines read and parsed, and inserted."""
    with measuring(server) as measured:
        client = server.client()
        given = []
        for line in path.read_bytes().splitlines():
            said = json.loads(line)
            given.append([str(uuid.uuid4()), said.pop("type"), time.time_ns(), json.dumps(said)])
            if len(given) == BATCH:
                client.insert("events", columns=COLUMNS, rows=given, hints=HINTS)
                given = []
    return measured[0]


# -- the command


def by_command(server: Server, form: str, path: Path) -> Measured:
    """`eventrec record`."""
    command = [sys.executable, "-m", "eventrec", "record", str(path), "--to", server.url(form)]
    with measuring(server) as measured:
        subprocess.run(command, check=True, capture_output=True, env=COMPILED)
    return measured[0]


PROGRAM = """
import json, sys, time, uuid
import greptimedb_ingester as peer
S, T = peer.SemanticType, peer.ColumnDataType
columns = [peer.Column("id", T.STRING, S.FIELD), peer.Column("type", T.STRING, S.TAG),
           peer.Column("timestamp", T.TIMESTAMP_NANOSECOND, S.TIMESTAMP), peer.Column("payload", T.JSON, S.FIELD)]
client = peer.Client([sys.argv[1]], database="public")
rows = []
def send():
    client.insert("events", columns=columns, rows=rows, hints=[("ttl", "90d"), ("append_mode", "true")])
    rows.clear()
with open(sys.argv[2], encoding="utf-8") as file:
    for line in file:
        said = json.loads(line)
        rows.append([str(uuid.uuid4()), said.pop("type"), time.time_ns(), json.dumps(said)])
        if len(rows) == 1000:
            send()
if rows:
    send()
"""


def by_script(server: Server, path: Path) -> Measured:
    """A program that reads lines and sends them with the client."""
    command = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{server.port}", str(path)]
    with measuring(server) as measured:
        subprocess.run(command, check=True, env=COMPILED)
    return measured[0]


# -- all of it


def main(rounds: int) -> None:
    """Measure every way in turns, and print medians and ratios."""
    said = [payload(n) for n in range(EVENTS)]
    given, ready = batches(), rows()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        path = Path(folder) / "lines.jsonl"
        path.write_bytes(
            b"".join(msgspec.json.encode({"type": f"kind{n % KINDS}", **one}) + b"\n" for n, one in enumerate(said))
        )
        ways: dict[str, tuple[Callable[[str], Measured], Callable[[], Measured]]] = {
            "rows": (lambda form: by_handler(server, form, given), lambda: by_client(server, ready)),
            "events": (lambda form: by_recorder(server, form, said), lambda: by_program(server, said)),
            "lines": (lambda form: recorded_lines(server, form, path), lambda: inserted_lines(server, path)),
            "command": (lambda form: by_command(server, form, path), lambda: by_script(server, path)),
        }
        found: dict[str, list[tuple[Measured, Measured, Measured]]] = {name: [] for name in ways}
        by_command(server, "text", path)
        for number in range(rounds):
            for name, (ours, theirs) in ways.items():
                turns = [lambda ours=ours: ours("binary"), lambda ours=ours: ours("text"), theirs]  # type: ignore[misc]
                measured = {turn % 3: turns[turn % 3]() for turn in range(number, number + 3)}
                found[name].append((measured[0], measured[1], measured[2]))
    print(f"{EVENTS:,} events, batches of {BATCH:,}, {rounds} rounds, medians")
    for name, measures in found.items():
        for side, who in enumerate(("ours, binary", "ours, text", "client")):
            rate = statistics.median(each[side].rate for each in measures)
            cpu = statistics.median(each[side].cpu for each in measures)
            rates = [each[side].rate / each[2].rate for each in measures]
            cpus = [each[side].cpu / each[2].cpu for each in measures]
            print(
                f"  {name:8} {who:13} {rate:10,.0f}/s {cpu:7.2f} µs CPU   {statistics.median(rates):.2f} × the client's"
                f" rate ({min(rates):.2f}–{max(rates):.2f}), {statistics.median(cpus):.2f} × its CPU"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
