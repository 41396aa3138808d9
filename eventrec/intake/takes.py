"""What was taken from the intake, numbered and encoded, until the log has it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from eventrec.intake.handover import Written
from eventrec.records.content import UNWRITABLE, encode_take, unwritable
from eventrec.records.entry import SHAPE, total_size
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.intake.consumer import Consumer
    from eventrec.intake.queue import Intake
    from eventrec.intake.tickets import Tickets
    from eventrec.log.log import Log
    from eventrec.records.entry import Entry

_logger = get_logger("eventrec.log")

MAX_TAKE: Final = 4_096
TAKES_PER_WRITE: Final = 8
_TYPES_SAID: Final = 5


class Takes:
    """Takes from `intake` by the rule of its `consumer`, at most 4,096 records at once; tells `tickets` their offsets.

    What the log refuses stays here, and comes before what is taken after it. For the thread that writes.
    """

    def __init__(
        self,
        intake: Intake,
        consumer: Consumer,
        tickets: Tickets,
        *,
        now: Callable[[], int],
        static_context: bytes | None,
    ) -> None:
        self._intake = intake
        self._consumer = consumer
        self._tickets = tickets
        self._now = now
        self._static_context = static_context
        self._hand: deque[tuple[bytes, Sequence[Entry], int]] = deque()
        """Contents not yet appended, with their records and the bytes these count."""
        self.unwritable = 0
        """Records that were lost, one by one, because no log can hold them."""

    def __repr__(self) -> str:
        return f"<Takes {len(self._hand)} contents in hand>"

    @property
    def waiting(self) -> int:
        """Records in the intake and in hand."""
        return self._consumer.counts.waiting

    def take(self, log_id: UUID, *, limit: int = MAX_TAKE) -> bool:
        """Take at most `limit` records, and turn them into contents for the log `log_id`; False: there is nothing."""
        entries = self._consumer.take(limit)
        self._intake.held_events = self._consumer.in_hand
        if not entries:
            return False
        try:
            # All of them before any is in hand: what comes again after an error must not be there already.
            contents = list(encode_take(entries, log_id, written=self._now(), static_context=self._static_context))
        except UNWRITABLE as exc:
            self._lose(unwritable(entries, log_id), log_id, exc)
            return True
        self._tickets.number(entries, self._consumer.appended)
        start = 0
        for content, n in contents:
            inside = entries[start : start + n]
            self._hand.append((content, inside, total_size(inside)))
            start += n
        self._consumer.hold()
        return True

    def _lose(self, lost: Sequence[Entry], log_id: UUID, error: Exception) -> None:
        """What cannot be encoded, each by itself: else nothing that follows would ever be written."""
        if not lost:
            raise error
        self._consumer.lose(lost)
        self.unwritable += len(lost)
        self._intake.held_events = self._consumer.in_hand
        self._intake.freed_bytes += total_size(lost)
        types = sorted({entry[SHAPE].type for entry in lost})[:_TYPES_SAID]
        _logger.error(
            "records lost: they cannot be encoded",
            log=str(log_id),
            types=types,
            records=len(lost),
            error=described(error),
        )

    def append_to(self, log: Log) -> list[Written]:
        """Append all that is in hand to `log`. Returns its commits, in order, which are yet to be written.

        Raises:
            LogWriteError: From the first commit that the log has not on, all of them stay in hand.
        """
        appended: list[Written] = []
        while self._hand:
            content, entries, size = self._hand[0]
            offsets = log.append_encoded(content, len(entries))
            self._hand.popleft()
            appended.append(Written(offsets.start, entries, size))
            self._consumer.append(len(entries))
            self._intake.held_events = self._consumer.in_hand
            self._intake.freed_bytes += size
        return appended
