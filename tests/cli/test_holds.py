"""Pauses that only an operator ends: each command says by which command, and none pretends to have ended one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import list_runs
from eventrec.runs.requests import load_requests

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]

CHANGED = "paused: destination changed"
REFUSED = "paused: over half of the last 1,000 records of type 'numbered' were refused for good"


@pytest.fixture
def log(tmp_path: Path, leave: Leave) -> Path:
    leave(tmp_path / "log", 0, 10, "sqlite")
    return Path("log")


def save(directory: Path, state: str, *, destination: str = "the one before") -> None:
    """Four records went to `destination`, and then the subscription was in that state."""
    (run,) = list_runs(directory)
    files = CheckpointFiles(directory / str(run) / CHECKPOINTS)
    saved = files.load()["sqlite"]
    progress = replace(saved.progress, acknowledged=4, scanned=4, delivered=4)
    files.save(msgspec.structs.replace(saved, progress=progress, destination=destination, state=state), sync=False)


def numbers(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        return sorted(json.loads(payload)["number"] for (payload,) in connection.execute("SELECT payload FROM events"))


def test_resume_asks_where_to_begin_at_another_destination(main: Main, log: Path, tmp_path: Path) -> None:
    save(tmp_path / log, CHANGED)

    code, out, err = main("resume", log, "sqlite")

    assert (code, out) == (2, "")
    assert "sqlite is paused, since another destination answers than before" in err
    assert "--from earliest" in err
    assert "--from latest" in err
    assert err.count("\n") == 1
    assert load_requests(tmp_path / log, since=0.0) == []
    assert main("resume", log, "sqlite", "--from", "latest") == (0, "sqlite will go on\n", "")


@pytest.mark.parametrize("state", ["", REFUSED, "paused: no rights"])
def test_resume_of_another_pause_needs_no_more(main: Main, log: Path, tmp_path: Path, state: str) -> None:
    save(tmp_path / log, state)

    assert main("resume", log, "sqlite") == (0, "sqlite will go on\n", "")


@pytest.mark.parametrize(("start", "delivered"), [("earliest", range(10)), ("latest", range(4, 10))])
def test_drain_says_how_to_go_on_at_another_destination_and_then_does(
    main: Main, log: Path, tmp_path: Path, start: str, delivered: range
) -> None:
    save(tmp_path / log, CHANGED)

    code, _, err = main("drain", log, "--to", "sqlite:///new.db")

    advice = "eventrec resume log sqlite --from earliest, or --from latest"
    assert code == 3
    assert f"eventrec: the destination takes no more, {CHANGED}; {advice}\n" in err
    assert main("resume", log, "sqlite", "--from", start)[0] == 0
    assert main("drain", log, "--to", "sqlite:///new.db")[0] == 0
    assert numbers(tmp_path / "new.db") == list(delivered)


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (CHANGED, "eventrec resume log sqlite --from earliest, or --from latest"),
        (REFUSED, "mend that, then: eventrec resume log sqlite"),
        ("paused: no rights", "start the application, or: eventrec drain log --to URL"),
    ],
)
def test_doctor_advises_what_ends_the_pause(main: Main, log: Path, tmp_path: Path, state: str, advice: str) -> None:
    save(tmp_path / log, state)

    code, out, _ = main("doctor", log, "--json")

    (finding,) = [each for each in json.loads(out)["findings"] if each["subject"] == "logs"]
    assert (code, finding["level"], finding["advice"]) == (0, "warning", advice)
    assert finding["said"].startswith("0 held by a process, 1 orphan; pending: 'sqlite' 6")
    assert (f"; 'sqlite' is {state}" in finding["said"]) == (state != "paused: no rights")
