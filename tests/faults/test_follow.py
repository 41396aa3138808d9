"""Processes that follow, and those that write, killed at any moment: what was told to be written is stored, once.

200 times each: EVENTREC_TEST_KILLS=200 python -m pytest -s tests/faults/test_follow.py; EVENTREC_TEST_SEED for others.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventrec.runs.survey import see_all
from eventrec.testing.servers import PostgresServer

KILLS = int(os.environ.get("EVENTREC_TEST_KILLS", "20"))
SEED = int(os.environ.get("EVENTREC_TEST_SEED", "12"))
STALL_SECONDS = 60.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_600), pytest.mark.xdist_group("kills")]


class Stage:
    """Starts lives, and ends them."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, url: str, own: str) -> None:
        self._own = own
        self._process = process
        self._directory = directory
        self._url = url
        self._chance = random.Random(SEED)
        self.log = directory / "log"
        self.counts: dict[str, Path] = {}
        self.alive: dict[int, str] = {}

    def begin(self, role: str) -> int:
        name = f"{role}-{len(self.counts)}-{len(self.alive)}"
        life: dict[str, Any] = {"role": role, "log": str(self.log), "url": self._url, "name": name}
        # The driver of PostgreSQL knows asyncio alone; a thread of its own serves trio.
        life["backend"] = self._chance.choice(["asyncio", "trio"])
        if role == "producer":
            self.counts[name] = counts = self._directory / f"{name}.counts"
            counts.write_bytes(bytes(16))
            life |= {"counts": str(counts), "own": self._own}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(life) + b"\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self.alive[pid] = role
        return pid

    def kill_one(self) -> None:
        """Any of them, and another one in its place."""
        time.sleep(self._chance.uniform(0.01, 0.4))  # When it dies is the question.
        pid = self._chance.choice(list(self.alive))
        os.kill(pid, signal.SIGKILL)
        self.begin(self.alive.pop(pid))

    def kill_followers(self) -> None:
        """All at once; while none is there, a producer ends in good order, and another one begins."""
        followers = [pid for pid, role in self.alive.items() if role == "follower"]
        for pid in followers:
            os.kill(pid, signal.SIGKILL)
            del self.alive[pid]
        ended = self._chance.choice(list(self.alive))
        os.kill(ended, signal.SIGTERM)
        self.wait_until(partial(_is_gone, ended))
        self.begin(self.alive.pop(ended))
        for _ in followers:
            self.begin("follower")

    def end(self, role: str) -> None:
        """All of that role, in good order."""
        for pid in [pid for pid, other in self.alive.items() if other == role]:
            os.kill(pid, signal.SIGTERM)
            self.wait_until(partial(_is_gone, pid))
            del self.alive[pid]

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Where that takes longer than a minute, all show where they are."""
        until = time.monotonic() + STALL_SECONDS
        while not condition():
            if time.monotonic() > until:
                for pid in self.alive:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGUSR1)
                        time.sleep(0.5)  # One after the other.
                pytest.fail(f"nothing moved for {STALL_SECONDS:g} s: {self.alive}; {sorted(self.log.rglob('*'))}")
            time.sleep(0.05)

    def told(self) -> dict[str, tuple[int, int]]:
        """Of each producer: how many it offered, and how many were told to be written."""
        return {name: struct.unpack("<2q", path.read_bytes()) for name, path in self.counts.items()}


def _has_all(directory: Path, name: str) -> bool:
    return not any(log.pending(name) for log in see_all(directory))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def stage(directory: Path, url: str, own: str = "") -> Iterator[Stage]:
    script = Path(__file__).with_name("follow_writer.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        made = Stage(process, directory, url, own)
        try:
            yield made
        finally:
            for pid in made.alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()


def check(given: Stage, rows: Callable[[], list[tuple[str, int]]]) -> None:
    for role in ("producer", "producer", "follower", "follower"):
        given.begin(role)
    for _ in range(KILLS):
        given.kill_one()
    given.end("producer")
    # What is left is two empty logs: those of the two that follow.
    given.wait_until(lambda: len(list(given.log.glob("0*"))) == 2 and not list(given.log.glob("0*/*.stdb.ofs")))
    given.end("follower")

    check_rows(given, rows())
    assert list(given.log.glob("0*")) == []


def check_rows(given: Stage, rows: list[tuple[str, int]]) -> None:
    stored: dict[str, list[int]] = defaultdict(list)
    for producer, number in rows:
        stored[producer].append(number)
    total = 0
    for producer, (offered, told) in given.told().items():
        numbers = sorted(stored[producer])
        assert numbers == list(range(len(numbers))), producer
        assert told <= len(numbers) <= offered, producer
        total += len(numbers)
    assert total > 10 * KILLS
    sys.stdout.write(f"{KILLS} kills, {len(given.counts)} producers, {total:,} rows\n")


def test_sqlite_holds_each_record_once_whoever_is_killed(tmp_path: Path) -> None:
    database = tmp_path / "events.db"

    def rows() -> list[tuple[str, int]]:
        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT json_extract(payload, '$.producer'), json_extract(payload, '$.number') FROM events"
            return connection.execute(query).fetchall()

    for given in stage(tmp_path, f"sqlite:///{database}"):
        check(given, rows)


def test_what_producers_deliver_themselves_is_kept_for_followers_that_are_all_dead(tmp_path: Path) -> None:
    database = tmp_path / "events.db"
    for given in stage(tmp_path, f"sqlite:///{database}", own=f"jsonl:///{tmp_path}/own"):
        for _ in range(2):
            given.begin("follower")
        # Before that, no subscription is known for which anything would be kept.
        given.wait_until((given.log / "following" / "sqlite.subscription").exists)
        for _ in range(2):
            given.begin("producer")
        for number in range(KILLS):
            (given.kill_one if number % 2 else given.kill_followers)()
        given.end("producer")
        given.wait_until(partial(_has_all, given.log, "sqlite"))
        given.end("follower")

        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT json_extract(payload, '$.producer'), json_extract(payload, '$.number') FROM events"
            check_rows(given, connection.execute(query).fetchall())


def test_json_lines_hold_each_record_once_whoever_is_killed(tmp_path: Path) -> None:
    def rows() -> list[tuple[str, int]]:
        lines = [line for path in (tmp_path / "out").rglob("*.jsonl") for line in path.read_bytes().splitlines()]
        payloads = [msgspec.json.decode(line)["payload"] for line in lines]
        return [(each["producer"], each["number"]) for each in payloads]

    for given in stage(tmp_path, f"jsonl:///{tmp_path}/out"):
        check(given, rows)


def test_postgres_holds_each_record_once_whoever_is_killed(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    def rows() -> list[tuple[str, int]]:
        query = "SELECT payload->>'producer', payload->>'number' FROM events"
        lines = postgres_server.execute(query, database=postgres_database).splitlines()
        return [(producer, int(number)) for producer, number in (line.split("|") for line in lines)]

    for given in stage(tmp_path, postgres_server.url(postgres_database)):
        check(given, rows)
