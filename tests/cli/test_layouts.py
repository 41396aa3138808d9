"""Commands of a process that has no classes find the layout of a table at the destination."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec import EVENT, TIMESTAMP, TYPE, EventRecorder, Layout, LayoutColumn, ReceivedEvent, from_payload

LAYOUT = Layout(
    "visits",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=20),
        LayoutColumn("shop", from_payload("shop"), "text", default="none"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file in the working directory of the commands, that an application with the layout has written to."""
    path = tmp_path / "events.db"
    with EventRecorder(f"sqlite:///{path}", layouts=[LAYOUT], environment={}).sync() as recorder:
        recorder.record(ReceivedEvent("entered", b'{"shop":"a"}', timestamp=1_000, table="visits"))
        assert recorder.flush(timeout=60)
    return path


def rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT kind, shop, data FROM visits ORDER BY rowid").fetchall()


def test_record_writes_by_the_layout_that_the_destination_keeps(eventrec: Any, database: Path) -> None:
    line = json.dumps({"type": "left", "shop": "b"})

    done = eventrec(
        "record", "-", "--to", "sqlite:///events.db", "--table", "visits", "--type-field", "type", stdin=line
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database)[1][:2] == ("left", "b")


def test_tail_shows_what_a_layout_holds(eventrec: Any, database: Path) -> None:
    (line,) = eventrec("tail", "sqlite:///events.db", "--json").stdout.splitlines()

    assert json.loads(line) == {
        "table": "visits",
        "id": "visits:1",
        "type": "entered",
        "timestamp": 1_000,
        "payload": {"shop": "a"},
        "columns": {"shop": "a"},
    }


@pytest.mark.usefixtures("database")
def test_drain_delivers_by_the_layout_that_the_destination_keeps(eventrec: Any, database: Path, tmp_path: Path) -> None:
    with EventRecorder(log=tmp_path / "log", environment={}).sync() as recorder:
        recorder.record(ReceivedEvent("left", b'{"shop":"c"}', timestamp=2_000, table="visits"))

    done = eventrec("drain", "log", "--to", "sqlite:///events.db", "--timeout", "60")

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database)[1] == ("left", "c", '{"type":"left","shop":"c"}')
