import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import pytest
from cyclopts import App

from eventrec import cli
from eventrec.cli.app import app
from eventrec.cli.commands import COMMANDS as PLACES
from eventrec.cli.commands import app_of


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


COMMANDS = [
    *("demo", "record", "tail", "status", "drain", "deliver", "resume", "refresh", "doctor", "new-handler", "migrate"),
    *("query", "relay", "bus status", "bus forget"),
    *("log verify", "log list", "log cat", "log forget", "log compress"),
    *("log serve", "log mirror", "log forget-mirror"),
    *("dead list", "dead show", "dead replay", "dead skip", "dead purge"),
    *("analytics enable", "analytics disable", "analytics status", "analytics details", "analytics clear"),
    *("analytics email", "analytics config", "catalogue export", "catalogue check"),
    *("serve", "token new", "token list", "token revoke"),
]
NOT_FOR_MACHINES = {
    *("log serve", "log mirror", "log forget-mirror"),
    *("log cat", "new-handler", "resume", "dead show", "dead replay", "dead skip", "dead purge"),
    *("analytics enable", "analytics disable", "analytics details", "analytics clear", "analytics email"),
    *("analytics config", "catalogue export"),  # are JSON as they are
    *("token new", "token revoke"),
}


def test_console_script_is_main() -> None:
    (script,) = entry_points(group="console_scripts", name="eventrec")

    assert script.load() is cli.main


def registered(within: App, *before: str) -> Iterator[str]:
    names = [name for name in within if not name.startswith("-")]
    for name in names:
        yield from registered(within[name], *before, name)
    if not names:
        yield " ".join(before)


