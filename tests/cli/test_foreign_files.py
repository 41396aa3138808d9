"""What is foreign in a log directory or in a log stays, and changes no account: not of the command that empties it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec.cli.exit_codes import CommandError
from eventrec.cli.logs.deliver import report_left
from eventrec.cli.logs.directory import see_again
from eventrec.cli.terminal import Terminal
from eventrec.runs import survey
from eventrec.runs.directory import list_runs

Main = Callable[..., tuple[int, str, str]]
TO = ["--to", "sqlite:///x.db"]


def put_file_beside(log: Path) -> None:
    (log / "readme.txt").write_text("mine")


def put_folder_beside(log: Path) -> None:
    (log / "0b7c9d7e-52a5-4b4b-9a6e-0d6f6f3c2a11").mkdir()


def put_file_inside(log: Path) -> None:
    (log / str(list_runs(log)[0]) / "notes.txt").write_text("mine")


PUT = [put_file_beside, put_folder_beside, put_file_inside]


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])


@pytest.mark.parametrize("put", PUT)
def test_drain_says_what_it_delivered_beside_what_is_foreign(
    main: Main, leave: Callable[..., None], tmp_path: Path, put: Callable[[Path], None]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    put(tmp_path / "log")

    code, out, err = main("drain", "log", *TO)

    assert (code, out[:33]) == (0, "1 of 1 log delivered: 10 records,")
    assert ("holds what is not ours" in err) == (put is put_file_inside)
    assert rows(tmp_path / "x.db") == 10
    (left,) = (tmp_path / "log").iterdir()
    assert [path.name for path in left.iterdir()] == ["notes.txt"] if put is put_file_inside else True


def test_drain_says_so_to_a_machine_too(main: Main, leave: Callable[..., None], tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    put_file_beside(tmp_path / "log")

    code, out, _ = main("drain", "log", *TO, "--json")

    told = json.loads(out)
    assert (code, told["delivered_logs"], told["records"], told["left"]) == (0, 1, 10, [])


def test_dead_replay_says_what_it_delivered_beside_what_is_foreign(eventrec: Any, dead_log: Path) -> None:
    put_file_beside(dead_log)

    done = eventrec("dead", "replay", dead_log, "--to", "sqlite:///events.db")

    assert (done.returncode, done.stdout) == (0, "2 delivered, 0 refused again, 0 wait\n")
    assert [path.name for path in dead_log.iterdir()] == ["readme.txt"]


def test_what_deliver_and_serve_say_at_their_end_stands_beside_what_is_foreign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_file_beside(tmp_path)

    code = report_left(tmp_path, ["sqlite"], Terminal(), json=False)

    assert (code, capsys.readouterr().out) == (0, "0 logs left, pending for 'sqlite': 0\n")


@pytest.mark.parametrize("command", [["status", "log"], ["doctor", "log"], ["resume", "log", "sqlite"]])
def test_what_is_delivered_while_a_command_looks_does_not_make_a_foreign_directory_of_it(
    main: Main,
    leave: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    put_file_beside(tmp_path / "log")
    real = survey.see_all

    def see_and_drain(directory: Path) -> Any:
        seen = real(directory)
        monkeypatch.setattr(survey, "see_all", real)
        assert main("drain", "log", *TO)[0] == 0
        return seen

    monkeypatch.setattr(survey, "see_all", see_and_drain)

    _, _, err = main(*command)

    assert "not a log directory" not in err


def test_a_directory_that_is_gone_when_it_is_looked_at_again_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a directory"):
        see_again(tmp_path / "gone")
