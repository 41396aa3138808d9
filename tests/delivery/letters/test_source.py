"""The letters of one run as a source: what waits is a record, and all else a hole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import KeptLetter, kept_letters
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.letters.source import LetterSource
from eventrec.records.entry import CONTEXT, EXPLICIT_ID, make_entry
from eventrec.records.ids import Ids
from eventrec.records.schema import Shape
from eventrec.runs.run import new_run_id

LOG = UUID(int=7)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Real time: letters are read in a thread."""
    backend: str = request.param
    return backend


def letter(offset: int, subscription: str) -> DeadLetter:
    entry = make_entry(Shape("events", "a"), 1, b"%d" % offset, b'{"user":1}')
    return DeadLetter(LOG, offset, subscription, "Handler", "never", 1.0, entry, b'{"host":"a"}')


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[list[KeptLetter]]:
    """Letters of `s` and `t` in turns, numbers 0 to 5."""
    run = new_run_id()
    log = LetterLog(tmp_path, lambda: run, max_bytes=1 << 20)
    await log.write([letter(10 + number, "st"[number % 2]) for number in range(6)])
    yield await anyio.to_thread.run_sync(lambda: list(kept_letters(tmp_path)))
    await anyio.to_thread.run_sync(log.close)


async def test_only_what_waits_for_the_subscription_is_a_record_with_its_old_id_and_context(
    tmp_path: Path, kept: list[KeptLetter]
) -> None:
    source = LetterSource(tmp_path, kept[0].run, "t", kept)
    cursor = source.subscribe("t", "latest", lambda *_: None)

    first = await cursor.read(max_records=2, max_bytes=1 << 20)
    rest = await cursor.read(max_records=9, max_bytes=1 << 20)

    assert (list(first.offsets), first.start, first.end) == ([1, 3], 0, 5)
    assert (list(rest.offsets), rest.start, rest.end, source.end) == ([5], 5, 6, 6)
    assert first.entries[0][CONTEXT] == b'{"host":"a","user":1}'
    assert first.entries[0][EXPLICIT_ID] == Ids(LOG).as_bytes(11, 0, None)
    assert first.static_context is None


async def test_a_read_is_bounded_by_bytes_but_gives_one_letter_at_least(tmp_path: Path, kept: list[KeptLetter]) -> None:
    cursor = LetterSource(tmp_path, kept[0].run, "s", kept).subscribe("s", "earliest", lambda *_: None)

    reads = [(await cursor.read(max_records=9, max_bytes=1)).offsets for _ in range(3)]

    assert [list(each) for each in reads] == [[0], [2], [4]]


async def test_a_letter_that_cannot_be_read_any_more_is_lost_alone_and_counted(
    tmp_path: Path, kept: list[KeptLetter]
) -> None:
    lost: list[tuple[str, int]] = []
    gone = [replace(kept[0], number=number) for number in (6, 7)]
    source = LetterSource(tmp_path, kept[0].run, "s", [*kept, *gone])
    cursor = source.subscribe("s", "earliest", lambda reason, count, _: lost.append((reason, count)))

    found: list[int] = []
    while cursor.next < source.end:
        found += (await cursor.read(max_records=9, max_bytes=1 << 20)).offsets

    assert found == [0, 2, 4]
    assert lost == [("corrupt", 1), ("corrupt", 1)]


async def test_no_letter_is_ever_added_so_that_waiting_for_one_has_no_end(
    tmp_path: Path, kept: list[KeptLetter]
) -> None:
    source = LetterSource(tmp_path, kept[0].run, "s", kept)

    await source.wait_past(source.end - 1)
    with anyio.move_on_after(0.01) as waited:
        await source.wait_past(source.end)

    assert waited.cancelled_caught
    assert (await source.oldest(), source.furthest) == (0, source.end)


async def test_a_source_says_whose_letters_wait_and_a_cursor_where_it_is(
    tmp_path: Path, kept: list[KeptLetter]
) -> None:
    source = LetterSource(tmp_path, kept[0].run, "s", kept)
    cursor = source.subscribe("s", "earliest", lambda *_: None)
    await cursor.read(max_records=1, max_bytes=1)

    assert (repr(source), len(source)) == (f"<LetterSource {kept[0].run} waiting=3>", 3)
    assert repr(cursor) == "<LetterCursor 's' next=2>"
