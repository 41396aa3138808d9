"""What a later eventrec wrote into a log directory: that alone is refused, in one line, and nothing of it is lost."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import google_crc32c
import pytest

from eventrec.log.segment import HEADER_SIZE
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import list_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Main = Callable[..., tuple[int, str, str]]
    Leave = Callable[..., None]

_SEGMENT = "a segment of format version 2: this eventrec reads 1"


def write_later_segments(run: Path) -> None:
    """Have the segments of `run` as a later version may write them: another number, other bytes behind it."""
    for segment in run.glob("*.stdb.log"):
        content = segment.read_bytes()
        later = bytes(byte ^ 0x55 for byte in content[HEADER_SIZE:])
        segment.write_bytes(content[:6] + b"\x02" + content[7:HEADER_SIZE] + later)


def write_later_checkpoint(run: Path, name: str) -> None:
    """Have the checkpoint of the subscription `name` as a later version may write it."""
    path = run / CHECKPOINTS / f"{name}.json"
    told = json.loads(path.read_bytes().splitlines()[0])
    line = json.dumps(told | {"version": 2, "progress": {"ranges": [[0, 3]]}}).encode()
    path.write_bytes(b'%b\n{"crc32c":"%08x"}\n' % (line, google_crc32c.value(line)))


@pytest.fixture
def runs(leave: Leave, tmp_path: Path) -> list[Path]:
    """Three logs that wait for `sqlite`: of 3, 4 and 5 records."""
    for start, end in ((0, 3), (3, 7), (7, 12)):
        leave(tmp_path / "log", start, end, "sqlite")
    return [tmp_path / "log" / str(id_) for id_ in list_runs(tmp_path / "log")]


def files_of(run: Path) -> dict[str, bytes]:
    """Each file in `run`, with what is in it."""
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_status_tells_of_the_others_and_names_what_it_cannot_read(main: Main, runs: list[Path]) -> None:
    write_later_segments(runs[1])

    code, out, err = main("status", "log")
    told = json.loads(main("status", "log", "--json")[1])

    assert (code, err) == (0, "")
    assert f"{runs[1].name}: records from 0 on cannot be read" in out
    assert out.count(_SEGMENT) == 1
    assert "  sqlite: pending not known\n" in out
    assert "\n  sqlite: pending 8\n" in out.partition("3 logs, ")[2]
    assert [each["error"] for each in told["logs"]] == [None, _SEGMENT, None]
    assert told["total"]["unreadable"] == 1


def test_drain_delivers_the_others_and_leaves_it_as_it_is(main: Main, runs: list[Path], tmp_path: Path) -> None:
    write_later_segments(runs[1])
    before = files_of(runs[1])

    code, out, err = main("drain", "log", "--to", "sqlite:///events.db")

    assert code == 1
    assert out.startswith("2 of 3 logs delivered: 8 records")
    assert f"eventrec: {runs[1].name}: left, {_SEGMENT}\n" in err
    assert files_of(runs[1]) == before
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (8,)


@pytest.mark.parametrize("command", ["list", "verify", "cat"])
def test_commands_that_look_into_logs_go_on_with_the_others(main: Main, runs: list[Path], command: str) -> None:
    write_later_segments(runs[0])

    code, out, err = main("log", command, "log")

    assert code == 4
    assert err == f"eventrec: log/{runs[0].name}: {_SEGMENT}\n"
    assert ("no fault found" in out, runs[2].name in out, '"number":11' in out) == {
        "list": (False, True, False),
        "verify": (False, False, False),
        "cat": (False, True, True),
    }[command]
    assert main("log", command, runs[0])[0] == 4


def test_the_doctor_says_which_log_it_is(main: Main, runs: list[Path]) -> None:
    write_later_segments(runs[0])
    write_later_checkpoint(runs[1], "sqlite")

    code, out, _ = main("doctor", "log")

    assert code == 1
    assert f"problem  bytes: {runs[0].name}: {_SEGMENT}; run it where they can be read" in out
    assert f"problem  checkpoint: {runs[1].name}/checkpoints/sqlite.json is of a later eventrec" in out
    assert "pending: 'sqlite' 5" in out


def test_status_names_a_later_checkpoint(main: Main, runs: list[Path]) -> None:
    write_later_checkpoint(runs[1], "sqlite")

    _, out, _ = main("status", "log")

    assert "  sqlite.json: this checkpoint cannot be read: a later eventrec wrote it\n" in out


def test_a_log_whose_other_checkpoint_is_a_later_one_is_not_forgotten(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "done", "newer", delivered=("done",))
    (id_,) = list_runs(tmp_path / "log")
    write_later_checkpoint(tmp_path / "log" / str(id_), "newer")

    code, out, _ = main("log", "forget", "log", "old", "--yes")

    assert code == 0
    assert out.endswith("10 records given up; kept: a checkpoint cannot be read\n")
    assert list_runs(tmp_path / "log") == [id_]


def test_what_waits_in_a_log_that_cannot_be_read_is_not_forgotten(main: Main, runs: list[Path]) -> None:
    write_later_segments(runs[1])
    before = [files_of(run) for run in runs]

    code, _, err = main("log", "forget", "log", "sqlite", "--yes")

    assert code == 4
    assert _SEGMENT in err
    assert [files_of(run) for run in runs] == before
