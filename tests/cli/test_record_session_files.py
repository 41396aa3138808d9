"""`eventrec record --format posthog-wal`: what the original pipeline lost is sent, and nothing goes too early."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest

from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.record.session_file import SessionFile
from eventrec.testing.posthog import FakePostHog, Said

ONE = "0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e"
TWO = "11111111-2222-4333-8444-555555555555"
HALF = '{"time_utc":"2025-04-03T01:2'
WAL = ("--format", "posthog-wal")


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def posthog() -> Iterator[FakePostHog]:
    with FakePostHog() as fake:
        yield fake


def said(name: str, kind: str = "Append", /, **props: dict[str, Any]) -> str:
    """A line as the original writes it."""
    event = {"time_utc": "2025-04-03T01:20:10.557958200Z", "kind": kind, "name": name, "props": props}
    return json.dumps(event, separators=(",", ":")) + "\n"


def numbered(count: int, start: int = 1) -> str:
    return "".join(said("done", n={"Integer": n}) for n in range(start, start + count))


def write(session: str, text: str) -> Path:
    path = Path(f"{session}.json")
    path.write_text(text, encoding="utf-8")
    return path


def rows(database: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT id, type, payload, context FROM events").fetchall()


# -- what is sent


def test_events_reach_posthog_as_the_original_sent_them(main: Main, posthog: FakePostHog) -> None:
    write(
        ONE,
        said("viewer_started", app_env={"String": "cli"}, event_id={"Integer": 1}, big={"Float": 1e300})
        + said("identify", "Identify", rerun_version={"String": "0.23.0"}, debug={"Bool": False})
        + said("update_metadata", "SetPersonProperties", email={"String": "me@example.org"}),
    )

    code, out, err = main("record", f"{ONE}.json", *WAL, "--to", posthog.url(), "--distinct-id", "9f86d081")

    assert (code, err) == (ExitCode.OK, "")
    assert "3 events delivered" in out
    for event in posthog.events:
        assert event.pop("timestamp") == "2025-04-03T01:20:10.557958200Z"
        assert event.pop("distinct_id") == "9f86d081"
        assert UUID(event.pop("uuid")).version == 5
    assert posthog.events == [
        {
            "event": "viewer_started",
            "properties": {"app_env": "cli", "event_id": 1, "big": 1e300, "session_id": ONE},
        },
        {
            "event": "$identify",
            "properties": {"session_id": ONE},
            "$set": {"rerun_version": "0.23.0", "debug": False},
        },
        {"event": "$set", "properties": {"$set": {"email": "me@example.org"}}},
    ]
    assert posthog.requests[0].body["historical_migration"] is True


def test_each_event_carries_the_session_of_its_file(main: Main) -> None:
    write(ONE, numbered(2))
    write(TWO, numbered(3, start=10))

    code, _, _ = main("record", f"{ONE}.json", f"{TWO}.json", *WAL, "--to", "sqlite:///e.db")

    assert code == ExitCode.OK
    found = sorted((json.loads(payload)["n"], json.loads(context)) for _, _, payload, context in rows("e.db"))
    assert found == [(n, {"session_id": ONE if n < 10 else TWO}) for n in (1, 2, 10, 11, 12)]


def test_half_written_lines_are_skipped_and_counted_and_cost_no_other(main: Main) -> None:
    write(ONE, numbered(1) + HALF + "\n" + HALF + numbered(1, start=2) + "\0\0\0\n" + numbered(1, start=3) + HALF)

    code, out, err = main("record", f"{ONE}.json", *WAL, "--to", "sqlite:///e.db", "--json")

    assert code == ExitCode.INCOMPLETE
    account = json.loads(out)
    assert (account["delivered"], account["malformed"], account["lines"]) == (3, 4, 6)
    assert [line.split(": ")[:2] for line in err.splitlines()] == [[f"line {n}", "half-written"] for n in (2, 3, 4, 6)]
    assert [json.loads(payload)["n"] for _, _, payload, _ in rows("e.db")] == [1, 2, 3]


def test_same_file_gives_the_same_ids_and_equal_lines_are_told_apart(main: Main) -> None:
    write(ONE, numbered(1) * 3)

    for _ in range(2):
        assert main("record", f"{ONE}.json", *WAL, "--to", "sqlite:///e.db")[0] == ExitCode.OK

    ids = [id_ for id_, *_ in rows("e.db")]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3


def test_empty_file_holds_nothing(main: Main, posthog: FakePostHog) -> None:
    path = write(ONE, "")

    code, _, err = main("record", path, *WAL, "--to", posthog.url(), "--remove")

    assert (code, err) == (ExitCode.OK, "")
    assert not path.exists()
    assert not posthog.requests


# -- what is removed


def test_file_stays_unless_its_removal_is_asked_for(main: Main) -> None:
    path = write(ONE, numbered(1))

    main("record", path, *WAL, "--to", "sqlite:///e.db")

    assert path.read_text(encoding="utf-8") == numbered(1)


def test_file_is_removed_once_all_of_it_is_delivered(main: Main, posthog: FakePostHog) -> None:
    paths = [write(str(UUID(int=n)), numbered(2) + HALF) for n in range(1, 250)]

    code, _, err = main("record", *paths, *WAL, "--to", posthog.url(), "--remove")

    assert code == ExitCode.INCOMPLETE  # for the half-written lines
    assert len(posthog.events) == 2 * 249
    assert not any(path.exists() for path in paths)
    assert f"line 3 of {UUID(int=7)}.json: half-written" in err


@pytest.mark.parametrize(
    "answer", [Said(503), b"", Said(200, b"<html>"), Said(401), Said(200, b'{"status":1,"quota_limited":["events"]}')]
)
def test_nothing_is_removed_that_posthog_did_not_take(main: Main, posthog: FakePostHog, answer: Any) -> None:
    """The original removed a file once its request had begun."""
    paths = [write(ONE, numbered(2)), write(TWO, numbered(2))]
    posthog.answer_with(*[answer] * 1_000)

    code, _, err = main("record", *paths, *WAL, "--to", posthog.url(), "--remove", "--timeout", "0.6")

    assert code == ExitCode.DESTINATION
    assert all(path.exists() for path in paths)
    assert posthog.key not in err
    posthog.answer_normally()

    assert main("record", *paths, *WAL, "--to", posthog.url(), "--remove")[0] == ExitCode.OK

    assert not any(path.exists() for path in paths)
    tried = {event["uuid"] for request in posthog.requests for event in request.body["batch"]}
    assert tried == {event["uuid"] for event in posthog.events}
    assert len(posthog.events) == 4


def test_nothing_more_is_removed_after_a_failure(main: Main, posthog: FakePostHog) -> None:
    """The original went on sending and deleting."""
    first, second = write(ONE, numbered(4_000)), write(TWO, numbered(4_000))
    take = posthog._whole

    def whole(events: list[dict[str, Any]]) -> Said:
        if any(event["properties"]["session_id"] == ONE for event in events):
            return take(events)
        if not first.exists():
            signal.raise_signal(signal.SIGINT)  # the command gives up
        return Said(503)

    posthog._whole = whole  # type: ignore[method-assign]

    code, _, err = main("record", first, second, *WAL, "--to", posthog.url(), "--remove")

    assert code == ExitCode.INTERRUPTED
    assert (first.exists(), second.exists()) == (False, True)
    assert f"{TWO}.json is kept: not all of it is delivered" in err


def test_file_with_an_event_that_the_destination_refuses_is_kept(main: Main, posthog: FakePostHog) -> None:
    paths = [write(ONE, numbered(2) + said("identify", "Identify") + numbered(1, start=3)), write(TWO, numbered(1))]

    code, _, err = main("record", *paths, *WAL, "--to", posthog.url(), "--remove", "--dead", "dead.jsonl")

    assert code == ExitCode.INCOMPLETE
    assert f"line 3 of {ONE}.json: refused by the destination" in err
    assert f"{ONE}.json is kept: not all of it is delivered" in err
    assert [path.exists() for path in paths] == [True, False]
    assert len(posthog.events) == 4


def test_file_with_a_line_that_is_not_understood_is_kept(main: Main) -> None:
    path = write(ONE, numbered(1) + '{"time_utc":"2025-04-03T01:20:10Z","kind":"Alias","name":"x","props":{}}\n')

    code, _, err = main("record", path, *WAL, "--to", "sqlite:///e.db", "--remove")

    assert code == ExitCode.INCOMPLETE
    assert "is kept: it holds lines that are not understood" in err
    assert path.exists()


def test_line_that_is_too_large_keeps_its_file(main: Main) -> None:
    path = write(ONE, said("done", text={"String": "x" * 2_000}) + numbered(1))

    code, _, err = main("record", path, *WAL, "--to", "sqlite:///e.db", "--remove", "--max-event-bytes", "1000")

    assert code == ExitCode.INCOMPLETE
    assert "line 1: an event may have 1,000 bytes" in err
    assert path.exists()


def test_with_a_log_a_file_waits_for_its_delivery_too(main: Main, posthog: FakePostHog) -> None:
    path = write(ONE, numbered(3))
    posthog.answer_with(*[Said(503)] * 1_000)

    code, _, _ = main("record", path, *WAL, "--to", posthog.url(), "--remove", "--log", "log", "--timeout", "0.6")

    assert code == ExitCode.DESTINATION
    assert path.exists()
    posthog.answer_normally()

    code, _, _ = main("record", path, *WAL, "--to", posthog.url(), "--remove", "--log", "log")

    assert code == ExitCode.OK
    assert not path.exists()
    assert len({event["uuid"] for event in posthog.events}) == 3


def test_killed_before_the_removal_the_next_run_repeats_the_same_uuids(
    start: Callable[..., Any], main: Main, posthog: FakePostHog, tmp_path: Path
) -> None:
    path = write(ONE, numbered(3))
    posthog.answer_with(*[lambda _: None] * 1_000)  # the answers are lost
    command = start("record", tmp_path / path, *WAL, "--to", posthog.url(), "--remove")
    posthog.wait_for_requests(1)
    command.process.kill()
    command.process.wait()
    posthog.answer_normally()

    assert path.exists()
    assert main("record", path, *WAL, "--to", posthog.url(), "--remove")[0] == ExitCode.OK

    first, last = posthog.requests[0].body["batch"], posthog.requests[-1].body["batch"]
    assert [event["uuid"] for event in first] == [event["uuid"] for event in last]
    assert not path.exists()


# -- what is left alone


def test_file_that_a_process_holds_a_lock_on_is_left_alone(main: Main) -> None:
    """The original took the file of a running process, and deleted it under its writer."""
    path, other = write(ONE, numbered(1)), write(TWO, numbered(1))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)

        code, _, err = main("record", path, other, *WAL, "--to", "sqlite:///e.db", "--remove")

    assert code == ExitCode.INCOMPLETE
    assert f"{ONE}.json is left alone: a process holds a lock on it" in err
    assert (path.exists(), other.exists()) == (True, False)
    assert len(rows("e.db")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open for writing")
def test_file_that_a_process_has_open_for_writing_is_left_alone(main: Main, tmp_path: Path) -> None:
    """What the original writes is not locked."""
    path, other = write(ONE, numbered(1)), write(TWO, numbered(1))
    writer = "import sys; file = open(sys.argv[1], 'a'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()

        code, _, err = main("record", path, other, *WAL, "--to", "sqlite:///e.db", "--remove")

        process.communicate()
    assert code == ExitCode.INCOMPLETE
    assert f"{ONE}.json is left alone: a process has it open for writing" in err
    assert (path.exists(), other.exists()) == (True, False)


def test_two_runs_do_not_read_one_file(tmp_path: Path) -> None:
    path = tmp_path / f"{ONE}.json"
    path.write_text(numbered(1), encoding="utf-8")
    one, two = (session_file(path) for _ in range(2))
    one.look()

    with pytest.raises(Exception, match="holds a lock"):
        two.look()

    one.note_end(path.stat().st_size)
    assert one.finish(is_delivered=True) is None
    assert not path.exists()


def session_file(path: Path) -> SessionFile:
    return SessionFile(path, distinct_id=None, table="events", max_event_bytes=1 << 20, removes=True)


def append(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(numbered(1))


def replace(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(path.with_suffix(".old").read_bytes())


@pytest.mark.parametrize(
    ("meddle", "why"),
    [
        (append, "it changed while it was read"),
        (replace, "it changed while it was read"),
        (lambda path: path.write_text("", encoding="utf-8"), "it changed while it was read"),
    ],
)
def test_file_that_changed_meanwhile_is_kept(tmp_path: Path, meddle: Callable[[Path], object], why: str) -> None:
    path = tmp_path / f"{ONE}.json"
    path.write_text(numbered(2), encoding="utf-8")
    file = session_file(path)
    file.look()
    os.close(file.open())
    file.note_end(path.stat().st_size)

    meddle(path)

    assert file.finish(is_delivered=True) == f"{path} is kept: {why}"
    assert path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open for writing")
def test_file_that_is_opened_for_writing_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / f"{ONE}.json"
    path.write_text(numbered(2), encoding="utf-8")
    file = session_file(path)
    file.look()
    file.note_end(path.stat().st_size)

    with path.open("a", encoding="utf-8"):
        assert file.finish(is_delivered=True) == f"{path} is kept: a process has it open for writing"

    assert path.exists()


def test_file_that_is_gone_already_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / f"{ONE}.json"
    path.write_text(numbered(2), encoding="utf-8")
    file = session_file(path)
    file.look()
    file.note_end(path.stat().st_size)
    path.unlink()

    assert file.finish(is_delivered=True) is None


def link(path: Path) -> None:
    path.with_name("elsewhere").write_text(numbered(1), encoding="utf-8")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [link, os.mkfifo, Path.mkdir], ids=["a link to a file", "a pipe", "a directory"])
def test_what_is_not_a_regular_file_is_left_alone(main: Main, make: Callable[[Path], object]) -> None:
    path = Path(f"{ONE}.json")
    make(path)
    write(TWO, numbered(1))

    code, _, err = main("record", path, f"{TWO}.json", *WAL, "--to", "sqlite:///e.db", "--remove")

    assert code == ExitCode.INCOMPLETE
    assert f"{ONE}.json is left alone: it is not a regular file" in err
    assert path.is_symlink() or path.exists()
    assert len(rows("e.db")) == 1


@pytest.mark.parametrize("name", ["analytics.json", f"{ONE}.json.bak", f"{ONE}.jsonl", "notes.txt"])
def test_file_of_another_name_is_left_alone(main: Main, name: str) -> None:
    Path(name).write_text(numbered(1), encoding="utf-8")

    code, out, err = main("record", name, *WAL, "--to", "sqlite:///e.db", "--remove", "--json")

    assert code == ExitCode.INCOMPLETE
    assert err.startswith(f"eventrec: {name} is left alone: its name is not that of a session file")
    assert Path(name).read_text(encoding="utf-8") == numbered(1)
    assert json.loads(out)["files_left"] == 1


def test_file_that_cannot_be_read_does_not_keep_the_others(main: Main) -> None:
    path = write(TWO, numbered(1))

    code, _, err = main("record", f"{ONE}.json", path, *WAL, "--to", "sqlite:///e.db", "--remove")

    assert code == ExitCode.FILE
    assert f"cannot read {ONE}.json: No such file or directory" in err
    assert not path.exists()


# -- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ("-", *WAL),
        ("x.json", *WAL, "--type-field", "kind"),
        ("x.json", *WAL, "--timestamp-field", "time_utc"),
        ("x.json", *WAL, "--timestamp-unit", "iso"),
        ("x.json", *WAL, "--id-field", "name"),
        ("x.json", *WAL, "--distinct-id", ""),
        ("x.json", "--remove"),
        ("x.json", "--distinct-id", "me"),
        ("x.json", "--format", "wal"),
        ("-", "-"),
    ],
)
def test_options_of_the_other_format_are_refused(main: Main, arguments: tuple[str, ...]) -> None:
    code, _, err = main("record", *arguments, "--to", "sqlite:///e.db")

    assert code == ExitCode.USAGE
    assert err.count("\n") == 1


def test_several_files_of_lines_are_read_one_after_the_other(main: Main) -> None:
    Path("a.jsonl").write_text('{"n":1}\noops\n{"n":2}', encoding="utf-8")
    Path("b.jsonl").write_text('{"n":3}\n[]\n', encoding="utf-8")

    code, out, err = main("record", "a.jsonl", "b.jsonl", "--to", "sqlite:///e.db", "--json")

    assert code == ExitCode.INCOMPLETE
    assert [line.split(": ")[0] for line in err.splitlines()] == ["line 2 of a.jsonl", "line 2 of b.jsonl"]
    assert (json.loads(out)["lines"], json.loads(out)["delivered"]) == (5, 3)
    with closing(sqlite3.connect("e.db")) as connection:
        assert connection.execute("SELECT payload FROM events").fetchall() == [('{"n":1}',), ('{"n":2}',), ('{"n":3}',)]
