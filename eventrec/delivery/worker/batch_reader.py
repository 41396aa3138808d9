"""Read from the source until there is a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from eventrec.delivery.worker.batching import Batching
from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import SHAPE, total_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from eventrec.delivery.sources.source import Cursor, Records, Source
    from eventrec.delivery.subscription import Subscription


class BatchReader:
    """The piece that is being read; it outlives a cancelled `next_piece`, since what was fetched is nowhere else.

    `known_dead()` gives the offsets of which there are letters already. `on_empty(piece)` is called for a piece without
    a record to send, `on_forfeited(end)` when what lies below `end` was forfeited, and counted there. Both only while
    `is_alone()`: nothing before it is open. `now` is the loop's clock.
    """

    def __init__(
        self,
        subscription: Subscription,
        source: Source,
        cursor: Cursor,
        *,
        generation: int,
        is_alone: Callable[[], bool],
        known_dead: Callable[[], Collection[int]],
        on_empty: Callable[[Piece], None],
        on_forfeited: Callable[[int], None],
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._now = now
        self._generation = generation
        self.piece = Piece(cursor.next, generation=generation)
        self.batching = Batching(subscription.settings, now=self._now())
        self._subscription = subscription
        self._settings = subscription.settings
        self._source = source
        self._cursor = cursor
        self._is_alone = is_alone
        self._known_dead = known_dead
        self._on_empty = on_empty
        self._on_forfeited = on_forfeited
        self._oldest: float | None = None
        self._flush_to = cursor.next
        self._waiting: anyio.CancelScope | None = None

    @property
    def end(self) -> int:
        """The next offset to be read."""
        return self.piece.end

    def start_over(self, offset: int) -> None:
        """Read on at `offset`."""
        self.take_up(Piece(offset, generation=self._generation))

    def take_up(self, piece: Piece) -> None:
        """Go on with `piece`."""
        self.piece, self._oldest = piece, self._now() if piece.entries else None

    def skip_to(self, offset: int) -> None:
        """What lies below `offset` is settled; what was read beyond it is not read again."""
        if offset >= self.end:
            self.start_over(offset)
            return
        _, self.piece = self.piece.split_at(offset)
        self.piece.size = total_size(self.piece.entries)

    def start_clock(self) -> None:
        """The loop runs again: so do the ticks."""
        self.batching = Batching(self._settings, now=self._now())

    def flush(self, to: int) -> None:
        """Do not wait for a full batch before everything below `to` is sent."""
        self._flush_to = max(self._flush_to, to)
        if self._waiting is not None:
            self._waiting.cancel()

    async def next_piece(self) -> Piece:
        """The next batch's records: at least one of them is for this subscription."""
        piece, batching, source, cursor = self.piece, self.batching, self._source, self._cursor
        while True:
            is_cut = cursor.next > piece.end
            if is_cut and not piece.entries:
                await self._until_alone()
                self._let_go()
                piece.end = cursor.next
                self._on_forfeited(piece.end)
                is_cut = False
            if not is_cut and not self._is_full():
                await self._read()
            now, more = self._now(), source.end > piece.end
            is_due = batching.is_due(
                rows=len(piece), size=piece.size, scanned=piece.scanned, oldest=self._oldest, more=more, now=now
            )
            is_flushed = self._flush_to > (piece.offsets[0] if piece.offsets else piece.end)
            if piece.entries and (is_due or is_cut or (is_flushed and (self._is_full() or not more))):
                self.start_over(piece.end)
                return piece
            if not piece.entries and self._is_alone():
                self._let_go()
            if self._is_full() or not more:
                await self._wait(batching.seconds_left(oldest=self._oldest, now=now))

    def _let_go(self) -> None:
        """Nothing of what was read is to be sent."""
        self._on_empty(Piece(self.piece.end, dead=self.piece.dead))
        self.piece.dead = []

    async def _until_alone(self) -> None:
        """Read ahead no further: the task that does is cancelled when what is before it is settled."""
        while not self._is_alone():
            await anyio.sleep_forever()

    def _is_full(self) -> bool:
        piece, more = self.piece, self._source.end > self.piece.end
        return self.batching.is_full(rows=len(piece), size=piece.size, scanned=piece.scanned, more=more)

    async def _read(self) -> None:
        piece = self.piece
        records = await self._cursor.read(
            max_records=self.batching.max_rows - len(piece),
            max_bytes=self.batching.max_bytes - piece.size,
        )
        if records.start == piece.end:
            self.take(records)

    def take(self, records: Records) -> None:
        """`records` are what comes next: those that are wanted, and of which there is no letter, are to be sent."""
        self.add(records)
        if self.piece.entries and self._oldest is None:
            self._oldest = self._now()

    def add(self, records: Records) -> None:
        """Likewise, where nothing is sent any more and no clock runs."""
        piece = self.piece
        piece.end = records.end
        offsets, entries = records.offsets, records.entries
        types, dead = self._subscription.types, self._known_dead()
        if types is not None and not types.issuperset({entry[SHAPE].type for entry in entries}):
            kept = [each for each in zip(offsets, entries, strict=True) if each[1][SHAPE].type in types]
            offsets, entries = [offset for offset, _ in kept], [entry for _, entry in kept]
        if dead and (gone := [offset for offset in offsets if offset in dead]):
            piece.dead += gone
            kept = [each for each in zip(offsets, entries, strict=True) if each[0] not in dead]
            offsets, entries = [offset for offset, _ in kept], [entry for _, entry in kept]
        if entries:
            piece.extend(offsets, entries, records.static_context)

    async def _wait(self, seconds: float | None) -> None:
        deadline = math.inf if seconds is None else anyio.current_time() + seconds
        with anyio.CancelScope(deadline=deadline) as self._waiting:
            await self._cursor.wait()
        self._waiting = None
