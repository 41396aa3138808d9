"""Source and mirror killed in mid-stream, and what is left of both; and a destination after the source is gone.

The long runs, and a line with their figures: python -m pytest -s -m faults tests/faults/test_mirror_kill.py
`EVENTREC_TEST_KILLS` (50) is how often each end is killed, `EVENTREC_TEST_FAIL_OVERS` (20) how often a source is lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.log.mirror import StreamReader
from eventrec.log.segment import HEADER_SIZE, list_segments, segment_name
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.mirrors import Mirrors

KILLS = int(os.environ.get("EVENTREC_TEST_KILLS", "50"))
FAIL_OVERS = int(os.environ.get("EVENTREC_TEST_FAIL_OVERS", "20"))

WRITER = Path(__file__).with_name("mirror_writer.py")
COMMAND = [sys.executable, "-m", "eventrec.cli"]


class Started:
    """A process, killed at the end of the test. What it says on stderr goes to a file."""

    def __init__(self, *arguments: object, says: Path) -> None:
        self._errors = says.open("ab")
        self.process = subprocess.Popen(
            [str(each) for each in arguments], stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> str:
        """What it said on stdout."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=200)
        self._errors.close()
        return out


class Machines:
    """A source and its mirror, as processes on this machine."""

    def __init__(self, path: Path) -> None:
        self.here, self.there = path / "here", path / "there"
        self.says = path / "says"
        self.here.mkdir(parents=True)
        self.port = 0
        self.running: dict[str, Started] = {}

    def serve(self) -> None:
        self._start("serve", *COMMAND, "log", "serve", self.here, "--listen", f"127.0.0.1:{self.port}")
        if not self.port:
            eventually(lambda: "serving on" in self.says.read_text())
            self.port = int(self.says.read_text().split("serving on 127.0.0.1:")[1].split()[0])

    def mirror(self) -> None:
        self._start("mirror", *COMMAND, "log", "mirror", f"127.0.0.1:{self.port}", self.there, "--name", "standby")

    def write(self, *arguments: object) -> None:
        self._start("write", sys.executable, WRITER, *arguments)

    def _start(self, what: str, *arguments: object) -> None:
        self.running[what] = Started(*arguments, says=self.says)

    def kill(self, what: str, number: signal.Signals = signal.SIGKILL) -> str:
        return self.running.pop(what).kill(number)

    def end_of(self, id_: Any) -> int:
        """The record after the last one that the source's files hold of a log."""
        with closing(DiskStorage(self.here / str(id_))) as storage, StreamReader(storage, passes_damage=True) as reader:
            while reader.read():
                pass
            return reader.next_offset

    def is_begun(self) -> bool:
        return bool(Mirrors(self.here).names() and list_runs(self.there))

    def acknowledged(self) -> int:
        """Records of all logs."""
        known = [Mirrors(self.here).of_log(id_) for id_ in list_runs(self.here)]
        return sum(each["standby"].next_offset for each in known if each)

    def has_more(self, *, records: int) -> bool:
        return self.acknowledged() > records

    def has_more_runs(self, *, runs: int) -> bool:
        return len(list_runs(self.here)) > runs

    def is_mirrored(self) -> bool:
        return all(
            Mirrors(self.here).of_log(id_)["standby"].next_offset >= self.end_of(id_) for id_ in list_runs(self.here)
        )

    def differences(self) -> list[str]:
        """Segments that are not alike, torn tails and reserved space left out."""
        found = []
        for id_ in list_runs(self.here):
            for first, content in whole_segments(self.here / str(id_)).items():
                path = self.there / str(id_) / segment_name(first)
                if not path.exists() or path.read_bytes() != content:
                    found.append(str(path))
        return found


def whole_segments(directory: Path) -> dict[int, bytes]:
    """The bytes of each segment as far as they are whole commits that count, those of empty ones left out."""
    found: dict[int, bytes] = {}
    with closing(DiskStorage(directory)) as storage:
        firsts = list_segments(storage)  # None where the process was killed before it had a log.
        for first, after in zip(firsts, [*firsts[1:], None], strict=False):
            with StreamReader(storage, start=first, end=after) as reader:
                content = b"".join(iter(reader.read, b""))
            if len(content) > HEADER_SIZE:
                found[first] = content
    return found


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@contextmanager
def machines(path: Path) -> Iterator[Machines]:
    made = Machines(path)
    try:
        yield made
    finally:
        for what in list(made.running):
            made.kill(what)


