"""What is handed over from the thread that writes: read as if it came from the disk, whatever of it fits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.delivery.sources.log import LogSource
from eventrec.intake.handover import Handover, Written
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.records.content import encode_take
from eventrec.records.entry import OVERHEAD_BYTES
from eventrec.records.schema import Shape

LOG_ID = UUID("00000000-0000-7000-8000-000000000001")
SHAPE = Shape("t", "a", ())


def entry(number: int) -> Any:
    payload = b"%d" % number
    return (SHAPE, number, payload, None, None, None, len(payload) + OVERHEAD_BYTES)


def written(first: int, count: int) -> Written:
    entries = [entry(first + number) for number in range(count)]
    return Written(first, entries, sum(each[6] for each in entries))


def test_a_commit_is_given_once_and_those_before_it_are_let_go() -> None:
    handover = Handover()
    for first in (0, 2, 4, 8):
        handover.add(written(first, 2))

    assert handover.take(3, readable=10) == written(2, 2)
    assert handover.take(2, readable=10) is None
    assert handover.take(6, readable=10) is None
    assert handover.take(8, readable=10) == written(8, 2)
    assert repr(handover) == "<Handover of 0 commits, 0 bytes>"


def test_what_cannot_be_read_yet_is_not_given() -> None:
    handover = Handover()
    handover.add(written(0, 4))

    assert handover.take(0, readable=3) is None
    assert handover.take(0, readable=4) == written(0, 4)


def test_what_does_not_fit_is_left_to_the_disk() -> None:
    commits = [written(0, 2), written(2, 2), written(4, 2)]
    handover = Handover(max_bytes=commits[0].size + commits[1].size)
    for commit in commits:
        handover.add(commit)

    assert handover.take(0, readable=9) == commits[0]
    handover.add(written(6, 2))

    assert handover.take(2, readable=9) == commits[1]
    assert handover.take(4, readable=9) is None
    assert handover.take(6, readable=9) == written(6, 2)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    handed=st.lists(st.booleans(), min_size=8, max_size=8),
    fits=st.integers(0, 3_000),
    reads=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    back_to=st.none() | st.integers(0, 10),
)
def test_a_source_gives_what_the_log_holds_whatever_was_handed_over(
    sizes: list[int], handed: list[bool], fits: int, reads: list[int], back_to: int | None
) -> None:
    async def read(log: Log, handover: Handover) -> list[tuple[int, int]]:
        source = LogSource(log, LOG_ID, on_move=lambda: None)
        source.take_over_from(handover, static_context=None)
        one, other = (source.subscribe(name, "earliest", lambda *lost: pytest.fail(str(lost))) for name in "ab")
        found: list[tuple[int, int]] = []
        goes_back = back_to
        for cursor in (one, other):
            turn = 0
            while cursor.next < log.written:
                records = await cursor.read(max_records=reads[turn % len(reads)], max_bytes=1 << 20)
                turn += 1
                found += [(offset, each[1]) for offset, each in zip(records.offsets, records.entries, strict=True)]
                if goes_back is not None and cursor.next > goes_back:
                    cursor.seek(goes_back)
                    goes_back = None
        source.close()
        return found

    handover, first = Handover(max_bytes=fits), 0
    with tempfile.TemporaryDirectory() as folder, Log.create(DiskStorage(Path(folder))) as log:
        for size, is_handed in zip(sizes, handed, strict=False):
            commit = written(first, size)
            for content, n in encode_take(commit.entries, LOG_ID, written=1):
                assert list(log.append_encoded(content, n)) == list(range(first, first + size))
            if is_handed:
                handover.add(commit)
            first += size
        log.write()

        found = anyio.run(read, log, handover)

    assert all(offset == timestamp for offset, timestamp in found)
    assert {offset for offset, _ in found} == set(range(first))
    if back_to is None or back_to >= first:
        assert [offset for offset, _ in found] == [*range(first), *range(first)]
