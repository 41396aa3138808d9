"""The queue before the log: bounded by events and bytes, without a lock, every refusal counted by reason.

`record()` runs in any thread, in signal handlers and finalizers, so nothing here may wait. Each thread counts in a cell
of its own, which only it writes; the consumer counts in totals that only it writes; a sum of the two is exact while no
`record()` is in progress. A thread reserves bytes for some events at once, so that it adds up all cells only now and
then: the byte bound may be passed by at most 64 KiB per thread, the event bound by one event per thread, or by one
batch that is taken whole.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from itertools import repeat
from operator import call
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from eventrec.records.entry import SIZE, KeptEntry, total_size
from eventrec.runtime.native import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.events.reasons import Reason
    from eventrec.records.entry import Entry

_RESERVE: Final = 64 * 1024


class Cell:
    """What one thread counts."""

    __slots__ = (
        "allowance",
        "bytes_dropped",
        "granted",
        "is_taken",
        "offered",
        "overflowed_at",
        "pushed_out",
        "refused",
    )

    def __init__(self) -> None:
        self.offered = 0
        self.granted = 0
        """Bytes it was allowed to take in, altogether."""
        self.allowance = 0
        """What is left of that."""
        self.bytes_dropped = 0
        self.pushed_out = 0
        """Records of any thread that newer ones of this one have replaced."""
        self.is_taken = False
        """Set where `offer` was interrupted, and the entry lies in the queue all the same."""
        self.refused: dict[str, int] = {}
        self.overflowed_at: float | None = None
        """When it last refused, or pushed out, for want of room: monotonic, in seconds."""

    def refuse(self, reason: Reason) -> Reason:
        """Count one refusal, and say it again."""
        # In two steps: a signal handler that records in between finds its own count kept.
        self.refused.setdefault(reason, 0)
        self.refused[reason] += 1
        if reason == "overflow":
            self.overflowed_at = monotonic()
        return reason


class Intake:
    """Takes entries from any thread, gives them to one consumer.

    `wake` is called, at most once per `arm()`, when an entry arrives. Where it returns a reason, no consumer will
    come for that entry, and it is refused.
    """

    def __init__(
        self,
        *,
        max_events: int | None,
        max_bytes: int,
        max_event_bytes: int,
        overflow: Literal["drop_new", "drop_old"],
        wake: Callable[[], Reason | None],
    ) -> None:
        self._event_bound = self._max_events = max_events if max_events is not None else 1 << 62
        self._max_bytes = max_bytes
        self._max_event_bytes = max_event_bytes
        self._drop_old = overflow == "drop_old"
        self._wake = wake
        self._armed = False
        self._queue: deque[Entry] = deque()
        self.stray = Cell()
        """For calls that came so near to the recursion limit that they found no cell of their thread."""
        self.cells: dict[int, Cell] = {}
        """By thread id."""
        self._closed: Reason | None = None
        self._pushed_out_taken = 0
        # Written by the consumer alone.
        self.held_events = 0
        """Records that left the queue and still count against its bound."""
        self.freed_bytes = 0
        """Bytes that came in and no longer count against the bound."""

    def __len__(self) -> int:
        return len(self._queue)

    def cell(self) -> Cell:
        """The calling thread's counters. Thread ids are used again after a thread's end, and its cell with them."""
        ident = get_ident()
        cell = self.cells.get(ident)
        if cell is None:
            cell = self.cells.setdefault(ident, Cell())
        return cell

    # -- the producers' side

    def offer(self, cell: Cell, entry: Entry) -> Reason | None:
        """Take `entry` and return None, or refuse, count and return why.

        Raises:
            RecursionError, MemoryError: It was neither taken nor counted.
            BaseException: A signal handler's; `cell.is_taken` says whether the entry is taken. It is not counted.
        """
        size = entry[SIZE]
        queue = self._queue
        # An allowance is never more than one event may have, so this is asked along with it.
        if cell.allowance < size or len(queue) + self.held_events >= self._max_events:
            reason = self._make_room(cell, size)
            if reason is not None:
                return cell.refuse(reason)
        cell.allowance -= size
        is_taken = False
        try:
            queue.append(entry)
            is_taken = True
            if self._armed:
                self._armed = False
                reason = self._wake()
                if reason is not None:
                    return self._taken_back(cell, entry, reason)
        except (RecursionError, MemoryError):
            if not is_taken:
                cell.allowance += size
                raise
            self._armed = True  # It was not woken: by the next entry then, or when it looks by itself.
        except BaseException:
            # A signal handler's: it arrives behind what had begun.
            self._armed = cell.is_taken = True
            raise
        return None

    def _taken_back(self, cell: Cell, entry: Entry, reason: Reason) -> Reason | None:
        """No consumer comes for `entry`; the next one asks again. None: one came meanwhile."""
        self._armed = True
        try:
            self._queue.remove(entry)
        except (ValueError, IndexError):  # It is gone, or others move the queue and it stays with theirs.
            return None
        cell.bytes_dropped += entry[SIZE]
        return cell.refuse(reason)

    def offer_all(self, cell: Cell, entries: Sequence[Entry]) -> Reason | None:
        """Take all of `entries` and return None, or none of them, and return why; nothing is counted.

        They follow each other in the queue, whatever other threads record. Where newer events push out older ones,
        these are not pushed out: they are `KeptEntry`s then, see `keeps`.

        Raises:
            BaseException: A signal handler's; `cell.is_taken` says whether they are taken.
        """
        size = total_size(entries)
        reason = self._make_room(cell, size, len(entries)) if entries else self._closed
        if reason is None and self._armed:
            # The consumer comes first: where there is none to be had, nothing need be taken back.
            reason = self._woken()
        if reason is not None:
            return reason
        cell.allowance -= size
        is_taken = False
        try:
            self._queue.extend(entries)  # In one step of the interpreter.
            is_taken = True
            self.nudge()
        except (RecursionError, MemoryError):
            if not is_taken:
                cell.granted -= size  # Not to the allowance: that would let in an event of this size.
                raise
            self._armed = True
        except BaseException:
            self._armed = cell.is_taken = True
            raise
        return None

    def is_too_large(self, entry: Entry) -> bool:
        """Whether `entry` is larger than an event may be."""
        return entry[SIZE] > self._max_event_bytes

    def never_fits(self, entries: Sequence[Entry]) -> bool:
        """Whether `entries` together are more than there is room for when nothing waits."""
        return len(entries) > self._event_bound or total_size(entries) > self._max_bytes

    def keeps(self, entry: Entry) -> Entry:
        """`entry` as one of several that are taken together: newer ones do not push it out."""
        return KeptEntry(entry) if self._drop_old else entry

    def nudge(self) -> None:
        """Wake the consumer though nothing arrived: there is something to say."""
        if self._armed:
            self._woken()

    def _woken(self) -> Reason | None:
        """Wake the consumer, or say why there is none to be had; where it was not woken, the next entry does it."""
        try:
            self._armed = False
            reason = self._wake()
            if reason is not None:
                self._armed = True
        except BaseException:
            self._armed = True
            raise
        return reason

    def _make_room(self, cell: Cell, size: int, count: int = 1) -> Reason | None:
        """Room for `count` events of `size` bytes, by dropping the oldest where that is the policy; or why not."""
        if self._closed is not None:
            return self._closed
        if count == 1 and size > self._max_event_bytes:
            return "too_large"
        if count > self._max_events or size > self._max_bytes:
            return "overflow"  # However many are dropped.
        while not self._has_room(cell, size, count):
            if not (self._drop_old and self._drop_oldest(cell)):
                return "overflow"
        return None

    def _has_room(self, cell: Cell, size: int, count: int) -> bool:
        if len(self._queue) + self.held_events + count > self._max_events:
            return False
        if cell.allowance >= size:
            return True
        free = self._max_bytes - self.waiting_bytes()
        if free < size:
            return False
        reserve = min(_RESERVE, self._max_event_bytes, free // (2 * len(self.cells)))
        grant = max(size, reserve) - cell.allowance
        cell.granted += grant
        cell.allowance += grant
        return True

    def _drop_oldest(self, cell: Cell) -> bool:
        queue = self._queue
        try:
            if queue[0].__class__ is KeptEntry:
                return False
            dropped = queue.popleft()
        except IndexError:
            return False
        if dropped.__class__ is KeptEntry:  # The consumer came in between, and this one was the next.
            queue.appendleft(dropped)
            return False
        cell.bytes_dropped += dropped[SIZE]
        cell.refuse("overflow")
        cell.pushed_out += 1
        return True

    def close(self, reason: Reason) -> None:
        """Refuse from now on, for `reason`."""
        self._closed = reason
        self._max_events = 0  # So that `offer` needs no look of its own at `_closed`.

    def refuse_rest(self, reason: Reason) -> None:
        """No consumer will come for what is still here: count it as refused after all."""
        while entries := self.take(1_000):
            cell = self.cell()
            for entry in entries:
                cell.bytes_dropped += entry[SIZE]
                cell.refuse(reason)

    def reopen(self) -> None:
        """Refuse no longer."""
        self._closed = None
        self._max_events = self._event_bound

    # -- the consumer's side

    def arm(self) -> bool:
        """Ask to be woken by the next entry. False: there are entries already, come and take them."""
        self._armed = True
        if self._queue:
            self._armed = False
            return False
        return True

    def take(self, limit: int) -> list[Entry]:
        """Remove and return the oldest entries, at most `limit`."""
        taken: list[Entry] = []
        self.take_into(taken, limit)
        return taken

    def take_into(self, taken: list[Entry], limit: int) -> None:
        """Move the oldest entries, at most `limit`, to the end of `taken`.

        In one step of the interpreter: no thread and no signal handler sees an entry in neither of the two.
        """
        queue = self._queue
        with suppress(IndexError):  # A producer may drop the oldest meanwhile.
            taken.extend(map(call, repeat(queue.popleft, min(limit, len(queue)))))

    def take_pushed_out(self) -> int:
        """How many records newer ones have pushed out since the last call."""
        total = sum(cell.pushed_out for cell in self._all_cells())
        count, self._pushed_out_taken = total - self._pushed_out_taken, total
        return count

    # -- the account

    def _all_cells(self) -> list[Cell]:
        return [*self.cells.values(), self.stray]

    def waiting_bytes(self) -> int:
        """Bytes that count against the bound."""
        cells = self._all_cells()
        return sum(cell.granted - cell.allowance - cell.bytes_dropped for cell in cells) - self.freed_bytes

    def offered(self) -> int:
        """Events offered so far, by all threads."""
        return sum(cell.offered for cell in self._all_cells())

    def overflowed_at(self) -> float | None:
        """When an event was last refused, or pushed out, for want of room: monotonic, in seconds; None: never."""
        return max((at for cell in self._all_cells() if (at := cell.overflowed_at) is not None), default=None)

    def refused(self) -> dict[str, int]:
        """Events refused so far, by reason."""
        total: dict[str, int] = {}
        for cell in self._all_cells():
            for reason, count in list(cell.refused.items()):
                total[reason] = total.get(reason, 0) + count
        return total
