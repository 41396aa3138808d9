"""`eventrec drain`, and `log` on logs that earlier runs left."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from eventrec import EventRecorder
from eventrec.log.log import Log
from eventrec.runs.directory import list_runs
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import Numbered, quickly
from eventrec.testing.small_disk import SmallDisk

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]


class Command(Protocol):
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


def test_a_whole_log_has_no_faults(eventrec: Command, log: Path) -> None:
    done = eventrec("log", "verify", log)

    assert (done.returncode, done.stdout) == (0, "no fault found\n")
    assert eventrec("log", "verify", log / str(list_runs(log)[0])).returncode == 0


@pytest.mark.parametrize("room", [(0, None), (None, 0), (0, 0)])
def test_a_disk_without_room_for_a_log_of_its_own_is_emptied(
    main: Main, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: tuple[int | None, int | None]
) -> None:
    disk = SmallDisk(monkeypatch)
    disk.files, disk.pages = room

    code, out, _ = main("drain", log, "--to", f"sqlite:///{tmp_path / 'events.db'}")

    assert code == 0
    assert out.startswith("2 of 2 logs delivered: 20 records")
    assert list_runs(log) == []


def test_a_flipped_byte_is_named_by_log_file_and_byte(eventrec: Command, log: Path) -> None:
    path = next(log.glob("*/*.stdb.log"))
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)

    done = eventrec("log", "verify", log, "--json")

    assert done.returncode == 1
    fault = json.loads(done.stdout)
    assert Path(fault["log"]).name == path.parent.name
    assert (fault["file"], fault["position"], fault["reason"]) == (path.name, 10, "checksum")


def test_list_says_what_is_there(eventrec: Command, log: Path) -> None:
    listed = [json.loads(line) for line in eventrec("log", "list", log, "--json").stdout.splitlines()]

    assert [(each["first"], each["end"], len(each["segments"])) for each in listed] == [(0, 10, 1)] * 2


def test_cat_prints_every_record(eventrec: Command, log: Path) -> None:
    lines = [json.loads(line) for line in eventrec("log", "cat", log).stdout.splitlines()]

    assert sorted(line["payload"]["number"] for line in lines) == list(range(20))
    assert {line["type"] for line in lines} == {"numbered"}


def rows(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT json_extract(payload, '$.number'), id FROM events ORDER BY 1").fetchall()
    assert len({id_ for _, id_ in found}) == len(found)
    return [number for number, _ in found]


def test_drain_delivers_what_is_left_and_nothing_stays(eventrec: Command, log: Path, tmp_path: Path) -> None:
    done = eventrec("drain", log, "--to", "sqlite:///events.db", "--timeout", "30")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 of 2 logs delivered: 20 records, in ")
    assert eventrec("status", log).stdout == "nothing is left\n"
    assert rows(tmp_path / "events.db") == list(range(20))
    assert list(log.iterdir()) == []


def test_drain_of_nothing_makes_nothing(eventrec: Command, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    done = eventrec("drain", "log", "--to", "sqlite:///events.db", "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, told["logs"], told["records"]) == (0, 0, 0)
    assert list((tmp_path / "log").iterdir()) == []
    assert not (tmp_path / "events.db").exists()


@pytest.mark.parametrize("name", ["sqlite", "SqliteHandler"])
def test_drain_delivers_as_the_subscription_in_the_logs_that_fits_the_url(
    main: Main, leave: Leave, tmp_path: Path, name: str
) -> None:
    leave(tmp_path / "log", 0, 10, name)

    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--json")

    assert (code, json.loads(out)["subscription"]) == (0, name)
    assert rows(tmp_path / "events.db") == list(range(10))
    assert list((tmp_path / "log").iterdir()) == []


@pytest.mark.parametrize(
    ("names", "why"), [(("warehouse", "other"), "none fits"), (("sqlite", "SqliteHandler"), "several fit")]
)
def test_drain_asks_for_the_name_where_it_is_not_clear(
    main: Main, leave: Leave, tmp_path: Path, names: tuple[str, ...], why: str
) -> None:
    leave(tmp_path / "log", 0, 10, *names)

    code, out, err = main("drain", "log", "--to", "sqlite:///events.db")

    assert (code, out) == (2, "")
    assert err.startswith("eventrec: --name is needed: the logs know ")
    assert all(repr(name) in err for name in names)
    assert why in err


def test_log_that_another_subscription_needs_stays_and_says_for_whom(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "warehouse", "other")
    (run,) = list_runs(tmp_path / "log")

    code, out, err = main("drain", "log", "--to", "sqlite:///events.db", "--name", "warehouse", "--json")

    told = json.loads(out)
    assert (code, told["records"], told["delivered_logs"]) == (1, 10, 0)
    assert told["left"] == [{"log": str(run), "pending": {"other": 10}}]
    assert err == f"eventrec: {run}: left, pending for 'other': 10\n"
    assert rows(tmp_path / "events.db") == list(range(10))


def test_log_that_a_process_holds_is_named_and_skipped(main: Main, log: Path, tmp_path: Path) -> None:
    held = Run.adopt(log, list_runs(log)[0])
    assert held is not None

    code, _, err = main("drain", log, "--to", "sqlite:///events.db")
    held.release()

    assert code == 0
    assert err == f"eventrec: {held.id}: held by a process, skipped\n"
    assert rows(tmp_path / "events.db") == list(range(10, 20))
    assert list_runs(log) == [held.id]


def test_destination_that_takes_nothing_ends_it_and_all_stays(eventrec: Command, log: Path, tmp_path: Path) -> None:
    before = list_runs(log)

    done = eventrec("drain", log, "--to", f"staged:///{tmp_path}/out?pause_after=0")

    assert done.returncode == 3
    assert "eventrec: the destination takes no more, paused: no rights\n" in done.stderr
    assert done.stdout.startswith("0 of 2 logs delivered: 0 records")
    assert list_runs(log) == before
    assert eventrec("drain", log, "--to", "sqlite:///events.db", "--name", "staged").returncode == 0
    assert rows(tmp_path / "events.db") == list(range(20))


def test_it_gives_up_when_time_is_up(eventrec: Command, log: Path, tmp_path: Path) -> None:
    done = eventrec("drain", log, "--to", f"staged:///{tmp_path}/out?until=never", "--timeout", "0.5", "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["records"], len(told["left"])) == (1, 1, 0, 2)


def test_interrupted_it_leaves_the_rest_where_it_is(
    start: Callable[..., Any], eventrec: Command, log: Path, tmp_path: Path
) -> None:
    running = start("drain", log, "--to", f"staged:///{tmp_path}/out?until=up")
    running.wait_for_error("delivery interrupted")

    running.interrupt()
    code, out = running.end()

    assert code == 130
    assert out.startswith("0 of 2 logs delivered: 0 records")
    assert "eventrec: interrupted, what is not delivered stays\n" in running.errors
    assert eventrec("drain", log, "--to", "sqlite:///events.db", "--name", "staged").returncode == 0
    assert rows(tmp_path / "events.db") == list(range(20))


def test_what_the_destination_refuses_is_named_and_kept(eventrec: Command, log: Path, tmp_path: Path) -> None:
    done = eventrec("drain", log, "--to", f"staged:///{tmp_path}/out?poison=13", "--dead", "dead.jsonl", "--json")

    told = json.loads(done.stdout)
    (letter,) = (tmp_path / "dead.jsonl").read_text(encoding="utf-8").splitlines()
    assert (done.returncode, told["records"], told["refused"], told["left"]) == (1, 19, 1, [])
    assert json.loads(letter)["payload"] == {"number": 13}
    assert f"{json.loads(letter)['log_id']}: record 3 is refused by the destination: it is poison" in done.stderr


def test_delivery_does_not_wait_for_whoever_reads_what_is_said(
    environment: dict[str, str], log: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4_096))
    os.set_blocking(writing, True)
    to = f"staged:///{tmp_path}/out?poison=13&seconds=0.5"
    command = [sys.executable, "-W", "error", "-m", "eventrec.cli", "drain", str(log), "--to", to]
    with subprocess.Popen(command, env=environment, stderr=writing, stdout=subprocess.DEVNULL) as drain:
        os.close(writing)
        deadline = time.monotonic() + 20
        delivered = 0
        while delivered < 19 and time.monotonic() < deadline:
            time.sleep(0.05)
            with suppress(FileNotFoundError):
                delivered = len((tmp_path / "out").read_bytes().splitlines())
        with os.fdopen(reading, "rb") as said:
            lines = said.read().lstrip(b"\0").decode()

    assert delivered == 19
    assert "record 3 is refused by the destination: it is poison" in lines
    assert drain.returncode == 1


def test_only_the_types_asked_for_are_delivered(main: Main, log: Path, tmp_path: Path) -> None:
    code, out, _ = main("drain", log, "--to", "jsonl:///out", "--type", "other", "--discard-others")

    assert code == 0
    assert not [line for path in (tmp_path / "out").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert out.startswith("2 of 2 logs delivered")


def test_log_that_nobody_can_read_does_not_hold_up_the_end(
    main: Main, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.cli.logs.orphans._STALLED_SECONDS", 1.0)
    run = Run.create(log, new_run_id())
    with Log.create(run.storage) as foreign:
        foreign.append([b"\x09 of a later version"])
        foreign.write()
    run.release()

    code, out, err = main("drain", log, "--to", "sqlite:///events.db")

    assert code == 1
    assert out.startswith("2 of 3 logs delivered: 20 records")
    assert "content version 0x09 is unknown" in err
    assert f"{run.id}: left, pending for 'sqlite': 1" in err
    assert rows(tmp_path / "events.db") == list(range(20))


def test_progress_is_shown_to_who_watches(
    on_terminal: Callable[..., tuple[int, str]], log: Path, tmp_path: Path
) -> None:
    code, written = on_terminal("drain", log, "--to", f"staged:///{tmp_path}/out?seconds=0.4")

    assert code == 0
    assert re.search(r"[01] of 2 logs · [0-9]+ of 20 records", written)


@pytest.mark.parametrize(
    "command",
    [
        ("log", "verify"),
        ("log", "list"),
        ("log", "cat"),
        ("log", "compress"),
        ("log", "forget", "--yes"),
        ("status",),
        ("drain", "--to", "sqlite:///x.db"),
    ],
)
def test_what_is_no_directory_is_one_line(eventrec: Command, command: tuple[str, ...]) -> None:
    done = eventrec(*command, "nowhere", *(["name"] if "forget" in command else []))

    assert (done.returncode, done.stderr) == (4, "eventrec: nowhere is not a directory\n")
