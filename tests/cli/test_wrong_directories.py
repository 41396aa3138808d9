"""Every command on every wrong directory: one line that says what it is, an exit code, and nothing is changed there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eventrec.cli.exit_codes import CommandError
from eventrec.cli.logs.log_directory import check_log_directory
from eventrec.runs.directory import list_runs

TO = ["--to", "sqlite:///x.db"]

OF_A_LOG_DIRECTORY: dict[str, list[str]] = {
    "status": ["status", "DIR"],
    "status --json": ["status", "DIR", "--json"],
    "drain": ["drain", "DIR", *TO],
    "doctor": ["doctor", "DIR"],
    "resume": ["resume", "DIR", "sqlite"],
    "dead list": ["dead", "list", "DIR"],
    "dead show": ["dead", "show", "DIR", "0"],
    "dead replay": ["dead", "replay", "DIR", *TO],
    "dead skip": ["dead", "skip", "DIR", "sqlite", "0"],
    "dead purge": ["dead", "purge", "DIR", "--yes"],
    "log forget": ["log", "forget", "DIR", "sqlite", "--yes"],
}
OF_SEGMENTS_TOO: dict[str, list[str]] = {
    "log verify": ["log", "verify", "DIR"],
    "log list": ["log", "list", "DIR"],
    "log cat": ["log", "cat", "DIR"],
    "log compress": ["log", "compress", "DIR"],
}
COMMANDS = OF_A_LOG_DIRECTORY | OF_SEGMENTS_TOO


@pytest.fixture
def place(tmp_path: Path, leave: Callable[..., None]) -> Path:
    """A log directory with one orphan, and everything that may be taken for one."""
    leave(tmp_path / "log", 0, 37, "sqlite")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "passwd").write_text("root")
    (tmp_path / "others" / str(uuid4())).mkdir()
    return tmp_path


def hashes(directory: Path) -> dict[str, str]:
    """Of every file, and every name."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in directory.rglob("*")
    }


def one_log(place: Path) -> Path:
    return place / "log" / str(list_runs(place / "log")[0])


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda place: place / "nowhere", "is not a directory"),
    "a file": (lambda place: place / "file", "is not a directory"),
    "another program's": (lambda place: place / "others", "nothing in it is eventrec's"),
    "its parent": (lambda place: place, "did you mean"),
    "checkpoints of a log": (lambda place: one_log(place) / "checkpoints", "nothing in it is eventrec's"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_directory_is_said_and_left_alone(
    main: Callable[..., Any], place: Path, wrong: str, command: list[str]
) -> None:
    make, reason = WRONG[wrong]
    directory, before = make(place), hashes(place)
    if command[0] == "doctor" and wrong == "missing":
        pytest.skip("a log directory that is not there yet is made by the first recorder")

    code, out, err = main(*[str(directory) if word == "DIR" else word for word in command])

    said = out if command[0] == "doctor" else err
    assert code == (1 if command[0] == "doctor" else 4)
    assert reason in said
    assert str(directory) in said
    assert command[0] == "doctor" or len(err.splitlines()) == 1
    assert hashes(place) == before


MAKING: dict[str, list[str]] = {
    "deliver": ["deliver", "DIR", *TO],
    "record --log": ["record", "-", *TO, "--log", "DIR"],
    "serve --log": ["serve", *TO, "--log", "DIR"],
    "log mirror": ["log", "mirror", "127.0.0.1:1", "DIR"],
}
"""Commands that make a log directory where there is none."""


@pytest.mark.parametrize("command", (COMMANDS | MAKING).values(), ids=COMMANDS | MAKING)
@pytest.mark.parametrize("url", ["postgres://me:hunter2@db.invalid/hunter2", "sqlite:///hunter2.db", "other://hunter2"])
def test_url_in_the_place_of_a_directory_is_said_and_not_shown(
    main: Callable[..., Any], tmp_path: Path, url: str, command: list[str]
) -> None:
    code, out, err = main(*[url if word == "DIR" else word for word in command])

    scheme = url.partition(":")[0]
    said = f"that is a URL ({scheme}:…), where a log directory is meant; the URL of a destination stands behind --to"
    assert said in out + err
    assert code == (1 if command[0] == "doctor" else 2)
    assert "hunter2" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sqlite:", "env:var"])
def test_a_directory_that_is_called_like_a_url_is_one(main: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    assert main("status", name)[0] == 0
    assert main("status", "sqlite:events", "--json")[0] == 2
    assert main("status", "later:events")[2] == "eventrec: later:events is not a directory\n"


@pytest.mark.parametrize("command", OF_A_LOG_DIRECTORY.values(), ids=OF_A_LOG_DIRECTORY)
def test_one_log_is_not_its_log_directory(main: Callable[..., Any], place: Path, command: list[str]) -> None:
    directory, before = one_log(place), hashes(place)

    code, out, err = main(*[str(directory) if word == "DIR" else word for word in command])

    assert code == (1 if command[0] == "doctor" else 4)
    assert f"is one log; the log directory is {place / 'log'}" in (out + err)
    assert hashes(place) == before


@pytest.mark.parametrize("command", OF_SEGMENTS_TOO.values(), ids=OF_SEGMENTS_TOO)
def test_one_log_may_be_looked_into(main: Callable[..., Any], place: Path, command: list[str]) -> None:
    code, _, _ = main(*[str(one_log(place)) if word == "DIR" else word for word in command])

    assert code == 0


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """This process has the rights of a user who is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_directory_that_may_not_be_read_is_one_line(
    main: Callable[..., Any], tmp_path: Path, command: list[str], request: pytest.FixtureRequest
) -> None:
    # First with all rights, so that it is all imported: an ordinary user may not read the interpreter of root.
    main(*[str(tmp_path / "missing") if word == "DIR" else word for word in command])
    main("doctor", tmp_path, *TO)
    closed = Path("/tmp") / f"eventrec-{uuid4()}"  # noqa: S108 - the parents of tmp_path are closed themselves
    closed.mkdir(mode=0o000)
    try:
        request.getfixturevalue("ordinary_user")
        code, out, err = main(*[str(closed) if word == "DIR" else word for word in command])
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        closed.chmod(0o700)
        closed.rmdir()

    assert code in {1, 4}
    assert f"{closed}: Permission denied" in out + err


def test_what_a_file_system_keeps_in_a_directory_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".gitignore").touch()

    check_log_directory(tmp_path)


def test_dead_letters_of_a_log_directory_are_not_one(main: Callable[..., Any], place: Path) -> None:
    (place / "log" / "dead").mkdir()
    shutil.copytree(one_log(place), place / "log" / "dead" / one_log(place).name)

    code, _, err = main("status", place / "log" / "dead")

    assert (code, err) == (
        4,
        f"eventrec: {place}/log/dead holds dead letters; the log directory is {place}/log\n",
    )


@pytest.mark.parametrize("link", ["log", "one log"])
def test_a_link_is_what_it_leads_to(main: Callable[..., Any], place: Path, link: str) -> None:
    (place / "link").symlink_to(place / "log" if link == "log" else one_log(place))

    if link == "log":
        assert main("status", "link")[0] == 0
    else:
        with pytest.raises(CommandError, match="is one log"):
            check_log_directory(place / "link")
