"""Logs of processes that declare layouts, delivered by one that declares none."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import EVENT, TIMESTAMP, TYPE, EventModel, EventRecorder, Layout, LayoutColumn, LayoutError, ReceivedEvent
from eventrec.events import layouts
from eventrec.runs import layouts as log_layouts
from eventrec.runs.layouts import LAYOUTS, kept_layouts
from eventrec.testing.scripted import FencedHandler, quickly
from eventrec.testing.servers import PostgresServer
from eventrec.testing.small_disk import SmallDisk

pytestmark = pytest.mark.usefixtures("looking_often")

Rows = Callable[[str], list[str]]


def layout(kind: str = "kind", table: str = "visits") -> Layout:
    return Layout(
        table,
        [
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn(kind, TYPE, "varchar", length=20),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
    )


class EnteredAgain(EventModel):
    number: int


def entered(number: int) -> ReceivedEvent:
    return ReceivedEvent("entered", b'{"number":%d}' % number, timestamp=1_000 * number, table="visits")


def writing(directory: Path, *, layouts: list[Layout] | None = None) -> EventRecorder:
    return EventRecorder(
        log=directory, layouts=[layout()] if layouts is None else layouts, options=quickly(), environment={}
    )


async def leave_log(directory: Path, *numbers: int) -> None:
    async with writing(directory) as recorder:
        recorder.record_many(map(entered, numbers))


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until what it is given is true."""

    async def wait(is_so: Callable[[], object]) -> None:
        with anyio.fail_after(120):
            while not await anyio.to_thread.run_sync(is_so):  # noqa: ASYNC110 - a database
                await anyio.sleep(0.05)

    return wait


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.handlers)])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Rows]]:
    """An empty database by its URL, and the values of a column of the table `visits`, sorted; none without a table."""
    if request.param == "sqlite":
        file = tmp_path / "events.db"

        def read(column: str) -> list[str]:
            with closing(sqlite3.connect(file)) as connection:
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'visits'").fetchall():
                    return []
                found = connection.execute(f"SELECT {column} FROM visits").fetchall()
            return sorted(str(value) for (value,) in found)

        yield f"sqlite:///{file}", read
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = request.getfixturevalue("postgres_database")

    def ask(column: str) -> list[str]:
        if server.execute("SELECT to_regclass('visits')", database=name) == "":
            return []
        said = server.execute(f"SELECT {column} FROM visits", database=name)
        return sorted(said.splitlines())

    yield server.url(name), ask


@pytest.mark.parametrize("logs", [1, 12], ids=["one log", "many logs"])
async def test_orphans_are_delivered_by_the_layout_that_their_process_declared(
    destination: tuple[str, Rows], tmp_path: Path, logs: int, eventually: Callable[..., Awaitable[None]]
) -> None:
    url, rows = destination
    for number in range(logs):
        await leave_log(tmp_path / "log", number)

    async with EventRecorder(url, log=tmp_path / "log", options=quickly(), environment={}):
        await eventually(lambda: len(rows("kind")) == logs)

    assert await anyio.to_thread.run_sync(rows, "data->>'number'") == sorted(map(str, range(logs)))


