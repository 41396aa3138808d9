"""`eventrec drain`, `status` and `log cat`, on logs that earlier runs left."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from eventrec import EventRecorder
from eventrec.log.runs import list_runs
from eventrec.testing.scripted import Numbered, quickly


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two orphans of 10 records."""

    async def leave() -> None:
        for start in (0, 10):
            recorder = EventRecorder(log=tmp_path / "log", options=quickly())
            recorder.record_many(Numbered(n) for n in range(start, start + 10))
            await recorder.close()

    anyio.run(leave)
    return tmp_path / "log"


def test_a_whole_log_has_no_faults(eventrec: Run, log: Path) -> None:
    done = eventrec("log", "verify", log)

    assert (done.returncode, done.stdout) == (0, "no fault found\n")
    assert eventrec("log", "verify", log / str(list_runs(log)[0])).returncode == 0


def test_a_flipped_byte_is_named_by_log_file_and_byte(eventrec: Run, log: Path) -> None:
    path = next(log.glob("*/*.stdb.log"))
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)

    done = eventrec("log", "verify", log, "--json")

    assert done.returncode == 1
    fault = json.loads(done.stdout)
    assert Path(fault["log"]).name == path.parent.name
    assert (fault["file"], fault["position"], fault["reason"]) == (path.name, 10, "checksum")


def test_list_and_status_say_what_is_there(eventrec: Run, log: Path) -> None:
    listed = [json.loads(line) for line in eventrec("log", "list", log, "--json").stdout.splitlines()]
    told = [json.loads(line) for line in eventrec("status", log, "--json").stdout.splitlines()]

    assert [(each["first"], each["end"], len(each["segments"])) for each in listed] == [(0, 10, 1)] * 2
    assert [(each["first"], each["end"], each["is_locked"]) for each in told] == [(0, 10, False)] * 2
    assert "records 0 to 10" in eventrec("status", log).stdout


def test_cat_prints_every_record(eventrec: Run, log: Path) -> None:
    lines = [json.loads(line) for line in eventrec("log", "cat", log).stdout.splitlines()]

    assert sorted(line["payload"]["number"] for line in lines) == list(range(20))
    assert {line["type"] for line in lines} == {"numbered"}


def test_drain_delivers_what_is_left_and_nothing_stays(eventrec: Run, log: Path, tmp_path: Path) -> None:
    done = eventrec("drain", log, "--to", "sqlite:///events.db", "--timeout", "30")

    assert (done.returncode, done.stdout) == (0, "2 of 2 logs delivered\n")
    assert eventrec("status", log).stdout == "nothing is left\n"
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone() == (20, 20)


@pytest.mark.parametrize("command", [("log", "verify"), ("log", "list"), ("log", "cat"), ("status",)])
def test_what_is_no_directory_is_one_line(eventrec: Run, command: tuple[str, ...]) -> None:
    done = eventrec(*command, "nowhere")

    assert (done.returncode, done.stderr) == (4, "eventrec: nowhere is no directory\n")
