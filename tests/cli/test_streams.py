"""Every command with every state of its streams: one line on errors, an exit code, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventrec import EventRecorder, ReceivedEvent
from eventrec.cli.streams import prepare_streams

COMMAND = [sys.executable, "-W", "error", "-m", "eventrec.cli"]
FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")

COMMANDS: dict[str, list[str]] = {
    "--help": ["--help"],
    "--version": ["--version"],
    "status --help": ["status", "--help"],
    "tail": ["tail", "sqlite:///x.db"],
    "tail --json": ["tail", "sqlite:///x.db", "--json"],
    "status": ["status", "log"],
    "doctor --json": ["doctor", "log", "--json"],
    "drain": ["drain", "log", "--to", "sqlite:///x.db"],
    "dead list": ["dead", "list", "log"],
    "record": ["record", "in.jsonl", "--to", "sqlite:///y.db"],
}
"""A command of each kind; the others go through the same two doors, `Terminal` and `run`."""

TEXTS = ("plain", "café", "€ 😀")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("place")
    (directory / "log").mkdir()
    (directory / "in.jsonl").write_text('{"a":1}\n')
    with EventRecorder(f"sqlite:///{directory}/x.db").sync() as recorder:
        for text in TEXTS:
            recorder.record(ReceivedEvent("said", f'{{"text":"{text}"}}'.encode(), 1))
        recorder.flush(10)
    return directory


def run(place: Path, command: list[str], redirection: str) -> subprocess.CompletedProcess[bytes]:
    """The command under a shell that redirects its streams."""
    return subprocess.run(
        ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, *command],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "redirection"),
    [
        ("--help", ">/dev/full"),
        ("--version", ">&-"),
        ("tail", ">&-"),
        ("tail --json", ">/dev/full"),
        ("status", ">/dev/full"),
        ("doctor --json", ">&-"),
        ("drain", ">/dev/full"),
        ("dead list", ">&-"),
        ("record", ">/dev/full"),
    ],
)
def test_stdout_that_cannot_be_written_is_one_line_and_an_exit_code(
    place: Path, command: str, redirection: str
) -> None:
    done = run(place, COMMANDS[command], redirection)

    assert done.returncode == 4, done.stderr
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("eventrec: cannot write the result to stdout: ")
    assert b"Traceback" not in done.stderr


def test_a_token_that_nobody_was_shown_is_not_kept(place: Path) -> None:
    new = ["token", "new", "unshown.toml", "--name", "shop", "--scope", "read"]

    unshown, shown = run(place, new, ">/dev/full"), run(place, new, "")

    assert unshown.returncode == 4
    assert unshown.stderr.startswith(b"eventrec: cannot write the result to stdout: ")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("command", "redirection"),
    [("record", "2>/dev/full"), ("drain", "2>&-"), ("status", "<&-"), ("tail --json", "2>&- <&-")],
)
def test_stderr_that_cannot_be_written_changes_nothing(place: Path, command: str, redirection: str) -> None:
    done = run(place, COMMANDS[command], redirection)

    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize(
    ("command", "redirection"),
    [(["status", "nowhere"], "2>/dev/full"), (["bogus"], ">&- 2>&- <&-"), (["record", "-", "--to", "no:"], "2>&-")],
)
def test_error_that_cannot_be_said_keeps_its_exit_code(place: Path, command: list[str], redirection: str) -> None:
    assert run(place, command, redirection).returncode in {2, 3, 4}


@pytest.mark.parametrize(
    ("command", "encoding"),
    [("tail", "ascii:strict"), ("tail --json", "latin-1"), ("--help", "ascii"), ("status --help", "utf-16")],
)
def test_encoding_of_stdout_never_ends_a_command(place: Path, command: str, encoding: str) -> None:
    done = subprocess.run(
        [*COMMAND, *COMMANDS[command]],
        cwd=place,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=200,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def closed_stdout() -> Callable[[], None]:
    """What closes descriptor 1 in a child, as `>&-` does."""
    return lambda: os.close(1)


def test_file_that_is_opened_never_gets_the_number_of_a_closed_stream(
    tmp_path: Path, closed_stdout: Callable[[], None]
) -> None:
    code = (
        "import os, sys\n"
        "from eventrec.cli.streams import prepare_streams\n"
        "prepare_streams()\n"
        "descriptor = os.open('file', os.O_CREAT | os.O_WRONLY)\n"
        "sys.stderr.write(str(descriptor))\n"
    )

    done = subprocess.run(
        [COMMAND[0], "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=closed_stdout, check=True
    )

    assert int(done.stderr) > 2


def test_streams_that_are_open_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    prepare_streams()

    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")