async def test_a_live_log_is_delivered_by_the_layout_that_its_process_declares(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    handler = Assuming()
    following = EventRecorder(handler, log=tmp_path / "log", options=quickly(follow=True), environment={})

    async with following, writing(tmp_path / "log") as recorder:
        recorder.record(entered(1))
        await eventually(lambda: handler.delivered)

    assert handler.told == [{"visits": layout()}]


async def test_what_the_destination_keeps_counts_more(
    destination: tuple[str, Rows], tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    url, rows = destination
    async with EventRecorder(url, layouts=[layout("sort")], options=quickly(), environment={}) as recorder:
        recorder.record(entered(1))
        assert await recorder.flush(60)
    await leave_log(tmp_path / "log", 2)

    async with EventRecorder(url, log=tmp_path / "log", options=quickly(), environment={}):
        await eventually(lambda: len(rows("sort")) == 2)

    assert await anyio.to_thread.run_sync(rows, "sort") == ["entered"] * 2


async def test_what_a_process_declares_counts_most(tmp_path: Path, eventually: Callable[..., Awaitable[None]]) -> None:
    await leave_log(tmp_path / "log", 1)
    file = tmp_path / "events.db"
    declaring = EventRecorder(
        f"sqlite:///{file}", log=tmp_path / "log", layouts=[layout("sort")], options=quickly(), environment={}
    )

    async with declaring:
        await eventually(lambda: len(list((tmp_path / "log").glob("0*"))) == 1)

    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT sort FROM visits").fetchall() == [("entered",)]
    assert (await anyio.to_thread.run_sync(kept_layouts, tmp_path / "log"))[0] == {"visits": layout("sort")}


class Assuming(FencedHandler):
    """Notes the layouts that it is told of; raises for those of the table `unknown`."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Mapping[str, Layout]] = []

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        if "unknown" in layouts:
            raise LayoutError("no such table")
        self.told.append(layouts)

    def keep(self, batch: object) -> None:
        self.batches.append([len(batch.records)])  # type: ignore[attr-defined]


async def test_a_recorder_that_was_never_opened_keeps_them_too(tmp_path: Path) -> None:
    recorder = writing(tmp_path / "log")
    recorder.record(entered(1))
    await recorder.close()

    assert await anyio.to_thread.run_sync(kept_layouts, tmp_path / "log") == ({"visits": layout()}, {})


async def test_what_is_wrong_with_one_layout_is_said_and_keeps_nothing_up(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with writing(tmp_path / "log", layouts=[layout(), layout(table="unknown"), layout(table="bad")]) as recorder:
        recorder.record(entered(1))
    (tmp_path / "log" / LAYOUTS / "bad.json").write_bytes(b"?")
    handler = Assuming()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(), environment={}):
        await eventually(lambda: handler.delivered)

    said = [record.getMessage() for record in caplog.records if "layout" in record.getMessage()]
    assert handler.told == [{"visits": layout()}]
    assert len(said) == 2
    assert "layout=unknown" in said[0]
    assert "cannot be read" in said[1]


async def test_layouts_that_cannot_be_kept_do_not_keep_records_from_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / LAYOUTS).write_text("a file of an operator", encoding="utf-8")

    async with writing(tmp_path / "log") as recorder:
        assert await recorder.record_durable(entered(1), until="written")

    assert "layouts not kept beside the log" in caplog.text


@pytest.mark.parametrize("has_log", [False, True])
async def test_layouts_that_were_refused_are_kept_later_and_that_is_said_once(
    tmp_path: Path,
    eventually: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_log: bool,
) -> None:
    monkeypatch.setattr("eventrec.intake.written_log._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("eventrec.intake.writer._RETRY_SECONDS", 0.02)
    disk = SmallDisk(monkeypatch)
    log, tries = tmp_path / "log", []
    log.mkdir()
    keep = log_layouts.keep_layouts

    def refuse(*given: Any) -> None:
        tries.append(given)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eventrec.intake.written_log.keep_layouts", refuse)
    disk.files = None if has_log else 0
    recorder = writing(log)
    assert recorder.record(entered(1))
    for number in range(2, 6):
        await anyio.sleep(0.05)
        recorder.record(entered(number))
    await eventually(lambda: len(tries) > 1 or recorder.status().failure is not None)
    monkeypatch.setattr("eventrec.intake.written_log.keep_layouts", keep)
    disk.files = None
    await eventually(lambda: recorder.record(entered(9)) and kept_layouts(log)[0] == {"visits": layout()})
    await recorder.close()

    assert caplog.text.count("layouts not kept beside the log") == 1


async def test_layouts_that_were_refused_are_kept_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A class with a layout of its own would be known to every recorder of tests that come later.
    known = layouts.class_layout
    monkeypatch.setattr(
        layouts, "class_layout", lambda cls: layout(table="again") if cls is EnteredAgain else known(cls)
    )
    disk = SmallDisk(monkeypatch)
    async with writing(tmp_path / "log", layouts=[]) as recorder:
        assert await recorder.record_durable(entered(1), until="written")
        disk.files = 0
        await recorder.record_durable(EnteredAgain(number=2), until="written")
        disk.files = None

    found, _ = await anyio.to_thread.run_sync(kept_layouts, tmp_path / "log")
    assert list(found) == ["again"]


@pytest.mark.parametrize("what", ["a file", "a link", "not to be opened"])
async def test_layouts_that_are_not_for_this_user_keep_nothing_up(
    tmp_path: Path,
    eventually: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    await leave_log(tmp_path / "log", 1)
    folder = tmp_path / "log" / LAYOUTS
    shutil.move(folder, tmp_path / "elsewhere")
    match what:
        case "a file":
            folder.write_text("of an operator", encoding="utf-8")
        case "a link":
            folder.symlink_to(tmp_path / "elsewhere")
        case _:
            monkeypatch.setattr(log_layouts, "kept_layouts", refusing_to_open)
    handler = Assuming()

    async with EventRecorder(handler, log=tmp_path / "log", options=quickly(), environment={}):
        await eventually(lambda: handler.delivered)

    assert handler.told == []
    assert ("layouts cannot be read" in caplog.text) is (what == "not to be opened")


def refusing_to_open(directory: object) -> None:
    """As another user's directory does; root may open any."""
    raise PermissionError(errno.EACCES, "Permission denied")