@pytest.fixture(scope="module")
def figures() -> Iterator[Counter[str]]:
    """What the long runs counted: printed in one line at their end."""
    found = Counter[str]()
    yield found
    if found:
        said = ", ".join(f"{name} {count:,}" for name, count in found.items())
        print("\nmirroring:", said)  # noqa: T201 - an operator started the run for it


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=[pytest.mark.faults, pytest.mark.timeout(1_800)])])
def test_files_are_alike_however_often_source_and_mirror_are_killed(
    tmp_path: Path, kills: int, figures: Counter[str]
) -> None:
    chance, began = random.Random(kills), time.monotonic()
    with machines(tmp_path) as pair:
        pair.serve()
        pair.write("rate", pair.here, 10_000)
        pair.mirror()
        eventually(pair.is_begun)
        for _ in range(kills):
            runs, records = len(list_runs(pair.here)), pair.acknowledged()
            eventually(partial(pair.has_more, records=records))
            time.sleep(chance.uniform(0.0, 0.3))  # it is to be anywhere
            pair.kill("mirror")
            pair.mirror()
            if chance.random() < 0.5:
                eventually(partial(pair.has_more, records=pair.acknowledged()))
            pair.kill("write")
            pair.kill("serve")
            pair.serve()
            pair.write("rate", pair.here, 10_000)
            eventually(partial(pair.has_more_runs, runs=runs))
        seconds = time.monotonic() - began
        pair.kill("write")
        eventually(pair.is_mirrored)
        pair.kill("mirror", signal.SIGTERM)

        differences, records = pair.differences(), sum(pair.end_of(id_) for id_ in list_runs(pair.here))
        if kills > 1:
            figures["mirrors killed"] += kills
            figures["sources killed"] += kills
            figures["records"] += records
            figures["records a second"] += int(records / seconds)
            figures["segments that differ"] += len(differences)
        assert differences == []
        # The last one may have been killed before its first record: then no mirror has to know of it.
        assert {id_ for id_ in list_runs(pair.here) if pair.end_of(id_)} <= set(list_runs(pair.there))
        assert set(list_runs(pair.there)) <= set(list_runs(pair.here))
        assert records > 0


@pytest.mark.parametrize("count", [1, pytest.param(FAIL_OVERS, marks=[pytest.mark.faults, pytest.mark.timeout(1_800)])])
def test_after_a_fail_over_the_destination_has_what_was_mirrored_once(
    tmp_path: Path, count: int, figures: Counter[str]
) -> None:
    chance = random.Random(count)
    for number in range(count):
        with machines(tmp_path / str(number)) as pair:
            database = tmp_path / f"{number}.db"
            pair.serve()
            pair.mirror()
            pair.write("durable", pair.here, f"sqlite:///{database}", 0)
            eventually(pair.is_begun)
            time.sleep(chance.uniform(1.0, 4.0))  # it is to be anywhere
            acknowledged = [int(line) for line in pair.kill("write").split()]
            pair.kill("serve")
            pair.kill("mirror", chance.choice([signal.SIGTERM, signal.SIGKILL]))
            drain = [*COMMAND, "drain", str(pair.there), "--to", f"sqlite:///{database}"]
            drained = subprocess.run(drain, capture_output=True, text=True, check=False, timeout=120)

        with closing(sqlite3.connect(database)) as read:
            numbers = [json.loads(payload)["number"] for (payload,) in read.execute("SELECT payload FROM events")]
        if count > 1:
            figures["fail-overs"] += 1
            figures["acknowledged as mirrored"] += len(acknowledged)
            figures["of them missing"] += len(set(acknowledged) - set(numbers))
            figures["delivered twice"] += len(numbers) - len(set(numbers))
        assert drained.returncode == 0, drained.stderr
        assert acknowledged
        assert set(acknowledged) <= set(numbers)
        assert len(numbers) == len(set(numbers))
        assert not LogDirectory(pair.there).runs()
