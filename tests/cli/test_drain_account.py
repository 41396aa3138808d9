"""`eventrec drain`: what was filtered or lost is not called delivered; what keeps nothing is not a destination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import pytest

from eventrec.runs.run import list_runs


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


class Leave(Protocol):
    def __call__(self, directory: Path, start: int, end: int, *names: str) -> None: ...


def test_filtered_records_are_not_called_delivered(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    leave(tmp_path / "log", 10, 13, "sqlite")

    _, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--type", "other")

    assert out.startswith("2 of 2 logs delivered: 0 records, 13 filtered, in ")


def test_filtered_records_are_counted_apart_in_json(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    _, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--type", "other", "--json")

    told = json.loads(out)
    assert (told["records"], told["filtered"], told["lost"]) == (0, 10, 0)


def test_a_destination_that_keeps_nothing_is_refused(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "memory")

    code, _, err = main("drain", "log", "--to", "memory:")

    assert (code, "keeps nothing" in err, len(list_runs(tmp_path / "log"))) == (3, True, 1)


def test_a_name_that_no_log_knows_is_refused(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "warehouse")

    code, _, err = main("drain", "log", "--to", "sqlite:///events.db", "--name", "warehuose")

    assert (code, "'warehouse'" in err, (tmp_path / "events.db").exists()) == (2, True, False)


@pytest.mark.parametrize("command", ["verify", "list", "cat"])
def test_log_that_this_user_may_not_open_is_said(
    main: Main, leave: Leave, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    (run,) = list_runs(tmp_path / "log")
    monkeypatch.setattr("eventrec.runs.directory.LogDirectory.runs", lambda _: [])
    monkeypatch.setattr("eventrec.runs.directory.LogDirectory.may_be_ours", lambda _, id_: id_ == run)

    code, _, err = main("log", command, "log")

    assert (code, str(run) in err) == (4, True)


def test_directory_without_a_log_is_not_called_whole(main: Main, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert main("log", "verify", "empty") == (0, "there is no log in empty\n", "")
