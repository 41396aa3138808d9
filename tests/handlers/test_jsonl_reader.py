"""Reading JSON Lines back, beside the writers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, PauseError, ReceivedEvent, StoredEvent
from eventrec_handlers.jsonl import JsonlHandler
from eventrec_handlers.jsonl.folder import HAS_DESCRIPTORS
from eventrec_handlers.jsonl.stored import lines, lines_backwards

Events = Callable[..., Event]
Batches = Callable[..., Batch]

OTHER = UUID("01990000-0000-7000-8000-000000000002")


def payloads(events: Sequence[StoredEvent]) -> list[str]:
    return [event.payload for event in events]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lines"


@pytest.fixture
async def jsonl(directory: Path, log_id: UUID) -> AsyncIterator[JsonlHandler]:
    """Two logs, each from 0 on; a new file is begun after each batch."""
    handler = JsonlHandler(directory, rotate_bytes=1)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    await handler.resume(OTHER, "tested", 0)
    yield handler
    await handler.close()


@pytest.fixture
def place(directory: Path, log_id: UUID) -> Path:
    return directory / str(log_id) / "tested"


class Follower:
    """Follows a directory, and knows what it was shown."""

    def __init__(self, directory: Path) -> None:
        self.reader = JsonlHandler(directory).reader()
        self._cursor = ""

    async def begin(self) -> Follower:
        self._cursor = (await self.reader.latest(limit=0)).cursor
        return self

    async def new(self, *, limit: int = 1_000) -> list[str]:
        """The payloads of what has arrived, in pages of `limit`."""
        found: list[str] = []
        while (page := await self.reader.follow(self._cursor, limit=limit)).events:
            assert len(page.events) <= limit
            self._cursor = page.cursor
            found += payloads(page.events)
        self._cursor = page.cursor
        return found


async def test_event_is_told_whole(jsonl: JsonlHandler, event: Events, batch: Batches) -> None:
    columns = (ColumnSchema("b", ColumnType.BINARY), ColumnSchema("j", ColumnType.JSON))
    stored = batch(event({"n": 1}, kind="k", at=5, columns=columns, values=(b"\0", {"x": [1]})), context=b'{"u":1}')
    await jsonl.handle(stored)

    (told,) = (await jsonl.reader().latest(limit=9)).events

    assert told == StoredEvent(
        table="events",
        id=stored.records[0].id,
        type="k",
        timestamp=5,
        payload='{"n":1}',
        context='{"u":1}',
        columns={"b": "AA==", "j": {"x": [1]}},
    )


async def test_payload_is_told_as_it_is_stored(jsonl: JsonlHandler, batch: Batches) -> None:
    await jsonl.handle(batch(ReceivedEvent("t", b'{"a": 1.0e2,\t"a":"\\u0000"}')))

    (told,) = (await jsonl.reader().latest(limit=9)).events

    assert told.payload == '{"a": 1.0e2,\t"a":"\\u0000"}'
    assert told.context is None


async def test_newest_of_all_logs_come_first_then_those_that_follow(
    jsonl: JsonlHandler, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(*(event(n, at=n) for n in range(0, 10, 2))))
    await jsonl.handle(batch(*(event(n, at=n) for n in range(1, 10, 2)), log_id=OTHER))
    reader = jsonl.reader()

    newest = await reader.latest(limit=4)
    nothing = await reader.follow(newest.cursor, limit=4)
    await jsonl.handle(batch(event(10, at=10), start=5))
    await jsonl.handle(batch(event(11, at=3), start=5, log_id=OTHER))
    following = await reader.follow(nothing.cursor, limit=4)

    assert payloads(newest.events) == ["6", "7", "8", "9"]
    assert nothing.events == ()
    assert payloads(following.events) == ["11", "10"]


async def test_pages_miss_nothing_and_repeat_nothing(jsonl: JsonlHandler, event: Events, batch: Batches) -> None:
    follower = await Follower(jsonl._path).begin()
    for n in range(6):
        await jsonl.handle(batch(*(event(10 * n + i, at=i * 7 % 10) for i in range(5)), start=n * 5))
        await jsonl.handle(batch(*(event(10 * n + i, at=i * 7 % 10) for i in range(5, 10)), start=n * 5, log_id=OTHER))

    seen = await follower.new(limit=7)

    assert sorted(map(int, seen)) == list(range(60))
    assert await follower.new() == []


async def test_types_are_looked_for_and_followed(jsonl: JsonlHandler, event: Events, batch: Batches) -> None:
    await jsonl.handle(batch(*(event(n, at=n, kind="ab"[n % 2]) for n in range(10))))
    reader = jsonl.reader()

    latest = await reader.latest(limit=2, types=["b"])
    await jsonl.handle(batch(*(event(n, at=n, kind="ab"[n % 2]) for n in range(10, 15)), start=10))
    following = await reader.follow(latest.cursor, limit=9, types=["b"])
    after = await reader.follow(following.cursor, limit=9)

    assert payloads(latest.events) == ["7", "9"]
    assert payloads(following.events) == ["11", "13"]
    assert after.events == ()


async def test_range_is_half_open_and_comes_in_pages_by_time(
    jsonl: JsonlHandler, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(*(event(n, at=n * 7 % 10) for n in range(15))))
    await jsonl.handle(batch(*(event(n, at=n * 7 % 10) for n in range(15, 30)), log_id=OTHER))
    reader = jsonl.reader()

    found: list[StoredEvent] = []
    cursor = None
    while (page := await reader.range(2, 8, limit=4, cursor=cursor)).events:
        cursor = page.cursor
        found += page.events

    expected = [n for n in range(30) if 2 <= n * 7 % 10 < 8]
    assert sorted(int(event.payload) for event in found) == expected
    assert [event.timestamp for event in found] == sorted(n * 7 % 10 for n in expected)
    assert page.cursor == cursor
    assert payloads((await reader.range(None, 1, limit=9, types=["happening"])).events) == ["0", "10", "20"]


async def test_lines_that_do_not_count_yet_are_not_shown(
    jsonl: JsonlHandler, place: Path, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(1)))
    follower = await Follower(jsonl._path).begin()
    (file,) = place.glob("*.jsonl")
    with file.open("ab") as lines_of_a_crash:
        lines_of_a_crash.write(file.read_bytes())
    (place / f"{1:020}.jsonl").write_bytes(file.read_bytes())  # begun, and the sidecar not yet replaced

    assert await follower.new() == []
    assert len((await follower.reader.latest(limit=9)).events) == 1


# -- what is rotated, taken away, replaced


async def test_rotated_files_that_were_taken_away_are_not_missed(
    jsonl: JsonlHandler, place: Path, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    follower = await Follower(jsonl._path).begin()
    await jsonl.handle(batch(event(1), start=1))
    await jsonl.handle(batch(event(2), start=2))
    (place / f"{0:020}.jsonl").unlink()
    first = await follower.new()
    (place / f"{1:020}.jsonl").unlink()
    await jsonl.handle(batch(event(3), start=3))

    assert first == ["1", "2"]
    assert await follower.new() == ["3"]
    assert payloads((await follower.reader.latest(limit=9)).events) == ["2", "3"]


async def test_directory_that_was_made_again_is_followed(
    jsonl: JsonlHandler, directory: Path, log_id: UUID, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    await jsonl.handle(batch(event(1), start=1))
    follower = await Follower(directory).begin()
    directory.rename(directory.with_name("old"))
    with pytest.raises(PauseError, match=r"lines: there is no such directory"):
        await follower.new()
    await jsonl.resume(log_id, "tested", 0)
    await jsonl.handle(batch(event(2)))

    assert await follower.new() == ["2"]
    assert await follower.new() == []


async def test_directory_restored_from_a_copy_goes_on(
    jsonl: JsonlHandler, directory: Path, log_id: UUID, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    follower = await Follower(directory).begin()
    shutil.copytree(directory, directory.with_name("copy"))
    shutil.rmtree(directory)
    directory.with_name("copy").rename(directory)
    await jsonl.handle(batch(event(1), start=1))

    assert await follower.new() == ["1"]


async def test_file_that_another_program_wrote_again_is_read_again(
    jsonl: JsonlHandler, place: Path, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    follower = await Follower(jsonl._path).begin()
    (place / "next").unlink()
    line = {"id": "x", "type": "t", "timestamp": 1, "table": "events", "payload": "theirs"}
    (place / f"{0:020}.jsonl").write_text(f"{json.dumps(line)}\n" * 9)

    assert await follower.new() == ['"theirs"'] * 9


# -- what is not ours

FOREIGN = [
    b"",
    b"no json",
    b"\xff\xfe",
    b"[]",
    b'{"id":1,"type":"t","timestamp":1,"table":"e","payload":1}',
    b'{"id":"i","type":"t","timestamp":"noon","table":"e","payload":1}',
    b'{"id":"i","type":"t","timestamp":1.5,"table":"e","payload":1}',
    b'{"id":"i","type":"t","timestamp":1,"table":"e"}',
    b'{"id":"i","type":"t","timestamp":1,"table":"e","payload":}',
    b'{"id":"i","type":"t","timestamp":1,"table":"e","payload":"\xff"}',
    b'{"id":"i","type":"t","timestamp":1,"table":"e","payload":1,"columns":' + b"[" * 90_000 + b"}",
    b"[" * 90_000,
    b"9" * 90_000,
]


@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: repr(line[:70]))
async def test_lines_of_other_programs_are_passed_over_and_counted(
    jsonl: JsonlHandler, place: Path, event: Events, batch: Batches, line: bytes
) -> None:
    await jsonl.handle(batch(event(0, at=0)))
    cursor = (await jsonl.reader().latest(limit=0)).cursor
    await jsonl.handle(batch(event(1, at=1), start=1))
    await jsonl.handle(batch(event(2, at=2), start=2))
    file = place / f"{1:020}.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes() + line + b"\n")
    reader = jsonl.reader()

    latest, ranged = await reader.latest(limit=9), await reader.range(limit=9)
    following = await reader.follow(cursor, limit=9)

    counted = {f"{place.parent.name}/tested/{file.name}: not a line of ours": 2}
    assert payloads(latest.events) == payloads(ranged.events) == ["0", "1", "2"]
    assert payloads(following.events) == ["1", "2"]
    assert latest.foreign == ranged.foreign == following.foreign == counted


@pytest.mark.parametrize("content", [b"", b"\xf3", b"{}", b'{"subscription":"s","next":0,"file":"../../../x"}'])
async def test_bad_sidecar_is_said_and_whole_lines_are_shown(
    jsonl: JsonlHandler, place: Path, event: Events, batch: Batches, content: bytes
) -> None:
    await jsonl.handle(batch(event(0)))
    (place / "next").write_bytes(content)

    page = await jsonl.reader().latest(limit=9)

    assert payloads(page.events) == ["0"]
    (why,) = page.foreign
    assert why.startswith(f"{place.parent.name}/tested/next cannot be read: ")


@pytest.mark.skipif(not HAS_DESCRIPTORS, reason="the system has no descriptors of folders")
async def test_links_and_pipes_and_other_things_are_passed_over(  # noqa: PLR0917
    jsonl: JsonlHandler, directory: Path, place: Path, tmp_path: Path, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    await jsonl.handle(batch(event(1), start=1))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(directory, elsewhere)
    shutil.copytree(place.parent, directory / "not-a-log")
    os.mkfifo(place / f"{0:020}-5.jsonl")
    (place / f"{0:020}-6.jsonl").symlink_to(elsewhere / place.relative_to(directory) / f"{0:020}.jsonl")
    (place / f"{0:020}-7.jsonl").mkdir()
    (place / "notes.jsonl").write_text("{}\n")
    (place.parent / "linked").symlink_to(elsewhere / place.relative_to(directory))
    (directory / str(UUID(int=1))).symlink_to(elsewhere / place.parent.name)
    (directory / str(UUID(int=2))).write_text("")

    page = await jsonl.reader().latest(limit=9)

    assert payloads(page.events) == ["0", "1"]
    assert sorted(why.rpartition("/")[2].partition(":")[0] for why in page.foreign) == [
        f"{0:020}-5.jsonl",
        f"{0:020}-6.jsonl",
        f"{0:020}-7.jsonl",
    ]


@pytest.mark.parametrize(
    "copy", ["tested (copy)", "tested copi\udce9", "tested~.bak", ".tested", "tested%2e", "tested%2"]
)
async def test_folder_with_a_name_that_is_none_of_ours_is_passed_over(  # noqa: PLR0917
    jsonl: JsonlHandler, directory: Path, place: Path, event: Events, batch: Batches, copy: str
) -> None:
    await jsonl.handle(batch(event(0)))
    follower = await Follower(directory).begin()
    shutil.copytree(place, place.with_name(copy))
    await jsonl.handle(batch(event(1), start=1))

    page, ranged = await jsonl.reader().latest(limit=9), await jsonl.reader().range(limit=9)

    assert payloads(page.events) == payloads(ranged.events) == ["0", "1"]
    assert page.foreign == ranged.foreign == {}
    assert await follower.new() == ["1"]


async def test_folder_of_a_subscription_under_another_name_is_passed_over_and_said(
    jsonl: JsonlHandler, directory: Path, place: Path, event: Events, batch: Batches
) -> None:
    await jsonl.handle(batch(event(0)))
    follower = await Follower(directory).begin()
    shutil.copytree(place, place.with_name("archive"))
    await jsonl.handle(batch(event(1), start=1))

    page, ranged = await jsonl.reader().latest(limit=9), await jsonl.reader().range(limit=9)

    why = f"{place.parent.name}/archive is a folder of subscription 'tested' under another name"
    assert payloads(page.events) == payloads(ranged.events) == ["0", "1"]
    assert page.foreign == ranged.foreign == {why: 1}
    assert await follower.new() == ["1"]


@pytest.mark.parametrize("subscription", ["caf\u00e9 1.0", "a" * 200, "\u00e9" * 60, "a/b"])
async def test_folder_of_any_subscription_is_read(
    jsonl: JsonlHandler, log_id: UUID, event: Events, batch: Batches, subscription: str
) -> None:
    await jsonl.resume(log_id, subscription, 0)
    await jsonl.handle(batch(event(0), subscription=subscription))

    page = await jsonl.reader().latest(limit=9)

    assert payloads(page.events) == ["0"]
    assert page.foreign == {}


@pytest.mark.parametrize("cursor", ["", "x", "{}", '{"type":"range"}', "\ud800", "[" * 5_000])
async def test_cursor_of_another_kind_is_refused(jsonl: JsonlHandler, cursor: str) -> None:
    reader = jsonl.reader()
    of_latest, of_range = (await reader.latest(limit=1)).cursor, (await reader.range(limit=1)).cursor

    for wrong in (cursor, of_range):
        with pytest.raises(ValueError, match="not a cursor of a JsonlReader"):
            await reader.follow(wrong, limit=1)
    for wrong in (cursor, of_latest):
        with pytest.raises(ValueError, match="not a cursor of a JsonlReader"):
            await reader.range(limit=1, cursor=wrong)
    with pytest.raises(ValueError, match=r"limit must not be negative"):
        await reader.latest(limit=-1)


# -- lines of a file, in both directions


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("content", [b"", b"\n", b"a", b"a\n", b"a\nbc\n", b"\n\nabc\n\nde", b"abcdefgh\n" * 3 + b"x"])
def test_lines_are_the_same_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, block: int
) -> None:
    monkeypatch.setattr("eventrec_handlers.jsonl.stored._BLOCK", block)
    path = tmp_path / "f"
    path.write_bytes(content)

    with path.open("rb") as file:
        forwards = list(lines(file.fileno(), 0, len(content)))
        backwards = list(lines_backwards(file.fileno(), len(content)))

    assert forwards == backwards[::-1]
    assert [line.content for line in forwards] == content.split(b"\n")[:-1]
    assert all(content[line.begin : line.end] == (line.content or b"") + b"\n" for line in forwards)


def test_line_without_an_end_is_left_out_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec_handlers.jsonl.stored._BLOCK", 16)
    monkeypatch.setattr("eventrec_handlers.jsonl.stored.MAX_LINE", 100)
    path = tmp_path / "f"
    path.write_bytes(b"first\n" + b"x" * 1_000 + b"\nlast\n")

    with path.open("rb") as file:
        forwards = list(lines(file.fileno(), 0, path.stat().st_size))
        backwards = list(lines_backwards(file.fileno(), path.stat().st_size))

    assert [line.content for line in forwards] == [b"first", None, b"last"]
    assert [line.content for line in backwards] == [b"last"]
