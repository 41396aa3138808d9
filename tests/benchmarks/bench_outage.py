"""A million events while the destination is down, and opening beside what earlier runs left.

    python tests/benchmarks/bench_outage.py [burst | gigabyte | orphans]

Each part runs in a process of its own, so that memory and descriptors are its own.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

from eventrec import Batch, EventHandler, EventRecorder, EventRecorderOptions, TransientError
from eventrec.events.encoder import Encoder
from eventrec.log.log import Log, LogOptions
from eventrec.records.content import encode_take
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import Numbered

EVENTS = 1_000_000
ROUNDS = 5
MIB = 1 << 20


class Counting(EventHandler):
    """Takes batches and counts their records, or is down."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.is_down = is_down
        self.count = 0
        self.first: float | None = None

    async def handle(self, batch: Batch) -> None:
        if self.is_down:
            raise TransientError("down")
        self.first = self.first or time.perf_counter()
        self.count += len(batch)


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / MIB


async def burst(directory: Path) -> None:
    """A million in a row on the loop's own thread, without an await; then the destination comes back."""
    down = Counting(is_down=True)
    recorder = EventRecorder(down, log=directory)
    await recorder.open()
    await anyio.sleep(0.5)
    idle = resident()
    started = time.perf_counter()
    taken = recorder.record_many(Numbered(n) for n in range(EVENTS))
    took, peak = time.perf_counter() - started, resident()
    deadline = time.perf_counter() + 10
    while time.perf_counter() < deadline:
        peak = max(peak, resident())
        await anyio.sleep(0.05)
    status = recorder.status()
    print(
        f"{taken:,} of {EVENTS:,} taken in {took:.1f} s, refused {status.refused or 0}; memory +{peak - idle:.0f} MiB"
    )
    down.is_down = False
    recorder.resume("Counting")
    started = time.perf_counter()
    done = await recorder.flush(timeout=120)
    took = time.perf_counter() - started
    print(f"drained {down.count:,} in {took:.1f} s ({down.count / took:,.0f} a second), all: {done}")
    await recorder.close()


def orphan(directory: Path, commits: int, *, records: int = 1_000) -> None:
    """A log that a run left: `commits` of `records` each."""
    encoder = Encoder(types=None, context=lambda: None, now=time.time_ns)
    entries = [entry for n in range(records) if isinstance(entry := encoder.encode(Numbered(n)), tuple)]
    run = Run.create(directory, new_run_id())
    content, count = next(iter(encode_take(entries, run.id, written=time.time_ns())))
    with Log.create(run.storage, LogOptions(segment_bytes=64 * MIB)) as log:
        for _ in range(commits):
            log.append_encoded(content, count)
            log.write()
    CheckpointFiles(run.path / CHECKPOINTS).save(
        Checkpoint(subscription="Counting", progress=Progress(0, 0, 0)), sync=False
    )
    run.release()


async def opening(directory: Path) -> float:
    """Seconds until `open` returned."""
    handler = Counting(is_down=True)
    recorder = EventRecorder(handler, log=directory, options=EventRecorderOptions(close_timeout=0))
    started = time.perf_counter()
    await recorder.open()
    took = time.perf_counter() - started
    await recorder.close()
    return took


async def gigabyte(directory: Path) -> None:
    """`open` beside one gibibyte of orphans, and beside one segment of 64 MiB."""
    size = 40_000
    for name, gibibytes in (("one", 1 / 16), ("many", 1.0)):
        while sum(file.stat().st_size for file in (directory / name).rglob("*.stdb.log")) < gibibytes * 1024 * MIB:
            orphan(directory / name, 64 * MIB // size)
    took: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(ROUNDS):
        for name, times in took.items():
            times.append(await opening(directory / name))
    one, many = (statistics.median(times) for times in took.values())
    print(f"open beside one segment {one * 1e3:.1f} ms, beside 1 GiB {many * 1e3:.1f} ms: {many / one:.2f} x")


async def draining(directory: Path, events: int) -> float:
    """Records a second that a handler is given of `events` which wait in the log, by a recorder that is opened."""
    down = Counting(is_down=True)
    async with EventRecorder(down, log=directory) as recorder:
        recorder.record_many(Numbered(n) for n in range(events))
        while recorder.status().appended < events:  # noqa: ASYNC110 - the account tells nobody
            await anyio.sleep(0.01)
        down.is_down = False
        recorder.resume("Counting")
        started = time.perf_counter()
        assert await recorder.flush(timeout=120)
        return down.count / (time.perf_counter() - started)


async def adopting(directory: Path, count: int) -> float:
    """Orphans of one record a second that are delivered and removed; `count` of them are there."""
    for _ in range(count):
        orphan(directory, 1, records=1)
    handler = Counting()
    recorder = EventRecorder(handler, log=directory)
    started = time.perf_counter()
    await recorder.open()
    with anyio.fail_after(300):
        while handler.count < count or LogDirectory(directory).has_several():  # noqa: ASYNC110 - as above
            await anyio.sleep(0.05)
    took = time.perf_counter() - started
    await recorder.close()
    return count / took


async def orphans(directory: Path) -> None:
    """`open` beside 10,000 orphans of one commit; own events flow meanwhile."""
    for _ in range(10_000):
        orphan(directory, 1, records=1)
    handler = Counting()
    recorder = EventRecorder(handler, log=directory)
    started = time.perf_counter()
    await recorder.open()
    opened = time.perf_counter() - started
    lags, most = [], 0
    while LogDirectory(directory).has_several() and time.perf_counter() - started < 300:
        sent = time.perf_counter()
        recorder.record(Numbered(-1))
        with anyio.move_on_after(30):
            await recorder.flush()
        lags.append(time.perf_counter() - sent)
        most = max(most, len(list(Path("/proc/self/fd").iterdir())))
        await anyio.sleep(0.1)
    took = time.perf_counter() - started
    left = len(list(directory.glob("*-*-*-*-*"))) - 1
    print(
        f"open beside 10,000 orphans {opened * 1e3:.0f} ms; all delivered in {took:.0f} s ({left} left);"
        f" own events meanwhile: median {statistics.median(lags) * 1e3:.0f} ms, most {max(lags) * 1e3:.0f} ms;"
        f" at most {most} descriptors"
    )
    await recorder.close()


PARTS = {"burst": burst, "gigabyte": gigabyte, "orphans": orphans}


def main() -> None:
    """Run one part here, or each in a process."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as directory:
            anyio.run(PARTS[sys.argv[1]], Path(directory) / "log")
        return
    for name in PARTS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
