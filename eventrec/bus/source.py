"""A log of a bus as a source: read ahead of its worker, and never failing: an outage only takes time."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.sources.source import Records
from eventrec.records.entry import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from eventrec.bus.bus import LogBounds, Shard
    from eventrec.delivery.sources.source import OnLost, Start

MAX_RECORDS: Final = 4_096
MAX_BYTES: Final = 4 << 20
"""What is read ahead at once, by the size that entries count."""

_ANY_OFFSET: Final = 1 << 62
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class BusSource:
    """The log that `bounds` is of, for one subscription. For the loop's thread.

    It is read from `begin` on, whatever a subscription says: what comes of a log is new, also what came before a relay
    looked. `on_trouble` is told what a read failed with, and None once one went through; `on_move` is called when
    something is settled; `timing()` is around each read.
    """

    def __init__(
        self,
        shard: Shard,
        bounds: LogBounds,
        *,
        begin: int,
        on_move: Callable[[], object],
        on_trouble: Callable[[Exception | None], object] = lambda _: None,
        timing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.id = bounds.id
        self.bounds = bounds
        self.cursor: BusCursor | None = None
        self.is_gone = False
        """Whether the bus does not know the log any more."""
        self.on_move = on_move
        self._shard = shard
        self._begin = begin
        self._on_trouble = on_trouble
        self.timing = timing
        self._is_closing = False
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<BusSource {self.id} [{self.bounds.oldest}, {self.end})>"

    @property
    def end(self) -> int:
        """The next offset to be written, as of the last look; what was read is there, whatever the bus lost since."""
        read = 0 if self.cursor is None else self.cursor.next
        return read if self._is_closing else max(self.bounds.end, read)

    @property
    def furthest(self) -> int:
        return _ANY_OFFSET if self.bounds.may_have_lost_tail else self.end

    @property
    def is_over(self) -> bool:
        """Whether no record will ever follow those below `end`."""
        return self.is_gone or not self.bounds.is_live

    async def oldest(self) -> int:
        for bounds in await self._shard.logs():
            if bounds.id == self.id:
                return bounds.oldest
        return self.end

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> BusCursor:
        """The one cursor. What the bus dropped before it was read is told to `on_lost` as `overflow`, or as it says.

        What was there of a log that the bus lost as a whole, as `lost`.
        """
        del name, start
        self.cursor = BusCursor(self, self._shard, self._begin, on_lost, self._on_trouble)
        return self.cursor

    def note(self, bounds: LogBounds | None) -> None:
        """What the bus says of it now; None: nothing."""
        if bounds is None:
            self.is_gone = True
        else:
            self.bounds = bounds
        self.tell()

    def stop(self) -> None:
        """Read no further: what was read is all there is."""
        self._is_closing = True
        self.tell()

    @property
    def is_stopped(self) -> bool:
        """Whether it is to be read no further."""
        return self._is_closing

    def tell(self) -> None:
        """There may be more to read, or to read ahead."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def next_change(self) -> None:
        """Return once `tell` was called."""
        await self._changed.wait()

    async def read_ahead(self) -> None:
        """Fetch what comes next while the worker is at what it has, until cancelled."""
        while True:
            changed = self._changed
            if self.cursor is not None and self.cursor.wants_more:
                await self.cursor.fetch()
            else:
                await changed.wait()


class BusCursor:
    """Where the worker is. A read that fails takes its time, and answers that nothing is there yet."""

    def __init__(
        self,
        source: BusSource,
        shard: Shard,
        at: int,
        on_lost: OnLost,
        on_trouble: Callable[[Exception | None], object],
    ) -> None:
        self.next = at
        self._source = source
        self._shard = shard
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self._ahead: deque[Records] = deque()
        """What was fetched, in order, without a hole inside; one that is empty says where reading goes on."""
        self._fetching = anyio.Lock()
        self._pause = 0.0

    def __repr__(self) -> str:
        return f"<BusCursor next={self.next} ahead={len(self._ahead)}>"

    @property
    def wants_more(self) -> bool:
        """Whether nothing is fetched, though there is something."""
        source = self._source
        return not self._ahead and source.end > self.next and not source.is_gone and not source.is_stopped

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        if not self._ahead and self._source.end > self.next and not self._source.is_gone:
            await self.fetch()
        if self._source.is_stopped or not self._ahead:
            if self._source.is_gone and not self._source.is_stopped and self._source.end > self.next:
                self._lose("lost", self._source.end)
            return Records(self.next, self.next)
        first = self._ahead[0]
        if first.start > self.next:
            self._lose(first.lost_as, first.start)
            return Records(self.next, self.next)
        taken, rest = _parted(self._ahead.popleft(), max_records, max_bytes)
        if rest is not None:
            self._ahead.appendleft(rest)
        elif self._ahead and not self._ahead[0].entries and self._ahead[0].start == taken.end:
            self._ahead.popleft()
        self.next = taken.end
        self._source.tell()
        return taken

    def _lose(self, reason: str, to: int) -> None:
        count, self.next = to - self.next, to
        if self._ahead and not self._ahead[0].entries:
            self._ahead.popleft()
        self._on_lost(reason, count, ())

    async def fetch(self) -> None:
        """Have something of what comes next, if the bus answers; else wait a little, longer each time."""
        async with self._fetching:
            if self._ahead:
                return
            at = self.next
            try:
                with self._source.timing():
                    records = await self._shard.read(self._source.id, at, max_records=MAX_RECORDS, max_bytes=MAX_BYTES)
            except Exception as exc:  # noqa: BLE001 - an outage, whatever it is called
                self._on_trouble(exc)
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                await anyio.sleep(self._pause)
                return
            if at == self.next:
                self._on_trouble(None)
                self._ahead.extend(_without_holes(records, at))
            if at < records.end or at != self.next:
                self._pause = 0.0
            else:
                # The bounds promised more than there is: they are looked at again before long.
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                await anyio.sleep(self._pause)

    async def wait(self) -> None:
        while self._source.end <= self.next:
            await self._source.next_change()

    def seek(self, offset: int) -> None:
        self._ahead.clear()
        self.next = offset
        self._source.tell()

    def acknowledge(self, next_offset: int) -> None:
        del next_offset
        self._source.on_move()


def _parted(records: Records, max_records: int, max_bytes: int) -> tuple[Records, Records | None]:
    """As many of `records` as may be read at once, one at least, and the rest. They have no hole."""
    entries = records.entries
    count = size = 0
    for entry in entries:
        size += entry[SIZE]
        if count and (count >= max_records or size > max_bytes):
            break
        count += 1
    if count == len(entries):
        return records, None
    at, context = records.start + count, records.static_context
    return (
        Records(records.start, at, range(records.start, at), entries[:count], context),
        Records(at, records.end, range(at, records.end), entries[count:], context),
    )


def _without_holes(records: Records, asked: int) -> Iterator[Records]:
    """`records` in parts without a hole; where they end with one, an empty part follows that begins behind it."""
    offsets, entries = records.offsets, records.entries
    if not offsets:
        if records.end > asked:
            yield Records(records.end, records.end, lost_as=records.lost_as)
        return
    if len(offsets) == records.end - records.start:
        yield records
        return
    begin = 0
    for at in range(1, len(offsets) + 1):
        if at == len(offsets) or offsets[at] != offsets[at - 1] + 1:
            start, end = offsets[begin], offsets[at - 1] + 1
            context, why = records.static_context, records.lost_as
            yield Records(start, end, range(start, end), entries[begin:at], context, why)
            begin = at
    if offsets[-1] + 1 < records.end:
        yield Records(records.end, records.end, lost_as=records.lost_as)
