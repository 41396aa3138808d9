"""What a snapshot knows of a rollup: which of its buckets are right in its table, and which have to be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql.refreshing import marked_buckets
from eventrec_handlers.postgres.rollups.moments import EARLIEST, LAST_MOMENT, LATEST, nanoseconds
from eventrec_handlers.postgres.rollups.uncounted import Uncounted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from typing import Self

    from eventrec.analytics import RollupPlan


class Known:
    """What the snapshot knows of a rollup: which of its buckets cannot be taken from its table.

    Attributes:
        floor: Buckets that begin before it are never computed from the events: some of these may be gone.
        is_made: Whether the rollup has a table, or a view.
        is_ours: Whether the rules of its zone that fill the table are ours: else only rows before `floor` are right.
        waiting: Buckets whose events have changed.
        ranges: Of moments: buckets that have one have to be computed, too.
        complete_to: What happened from there on is not in the answer; None: all is.
        late_rows: Events that are in no bucket, because they came too late.
        plan: The rollup, with its buckets as they are in its table.
        remarks: What else a reader is told.
    """

    def __init__(self, plan: RollupPlan, floor: int, *, is_made: bool) -> None:
        self.plan = plan
        self.remarks: list[str] = []
        self.floor = floor
        self.is_made = is_made
        self.is_ours = True
        self.waiting: set[int] = set()
        self.ranges: list[tuple[int, int]] = []
        self.complete_to: int | None = None
        self.late_rows = 0

    @classmethod
    def nothing(cls, plan: RollupPlan) -> Self:
        """There is no table, or that of another declaration: all is computed from the events that are left."""
        known = cls(plan, EARLIEST, is_made=False)
        known.ranges.append((EARLIEST, LATEST))
        return known

    def note_marks(self, marks: Iterable[datetime]) -> None:
        """Rows have arrived for the quarters of an hour that begin then."""
        for since in marks:
            if since == LAST_MOMENT:  # about everything
                self.ranges.append((EARLIEST, LATEST))
                continue
            self.waiting.update(marked_buckets(self.plan.bucket, nanoseconds(since)))

    def uncounted(self, start: int, end: int, events: tuple[int, int] | None) -> Uncounted:
        """What to compute of the buckets that begin in [`start`, `end`); `events`: the first and the last moment."""
        first = max(start, self.floor)
        spans = [] if events is None else [self._span(first, end, span, events) for span in self.ranges]
        return Uncounted.of([at for at in self.waiting if first <= at < end], spans)

    def all_stored(self, start: int, end: int, events: tuple[int, int] | None) -> Uncounted:
        """Those buckets that begin in [`start`, `end`) whose events are stored, whatever is in the table."""
        first = max(start, self.floor)
        return Uncounted.of((), [] if events is None else [self._span(first, end, (EARLIEST, LATEST), events)])

    def _span(self, first: int, end: int, span: tuple[int, int], events: tuple[int, int]) -> tuple[int, int]:
        """The buckets that begin in [`first`, `end`), have a part of `span`, and may hold events."""
        bucket = self.plan.bucket
        low = max(first, bucket.floor(max(span[0], events[0])))
        return bucket.ceiling(low), bucket.ceiling(min(end, span[1], events[1] + 1))
