"""The exit codes: the table in the documentation, the enumeration, and what commands end with are the same."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventrec import cli
from eventrec.cli.exit_codes import ExitCode
from eventrec.log.log import Log, LogOptions
from eventrec.log.maintenance import compress_below
from eventrec.runs.directory import list_runs
from eventrec.runs.run import Run, new_run_id

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]


def without(monkeypatch: pytest.MonkeyPatch, *modules: str, anew: str = "") -> None:
    """As if `modules` were not installed, and none of `anew` were imported."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if anew and name.startswith(anew)]:
        monkeypatch.delitem(sys.modules, name)


def done(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del monkeypatch
    leave(directory / "log", 0, 3, "sqlite")
    return main("drain", "log", "--to", "sqlite:///e.db")[0]


def incomplete(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, monkeypatch
    (directory / "lines").write_text("not JSON\n", encoding="utf-8")
    return main("record", "lines", "--to", "sqlite:///e.db")[0]


def usage(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, directory, monkeypatch
    return main("frobnicate")[0]


def destination(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, directory, monkeypatch
    return main("tail", "sqlite:///missing.db")[0]


def file(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, directory, monkeypatch
    return main("status", "missing")[0]


def held(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del monkeypatch
    leave(directory / "log", 0, 3, "old")
    run = Run.adopt(directory / "log", list_runs(directory / "log")[0])
    assert run is not None
    code = main("log", "forget", "log", "old", "--yes")[0]
    run.release()
    return code


def missing(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, directory
    without(monkeypatch, "asyncpg", anew="eventrec_handlers.postgres")
    return main("tail", "postgresql://localhost/x")[0]


def interrupted(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave, directory

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eventrec.cli.running._run", interrupt)
    return main("--version")[0]


def broken_pipe(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del main, leave, monkeypatch
    shown = f"{sys.executable} -m eventrec.cli --help; echo $? >code"
    subprocess.run(["/bin/sh", "-c", f"({shown}) | true"], cwd=directory, check=False, timeout=30)
    return int((directory / "code").read_text())


def terminated(main: Main, leave: Leave, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    del leave
    (directory / "lines").write_text("", encoding="utf-8")

    async def read(_: object) -> bytes:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            await anyio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGTERM)
        await anyio.sleep_forever()
        return b""

    monkeypatch.setattr("eventrec.cli.record.input.Input.read", read)
    return main("record", "lines", "--to", "sqlite:///e.db")[0]


CASES = {
    ExitCode.OK: done,
    ExitCode.INCOMPLETE: incomplete,
    ExitCode.USAGE: usage,
    ExitCode.DESTINATION: destination,
    ExitCode.FILE: file,
    ExitCode.HELD: held,
    ExitCode.MISSING: missing,
    ExitCode.INTERRUPTED: interrupted,
    ExitCode.BROKEN_PIPE: broken_pipe,
    ExitCode.TERMINATED: terminated,
}


def documented() -> set[int]:
    return {int(number) for number in re.findall(r"(?m)^    (\d+) {2,}\S", cli.__doc__ or "")}


def test_the_documented_codes_are_those_there_are() -> None:
    assert documented() == {int(code) for code in ExitCode} == {int(code) for code in CASES}


@pytest.mark.parametrize("code", CASES)
def test_each_code_is_what_a_command_ends_with(
    code: ExitCode, main: Main, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CASES[code](main, leave, tmp_path, monkeypatch) == code


@pytest.mark.parametrize(
    "command",
    [
        ["record", "lines", "--to", "postgresql://h/x"],
        ["tail", "postgresql://h/x"],
        ["drain", "log", "--to", "postgresql://h/x"],
    ],
    ids=lambda command: command[0],
)
def test_a_driver_that_is_missing_is_one_line_that_names_the_extra(
    command: list[str], main: Main, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 3, "postgres")
    (tmp_path / "lines").write_text("{}\n", encoding="utf-8")
    without(monkeypatch, "asyncpg", anew="eventrec_handlers.postgres")

    code, out, err = main(*command)

    assert (code, out, len(err.splitlines())) == (6, "", 1)
    assert "pip install 'eventrec[postgres]'" in err


@pytest.mark.parametrize("command", [("status",), ("log", "list"), ("log", "cat"), ("log", "verify")])
def test_zstd_that_is_missing_is_one_line_that_names_the_extra(
    command: tuple[str, ...], main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("backports.zstd")
    (tmp_path / "log").mkdir()
    run = Run.create(tmp_path / "log", new_run_id())
    with Log.create(run.storage, LogOptions(segment_bytes=64)) as log:
        for _ in range(3):
            log.append([bytes(200)])
            log.write()
        compress_below(run.storage, log.appended, head=log.appended + 1)
    run.release()
    without(monkeypatch, "compression", "compression.zstd", "backports.zstd")

    code, _, err = main(*command, "log")

    assert (code, len(err.splitlines())) == (6, 1)
    assert "pip install 'eventrec[zstd]'" in err


def test_one_destination_that_cannot_be_opened_is_one_line(
    main: Main, leave: Leave, tmp_path: Path, any_command: Any
) -> None:
    leave(tmp_path / "log", 0, 3, "sqlite")
    (tmp_path / "lines").write_text("{}\n", encoding="utf-8")
    (tmp_path / "text").write_text("this is not a database, and long enough to be told from one " * 20)

    code, _, err = main(*any_command)

    assert (code, len(err.splitlines())) == (3, 1)
    assert "file is not a database" in err


@pytest.fixture(params=["record", "record --log", "drain", "tail"])
def any_command(request: pytest.FixtureRequest) -> list[str]:
    commands = {
        "record": ["record", "lines", "--to", "sqlite:///text"],
        "record --log": ["record", "lines", "--to", "sqlite:///text", "--log", "own"],
        "drain": ["drain", "log", "--to", "sqlite:///text"],
        "tail": ["tail", "sqlite:///text"],
    }
    return commands[request.param]
