"""What was recorded for a destination that was never reached goes to another one: delivered, and said."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, TransientError
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import list_runs
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")

SaidBy = Callable[[str], list[logging.LogRecord]]

WARNING = "records go to another destination than they were recorded for"


async def leave(directory: Path, url: str, *, runs: int = 1) -> None:
    """Runs whose destination is not to be reached: its directory is not there."""
    for number in range(runs):
        # In a thread: which handlers are installed stands on the disk.
        make = partial(EventRecorder, url, log=directory, options=quickly())
        recorder = await anyio.to_thread.run_sync(make)
        await recorder.open()
        recorder.record(Numbered(number))
        await recorder.close(0.05)


async def deliver(directory: Path, url: str, database: Path, *, count: int) -> None:
    """Until the logs of the runs before are delivered to `database`, which `url` is the URL of."""

    def numbers() -> list[int]:
        with closing(sqlite3.connect(database)) as connection:
            try:
                rows = connection.execute("SELECT payload FROM events").fetchall()
            except sqlite3.OperationalError:
                return []
        return sorted(json.loads(payload)["number"] for (payload,) in rows)

    async with EventRecorder(url, log=directory, options=quickly()):
        with anyio.fail_after(120):
            while await anyio.to_thread.run_sync(numbers) != list(range(count)):  # noqa: ASYNC110 - a database changes it
                await anyio.sleep(0.05)


def said(said_by: SaidBy) -> list[str]:
    return [record.getMessage() for record in said_by("eventrec.delivery") if WARNING in record.getMessage()]


@pytest.mark.parametrize("runs", [1, 12])
async def test_one_line_says_that_records_go_where_they_were_not_meant_to(
    tmp_path: Path, said_by: SaidBy, runs: int
) -> None:
    log = tmp_path / "log"
    await leave(log, f"sqlite:///{tmp_path}/nowhere/a.db", runs=runs)

    await deliver(log, f"sqlite:///{tmp_path}/b.db", tmp_path / "b.db", count=runs)

    (line,) = said(said_by)
    assert "subscription=sqlite" in line
    assert "nowhere" not in line


async def test_the_same_destination_with_other_options_is_no_other_one(tmp_path: Path, said_by: SaidBy) -> None:
    log, place = tmp_path / "log", tmp_path / "later"
    await leave(log, f"sqlite:///{place}/a.db")
    await anyio.Path(place).mkdir()

    await deliver(log, f"sqlite:///{place}/a.db?busy_timeout=3s", place / "a.db", count=1)

    assert said(said_by) == []


async def test_what_was_recorded_for_a_handler_of_no_url_says_nothing(tmp_path: Path, said_by: SaidBy) -> None:
    log = tmp_path / "log"
    recorder = EventRecorder(log=log, options=quickly())
    recorder.register(ScriptedHandler(always=raising(TransientError("nobody answers"))), name="sqlite")
    await recorder.open()
    recorder.record(Numbered(0))
    await recorder.close(0.05)

    await deliver(log, f"sqlite:///{tmp_path}/b.db", tmp_path / "b.db", count=1)

    assert said(said_by) == []


async def test_nothing_of_a_url_stands_in_the_log_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_URL", f"sqlite:///{tmp_path}/nowhere/hunter2.db")
    await leave(tmp_path / "log", "env:EVENTS_URL")
    (run,) = await anyio.to_thread.run_sync(partial(list_runs, tmp_path / "log"))
    folder = tmp_path / "log" / str(run) / CHECKPOINTS

    (saved,) = (await anyio.to_thread.run_sync(CheckpointFiles(folder).load)).values()
    text = await anyio.Path(folder / "sqlite.json").read_text()

    assert len(saved.address) == 16
    assert "hunter2" not in text.replace(saved.last_error or "-", "").replace(saved.state or "-", "")
