"""SIGKILL in mid-stream: told ⊆ stored ⊆ offered, and of each producer a prefix without holes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder
from eventrec.log.disk import DiskStorage
from eventrec.log.reader import LogReader
from eventrec.log.verify import verify
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import list_runs
from eventrec.testing.scripted import quickly

RATE = 20_000

PRODUCER = """
import mmap, os, sys, threading, time
import anyio
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

RATE, PRODUCERS = 20_000, 2
# A file mapped into memory: what stands there survives a kill without a system call for each event.
offered = memoryview(mmap.mmap(os.open(sys.argv[2], os.O_RDWR), 0)).cast("Q")

def produce(producer):
    started = time.monotonic()
    while True:
        due = int((time.monotonic() - started) * RATE / PRODUCERS)
        while offered[producer] < due:
            number = offered[producer]
            offered[producer] += 1
            recorder.record(Numbered(number * PRODUCERS + producer))
        time.sleep(0.002)

async def main():
    async with recorder:
        for producer in range(PRODUCERS):
            threading.Thread(target=produce, args=(producer,), daemon=True).start()
        while True:
            offered[PRODUCERS] += 1
            position = await recorder.record_durable(Numbered(-1), until="written")
            os.write(1, f"written up to {position.offset}\\n".encode())
            await anyio.sleep(0.01)

recorder = EventRecorder(*sys.argv[3:], log=sys.argv[1], options=EventRecorderOptions(segment_bytes=100_000))
anyio.run(main)
"""


@dataclass
class Killed:
    """What is known of a producer that was killed: events offered by each thread, and in all; records told written."""

    of_producer: list[int]
    offered: int
    told: int


def killed(directory: Path, seconds: float, *urls: str) -> Killed:
    """Run the producer and kill it `seconds` after its first words."""
    directory.mkdir(parents=True, exist_ok=True)
    counts = directory.with_suffix(".counts")
    counts.write_bytes(bytes(3 * 8))
    with subprocess.Popen(
        [sys.executable, "-c", PRODUCER, directory, counts, *urls], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    offered = struct.unpack("<3Q", counts.read_bytes())
    told = [int(line.split()[-1]) + 1 for line in lines if line.endswith(b"\n")]
    return Killed(list(offered[:2]), sum(offered), told[-1])


def numbers_in(directory: Path) -> list[int]:
    (run,) = list_runs(directory)
    storage = DiskStorage(directory / str(run))
    with LogReader(storage) as reader:
        found = [
            int(entry[PAYLOAD][10:-1])
            for commit in reader.commits()
            for entry in ContentDecoder().decode(commit.content).entries
        ]
    assert reader.gaps == 0
    # What a kill may leave is an incomplete last commit, and nothing else.
    assert len(list(verify(storage))) <= 1
    return found


def assert_prefixes(stored: list[int], offered: list[int]) -> None:
    """Each producer's numbers are stored from its first one on, without holes, once, in order, and no other."""
    for producer, most in enumerate(offered):
        numbers = [number // 2 for number in stored if number >= 0 and number % 2 == producer]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) <= most


def moments(count: int) -> list[float]:
    chance = random.Random(4)
    return [chance.uniform(0.05, 0.5) for _ in range(count)]


def check_one_kill(directory: Path, seconds: float) -> int:
    """How many events had been offered and not been told written."""
    producer = killed(directory, seconds)

    stored = numbers_in(directory)

    assert producer.told <= len(stored) <= producer.offered
    assert_prefixes(stored, producer.of_producer)
    return producer.offered - producer.told


def test_what_was_told_to_be_written_survives_a_kill_in_mid_stream(tmp_path: Path) -> None:
    for number, seconds in enumerate(moments(3)):
        check_one_kill(tmp_path / str(number), seconds)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_of_many_kills_each_costs_at_most_the_events_of_a_tenth_of_a_second(tmp_path: Path) -> None:
    count = int(os.environ.get("EVENTREC_TEST_KILLS", "20"))

    untold = sorted(check_one_kill(tmp_path / str(number), seconds) for number, seconds in enumerate(moments(count)))

    sys.stdout.write(f"{count} kills; offered and not told: median {untold[count // 2]}, most {untold[-1]}\n")
    assert untold[-1] <= RATE // 10


async def test_runs_that_were_killed_are_delivered_once_by_the_last(tmp_path: Path) -> None:
    database, log = tmp_path / "events.db", tmp_path / "log"
    url = f"sqlite:///{database}"
    told = 0
    for seconds in (0.7, 0.3):
        told += (await anyio.to_thread.run_sync(killed, log, seconds, url)).told

    async with EventRecorder(url, log=log, options=quickly()):
        with anyio.fail_after(120):
            while len([path for path in log.iterdir() if not path.name.startswith(".")]) > 1:  # noqa: ASYNC110
                await anyio.sleep(0.05)

    with closing(sqlite3.connect(database)) as connection:
        rows, ids = connection.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone()
        by_log = connection.execute(
            "SELECT substr(id, 1, 18) log, json_extract(payload, '$.number') number FROM events"
            " WHERE number >= 0 ORDER BY log, id"
        ).fetchall()
    assert rows == ids >= told
    for producer in range(2):
        for each in {log_ for log_, _ in by_log}:
            numbers = [number // 2 for log_, number in by_log if log_ == each and number % 2 == producer]
            assert numbers == list(range(len(numbers)))
    assert list(log.iterdir()) == []
