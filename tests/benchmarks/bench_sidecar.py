"""`eventrec deliver` beside delivery in the application's own process: the same events, into SQLite and PostgreSQL.

    python tests/benchmarks/bench_sidecar.py [ROUNDS]

Each round measures both ways once, and ratios are taken inside a round. Rows a second count from the first `record()`
to the last row; CPU is that of the application's process alone, per event. The latency is that from `record()` to the
row, of single events with pauses, as a reader sees it that asks every millisecond; the CPU of a sidecar that has
nothing to do is measured with one live log, and with many.

What it must come to: rows a second ≥ 1 ×, CPU of the application ≤ 0.5 ×, latency ≤ 50 ms.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.testing.servers import PostgresServer

EVENTS = 100_000
SINGLE = 60
LOGS = (1, 200)
IDLE_SECONDS = 10.0

APPLICATION = """
import gc, json, sys, time
import anyio
from eventrec import EventRecorder, EventStruct

class PageSeen(EventStruct):
    number: int
    path: str = "/orders/new"
    referrer: str = "https://example.org/"
    text: str = "x" * 150

async def go():
    return await anyio.to_thread.run_sync(sys.stdin.readline)

async def main(log, url, events):
    async with EventRecorder(*([url] if url else []), log=log) as recorder:
        for number in range(2_000):
            recorder.record(PageSeen(number))
        await recorder.record_durable(PageSeen(0), until="synced")
        await recorder.flush()
        gc.collect()
        print("ready", flush=True)
        await go()
        cpu = time.process_time()
        for number in range(events):
            recorder.record(PageSeen(number))
            if number % 200 == 199:
                await anyio.sleep(0)
        await recorder.record_durable(PageSeen(0), until="synced")
        await recorder.flush()
        print(json.dumps({"cpu": time.process_time() - cpu}), flush=True)
        while number := await go():
            recorder.record(PageSeen(int(number)))

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""

HOLDERS = """
import sys
import anyio
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered

async def main(log, count):
    for _ in range(count):
        recorder = EventRecorder(log=log)
        await recorder.open()
        await recorder.record_durable(Numbered(1), until="written")
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)

anyio.run(main, sys.argv[1], int(sys.argv[2]))
"""


class Measured(NamedTuple):
    """Rows a second, and microseconds of the application's CPU per event."""

    rate: float
    cpu: float


