"""`--dead FILE` of `record` and `drain`: refused in one line, or kept; made when there is something to keep."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]

RECORD = ["record", "lines", "--to", "sqlite:///e.db", "--dead"]
DRAIN = ["drain", "log", "--to", "sqlite:///e.db", "--dead"]


@pytest.fixture(params=[RECORD, DRAIN], ids=["record", "drain"])
def command(request: pytest.FixtureRequest, leave: Leave, tmp_path: Path) -> list[str]:
    leave(tmp_path / "log", 0, 3, "sqlite")
    (tmp_path / "lines").write_text('{"a":1}\n', encoding="utf-8")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    given: list[str] = request.param
    return given


@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "/dev/null", "pipe", "directory", "lines/below"])
def test_what_keeps_no_letters_is_refused_and_nothing_is_done(
    main: Main, command: list[str], path: str, tmp_path: Path
) -> None:
    code, out, err = main(*command, path)

    assert (code, out, len(err.splitlines())) == (4, "", 1)
    assert "--dead" in err
    assert not (tmp_path / "e.db").exists()


def test_nothing_is_made_where_nothing_is_refused(main: Main, command: list[str], tmp_path: Path) -> None:
    assert main(*command, "made/below/letters.jsonl")[0] == 0

    assert not (tmp_path / "made").exists()


def test_memory_is_not_a_destination(main: Main, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"a":1}\n', encoding="utf-8")

    code, out, err = main("record", "lines", "--to", "memory:")

    assert (code, out) == (3, "")
    assert "memory: keeps nothing once this command ends" in err
