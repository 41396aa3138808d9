"""`eventrec serve` and `eventrec token`."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import httpcore2
import pytest

from eventrec.cli import main
from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.serve.storing import storing_once


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


class Start(Protocol):
    def __call__(self, *arguments: str | Path) -> Any: ...


def port_of(started: Any) -> int:
    started.wait_for_error("listening on")
    (line,) = [line for line in started.errors if "listening on" in line]
    return int(line.partition("127.0.0.1:")[2].partition(",")[0])


def asked(started: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> httpcore2.Response:
    started.wait_for_error("listening on")
    (line,) = [line for line in started.errors if "listening on" in line]
    found = re.search(r"http://(\S+?):(\d+)(,|\n)", line)
    assert found is not None
    named: dict[bytes | str, bytes | str] = {"Host": found[1]}
    named.update(headers)
    with httpcore2.ConnectionPool() as pool:
        return pool.request(method, f"http://{found[1]}:{found[2]}{path}", headers=named, content=body)


def test_serves_until_it_is_terminated(start: Start, tmp_path: Path) -> None:
    serving = start("serve", "--to", "sqlite:///events.db", "--log", "log", "--listen", "127.0.0.1:0")

    ready = asked(serving, "GET", "/health/ready")
    status = asked(serving, "GET", "/status")
    serving.interrupt(signal.SIGTERM)
    code, out = serving.end()

    assert (ready.status, status.status) == (200, 200)
    assert list(json.loads(status.content)["status"]["subscriptions"]) == ["sqlite"]
    assert (code, out) == (0, "0 logs left, pending for 'sqlite': 0\n")
    assert any("for this machine alone" in line for line in serving.errors)
    assert not any("Traceback" in line for line in serving.errors)


@pytest.mark.parametrize(("said", "rows"), [("", 1), ("?unique_ids=false", 2)])
def test_an_event_that_is_sent_again_is_stored_once_unless_the_url_says_otherwise(
    start: Start, tmp_path: Path, said: str, rows: int
) -> None:
    serving = start("serve", "--to", f"sqlite:///events.db{said}", "--listen", "127.0.0.1:0")
    body = b'{"specversion": "1.0", "id": "1", "source": "s", "type": "ordered", "data": {}}'

    answers = [
        asked(serving, "POST", "/events/batch", body, **{"Content-Type": "application/cloudevents+json"})
        for _ in range(2)
    ]
    serving.interrupt(signal.SIGTERM)
    serving.end()

    assert [(answer.status, answer.content) for answer in answers] == [(200, b'{"received":1}')] * 2
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (rows,)


def test_what_nothing_was_stored_in_yet_can_be_read(start: Start, tmp_path: Path) -> None:
    serving = start("serve", "--to", "sqlite:///new/events.db", "--log", "log", "--listen", "127.0.0.1:0")
    missing = asked(serving, "GET", "/events")
    serving.interrupt(signal.SIGTERM)
    serving.end()
    serving = start("serve", "--to", "sqlite:///events.db", "--log", "log", "--listen", "127.0.0.1:0")
    empty = asked(serving, "GET", "/events")
    serving.interrupt(signal.SIGTERM)

    assert serving.end()[0] == 0
    assert missing.status == 503
    assert (empty.status, json.loads(empty.content)["events"]) == (200, [])


def test_without_a_log_it_tells_the_account(start: Start, tmp_path: Path) -> None:
    serving = start("serve", "--to", "sqlite:///a.db", "--to", "jsonl:b", "--listen", "localhost:0", "--json")

    status = asked(serving, "GET", "/status")
    serving.interrupt(signal.SIGINT)
    code, out = serving.end()

    assert list(json.loads(status.content)["status"]["subscriptions"]) == ["sqlite", "jsonl"]
    told = json.loads(out)
    assert (code, told["exit_code"], told["status"]["state"]) == (0, 0, "closed")


def test_request_that_is_on_is_answered_before_it_ends(start: Start, tmp_path: Path) -> None:
    serving = start("serve", "--to", "sqlite:///events.db", "--log", "log", "--listen", "127.0.0.1:0")
    asked(serving, "GET", "/health")
    port = port_of(serving)

    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        body = json.dumps({"subscription": "sqlite"}).encode()
        connection.sendall(b"POST /dead/replay HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        connection.sendall(f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        serving.interrupt(signal.SIGTERM)
        serving.wait_for_error("ending")
        connection.sendall(body)
        answer = connection.recv(100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert serving.end()[0] == 0


@pytest.mark.slow
def test_request_that_does_not_end_does_not_hold_the_end(start: Start, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[eventrec]\nclose_timeout = "200ms"\n[server]\nmax_requests = 7\n')
    serving = start(
        "serve", "--to", "sqlite:///events.db", "--log", "log", "--listen", "127.0.0.1:0", "--config", "c.toml"
    )
    asked(serving, "GET", "/health")
    port = port_of(serving)

    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /dead/replay HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        connection.sendall(b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        serving.interrupt(signal.SIGTERM)
        code, _ = serving.end()

    assert code == 0


def test_second_signal_ends_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[eventrec]\nclose_timeout = "60s"\n')
    serving = start(
        "serve", "--to", "sqlite:///events.db", "--log", "log", "--listen", "127.0.0.1:0", "--config", "c.toml"
    )

    with socket.create_connection(("127.0.0.1", port_of(serving)), timeout=20) as connection:
        connection.sendall(b"POST /dead/replay HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        connection.sendall(b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        serving.interrupt(signal.SIGTERM)
        serving.wait_for_error("ending")
        serving.interrupt(signal.SIGTERM)
        code, _ = serving.end()  # which waits for 20 s

    assert code == 0
    assert not any("Traceback" in line for line in serving.errors)


def test_tokens_are_asked_for_and_answered_by_scope(start: Start, eventrec: Run, tmp_path: Path) -> None:
    made = eventrec("token", "new", "tokens.toml", "--name", "reader", "--scope", "read", "--expires", "1d")
    token = made.stdout.strip()
    serving = start("serve", "--to", "sqlite:///events.db", "--listen", "127.0.0.1:0", "--tokens", "tokens.toml")

    statuses = [
        asked(serving, method, path, None, **headers).status
        for method, path, headers in (
            ("GET", "/status", {}),
            ("GET", "/status", {"Authorization": f"Bearer {token}"}),
            ("POST", "/resume/sqlite", {"Authorization": f"Bearer {token}"}),
        )
    ]
    serving.interrupt(signal.SIGTERM)

    assert statuses == [401, 200, 403]
    assert serving.end()[0] == 0
    assert not any(token in line for line in serving.errors)
    assert any("token=reader" in line for line in serving.errors)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command here: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


TO = ("--to", "sqlite:///events.db")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*TO, "--listen", "0.0.0.0:0"), ExitCode.USAGE, "give --tokens"),
        ((*TO, "--listen", "[::]:0"), ExitCode.USAGE, "give --tokens"),
        ((*TO, "--listen", "nowhere"), ExitCode.USAGE, "HOST:PORT"),
        ((*TO, "--listen", "127.0.0.1:99999"), ExitCode.USAGE, "HOST:PORT"),
        ((*TO, "--tokens", "missing.toml"), ExitCode.FILE, "No such file"),
        ((*TO, "--log", "."), ExitCode.FILE, "not a log directory"),
        ((*TO, "--config", "missing.toml"), ExitCode.FILE, "missing.toml"),
        ((*TO, "--catalogue", "nothing:there"), ExitCode.FILE, "nothing"),
        (("--to", "nope:x"), ExitCode.DESTINATION, "no handler"),
        (("--to", "memory:"), ExitCode.DESTINATION, "keeps nothing"),
        ((*TO, *TO), ExitCode.USAGE, "--name is needed"),
        ((*TO, "--name", "a", "--name", "b"), ExitCode.USAGE, "give one for each"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    said: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "other program").mkdir()

    ended, out, err = said("serve", *arguments)

    assert (ended, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


def test_port_that_is_in_use_is_one_line(said: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, _, err = said("serve", *TO, "--listen", f"127.0.0.1:{other.getsockname()[1]}")

    assert code == ExitCode.FILE
    assert "in use" in err
    assert err.count("\n") == 1


def test_options_are_checked_by_name(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").write_text("[server]\nmax_requsts = 1\n")
    named = said("serve", *TO, "--config", "c.toml")
    monkeypatch.setenv("EVENTREC_SERVER_MAX_REQUESTS", "many")
    valued = said("serve", *TO)
    monkeypatch.delenv("EVENTREC_SERVER_MAX_REQUESTS")
    monkeypatch.setenv("EVENTREC_SERVER_MAXIMUM", "1")
    in_environment = said("serve", *TO)

    assert [code for code, _, _ in (named, valued, in_environment)] == [ExitCode.FILE] * 3
    assert "unknown option 'max_requsts' of the server in c.toml" in named[2]
    assert "max_requests" in valued[2]
    assert "unknown option 'maximum' of the server in the environment" in in_environment[2]


def test_server_is_an_extra(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("eventrec.server", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)

    code, _, err = said("serve", *TO)

    assert code == ExitCode.MISSING
    assert "pip install 'eventrec[server]'" in err


def test_tokens_are_made_listed_and_revoked(said: Any, tmp_path: Path) -> None:
    made = said("token", "new", "t.toml", "--name", "shop", "--scope", "ingest", "--scope", "read")
    again = said("token", "new", "t.toml", "--name", "shop", "--scope", "read")
    listed = said("token", "list", "t.toml", "--json")
    revoked = said("token", "revoke", "t.toml", "shop")
    unknown = said("token", "revoke", "t.toml", "shop")

    assert [code for code, _, _ in (made, again, listed, revoked, unknown)] == [0, 4, 0, 0, 4]
    assert re.fullmatch(r"evr_[A-Za-z0-9_-]{43}\n", made[1])
    told = json.loads(listed[1])
    assert (told["name"], told["scopes"], told["expires"]) == ("shop", ["ingest", "read"], None)
    assert made[1].strip() not in listed[1] + (tmp_path / "t.toml").read_text() + made[2]
    assert said("token", "list", "t.toml")[1] == "no tokens\n"


@pytest.mark.parametrize(
    "command", [("new", ".", "--name", "a", "--scope", "read"), ("list", "."), ("revoke", ".", "a")]
)
def test_a_directory_in_place_of_the_file_of_tokens_is_named(said: Any, command: tuple[str, ...]) -> None:
    assert said("token", *command) == (ExitCode.FILE, "", "eventrec: .: it is not a file\n")


@pytest.mark.parametrize("arguments", [("--name", "a b"), ("--name=a", "--expires=x"), ("--name=a", "--expires=0s")])
def test_token_that_cannot_be_is_a_matter_of_usage(said: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = said("token", "new", "t.toml", "--scope", "read", *arguments)

    assert (code, out) == (ExitCode.USAGE, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "t.toml").exists()


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("sqlite:///a.db", "sqlite:///a.db?unique_ids=true"),
        ("sqlite:///a.db?schema=strict", "sqlite:///a.db?schema=strict&unique_ids=true"),
        ("sqlite:///a.db?unique_ids=false", "sqlite:///a.db?unique_ids=false"),
        ("postgresql://u@h/d", "postgresql://u@h/d?unique_ids=true"),
        ("jsonl:events.jsonl", "jsonl:events.jsonl"),
        ("posthog://phc_1@h", "posthog://phc_1@h"),
        ("https://h/path?query=a", "https://h/path?query=a"),
        ("env:TO_OF_TEST", "sqlite:///b.db?unique_ids=true"),
    ],
)
def test_destination_is_asked_to_store_once_what_clients_send_again(
    given: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TO_OF_TEST", "sqlite:///b.db")

    assert storing_once(given) == asked
