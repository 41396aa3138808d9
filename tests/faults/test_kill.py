"""SIGKILL in mid-stream: told ⊆ stored ⊆ offered, and of each producer a prefix without holes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder
from eventrec.content import ContentDecoder
from eventrec.log.reader import LogReader
from eventrec.log.runs import list_runs
from eventrec.log.storage import DiskStorage
from eventrec.log.verify import verify
from eventrec.testing.scripted import quickly

PRODUCER = """
import os, sys, threading, time
import anyio
import anyio.to_thread
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

RATE, PRODUCERS = 20_000, 2
offered = [0] * PRODUCERS

def tell(word, *values):
    os.write(1, f"{word} {' '.join(map(str, values))}\\n".encode())

def produce(producer):
    started = time.monotonic()
    while True:
        due = int((time.monotonic() - started) * RATE / PRODUCERS)
        while offered[producer] < due:
            recorder.record(Numbered(offered[producer] * PRODUCERS + producer))
            offered[producer] += 1
        time.sleep(0.002)

async def main():
    async with recorder:
        for producer in range(PRODUCERS):
            threading.Thread(target=produce, args=(producer,), daemon=True).start()
        while True:
            tell("offered", *offered)
            position = await recorder.record_durable(Numbered(-1), until="written")
            tell("written", position.offset)
            await anyio.sleep(0.01)

recorder = EventRecorder(*sys.argv[2:], log=sys.argv[1], options=EventRecorderOptions(segment_bytes=100_000))
anyio.run(main)
"""


def killed(directory: Path, seconds: float, *urls: str) -> tuple[list[int], int]:
    """Run the producer, kill it: what each producer had offered at least, and the last offset it was told."""
    with subprocess.Popen([sys.executable, "-c", PRODUCER, directory, *urls], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        timer = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        timer.wait()
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    offered = [list(map(int, words[1:])) for words in whole if words[0] == b"offered"]
    written = [int(words[1]) for words in whole if words[0] == b"written"]
    return offered[-1], written[-1]


def numbers_in(directory: Path) -> list[int]:
    (run,) = list_runs(directory)
    storage = DiskStorage(directory / str(run))
    with LogReader(storage) as reader:
        found = [
            int(entry[2][10:-1])
            for commit in reader.commits()
            for entry in ContentDecoder().decode(commit.content).entries
        ]
    assert reader.gaps == 0
    # What a kill may leave is an incomplete last commit, and nothing else.
    assert len(list(verify(storage))) <= 1
    return found


def assert_prefixes(stored: list[int], offered: list[int]) -> None:
    """Each producer's numbers are stored from its first one on, without holes, once, in order."""
    of_producer = defaultdict(list)
    for number in stored:
        if number >= 0:
            of_producer[number % 2].append(number // 2)
    for producer, numbers in of_producer.items():
        assert numbers == list(range(len(numbers)))
        # It goes on for a while after it told: 20 ms to be written, 10 ms to the next line, and a slow machine.
        assert abs(len(numbers) - offered[producer]) <= 20_000


def kills() -> list[float]:
    chance = random.Random(4)
    times = int(os.environ.get("EVENTREC_TEST_KILLS", "3"))
    return [chance.uniform(0.05, 0.5) for _ in range(times)]


def test_what_was_told_to_be_written_survives_a_kill_in_mid_stream(tmp_path: Path) -> None:
    for number, seconds in enumerate(kills()[:3]):
        check_one_kill(tmp_path / str(number), seconds)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_what_was_told_survives_many_kills(tmp_path: Path) -> None:
    for number, seconds in enumerate(kills()):
        check_one_kill(tmp_path / str(number), seconds)


def check_one_kill(directory: Path, seconds: float) -> None:
    offered, written = killed(directory, seconds)

    stored = numbers_in(directory)

    assert len(stored) > written
    assert_prefixes(stored, offered)


async def test_runs_that_were_killed_are_delivered_once_by_the_last(tmp_path: Path) -> None:
    database, log = tmp_path / "events.db", tmp_path / "log"
    url = f"sqlite:///{database}"
    told = 0
    for seconds in (0.7, 0.3):
        _, written = await anyio.to_thread.run_sync(killed, log, seconds, url)
        told += written + 1

    async with EventRecorder(url, log=log, options=quickly()):
        with anyio.fail_after(50):
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
