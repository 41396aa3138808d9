"""Commands without the rights they need: one line that says what may not be done to which path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from eventrec import EventRecorder, EventStruct, PermanentError
from eventrec.runs.directory import list_runs
from eventrec.testing.scripted import ScriptedHandler, quickly, raising

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)

TO = ["--to", "sqlite:////tmp/eventrec-never-made.db"]

COMMANDS = {
    "drain": ["drain", "DIR", *TO],
    "resume": ["resume", "DIR", "sqlite"],
    "log forget": ["log", "forget", "DIR", "sqlite", "--yes"],
    "log compress": ["log", "compress", "DIR"],
    "dead replay": ["dead", "replay", "DIR", *TO],
    "dead purge": ["dead", "purge", "DIR", "--yes"],
    "dead skip": ["dead", "skip", "DIR", "sqlite", "0"],
    "record": ["record", "/dev/null", *TO, "--log", "DIR"],
    "record --dead": ["record", "/dev/null", *TO, "--dead", "DIR/below/letters.jsonl"],
    "demo": ["demo", "--dir", "DIR"],
    "new-handler": ["new-handler", "warehouse", "--dir", "DIR"],
}
"""Those that change something."""


class Refused(EventStruct):
    n: int


@pytest.fixture
def readable(leave: Leave) -> Iterator[Path]:
    """A log directory with an orphan and a dead letter, which every user may read, and root alone change."""
    directory = Path("/tmp") / f"eventrec-{uuid4()}"  # noqa: S108 - the parents of tmp_path are closed themselves
    recorder = EventRecorder(log=directory, options=quickly())
    recorder.register(ScriptedHandler(always=raising(PermanentError("no"))), name="sqlite")
    with recorder.sync() as opened:
        opened.record(Refused(1))
        opened.flush(5)
    leave(directory, 0, 3, "sqlite")
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield directory
    shutil.rmtree(directory)


def as_nobody(main: Main, command: list[str]) -> tuple[int, str, str]:
    os.seteuid(65_534)
    try:
        return main(*command)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_may_not_be_changed_is_named_and_stays(main: Main, readable: Path, command: list[str]) -> None:
    main(*[str(readable / "missing") if word == "DIR" else word for word in command])  # So that all is imported.
    before = sorted(readable.rglob("*"))

    code, _, err = as_nobody(main, [word.replace("DIR", str(readable)) for word in command])

    if command[:2] == ["log", "compress"]:
        pytest.skip("a log of one segment has nothing to compress") if code == 0 else None
    assert (code, len(err.splitlines())) == (4, 1)
    assert str(readable) in err
    assert "held by a process" not in err
    assert sorted(readable.rglob("*")) == before


def test_forget_tells_rights_from_a_process(main: Main, readable: Path) -> None:
    (run,) = list_runs(readable)
    main("log", "forget", readable, "missing", "--yes")  # So that all is imported.

    code, _, err = as_nobody(main, ["log", "forget", str(readable), "sqlite", "--yes"])

    assert (code, err) == (4, f"eventrec: {readable / str(run)}: this user may not change it\n")
