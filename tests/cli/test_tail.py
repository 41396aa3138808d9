from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from eventrec import EventRecorder, ReceivedEvent


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="module")
def stored(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database with fifteen events: each third is a payment, one second after the other."""
    directory = tmp_path_factory.mktemp("stored")
    events = [
        {"type": "payment" if n % 3 == 0 else "view", "at": 1_769_860_800_123_456_789 + n * 1_000_000_000, "n": n}
        for n in range(1, 16)
    ]
    url = f"sqlite:///{directory}/t.db"
    subprocess.run(
        [sys.executable, "-m", "eventrec.cli", "record", "-", "--to", url, "--timestamp-field", "at"],
        input="\n".join(map(json.dumps, events)).encode(),
        env=environment,
        check=True,
    )
    return url


def told(done: subprocess.CompletedProcess[str]) -> list[int]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line)["payload"]["n"] for line in done.stdout.splitlines()]


def test_newest_events_are_shown_the_older_ones_first_in_local_time(eventrec: Run, stored: str) -> None:
    done = eventrec("tail", stored, "-n", "2")

    assert done.stdout.splitlines() == [
        '2026-01-31T12:00:14.123+00:00  view  events {"n":14}',
        '2026-01-31T12:00:15.123+00:00  payment  events {"n":15}',
    ]


def test_ten_are_shown_unless_told_otherwise(eventrec: Run, stored: str) -> None:
    assert told(eventrec("tail", stored, "--json")) == list(range(6, 16))
    assert told(eventrec("tail", stored, "--json", "-n", "0")) == []
    assert told(eventrec("tail", stored, "--json", "--last", "99")) == list(range(1, 16))


def test_one_type_is_looked_for_further_back(eventrec: Run, stored: str) -> None:
    assert told(eventrec("tail", stored, "--json", "--type", "payment", "-n", "3")) == [9, 12, 15]
    assert eventrec("tail", stored, "--json", "--type", "nothing").stdout == ""


def test_json_holds_the_whole_event(eventrec: Run, stored: str) -> None:
    (line,) = eventrec("tail", stored, "--json", "-n", "1").stdout.splitlines()

    event = json.loads(line)
    assert len(event.pop("id")) == 36
    assert event == {
        "table": "events",
        "type": "payment",
        "timestamp": 1_769_860_815_123_456_789,
        "payload": {"n": 15},
    }


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_it_follows_until_it_is_told_to_end(
    number: signal.Signals, code: int, said: str, eventrec: Run, start: Callable[..., Any]
) -> None:
    eventrec("record", "-", "--to", "sqlite:///t.db", stdin='{"n":14}\n')
    running = start("tail", "sqlite:///t.db", "--follow", "--json")
    assert json.loads(running.process.stdout.readline())["payload"] == {"n": 14}

    running.interrupt(number)

    assert running.end() == (code, "")
    assert running.errors == [f"eventrec: {said}\n"]


def test_new_events_are_shown_as_they_arrive(eventrec: Run, start: Callable[..., Any]) -> None:
    eventrec("record", "-", "--to", "sqlite:///t.db", stdin='{"n":14}\n{"n":15}\n')
    running = start("tail", "sqlite:///t.db", "-n", "1", "--follow", "--json")
    shown = running.process.stdout
    assert json.loads(shown.readline())["payload"] == {"n": 15}

    later = eventrec("record", "-", "--to", "sqlite:///t.db", "--table", "other", stdin='{"n":16}\n{"n":17}\n')
    assert later.returncode == 0, later.stderr

    assert json.loads(shown.readline())["payload"] == {"n": 16}
    assert json.loads(shown.readline())["payload"] == {"n": 17}
    running.interrupt()
    assert running.end()[0] == 130


def test_lines_of_json_are_shown_and_followed(eventrec: Run, start: Callable[..., Any]) -> None:
    eventrec("record", "-", "--to", "jsonl:///out", stdin='{"n":14}\n{"type":"other","n":15}\n{"n":16}\n')
    running = start("tail", "jsonl:///out", "-n", "1", "--follow", "--json")
    shown = running.process.stdout
    assert json.loads(shown.readline())["payload"] == {"n": 16}

    eventrec("record", "-", "--to", "jsonl:///out", stdin='{"n":17}\n')

    assert json.loads(shown.readline())["payload"] == {"n": 17}
    assert told(eventrec("tail", "jsonl:///out", "--json", "--type", "other")) == [15]
    assert told(eventrec("tail", "jsonl:///out", "--json", "-n", "2")) == [16, 17]


def test_nothing_from_an_event_controls_the_terminal(eventrec: Run) -> None:
    evil = '{"type":"\\u001b[31m[red]x\\u0007","a":"\\u001b]0;title\\u0007 \x7f\u009b31m\u202e[bold]"}\n'
    eventrec("record", "-", "--to", "sqlite:///t.db", stdin=evil)

    shown = eventrec("tail", "sqlite:///t.db").stdout
    as_json = eventrec("tail", "sqlite:///t.db", "--json").stdout

    for output in (shown, as_json):
        assert all(char.isprintable() or char == "\n" for char in output)
    assert "\\x1b[31m[red]x\\x07" in shown
    assert "\\x7f\\x9b31m\\u202e[bold]" in shown
    event = json.loads(as_json)
    assert event["type"] == "\x1b[31m[red]x\x07"
    assert event["payload"] == {"a": "\x1b]0;title\x07 \x7f\u009b31m\u202e[bold]"}


def test_nothing_from_an_event_controls_a_real_terminal(eventrec: Run, on_terminal: Callable[..., Any]) -> None:
    eventrec("record", "-", "--to", "sqlite:///t.db", stdin='{"type":"\\u001b]0;title\\u0007","a":"\u009b[/]"}\n')

    code, written = on_terminal("tail", "sqlite:///t.db")

    assert code == 0
    assert "\x1b]" not in written
    assert "\x9b" not in written
    assert "\\x1b]0;title\\x07" in written
    assert "[/]" in written


def test_reader_that_goes_away_is_no_traceback(eventrec: Run, stored: str, start: Callable[..., Any]) -> None:
    given = "\n".join(f'{{"n":{n}}}' for n in range(20_000))
    eventrec("record", "-", "--to", "sqlite:///big.db", stdin=given)
    running = start("tail", "sqlite:///big.db", "-n", "20000")

    running.process.stdout.readline()
    running.process.stdout.close()

    assert running.process.wait(120) == 141
    running._thread.join(20)
    assert running.errors == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///missing.db", "missing.db"),
        ("memory:", "the handler for 'memory' cannot tell what it has stored"),
        ("sqlite:///.", ": it is a directory"),
        ("sqlite://host/x.db", "sqlite"),
    ],
)
def test_destination_that_cannot_be_read_is_one_line(eventrec: Run, url: str, reason: str) -> None:
    done = eventrec("tail", url)

    assert done.returncode == 3
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_the_output_cannot_say_is_escaped(
    eventrec: Run, environment: dict[str, str], tmp_path: Path, form: tuple[str, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    eventrec("record", "-", "--to", url, stdin='{"a":"caf\u00e9 \u20ac \U0001f600"}\n'.encode())

    done = subprocess.run(
        [sys.executable, "-m", "eventrec.cli", "tail", url, *form],
        env={**environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    if form:
        assert json.loads(done.stdout)["payload"] == {"a": "caf\u00e9 \u20ac \U0001f600"}
    else:
        assert b"caf\\xe9 \\u20ac \\U0001f600" in done.stdout


def test_rows_of_other_programs_are_passed_over_and_said(eventrec: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    eventrec("record", "-", "--to", url, stdin='{"n":1}\n')
    with closing(sqlite3.connect(tmp_path / "t.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO events (id, type, timestamp, payload) VALUES ('x', 't', 'noon', x'00ff')")
        connection.execute("INSERT INTO events (id, type, timestamp, payload) VALUES ('y', 't', 9, 'no json')")

    done = eventrec("tail", url, "--json")

    assert done.returncode == 0
    assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == ["no json", {"n": 1}]
    assert done.stderr.splitlines() == [
        "eventrec: passed over 1 row that is not an event: table 'events': its timestamp is a TEXT"
    ]


def test_every_line_is_json_also_where_a_payload_has_line_ends_between_its_tokens(
    eventrec: Run, tmp_path: Path
) -> None:
    with EventRecorder(f"sqlite:///{tmp_path}/t.db").sync() as recorder:
        recorder.record(ReceivedEvent("t", b'{\t"a":\r\n[1,\t"\\t"]}'))

    (line,) = eventrec("tail", f"sqlite:///{tmp_path}/t.db", "--json").stdout.splitlines()

    assert json.loads(line)["payload"] == {"a": [1, "\t"]}


@pytest.mark.slow
def test_outage_while_following_is_said_and_its_end(eventrec: Run, start: Callable[..., Any], tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/t.db", tmp_path / "t.db"
    eventrec("record", "-", "--to", url, stdin='{"n":1}\n')
    running = start("tail", url, "--follow", "--json")
    assert json.loads(running.process.stdout.readline())["payload"] == {"n": 1}

    path.rename(tmp_path / "away.db")
    running.wait_for_error("trying again")
    eventrec("record", "-", "--to", url, stdin='{"n":2}\n')

    assert json.loads(running.process.stdout.readline())["payload"] == {"n": 2}
    running.interrupt()
    assert running.end()[0] == 130
    assert "the destination can be read again" in running.errors[1]


@pytest.mark.parametrize("made", ["nothing", "a text"])
def test_a_directory_without_events_is_said_in_one_line(eventrec: Run, tmp_path: Path, made: str) -> None:
    (tmp_path / "other").mkdir()
    if made == "a text":
        (tmp_path / "other" / "notes.txt").write_text("mine")

    done = eventrec("tail", "jsonl:///other")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "eventrec: no event is stored there\n")


def test_what_cannot_be_read_is_not_said_to_be_absent(eventrec: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, type, timestamp, payload) WITHOUT ROWID")

    done = eventrec("tail", "sqlite:///x.db")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith("eventrec: no event can be read there\n")


def test_a_type_that_is_not_there_is_said(eventrec: Run, stored: str) -> None:
    done = eventrec("tail", stored, "--type", "paiment", "--json")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "eventrec: no event of type 'paiment' is stored there\n"


def test_tail_leaves_nothing_beside_a_closed_database(eventrec: Run, stored: str) -> None:
    database = Path(stored.removeprefix("sqlite:///"))

    eventrec("tail", stored)

    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_a_type_that_is_not_a_text_is_refused(eventrec: Run, stored: str) -> None:
    done = eventrec("tail", stored, "--type", "\udcff")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "eventrec: --type '\\udcff' is not valid Unicode\n"
