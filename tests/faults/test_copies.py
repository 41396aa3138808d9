"""A log directory that is copied while it lives, cloned, opened elsewhere, drained twice: each event arrives once."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from eventrec.delivery.letters.log import letters_of
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import DEAD, list_runs
from eventrec.testing.servers import PostgresServer

PROGRAM = Path(__file__).with_name("soak") / "kill_writer.py"
"""Records numbers; every ninth, from 4 on, is one that its destination refuses for good."""


@dataclass
class Destination:
    """Its URL, the numbers that are there, and the processes of a test that deliver to it: none outlives it."""

    url: str
    numbers: Callable[[], list[int]]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: object, stdin: int | None = None) -> subprocess.Popen[bytes]:
        """Run Python with that."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, command)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes:
            with process:
                process.kill()


def into(soon: str) -> pytest.MarkDecorator:
    """One destination beside all other tests, each of them where there is time; no claim is without one."""
    each: dict[str, list[pytest.MarkDecorator]] = {"sqlite": [], "jsonl": [], "postgres": [pytest.mark.handlers]}
    params = [
        pytest.param(name, marks=marks if name == soon else [*marks, pytest.mark.faults])
        for name, marks in each.items()
    ]
    return pytest.mark.parametrize("destination", params, indirect=True)


@pytest.fixture
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    if request.param == "sqlite":
        path = tmp_path / "events.db"

        def in_sqlite() -> list[int]:
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as connection:
                return [
                    n for (n,) in connection.execute("SELECT json_extract(payload, '$.number') FROM events").fetchall()
                ]
            return []

        with Destination(f"sqlite:///{path}", in_sqlite) as destination:
            yield destination
        return
    if request.param == "jsonl":

        def in_jsonl() -> list[int]:
            found = []
            for sidecar in (tmp_path / "lines").glob("*/*/next"):
                stands = json.loads(sidecar.read_bytes())
                content = (sidecar.parent / stands["file"]).read_bytes() if stands["file"] is not None else b""
                found += [json.loads(line)["payload"]["number"] for line in content[: stands["length"]].splitlines()]
            return found

        with Destination(f"jsonl:///{tmp_path / 'lines'}", in_jsonl) as destination:
            yield destination
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = request.getfixturevalue("postgres_database")
    execute = partial(server.execute, database=name)

    def in_postgres() -> list[int]:
        if execute("SELECT to_regclass('events')") == "":
            return []
        return [int(line) for line in execute("SELECT payload->'number' FROM events").split()]

    with Destination(server.url(name), in_postgres) as destination:
        yield destination


class Recorder:
    """A process that records numbers from `first` on, delivers them and what it finds in `log`, until `end`.

    The first 2,000 of them are recorded at once, so that there is much to deliver for a while.
    """

    def __init__(self, log: Path, destination: Destination, *, first: int = 0) -> None:
        self._process = destination.start(PROGRAM, stdin=subprocess.PIPE)
        self._until = log.with_name(f"{log.name}.until")
        self._first = first
        self._life = {
            "url": destination.url,
            "log": str(log),
            "first": first,
            "until": str(self._until),
            "burst": 2_000,
            "batch_rows": 50,
        }

    def start(self) -> Recorder:
        """Begin. Python's start is over by then, where this is called late enough."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._life).encode() + b"\n")
        self._process.stdin.flush()
        return self

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """It stands still, in the middle of whatever it does, and wakes late."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Let it record no more, and end in good order."""
        self._until.touch()

    def end(self) -> range:
        """Wait for its end; the numbers it has recorded."""
        self.stop()
        told, errors = self._process.communicate(timeout=200)
        assert self._process.returncode == 0, errors.decode()
        death = json.loads(told)
        assert not death["is_killed"]
        return range(self._first, death["offered"])


class Drains:
    """`eventrec drain` of each directory, all at once."""

    def __init__(self, destination: Destination, *logs: Path) -> None:
        self._processes = [
            destination.start("-m", "eventrec.cli", "drain", log, "--to", destination.url) for log in logs
        ]

    def end(self) -> str:
        """Wait until all have delivered everything; what they said."""
        with ThreadPoolExecutor() as readers:
            ends = list(readers.map(partial(subprocess.Popen.communicate, timeout=200), self._processes))
        said = "".join(error.decode() for _, error in ends)
        for process in self._processes:
            assert process.returncode in (0, 1), said  # 1: all is settled, and some was refused
        return said


def copied(log: Path, name: str) -> Path:
    """A copy of `log` as it is now, without what vanished meanwhile."""
    copy = log.with_name(name)
    # What is listed may be gone when it is its turn: it is delivered.
    with suppress(shutil.Error):
        shutil.copytree(log, copy)
    return copy


def wait_until_delivered(destination: Destination, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(destination.numbers()) < count:
        assert time.monotonic() < deadline
        assert not any(process.poll() for process in destination.processes)
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
        int(re.findall(rb'"number":(\d+)', letter.entry[PAYLOAD])[0])
        for id_ in list_runs(log / DEAD)
        for _, letter in letters_of(log / DEAD, id_)
    ]


def killed_runs(log: Path, destination: Destination, runs: int, *, events: int) -> list[range]:
    """Leave logs in `log`, the last of them nearly undelivered; the numbers recorded into each."""
    firsts = [number * events for number in range(runs)]
    life = {"url": destination.url, "log": str(log), "events": events, "burst": events, "step": "letter synced"}
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        input="\n".join(json.dumps({**life, "first": first, "nth": 1 + n}) for n, first in enumerate(firsts)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(death["is_killed"] for death in deaths)
    return [range(first, death["offered"]) for first, death in zip(firsts, deaths, strict=True)]


@pytest.mark.slow
@into("postgres")
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
@into("sqlite")
def test_a_clone_that_goes_on_recording_beside_the_original_doubles_nothing(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    clone = Recorder(tmp_path / "clone", destination, first=90_000)
    original = Recorder(log, destination).start()
    wait_until_delivered(destination, 1)
    copy = copied(log, "clone")

    clone.start()
    wait_until_delivered(destination, 2_500)
    clone.stop()
    original.stop()
    recorded = {*clone.end(), *original.end()}

    check_each_once(destination, recorded, log, copy)


@pytest.mark.slow
@into("sqlite")
def test_a_process_that_sleeps_while_a_copy_of_its_log_is_delivered_doubles_nothing(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    original = Recorder(log, destination).start()
    wait_until_delivered(destination, 1)
    copies = []

    for name in ("one", "two", "three"):
        with original.asleep():
            copies.append(copied(log, name))
            drains = Drains(destination, copies[-1])
            # Not until they end: it may sleep with the database locked.
            time.sleep(1.5)
        drains.end()
    recorded = original.end()

    check_each_once(destination, recorded, log, *copies)


@pytest.mark.slow
@into("jsonl")
def test_drains_of_one_directory_and_of_its_copies_at_once_deliver_each_event_once(
    tmp_path: Path, destination: Destination
) -> None:
    log = tmp_path / "log"
    recorded = killed_runs(log, destination, 3, events=5_000)
    copies = [copied(log, "one"), copied(log, "two")]
    before = {*destination.numbers()}.union(*map(letters_in, (log, *copies)))

    said = Drains(destination, log, log, *copies).end()

    assert "not deleted" not in said
    settled = {*destination.numbers()}.union(*map(letters_in, (log, *copies)))
    assert before < settled
    for numbers in recorded:
        of_run = settled & set(numbers)
        assert sorted(set(range(numbers.start, max(of_run, default=-1) + 1)) - of_run) == [], said
    check_each_once(destination, settled, log, *copies)
