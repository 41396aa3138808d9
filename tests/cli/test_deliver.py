"""`eventrec deliver`: a process of its own that follows what others write."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec import EventRecorder
from eventrec.cli.app import app
from eventrec.delivery.supervisor import GRACE
from eventrec.testing.scripted import Numbered, quickly

Main = Callable[..., tuple[int, str, str]]

UNTIL_STOPPED = "until Ctrl-C or SIGTERM"


def count(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite3.OperationalError:  # The table is not there yet.
            return 0


def has_rows(database: Path, number: int) -> Callable[[], bool]:
    return lambda: count(database) == number


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_an_application_writes_is_delivered_while_it_runs(start: Any, tmp_path: Path) -> None:
    delivering = start("deliver", "log", "--to", "sqlite:///e.db", "--to", f"jsonl:///{tmp_path}/out")
    delivering.wait_for_error(UNTIL_STOPPED)
    with EventRecorder(log=tmp_path / "log", options=quickly()).sync() as recorder:
        for number in range(3):
            recorder.record(Numbered(number))
            wait_for(has_rows(tmp_path / "e.db", number + 1))

    wait_for(lambda: len(list((tmp_path / "log").glob("0*"))) == 1)
    delivering.interrupt(signal.SIGTERM)
    code, out = delivering.end()

    assert (code, out) == (0, "0 logs left, pending for 'sqlite': 0, 'jsonl': 0\n")
    # It is remembered for whom the logs are followed, and nothing else.
    left = sorted(path.name for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert left == ["jsonl.subscription", "sqlite.subscription"]
    lines = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")).splitlines()
    assert len(lines) == 3


def test_killed_it_is_continued_by_the_one_that_waits(start: Any, tmp_path: Path) -> None:
    first = start("deliver", "log", "--to", "sqlite:///e.db")
    first.wait_for_error(UNTIL_STOPPED)
    with EventRecorder(log=tmp_path / "log", options=quickly()).sync() as recorder:
        recorder.record(Numbered(0))
        wait_for(lambda: count(tmp_path / "e.db") == 1)
        second = start("deliver", "log", "--to", "sqlite:///e.db")
        second.wait_for_error("waiting: another process delivers subscriptions=['sqlite']")

        first.process.kill()
        recorder.record(Numbered(1))

        wait_for(lambda: count(tmp_path / "e.db") == 2)
    second.interrupt()
    assert second.end()[0] == 0


def test_what_is_left_is_told_as_json(start: Any, tmp_path: Path) -> None:
    with EventRecorder(log=tmp_path / "log", options=quickly()).sync() as recorder:
        recorder.record(Numbered(0))
        delivering = start("deliver", "log", "--to", f"staged:///{tmp_path}/out?until=never", "--json")
        delivering.wait_for_error("delivery interrupted")
        delivering.interrupt(signal.SIGTERM)
        code, out = delivering.end()

    assert code == 0
    assert json.loads(out) == {"logs": 1, "pending": {"staged": 1}, "exit_code": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "sqlite:///e.db", "--name", "a", "--name", "b"], 2, "2 for 1 --to"),
        (["--to", "sqlite:///e.db", "--to", "sqlite:///f.db"], 2, "two destinations would have one name"),
        (["--to", "sqlite:///e.db", "--name", ""], 2, "--name"),
        (["--to", "sqlite:///e.db", "--type", ""], 2, "--type: types: an event type must be"),
        (["--to", "nope:///x"], 3, "no handler for the scheme 'nope'"),
        (["--to", "memory:"], 3, "memory"),
        (["--to", "sqlite:///e.db", "--config", "none.toml"], 4, "none.toml"),
    ],
)
def test_what_is_wrong_is_one_line(main: Main, arguments: list[str], code: int, words: str) -> None:
    found, out, err = main("deliver", "log", *arguments)

    assert (found, out, err.count("\n")) == (code, "", 1)
    assert words in err


def test_a_directory_of_others_is_refused(main: Main, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")

    code, _, err = main("deliver", "photos", "--to", "sqlite:///e.db")

    assert (code, "is not a log directory" in err) == (4, True)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_subscription_that_fits_no_name_in_the_logs_needs_one(main: Main, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with EventRecorder("sqlite:///e.db", log=tmp_path / "log", options=quickly()).sync() as recorder:
        recorder.record(Numbered(0))
        recorder.flush(10)

        code, _, err = main("deliver", "log", "--to", f"jsonl:///{tmp_path}/out")

    assert (code, "--name is needed" in err) == (2, True)


def test_the_unit_for_systemd_runs_and_waits_for_longer_than_closing_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "systemd.md").read_text(encoding="utf-8")
    text = page.partition("# eventrec-deliver.service")[2].partition("```")[0]
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE))
    command = unit["ExecStart"].split()

    _, bound, _ = app.parse_args(command[1:], print_error=False, exit_on_error=False)

    assert bound.arguments["to"] == ["env:EVENTS_URL"]
    assert unit["Environment"] == "EVENTREC_CLOSE_TIMEOUT=5s"
    assert float(unit["TimeoutStopSec"]) > 5 + GRACE + 1