def test_every_command_is_known_here_and_in_the_documentation() -> None:
    commands = set(registered(app))

    assert commands == set(COMMANDS)
    table = (cli.__doc__ or "").split("exit code")[0]
    rows = re.findall(r"(?m)^    (.*?)  ", table)
    assert sorted(" ".join(rows).split()) == sorted({command.split()[0] for command in commands})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(main: Main, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    code, out, errors = main(*command.split(), "--help")

    assert (code, errors) == (0, "")
    assert "For example" in out
    assert f"eventrec {command} " in out.split("For example")[1]
    assert ("--json" in out) is (command not in NOT_FOR_MACHINES)


def test_help_names_every_command(eventrec: Run) -> None:
    for arguments in ([], ["--help"]):
        shown = eventrec(*arguments).stdout
        assert all(command.split()[0] in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], (2, "frobnicate")),
        (["record", "-"], (2, "--to")),
        (["record", "--to", "memory:"], (2, "FILE")),
        (["record", "-", "--to", "memory:", "--tpye-field", "x"], (2, "--tpye-field")),
        (["record", "-", "--to", "memory:", "--timestamp-unit", "weeks"], (2, '"weeks"')),
        (["record", "-", "--to", "memory:", "--table", ""], (2, "--table")),
        (["record", "-", "--to", "memory:", "--dead", "-"], (2, "--dead")),
        (["record", "-", "--to", "memory:", "--max-event-bytes", "0"], (2, "--max-event-bytes")),
        (["record", "-", "--to", "memory:", "--log", "-"], (2, "--log")),
        (["drain", ".", "--to", "sqlite:///x.db", "--timeout", "-1"], (2, "--timeout")),
        (["drain", ".", "--to", "sqlite:///x.db", "--name", ""], (2, "--name")),
        (["drain", ".", "--to", "sqlite:///x.db", "--dead", "/proc/none/dead"], (4, "cannot write /proc/none/dead")),
        (["tail", "sqlite:///x.db", "-n", "-1"], (2, "-n")),
        (["tail", "sqlite:///x.db", "-n", "\x1b[31m"], (2, "\\x1b[31m")),
        (["demo", "--events", "-1"], (2, "--events")),
        (["demo", "--seconds", "nan"], (2, "--seconds")),
        (["record", "-", "--to", "nope:///x"], (3, "no handler for the scheme 'nope'; known are")),
        (["record", "-", "--to", "events.db"], (3, "starts with a scheme")),
        (["record", "-", "--to", "sqlite:///x.db?colour=red"], (3, "unknown option 'colour'")),
        (["record", "-", "--to", "env:NOT_SET_AT_ALL"], (3, "NOT_SET_AT_ALL")),
        (["drain", ".", "--to", "nope:///x"], (3, "no handler for the scheme 'nope'; known are")),
        (["record", "-", "--to", "sqlite:///x.db", "--log", "/proc/none"], (4, "cannot write /proc/none")),
        (["log", "forget", ".", "nobody"], (2, "there are: none")),
        (["record", "missing.jsonl", "--to", "sqlite:///x.db"], (4, "cannot read missing.jsonl: No such file")),
        (["record", ".", "--to", "sqlite:///x.db"], (4, "cannot read .: Is a directory")),
        (["record", "-", "--to", "sqlite:///x.db", "--dead", "/proc/none/dead"], (4, "cannot write /proc/none/dead")),
    ],
)
def test_error_is_one_clear_line_and_an_exit_code(
    arguments: list[str],
    expected: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    code = cli.main(arguments)

    out, err = capsys.readouterr()
    assert code == expected[0]
    assert expected[1] in err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err
    assert out == ""


def test_code_of_an_error_is_that_of_the_process(eventrec: Run) -> None:
    assert eventrec("record", "-", "--to", "nope:///x").returncode == 3


def test_destination_that_cannot_be_opened_ends_it_at_once(eventrec: Run) -> None:
    done = eventrec("record", "-", "--to", "sqlite:////none/here/x.db", stdin="{}\n")

    assert done.returncode == 3
    assert "there is no directory /none/here" in done.stderr


def test_password_of_a_url_is_not_shown(eventrec: Run) -> None:
    done = eventrec("record", "-", "--to", "sqlite://me:hunter2@host/x.db")

    assert done.returncode == 3
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    hidden = f"import sys; sys.modules[{missing!r}] = None; from eventrec.cli import main; sys.exit(main(['demo']))"

    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert done.stderr == f"eventrec: the command line needs {missing}: pip install 'eventrec[cli]'\n"


STARTED = """
import gc

from eventrec.cli.starting import Start

start = Start()
start.begin()
assert not gc.isenabled()
start.end()
assert gc.isenabled()
assert gc.get_freeze_count() > 0
gc.disable()
start.begin()
start.end()
assert not gc.isenabled()  # as the operator wants it
"""

ALONE = """
import sys

before = set(sys.modules)  # where coverage is measured, that has its own

from eventrec.cli.running import run

assert run(["record", "--help"]) == 0
assert "eventrec.cli.record.record" in sys.modules
loaded = sys.modules.keys() - before
assert not {"eventrec.cli.app", "eventrec.cli.demo.demo", "pydantic_settings", "sqlite3"} & loaded
"""


SHORT = """
import sys

before = set(sys.modules)  # likewise

from eventrec.cli.running import run

assert run(["tail", "--help"]) == 0
assert "eventrec.cli.tail" in sys.modules
loaded = sys.modules.keys() - before
assert not {"eventrec.cli.app", "eventrec.cli.demo.demo", "eventrec.cli.record.command"} & loaded
assert not {"eventrec.recorder", "eventrec.log.log", "sqlite3"} & loaded
"""


def test_a_command_alone_is_the_one_among_all() -> None:
    for name in PLACES:
        alone = app_of([name])

        assert [each for each in alone if not each.startswith("-")] == [name]
        assert list(registered(alone)) == list(registered(app[name], name))
        assert alone[name].help == app[name].help


@pytest.mark.parametrize(
    "program",
    [STARTED, ALONE, SHORT],
    ids=["nothing is collected", "record loads no other command", "tail loads no recorder"],
)
def test_start_is_short(program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
