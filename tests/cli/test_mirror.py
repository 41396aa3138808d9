"""`log serve`, `log mirror` and `log forget-mirror`, as processes of their own; and a drain of what was mirrored."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from eventrec.cli.exit_codes import ExitCode
from eventrec.runs.directory import list_runs
from eventrec.runs.mirrors import Mirrors


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    ends = monotonic() + seconds
    while not condition():
        assert monotonic() < ends
        sleep(0.02)


def port_of(served: Any) -> int:
    served.wait_for_error("serving on")
    (line,) = [line for line in served.errors if "serving on" in line]
    return int(re.sub(r".*:", "", line))


def has_all(directory: Path) -> bool:
    known = [Mirrors(directory).of_log(id_) for id_ in list_runs(directory)]
    return all(each and each["standby"].next_offset == 20 for each in known)


@pytest.mark.slow
def test_a_directory_is_mirrored_and_drained_where_its_source_is_gone(
    start: Any, eventrec: Any, leave: Any, tmp_path: Path
) -> None:
    leave(tmp_path / "here", 0, 20, "sqlite")
    leave(tmp_path / "here", 20, 40, "sqlite")
    served = start("log", "serve", "here", "--listen", "127.0.0.1:0")
    mirror = start("log", "mirror", f"127.0.0.1:{port_of(served)}", "there", "--name", "standby")
    eventually(lambda: has_all(tmp_path / "here"))

    shown = eventrec("status", "here", "--json")
    said = eventrec("status", "here")
    served.interrupt(signal.SIGKILL)
    mirror.interrupt(signal.SIGTERM)
    ended = mirror.end()
    drained = eventrec("drain", "there", "--to", "sqlite:///events.db")
    again = eventrec("drain", "here", "--to", "sqlite:///events.db")

    assert [log["mirrors"] for log in json.loads(shown.stdout)["logs"]] == [{"standby": 0}] * 2
    assert "mirror standby: has all of it" in said.stdout
    assert ended == (0, "2 logs, 40 records mirrored\n")
    assert drained.returncode == 0, drained.stderr
    assert "kept till its mirrors have all of it: 'standby'" in again.stderr
    with sqlite3.connect(tmp_path / "events.db") as database:
        numbers = [json.loads(payload)["number"] for (payload,) in database.execute("SELECT payload FROM events")]
    database.close()
    assert sorted(numbers) == list(range(40))


def test_both_end_at_a_signal_with_one_line_and_no_error(start: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    served = start("log", "serve", "here", "--listen", "127.0.0.1:0")
    mirror = start("log", "mirror", f"127.0.0.1:{port_of(served)}", "there", "--name", "standby")
    mirror.wait_for_error("mirror connected")

    served.interrupt()
    mirror.wait_for_error("mirror not connected")
    mirror.interrupt()

    assert served.end()[0] == mirror.end()[0] == 0
    assert not [line for line in [*served.errors, *mirror.errors] if "Traceback" in line]


def test_a_mirror_that_is_forgotten_holds_nothing_any_more(main: Any, leave: Any, tmp_path: Path) -> None:
    leave(tmp_path / "here", 0, 20, "sqlite")
    Mirrors(tmp_path / "here").register("standby")

    unknown = main("log", "forget-mirror", "here", "other")
    mistaken = main("log", "forget", "here", "standby", "--yes")
    lag = main("status", "here")
    forgotten = main("log", "forget-mirror", "here", "standby")
    drained = main("drain", "here", "--to", "sqlite:///events.db")

    assert unknown[0] == 2
    assert "there are: 'standby'" in unknown[2]
    assert mistaken[0] == 2
    assert "It is a mirror: eventrec log forget-mirror here standby" in mistaken[2]
    assert "mirror standby: lacks 20 records" in lag[1]
    assert forgotten[:2] == (0, "standby: forgotten\n")
    assert drained[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("serve", "here", "--listen", "7400"), 2, "HOST:PORT"),
        (("serve", "here", "--listen", "127.0.0.1:0", "--tls-cert", "c"), 2, "come together"),
        (("serve", "here", "--listen", "127.0.0.1:0", "--client-ca", "c"), 2, "takes TLS"),
        (("serve", "here", "--listen", "127.0.0.1:0", "--max-mirrors", "0"), 2, "--max-mirrors"),
        (("serve", "here", "--listen", "0.0.0.0:0"), 4, "takes TLS"),
        (("serve", "here", "--listen", "127.0.0.1:0", "--token-file", "none"), 4, "none"),
        (("serve", "missing", "--listen", "127.0.0.1:0"), 4, "not a directory"),
        (("mirror", "7400", "there"), 2, "HOST:PORT"),
        (("mirror", "127.0.0.1:1", "there", "--bandwidth", "0"), 2, "--bandwidth"),
        (("mirror", "127.0.0.1:1", "there", "--name", ""), 2, "--name"),
        (("mirror", "127.0.0.1:1", "there", "--tls-key", "k"), 2, "come together"),
        (("mirror", "127.0.0.1:1", "there", "--tls-ca", "none"), 4, "none"),
        (("mirror", "127.0.0.1:1", "theirs"), 4, "not a log directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    main: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").touch()

    found = main("log", *arguments)

    assert found[0] == code
    assert words in found[2]
    assert found[2].count("\n") == 1


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_it_says_where_it_serves_as_a_mirror_is_to_be_told(start: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()

    served = start("log", "serve", "here", "--listen", "[::1]:0")
    port_of(served)

    assert any("serving on [::1]:" in line for line in served.errors)


@pytest.mark.parametrize("host", ["\u201c127.0.0.1\u201d", "no.such.host.invalid"])
def test_an_address_that_cannot_be_listened_on_is_one_line(eventrec: Any, tmp_path: Path, host: str) -> None:
    (tmp_path / "here").mkdir()

    ended = eventrec("log", "serve", "here", "--listen", f"{host}:0")

    assert ended.returncode == ExitCode.FILE
    assert ended.stderr.count("\n") == 1
    assert f"--listen {host}:0: " in ended.stderr
