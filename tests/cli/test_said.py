"""What waits, what is unknown and what takes nothing is said, with an exit code."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec import EventRecorder, EventRecorderOptions, PermanentError, ReceivedEvent, TransientError
from eventrec.cli.terminal import counted
from eventrec.runs.requests import load_requests
from eventrec.testing.scripted import Numbered, ScriptedHandler, raising

NOWHERE = "postgresql://127.0.0.1:1/x"


def leave_letters(directory: Path, *offsets: int, name: str = "sqlite") -> None:
    """Dead letters about these records, and nothing else, in `directory`."""

    def refusing(batch: Any) -> None:
        bad = {offset: "out of range" for offset in batch.offsets if offset in offsets}
        if bad:
            raise PermanentError("odd", records=bad)

    recorder = EventRecorder(log=directory, options=EventRecorderOptions(flush_interval=0.01))
    recorder.register(ScriptedHandler(always=refusing), name=name)
    with recorder.sync() as blocking:
        for number in range(max(offsets) + 1):
            blocking.record(Numbered(number))
        blocking.flush(timeout=10)


def test_dead_letters_that_wait_are_said_by_status_and_doctor(main: Callable[..., Any], tmp_path: Path) -> None:
    leave_letters(tmp_path / "log", 1, 2)
    leave_letters(tmp_path / "log", 0, name="postgres")

    _, said, _ = main("status", "log")
    _, plain, _ = main("status", "log", "--json")

    assert "sqlite: 2 dead letters wait; see: eventrec dead list log" in said
    assert "postgres: 1 dead letter waits; see" in said
    assert "nothing is left" not in said
    assert json.loads(plain)["dead_letters"] == {"postgres": 1, "sqlite": 2}
    _, checked, _ = main("doctor", "log")
    assert "dead letters: 2 records that the destination of 'sqlite' refused wait; see: eventrec dead list" in checked


def test_offsets_that_dead_list_says_are_those_that_dead_show_takes(
    eventrec: Callable[..., Any], tmp_path: Path
) -> None:
    leave_letters(tmp_path / "log", *range(3, 25))

    listed = eventrec("dead", "list", "log").stdout

    assert "(at offsets 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 12 more)" in listed
    assert eventrec("dead", "show", "log", "3").returncode == 0
    assert eventrec("dead", "list", "log", "--name", "sqlit").returncode == 2


@pytest.mark.parametrize("arguments", [["resume"], ["dead", "skip"], ["log", "forget"]])
def test_subscription_that_no_log_knows_is_refused_and_nothing_is_made(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None], arguments: list[str]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    before = sorted(path.name for path in (tmp_path / "log").iterdir())
    rest = ["4"] if arguments[-1] == "skip" else ["--yes"] if arguments[-1] == "forget" else []

    code, _, err = main(*arguments, "log", "typo", *rest)

    assert (code, err) == (2, "eventrec: no log in log knows a subscription 'typo'; there are: 'sqlite'\n")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == before


def test_subscription_that_a_log_knows_is_asked_to_go_on(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    assert main("resume", "log", "sqlite") == (0, "sqlite will go on\n", "")
    assert [each.subscription for each in load_requests(tmp_path / "log", since=0)] == ["sqlite"]


@pytest.mark.parametrize("offset", ["10", "99999999", "9223372036854775807", "9223372036854775808"])
def test_record_that_no_log_has_is_not_skipped(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None], offset: str
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    code, out, err = main("dead", "skip", "log", "sqlite", offset)

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"does not wait for a record {offset}: records 0 to 9 (" in err
    assert load_requests(tmp_path / "log", since=0) == []


def test_record_that_is_settled_is_not_skipped(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite", "other", delivered=("sqlite",))

    code, _, err = main("dead", "skip", "log", "sqlite", "3")

    assert (code, err) == (2, "eventrec: 'sqlite' does not wait for a record 3: no record waits for it\n")


def test_log_that_is_not_there_is_not_skipped_in(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    id_ = "01a22301-755a-7d67-a443-0707352d960a"

    code, _, err = main("dead", "skip", "log", "sqlite", "3", "--log", id_)

    assert (code, err) == (2, f"eventrec: there is no log {id_} in log\n")


def test_record_that_waits_is_skipped(main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    assert main("dead", "skip", "log", "sqlite", "9")[0] == 0
    assert [each.skip for each in load_requests(tmp_path / "log", since=0)] == [9]


def test_forget_refuses_without_a_terminal_and_without_yes(
    main: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    code, out, err = main("log", "forget", "log", "sqlite")

    assert (code, out) == (2, "")
    assert err == "eventrec: 'sqlite' gives up 10 records in 1 log: say --yes, there is no terminal to ask on\n"
    assert "pending 10" in main("status", "log")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "replay", "log", "--to", "sqlite:///x.db"],
        ["drain", "log", "--to", "sqlite:///x.db"],
        ["record", "-", "--to", "sqlite:///x.db"],
    ],
)
@pytest.mark.parametrize("seconds", ["-1", "nan", "-0.001"])
def test_timeout_that_is_negative_is_refused(
    main: Callable[..., Any], tmp_path: Path, arguments: list[str], seconds: str
) -> None:
    (tmp_path / "log").mkdir()

    assert main(*arguments, f"--timeout={seconds}") == (2, "", "eventrec: --timeout is not negative\n")


def test_replay_that_has_no_time_delivers_nothing_and_says_so(eventrec: Callable[..., Any], tmp_path: Path) -> None:
    leave_letters(tmp_path / "log", 0)

    done = eventrec("dead", "replay", "log", "--to", "sqlite:///x.db", "--timeout", "0")

    assert (done.returncode, done.stdout) == (1, "0 delivered, 0 refused again, 1 waits\n")


def test_record_says_that_it_waits_and_ends_with_its_timeout(eventrec: Callable[..., Any]) -> None:
    started = time.monotonic()

    # It is said after a while: a busy machine needs some of that to begin.
    done = eventrec("record", "-", "--to", NOWHERE, "--timeout", "9", stdin='{"a":1}\n')

    assert done.returncode == 3
    assert time.monotonic() - started < 29
    assert "waiting for the destination, which takes nothing: retrying in" in done.stderr
    assert "; it is tried again until --timeout, 9 s, or Ctrl-C" in done.stderr
    assert "read but not delivered: 1 event; every line before line 1 is dealt with" in done.stderr
    assert done.stdout.startswith("1 line: 0 events delivered, 1 undelivered, in")


def test_record_with_a_log_keeps_what_its_timeout_leaves(eventrec: Callable[..., Any]) -> None:
    done = eventrec("record", "-", "--to", NOWHERE, "--log", "log", "--timeout", "1", stdin='{"a":1}\n')

    assert done.returncode == 3
    assert "not delivered yet: 1 event, kept in log" in done.stderr
    assert "pending 1\n" in eventrec("status", "log").stdout


def test_record_whose_time_is_over_before_its_input_says_where_it_stopped(start: Callable[..., Any]) -> None:
    running = start("record", "-", "--to", "sqlite:///x.db", "--timeout", "2", "--json")
    running.write('{"a":1}\n')

    code, told = running.end()

    assert code == 1
    assert json.loads(told)["delivered"] == 1
    assert not json.loads(told)["is_at_end"]


def test_drain_says_that_it_waits(eventrec: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]) -> None:
    leave(tmp_path / "log", 0, 10, "postgres")

    done = eventrec("drain", "log", "--to", NOWHERE, "--timeout", "5")

    assert done.returncode == 1
    assert "waiting for the destination, which takes nothing" in done.stderr
    assert "0 of 1 log delivered: 0 records" in done.stdout


@pytest.mark.parametrize(("number", "words"), [(0, "0 logs"), (1, "1 log"), (2, "2 logs"), (1_000, "1,000 logs")])
def test_number_and_noun_agree(number: int, words: str) -> None:
    assert counted(number, "log") == words
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(2, "batch", "batches") == "2 batches"


@pytest.mark.parametrize("way", ["tail", "jsonl", "cat", "dead"])
def test_what_we_wrote_comes_back_as_it_was(
    eventrec: Callable[..., Any], tmp_path: Path, leave: Callable[..., None], way: str
) -> None:
    match way:
        case "tail":
            eventrec("record", "-", "--to", "sqlite:///first.db", "--table", "numbers", stdin='{"type":"a","n":1.10}\n')
            lines = eventrec("tail", "sqlite:///first.db", "--json").stdout
        case "jsonl":
            eventrec("record", "-", "--to", f"jsonl:///{tmp_path}/out", stdin='{"type":"a","n":1.10}\n')
            lines = "".join(file.read_text() for file in (tmp_path / "out").rglob("*.jsonl"))
        case "cat":
            leave(tmp_path / "log", 0, 3, "sqlite")
            lines = eventrec("log", "cat", "log").stdout
        case _:
            leave_letters(tmp_path / "log", 1, 2)
            lines = eventrec("dead", "list", "log", "--json").stdout
    given = [json.loads(line) for line in lines.splitlines()]

    done = eventrec("record", "-", "--to", "sqlite:///again.db", stdin=lines)

    assert (done.returncode, done.stderr) == (0, "")
    assert given
    with closing(sqlite3.connect(tmp_path / "again.db")) as connection:
        table = given[0]["table"]
        rows = connection.execute(f"SELECT type, timestamp, payload FROM {table} ORDER BY rowid").fetchall()
    assert [(kind, when, json.loads(payload)) for kind, when, payload in rows] == [
        (each["type"], each["timestamp"], each["payload"]) for each in given
    ]


def test_replay_says_that_it_waits(eventrec: Callable[..., Any], tmp_path: Path) -> None:
    leave_letters(tmp_path / "log", 0, name="postgres")

    done = eventrec("dead", "replay", "log", "--to", NOWHERE, "--timeout", "5")

    assert done.returncode == 1
    assert "waiting for the destination, which takes nothing" in done.stderr
    assert done.stdout == "0 delivered, 0 refused again, 1 waits\n"


def test_letters_of_one_are_replayed_while_logs_of_another_wait(
    eventrec: Callable[..., Any], tmp_path: Path, leave: Callable[..., None]
) -> None:
    leave_letters(tmp_path / "log", 0)
    leave(tmp_path / "log", 0, 3, "postgres")

    done = eventrec("dead", "replay", "log", "--to", "sqlite:///x.db", "--name", "sqlite")

    assert (done.returncode, done.stdout) == (0, "1 delivered, 0 refused again, 0 wait\n")


def test_record_keeps_its_log_beside_other_files(eventrec: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")

    done = eventrec("record", "-", "--to", "sqlite:///x.db", "--log", ".", stdin='{"a":1}\n')

    assert (done.returncode, done.stderr) == (0, "")


def test_payload_that_is_not_json_is_a_text_in_what_a_machine_reads(
    eventrec: Callable[..., Any], tmp_path: Path
) -> None:
    payloads = [b'{\n\t"a":1}', b"not \xff JSON\n", b"[" * 5_000, b'{"a":1}{"a":2}']
    recorder = EventRecorder(log=tmp_path / "log")
    recorder.register(ScriptedHandler(always=raising(TransientError("down"))), name="sqlite")
    with recorder.sync() as blocking:
        blocking.record_many(ReceivedEvent("received", payload) for payload in payloads)

    lines = eventrec("log", "cat", "log").stdout.splitlines()

    found = [json.loads(line)["payload"] for line in lines]
    assert found == [{"a": 1}, "not \\xff JSON\n", "[" * 5_000, '{"a":1}{"a":2}']
