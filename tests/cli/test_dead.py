"""`eventrec dead` and `eventrec resume`: what operators do about records that a destination refused."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, TransientError
from eventrec.runs.directory import list_runs
from eventrec.runs.requests import OperatorRequest, load_requests, save_request, sweep_requests
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, quickly, raising, refusing

pytestmark = pytest.mark.usefixtures("looking_often")


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


def rows(database: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            "SELECT json_extract(payload, '$.number'), id FROM events ORDER BY timestamp, id"
        ).fetchall()


def test_list_counts_by_type_and_reason(eventrec: Run, dead_log: Path) -> None:
    done = eventrec("dead", "list", dead_log)

    assert (done.returncode, done.stdout) == (
        0,
        "sqlite: 2 of type odd: out of range (at offsets 3, 5)\n2 dead letters wait\n",
    )
    letters = [json.loads(line) for line in eventrec("dead", "list", dead_log, "--json").stdout.splitlines()]
    assert [(each["offset"], each["payload"], each["context"]) for each in letters] == [
        (3, {"number": 3}, {"user": "u"}),
        (5, {"number": 5}, {"user": "u"}),
    ]


def test_show_tells_all_of_one_letter(eventrec: Run, dead_log: Path) -> None:
    done = eventrec("dead", "show", dead_log, "5")

    assert json.loads(done.stdout)["payload"] == {"number": 5}
    assert eventrec("dead", "show", dead_log, "4").stderr == "eventrec: no dead letter about record 4\n"


def test_replay_delivers_each_once_with_its_own_id_and_empties_the_letters(
    eventrec: Run, dead_log: Path, tmp_path: Path
) -> None:
    letters = [json.loads(line) for line in eventrec("dead", "list", dead_log, "--json").stdout.splitlines()]

    done = eventrec("dead", "replay", dead_log, "--to", "sqlite:///events.db")

    assert (done.returncode, done.stdout) == (0, "2 delivered, 0 refused again, 0 wait\n")
    assert [number for number, _ in rows(tmp_path / "events.db")] == [3, 5]
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        stored = connection.execute("SELECT timestamp, context FROM events ORDER BY timestamp, id").fetchall()
    assert [stamp for stamp, _ in stored] == [each["timestamp"] for each in letters]
    assert [json.loads(context) for _, context in stored] == [{"user": "u"}] * 2
    assert eventrec("dead", "list", dead_log).stdout == "0 dead letters wait\n"
    assert eventrec("dead", "replay", dead_log, "--to", "sqlite:///events.db").stdout == "no dead letter waits\n"
    assert list(dead_log.iterdir()) == []


def test_a_replay_that_was_cut_short_goes_on_where_it_was(eventrec: Run, dead_log: Path, tmp_path: Path) -> None:
    first = eventrec("dead", "replay", dead_log, "--to", "sqlite:///events.db", "--timeout", "0")
    second = eventrec("dead", "replay", dead_log, "--to", "sqlite:///events.db")

    assert (first.returncode, second.returncode) == (1, 0)
    assert [number for number, _ in rows(tmp_path / "events.db")] == [3, 5]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_replay_that_is_interrupted_says_what_was_delivered(
    number: signal.Signals, expected: int, dead_log: Path, start: Callable[..., Any], eventrec: Run
) -> None:
    running = start("dead", "replay", dead_log, "--to", "staged:///out?until=never", "--name", "sqlite")
    running.wait_for_error("delivery interrupted")

    running.interrupt(number)
    code, shown = running.end()

    assert (code, shown) == (expected, "0 delivered, 0 refused again, 2 wait\n")
    assert "eventrec: interrupted, what is not delivered stays\n" in running.errors
    assert "Traceback" not in "".join(running.errors)
    assert eventrec("dead", "replay", dead_log, "--to", "staged:///out", "--name", "sqlite").returncode == 0


def test_purge_asks_first_and_gives_up_what_is_old(eventrec: Run, dead_log: Path) -> None:
    asked = eventrec("dead", "purge", dead_log)
    young = eventrec("dead", "purge", dead_log, "--older-than", "1h", "--yes")

    assert (asked.returncode, asked.stdout) == (1, "2 dead letters would be given up: say --yes\n")
    assert young.stdout == "0 dead letters given up\n"
    assert eventrec("dead", "list", dead_log).stdout.endswith("2 dead letters wait\n")
    assert eventrec("dead", "purge", dead_log, "--yes").stdout == "2 dead letters given up\n"
    assert eventrec("dead", "list", dead_log).stdout == "0 dead letters wait\n"
    assert list(dead_log.iterdir()) == []


@pytest.mark.parametrize(
    "command", [("dead", "list"), ("dead", "purge"), ("resume", "sqlite"), ("dead", "skip", "sqlite", "3")]
)
def test_what_is_no_directory_is_one_line(eventrec: Run, command: tuple[str, ...]) -> None:
    words = (command[0], "nowhere", *command[1:]) if command[0] == "resume" else (*command[:2], "nowhere", *command[2:])

    done = eventrec(*words)

    assert (done.returncode, done.stderr) == (4, "eventrec: nowhere is not a directory\n")


# -- requests


def test_requests_are_kept_a_day_and_told_from_a_time_on(tmp_path: Path) -> None:
    save_request(tmp_path, OperatorRequest(subscription="../a", asked=1.0))
    save_request(tmp_path, OperatorRequest(subscription="../a", asked=50_000.0, start="latest"))
    save_request(tmp_path, OperatorRequest(subscription="b", asked=60_000.0, skip=4))
    save_request(tmp_path, OperatorRequest(subscription="../a", asked=90_000.0))

    assert [request.asked for request in load_requests(tmp_path, since=0.0)] == [50_000.0, 60_000.0, 90_000.0]
    assert [request.skip for request in load_requests(tmp_path, since=55_000.0)] == [4, None]
    (tmp_path / "requests" / "b.json").write_text("{")
    assert [request.subscription for request in load_requests(tmp_path, since=0.0)] == ["../a", "../a"]
    sweep_requests(tmp_path)
    assert len(load_requests(tmp_path, since=0.0)) == 2


async def test_a_running_process_does_what_was_requested(eventrec: Run, tmp_path: Path) -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.next.clear()
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=10) is False
        await anyio.to_thread.run_sync(eventrec, "resume", tmp_path, "FencedHandler", "--from", "latest")
        with anyio.fail_after(60):
            while handler.delivered != [0, 1]:  # noqa: ASYNC110 - a request changes it
                await anyio.sleep(0.05)

    assert_conserved(recorder.status(), offered=2)


async def test_a_record_at_which_it_holds_is_skipped_on_request(eventrec: Run, tmp_path: Path) -> None:
    handler = FencedHandler(always=refusing({3}, lambda: ValueError("who knows")))
    options = quickly(batch_rows=1, on_unmapped="hold")

    async with EventRecorder(handler, log=tmp_path, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(6))
        with anyio.fail_after(60):
            while not recorder.status().subscriptions["FencedHandler"].state.startswith("retrying"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        (run,) = await anyio.to_thread.run_sync(list_runs, tmp_path)
        skip = partial(eventrec, "dead", "skip", tmp_path, "FencedHandler", "3", "--log", str(run))
        done = await anyio.to_thread.run_sync(skip)
        assert (done.returncode, done.stderr) == (0, "")
        with anyio.fail_after(60):
            while handler.delivered != [0, 1, 2, 4, 5]:  # noqa: ASYNC110 - a request changes it
                await anyio.sleep(0.05)
        assert recorder.status().subscriptions["FencedHandler"].dead == 1

    assert_conserved(recorder.status(), offered=6)