@contextmanager
def application(log: Path, url: str, events: int) -> Iterator[subprocess.Popen[str]]:
    """It has recorded a little, and waits for a line."""
    with subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(log), url, str(events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def sidecar(log: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """It delivers what is there."""
    with subprocess.Popen(
        [sys.executable, "-m", "eventrec.cli", "deliver", str(log), "--to", url],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            process.stderr.readline()
            yield process
        finally:
            process.terminate()
            process.wait()


def say(process: subprocess.Popen[str], line: object) -> None:
    """Have the application go on."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def scanned(log: Path) -> int:
    """How far the subscription is with the log that is furthest."""
    found = [0]
    for path in log.glob("0*"):
        with suppress(OSError):
            found += [each.progress.scanned for each in CheckpointFiles(path / CHECKPOINTS).load().values()]
    return max(found)


def wait_for(condition: Callable[[], bool], pause: float = 0.001) -> None:
    """Until it is so."""
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until
        time.sleep(pause)


def measured(process: subprocess.Popen[str], log: Path) -> Measured:
    """Have it record, until all of that is delivered."""
    wait_for(lambda: scanned(log) >= 2_001, 0.01)
    start = time.perf_counter()
    say(process, "go")
    assert process.stdout is not None
    cpu = json.loads(process.stdout.readline())["cpu"]
    wait_for(lambda: scanned(log) >= 2_001 + EVENTS, 0.005)
    return Measured(EVENTS / (time.perf_counter() - start), cpu / EVENTS * 1e6)


def latencies(process: subprocess.Popen[str], count: Callable[[], int]) -> list[float]:
    """Milliseconds from the line that has it record one event to its row."""
    found = []
    there = count()
    for number in range(1, SINGLE + 1):
        time.sleep(random.uniform(0.1, 0.3))
        start = time.perf_counter()
        say(process, number)
        wait_for(lambda number=number: count() >= there + number)  # type: ignore[misc]
        found.append((time.perf_counter() - start) * 1_000)
    return found


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_share(directory: Path, count: int) -> float:
    """How much of a CPU a sidecar takes that has nothing to do, beside `count` live logs."""
    log = directory / "log"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDERS, str(log), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holders:
        try:
            assert holders.stdout is not None
            assert holders.stdout.readline() == "ready\n"
            with sidecar(log, f"sqlite:///{directory}/events.db") as process:
                with closing(sqlite3.connect(directory / "events.db")) as connection:
                    wait_for(lambda: rows_in(connection) == count, 0.1)
                time.sleep(3)
                before = cpu_seconds(process.pid)
                time.sleep(IDLE_SECONDS)
                return (cpu_seconds(process.pid) - before) / IDLE_SECONDS
        finally:
            holders.kill()


def rows_in(connection: sqlite3.Connection) -> int:
    """None, where there is no table yet."""
    with suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
    return 0


def shown(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def compare(name: str, fresh: Callable[[Path], tuple[str, Callable[[], int]]], rounds: int) -> None:
    """Both ways, in turns; `fresh` gives the URL of an empty database, and what counts its rows."""
    beside: list[Measured] = []
    within: list[Measured] = []
    late: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            log, (url, _) = Path(directory) / "log", fresh(Path(directory))
            with application(log, url, EVENTS) as process:
                within.append(measured(process, log))
        with tempfile.TemporaryDirectory() as directory:
            log, (url, count) = Path(directory) / "log", fresh(Path(directory))
            with sidecar(log, url), application(log, "", EVENTS) as process:
                beside.append(measured(process, log))
                late += latencies(process, count)
    rate = statistics.median(one.rate / other.rate for one, other in zip(beside, within, strict=True))
    cpu = statistics.median(one.cpu / other.cpu for one, other in zip(beside, within, strict=True))
    print(
        f"{name:10} rows/s: sidecar {shown([each.rate for each in beside])},"
        f" in process {shown([each.rate for each in within])}, ratio {rate:.2f};"
        f" application's CPU: {shown([each.cpu for each in beside], 2)} µs an event,"
        f" in process {shown([each.cpu for each in within], 2)}, ratio {cpu:.2f};"
        f" latency ms: median {statistics.median(late):.0f}, p95 {sorted(late)[len(late) * 95 // 100]:.0f}",
        flush=True,
    )


def main() -> None:
    """Measure all of it."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5

    def sqlite_database(directory: Path) -> tuple[str, Callable[[], int]]:
        connection = sqlite3.connect(directory / "events.db")
        return f"sqlite:///{directory}/events.db", lambda: rows_in(connection)

    compare("SQLite", sqlite_database, rounds)
    with PostgresServer() as server:
        numbers = iter(range(1_000))

        def postgres_database(_: Path) -> tuple[str, Callable[[], int]]:
            name = f"bench_{next(numbers)}"
            server.execute(f"CREATE DATABASE {name}")
            return server.url(name), Counted(server, name)

        compare("PostgreSQL", postgres_database, rounds)
    for count in LOGS:
        with tempfile.TemporaryDirectory() as directory:
            share = idle_share(Path(directory), count)
        print(f"idle sidecar, {count} live logs: {share:.2%} of a CPU", flush=True)


class Counted:
    """Counts the rows through one `psql`."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        command: list[Any] = [
            server.psql,
            "-XqAt",
            "-h",
            server.host,
            "-p",
            str(server.port),
            "-U",
            "postgres",
            database,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> int:
        say(self._process, "SELECT count(*) FROM events;")
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


if __name__ == "__main__":
    main()
