"""Commands of a process that has no classes find the layout of a table at the destination."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec import (
    EVENT,
    TIMESTAMP,
    TYPE,
    EventRecorder,
    Layout,
    LayoutColumn,
    PermanentError,
    ReceivedEvent,
    cli,
    from_payload,
)
from eventrec.testing.scripted import FencedHandler, quickly, raising

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


APPLICATION = """
from eventrec import EVENT, TIMESTAMP, TYPE, EventModel, EventRecorder, Layout, LayoutColumn, from_payload
from eventrec.analytics import Catalogue

LAYOUT = Layout(
    "visits",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=20),
        LayoutColumn("shop", from_payload("shop"), "text", default="none"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
)

class Entered(EventModel, layout=LAYOUT):
    shop: str

catalogue = Catalogue(name="shop", events=[Entered])

if __name__ == "__main__":
    with EventRecorder(log="log", environment={}).sync() as recorder:
        recorder.record(Entered(shop="a"))
"""


@pytest.fixture
def application(tmp_path: Path) -> None:
    """The working directory of the commands has the log of an application whose classes have a layout."""
    (tmp_path / "shop_application.py").write_text(APPLICATION, encoding="utf-8")
    subprocess.run([sys.executable, "-W", "error", "shop_application.py"], cwd=tmp_path, check=True, timeout=120)


@pytest.mark.usefixtures("application")
def test_drain_into_an_empty_file_finds_the_layout_beside_the_log(eventrec: Any, tmp_path: Path) -> None:
    done = eventrec("drain", "log", "--to", "sqlite:///events.db", "--timeout", "60")

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(tmp_path / "events.db") == [("entered", "a", '{"type":"entered","shop":"a"}')]


@pytest.mark.usefixtures("application")
def test_drain_takes_the_layouts_of_a_catalogue(eventrec: Any, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "log" / "layouts")

    done = eventrec(
        "drain", "log", "--to", "sqlite:///events.db", "--timeout", "60", "--catalogue", "shop_application:catalogue"
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(tmp_path / "events.db") == [("entered", "a", '{"type":"entered","shop":"a"}')]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of this process, with the module of an application whose classes have a layout."""
    (tmp_path / "shop_of_visits.py").write_text(APPLICATION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EVENTREC_CATALOGUE", "shop_of_visits:catalogue")
    yield tmp_path
    module = sys.modules.pop("shop_of_visits", None)
    if module is not None:  # Its class may live on: what it declares would count in every test that follows.
        module.Entered.__eventrec_layout__ = None


def test_record_makes_the_table_by_the_layout_of_the_catalogue(here: Path) -> None:
    (here / "lines.json").write_text('{"type":"left","shop":"b"}\n', encoding="utf-8")

    assert cli.main(["record", "lines.json", "--to", "sqlite:///events.db", "--table", "visits"]) == 0

    assert rows(here / "events.db") == [("left", "b", '{"type":"left","shop":"b"}')]


@pytest.mark.parametrize("knows", ["catalogue", "log directory"])
def test_replay_makes_the_table_by_the_layout(here: Path, knows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EventRecorder(
        log=here / "log", layouts=[LAYOUT] if knows == "log directory" else (), options=quickly(), environment={}
    )
    recorder.register(FencedHandler(always=raising(PermanentError("no"))), name="sqlite")
    with recorder.sync() as recording:
        recording.record(ReceivedEvent("left", b'{"shop":"d"}', timestamp=1_000, table="visits"))
        assert recording.flush(timeout=60)
    if knows == "log directory":
        monkeypatch.delenv("EVENTREC_CATALOGUE")

    assert cli.main(["dead", "replay", "log", "--to", "sqlite:///events.db"]) == 0

    assert rows(here / "events.db") == [("left", "d", '{"type":"left","shop":"d"}')]


@pytest.mark.parametrize("command", [["dead", "replay"], ["drain"], ["deliver"]], ids=" ".join)
def test_a_layout_that_cannot_be_read_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.delenv("EVENTREC_CATALOGUE")
    recorder = EventRecorder(log=here / "log", layouts=[LAYOUT], options=quickly(), environment={})
    recorder.register(FencedHandler(always=raising(PermanentError("no"))), name="sqlite")
    with recorder.sync() as recording:
        recording.record(ReceivedEvent("left", b"{}", timestamp=1_000, table="visits"))
        assert recording.flush(timeout=60)
    (here / "log" / "layouts" / "visits.json").write_bytes(b'{"version":2}')

    assert cli.main([*command, "log", "--to", "sqlite:///events.db"]) == 4

    assert "the layout of table 'visits' in log cannot be read" in capsys.readouterr().err
    assert not (here / "events.db").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["drain", "log", "--to", "sqlite:///events.db"],
        ["deliver", "log", "--to", "sqlite:///events.db"],
        ["record", "lines.json", "--to", "sqlite:///events.db"],
    ],
)
def test_a_catalogue_that_cannot_be_loaded_is_an_error_and_nothing_is_delivered(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (here / "log").mkdir()
    (here / "lines.json").write_text("{}\n", encoding="utf-8")
    monkeypatch.setenv("EVENTREC_CATALOGUE", "shop_that_is_not_there:catalogue")

    assert cli.main(arguments) == 4

    assert "EVENTREC_CATALOGUE: there is no module 'shop_that_is_not_there'" in capsys.readouterr().err
    assert not (here / "events.db").exists()
