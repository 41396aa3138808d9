"""Claims about reading back: what a handler's reader gives is what was delivered. Skipped where it has none."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from eventrec import DeliveryError
from eventrec.testing.conformance.claim import Claims, claim, deliver, failure_of, opened
from eventrec.testing.conformance.harness import Delivered, watched_calls
from eventrec.testing.conformance.log import Log, Sample
from eventrec.testing.conformance.rows import compare, numbers
from eventrec.testing.conformance.watched import watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from eventrec import EventReader, StoredEvent
    from eventrec.testing.conformance.harness import HandlerHarness

_SECOND: Final = 1_000_000_000
_START: Final = 1_700_000_000 * _SECOND


def _timed(start: int, end: int) -> list[Sample]:
    """Numbered events, a second apart: odd ones of another type, each third one in another table."""
    return [
        Sample({"n": n}, kind=("even", "odd")[n % 2], into=("events", "others")[n % 3 == 0], at=_START + n * _SECOND)
        for n in range(start, end)
    ]


class ReadingClaims(Claims):
    """A reader gives back what is there: whole, in order, each once."""

    @claim()
    async def test_reader_of_an_empty_destination_has_nothing(self, harness: HandlerHarness) -> None:
        """Opened, and never written to."""
        async with opened(harness):
            pass

        async with _reader(harness) as reader:
            pages = [await reader.latest(limit=5), await reader.range(limit=5)]
            pages.append(await reader.follow(pages[0].cursor, limit=5))

        assert [page.events for page in pages] == [()] * 3, "events were read from a destination without any"

    @claim()
    async def test_reader_gives_back_what_was_delivered(self, harness: HandlerHarness) -> None:
        """Id, type, time, table and payload; the older ones first."""
        log = Log(*_timed(0, 20))
        async with opened(harness) as handler:
            await deliver(handler, log)

        async with _reader(harness) as reader:
            all_of_them = await reader.latest(limit=50)
            newest = await reader.latest(limit=5)

        compare(_as_delivered(all_of_them.events), log.rows(), harness=harness)
        assert _numbers(all_of_them.events) == list(range(20)), "the events of a page are not sorted by their times"
        assert _numbers(newest.events) == list(range(15, 20)), "`latest` must give the newest events"

    @claim()
    async def test_reader_follows_each_event_once(self, harness: HandlerHarness) -> None:
        """In pages smaller and larger than what arrives, while it arrives."""
        log = Log(*_timed(0, 60))
        followed: list[int] = []
        async with opened(harness) as handler, _reader(harness) as reader:
            await deliver(handler, log, end=10)
            cursor = (await reader.latest(limit=0)).cursor
            for end, limit in ((10, 5), (11, 5), (30, 7), (60, 100)):
                await deliver(handler, log, end=end, rows=8)
                cursor = await _follow(reader, cursor, limit, followed, upto=end - 10)
            rest = await reader.follow(cursor, limit=5)

        assert sorted(followed) == list(range(10, 60)), f"`follow` missed or repeated events: it gave {followed}"
        assert rest.events == (), "`follow` repeats what it has given"

    @claim()
    async def test_reader_gives_a_time_in_pages(self, harness: HandlerHarness) -> None:
        """From the start on, up to before the end."""
        log = Log(*_timed(0, 30))
        found: list[StoredEvent] = []
        async with opened(harness) as handler:
            await deliver(handler, log)

        async with _reader(harness) as reader:
            cursor = None
            while True:
                page = await reader.range(_START + 5 * _SECOND, _START + 25 * _SECOND, limit=6, cursor=cursor)
                found += page.events
                cursor = page.cursor
                if len(page.events) < 6:
                    break

        assert _numbers(found) == list(range(5, 25)), "`range` gives start <= timestamp < end, by time"

    @claim()
    async def test_reader_keeps_to_the_types_it_is_asked_for(self, harness: HandlerHarness) -> None:
        """In each of its three ways."""
        log = Log(*_timed(0, 20))
        followed: list[int] = []
        async with opened(harness) as handler, _reader(harness) as reader:
            await deliver(handler, log, end=10)
            latest = await reader.latest(limit=3, types=["odd"])
            await deliver(handler, log)
            await _follow(reader, latest.cursor, 9, followed, upto=5, types=["odd"])
            ranged = await reader.range(limit=50, types=["even", "unheard-of"])

        assert _numbers(latest.events) == [5, 7, 9], "`latest` must look for the newest events of these types"
        assert followed == [11, 13, 15, 17, 19], "`follow` must give events of these types alone"
        assert _numbers(ranged.events) == list(range(0, 20, 2)), "`range` must give events of these types alone"

    @claim()
    async def test_reader_refuses_what_it_cannot_have_given(self, harness: HandlerHarness) -> None:
        """A cursor of another kind, and a negative limit, are the caller's mistakes: ValueError."""
        async with opened(harness):
            pass

        async with _reader(harness) as reader:
            for cursor in ("", "x", "{}", "9" * 30, "\ud800"):
                for failure in (
                    await failure_of(lambda cursor=cursor: reader.follow(cursor, limit=1)),  # type: ignore[misc]
                    await failure_of(lambda cursor=cursor: reader.range(limit=1, cursor=cursor)),  # type: ignore[misc]
                ):
                    assert isinstance(failure, ValueError), f"the cursor {cursor!r} led to {failure!r}, not ValueError"
            failure = await failure_of(lambda: reader.latest(limit=-1))
            assert isinstance(failure, ValueError), f"a negative limit led to {failure!r}, not ValueError"

    @claim("outage")
    async def test_reader_names_an_outage(self, harness: HandlerHarness) -> None:
        """It reads, or raises a DeliveryError; it reads again afterwards, where it is opened again."""
        log = Log(*_timed(0, 3))
        async with opened(harness) as handler:
            await deliver(handler, log)
        reader = harness.handler().reader()
        if reader is None:
            pytest.skip("the handler has no reader")

        await harness.disconnect()
        failure = await failure_of(reader.open) or await failure_of(lambda: reader.latest(limit=1))
        await reader.close()
        await harness.reconnect()
        async with reader:
            page = await reader.latest(limit=9)

        assert failure is None or isinstance(failure, DeliveryError), f"during an outage {failure!r} came out"
        assert _numbers(page.events) == [0, 1, 2], "after an outage, a reader that was opened again must read"


@asynccontextmanager
async def _reader(harness: HandlerHarness) -> AsyncIterator[EventReader]:
    """The reader of a handler that is not open; without one the claim is skipped."""
    reader = harness.handler().reader()
    if reader is None:
        pytest.skip("the handler has no reader")
    reader = watched(reader, watched_calls(harness).call)
    await reader.open()
    try:
        yield reader
    finally:
        await reader.close()


async def _follow(
    reader: EventReader, cursor: str, limit: int, into: list[int], *, upto: int, types: Collection[str] | None = None
) -> str:
    """Follow until `upto` numbers are there, and a page that is not full; a destination may take a moment to show them.

    The cursor to go on with.
    """
    while True:
        page = await reader.follow(cursor, limit=limit, types=types)
        assert len(page.events) <= limit, f"a page of {len(page.events)} events is larger than its limit {limit}"
        into += _numbers(page.events)
        cursor = page.cursor
        if len(page.events) < limit:
            if len(into) >= upto:
                return cursor
            await anyio.sleep(0.02)


def _numbers(events: Sequence[StoredEvent]) -> list[int]:
    return numbers(_as_delivered(events))


def _as_delivered(events: Sequence[StoredEvent]) -> list[Delivered]:
    return [Delivered(event.id, event.type, event.timestamp, event.payload.encode(), event.table) for event in events]
