"""Layouts beside a source's logs: they arrive at its mirror before the records that need them, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec import PAYLOAD, TIMESTAMP, TYPE, EventRecorder, Layout, LayoutColumn, ReceivedEvent, from_field
from eventrec.mirroring import layouts
from eventrec.mirroring.copies import Copies
from eventrec.mirroring.frames import FROM_SOURCE, Frame, FrameParser, Kind, ProtocolError, encode_frame
from eventrec.mirroring.layouts import MAX_LAYOUT_BYTES, MAX_LAYOUTS, OfferedLayouts
from eventrec.mirroring.messages import KeptLayout, encode
from eventrec.runs.directory import LogDirectory
from eventrec.runs.files import encode as encode_file
from eventrec.runs.layouts import LAYOUTS, keep_layouts, kept_layouts
from eventrec.testing.scripted import quickly


def layout(table: str, length: int = 20) -> Layout:
    return Layout(
        table,
        [
            LayoutColumn("kind", TYPE, "varchar", length=length),
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("said", PAYLOAD, "jsonb"),
        ],
    )


def file_of(kept: Layout) -> bytes:
    return encode_file(msgspec.Raw(kept.to_json().encode()))


def frames(*contents: bytes) -> list[Frame]:
    return FrameParser(FROM_SOURCE).feed(b"".join(encode(KeptLayout(content=each)) for each in contents))


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def copies(there: Path) -> Iterator[Copies]:
    made = Copies(LogDirectory(there), sweep_letters=lambda: None)
    assert made.claims() == []
    yield made
    made.close()


async def test_a_mirror_has_the_layouts_of_its_source_and_those_that_come_later(
    tmp_path: Path, there: Path, kit: Any
) -> None:
    here = tmp_path / "here"
    await in_thread(keep_layouts, here, [layout("visits"), layout("orders")])
    source = await in_thread(kit.source, here)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: len(kept_layouts(there)[0]) == 2)
        for length in range(30, 36):
            await in_thread(keep_layouts, here, [layout("visits", length), layout(f"later {length}")])
            end = await in_thread(source.write, 1)
            # What is acknowledged was written after its layout: that is there by then.
            await kit.until(lambda end=end: kit.acknowledged(here, source.run.id) == end)
            assert (await in_thread(kept_layouts, there))[0] == (await in_thread(kept_layouts, here))[0]
    await in_thread(source.end)

    names = {path.name for path in (here / LAYOUTS).iterdir()}
    assert {name: (there / LAYOUTS / name).read_bytes() for name in names} == {
        name: (here / LAYOUTS / name).read_bytes() for name in names
    }


async def test_a_mirror_that_connects_again_gets_what_changed_meanwhile(tmp_path: Path, there: Path, kit: Any) -> None:
    here = tmp_path / "here"
    for length in (20, 30):
        await in_thread(keep_layouts, here, [layout("visits", length)])
        async with kit.serving(here) as served, kit.mirroring(served.address, there):
            await kit.until(lambda length=length: kept_layouts(there)[0] == {"visits": layout("visits", length)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        layout("t").to_json().encode(),
        file_of(layout("t")).replace(b"varchar", b"VARCHAR"),
        file_of(layout("t")).replace(b"crc32c", b"crc32d"),
        encode_file({"version": 9, "table": "t"}),
        encode_file("[" * 5_000),
        encode_file("x" * MAX_LAYOUT_BYTES),
        b"\xff\x00" * 100,
    ],
    ids=["empty", "no-checksum", "without-trailer", "changed", "trailer", "version", "deep", "large", "bytes"],
)
def test_what_is_not_a_whole_layout_is_logged_and_not_kept(
    copies: Copies, there: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert copies.take(frames(content, file_of(layout("good")))) == []

    assert kept_layouts(there) == ({"good": layout("good")}, {})
    assert [path.name for path in (there / LAYOUTS).iterdir()] == ["good.json"]
    assert "layout not kept" in caplog.text


@pytest.mark.parametrize("table", ["../../escaped", "/etc/passwd", "..", "a\\b", "x" * 255, "ä\n"])
def test_a_table_names_a_file_in_that_folder_whatever_it_is_called(copies: Copies, there: Path, table: str) -> None:
    copies.take(frames(file_of(layout(table))))

    assert kept_layouts(there)[0] == {table: layout(table)}
    assert {path.relative_to(there.parent).parts[0] for path in there.parent.rglob("*")} == {"there"}
    assert all(path.is_dir() or path.parent == there / LAYOUTS for path in there.rglob("*"))


def test_a_frame_that_says_nothing_of_a_layout_ends_the_connection(copies: Copies) -> None:
    with pytest.raises(ProtocolError):
        copies.take(FrameParser(FROM_SOURCE).feed(encode_frame(Kind.LAYOUT, b'{"content":1}')))
    with pytest.raises(ProtocolError, match="LAYOUT"):
        FrameParser(FROM_SOURCE).feed(encode_frame(Kind.LAYOUT, b"")[:1] + b"\x7f\xff\xff\xff")


def test_another_programs_file_and_link_are_left(
    copies: Copies, there: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (there / LAYOUTS).mkdir(parents=True)
    (there / LAYOUTS / "visits.json").write_text('{"of": "an operator"}', encoding="utf-8")
    (tmp_path / "elsewhere").write_text("of another", encoding="utf-8")
    (there / LAYOUTS / "orders.json").symlink_to(tmp_path / "elsewhere")

    copies.take(frames(file_of(layout("visits")), file_of(layout("orders")), file_of(layout("good"))))

    assert (there / LAYOUTS / "visits.json").read_text("utf-8") == '{"of": "an operator"}'
    assert (tmp_path / "elsewhere").read_text("utf-8") == "of another"
    assert (there / LAYOUTS / "orders.json").is_symlink()
    assert kept_layouts(there)[0] == {"good": layout("good")}
    assert "not a file of ours" in caplog.text


@pytest.mark.parametrize("damaged", [b"", b"\0" * 300, file_of(layout("visits"))[:-9] + b"\xff" * 9])
def test_a_damaged_file_of_ours_is_replaced(copies: Copies, there: Path, damaged: bytes) -> None:
    (there / LAYOUTS).mkdir(parents=True)
    (there / LAYOUTS / "visits.json").write_bytes(damaged)

    copies.take(frames(file_of(layout("visits"))))

    assert kept_layouts(there)[0] == {"visits": layout("visits")}


def test_what_the_disk_refuses_is_kept_once_it_takes_it_and_said_once(
    copies: Copies, there: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (there / LAYOUTS).write_text("in the way", encoding="utf-8")

    copies.take(frames(file_of(layout("visits", 20)), file_of(layout("visits", 30))))
    copies.take([])
    assert caplog.text.count("layout not kept") == 1
    (there / LAYOUTS).unlink()
    copies.take([])

    assert kept_layouts(there)[0] == {"visits": layout("visits", 30)}


def test_what_waits_for_the_disk_is_bounded(copies: Copies, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MAX_LAYOUTS", 20)
    (there / LAYOUTS).write_text("in the way", encoding="utf-8")
    copies.take(frames(*(file_of(layout(str(number))) for number in range(25))))
    (there / LAYOUTS).unlink()
    (there / LAYOUTS).mkdir()
    for number in range(18):
        (there / LAYOUTS / f"{number}.json").write_text("of another", encoding="utf-8")

    copies.take([])

    kept = kept_layouts(there)[0]
    assert set(kept) == {"18", "19"}


def test_no_more_than_so_many_are_kept(copies: Copies, there: Path, caplog: pytest.LogCaptureFixture) -> None:
    (there / LAYOUTS).mkdir(parents=True)
    for number in range(MAX_LAYOUTS - 1):
        (there / LAYOUTS / f"{number}.json").touch()

    copies.take(frames(*(file_of(layout(table)) for table in ("last", "one too many", "0"))))
    copies.take(frames(file_of(layout("last", 30))))

    assert kept_layouts(there)[0] == {"0": layout("0"), "last": layout("last", 30)}
    assert caplog.text.count("already") == 1


def test_a_source_says_a_layout_once_and_one_that_is_too_large_never(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offered = OfferedLayouts(LogDirectory(tmp_path))
    assert offered.frames() == []
    wide = Layout("wide", [LayoutColumn("said", from_field("said"), "text", default="x" * MAX_LAYOUT_BYTES)])

    keep_layouts(tmp_path, [layout("visits"), wide])
    first, second = offered.frames(), offered.frames()
    keep_layouts(tmp_path, [layout("visits", 30)])

    assert [first, second, offered.is_due] == [
        [encode(KeptLayout(content=file_of(layout("visits"))))],
        [],
        False,
    ]
    assert offered.frames() == [encode(KeptLayout(content=file_of(layout("visits", 30))))]
    assert "more than 1,048,576" in caplog.text


async def test_a_mirror_of_a_version_without_layouts_is_sent_none(tmp_path: Path, kit: Any) -> None:
    await in_thread(keep_layouts, tmp_path, [layout("visits")])
    source = await in_thread(kit.source, tmp_path)
    await in_thread(source.write, 1)
    parser, found = FrameParser(FROM_SOURCE), list[Frame]()

    async with kit.serving(tmp_path) as served:
        stream = await anyio.connect_tcp("127.0.0.1", served.port)
        async with stream:
            hello = b'{"name":"old","instance":"01890a5d-ac96-774b-bcce-b302099a8057","runs":[]}'
            await stream.send(encode_frame(Kind.HELLO, hello))
            with anyio.fail_after(120):
                while not any(frame.kind is Kind.DATA for frame in found):
                    found += parser.feed(await stream.receive())
    await in_thread(source.end)

    assert Kind.LAYOUT not in {frame.kind for frame in found}


async def test_what_delivers_a_mirror_makes_the_rows_that_the_source_declared(
    tmp_path: Path, there: Path, kit: Any
) -> None:
    here, file = tmp_path / "here", tmp_path / "events.db"
    event = ReceivedEvent("entered", b'{"number":7}', timestamp=1_000_000_000, table="visits")
    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        options = quickly(mirrors=1)
        async with EventRecorder(log=here, layouts=[layout("visits")], options=options, environment={}) as recorder:
            await recorder.record_durable(event, until="mirrored", timeout=60)
        await kit.until(lambda: mirror.counts.records)

    async with EventRecorder(f"sqlite:///{file}", log=there, options=quickly(), environment={}) as recorder:
        await kit.until(lambda: file.exists() and rows_of(file))

    assert rows_of(file) == [("entered", '{"number":7}')]


def rows_of(file: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(file)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'visits'").fetchall():
            return []
        return connection.execute("SELECT kind, said FROM visits").fetchall()
