"""What a snapshot knows of a rollup: which of its buckets are right in its table, and which have to be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql.refreshing import marked_buckets
from eventrec_handlers.postgres.rollups.moments import EARLIEST, LATEST, nanoseconds

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
        waiting: Buckets whose events have changed.
        ranges: Of moments: buckets that have one have to be computed, too.
        complete_to: What happened from there on is not in the answer; None: all is.
        late_rows: Events that are in no bucket, because they came too late.
    """

    def __init__(self, plan: RollupPlan, floor: int, *, is_made: bool) -> None:
        self._plan = plan
        self.floor = floor
        self.is_made = is_made
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
            self.waiting.update(marked_buckets(self._plan.bucket, nanoseconds(since)))

    def from_events(self, start: int, end: int, events: tuple[int, int] | None) -> set[int]:
        """Those of the buckets in [`start`, `end`) to compute; `events`: the first and the last moment."""
        bucket, first = self._plan.bucket, max(start, self.floor)
        found = {at for at in self.waiting if first <= at < end}
        for low, high in self.ranges:
            if events is None:
                break
            since = max(first, bucket.floor(max(low, events[0])))
            until = min(end, high, events[1] + 1)
            found.update(bucket.starts(since, until) if since < until else ())
        return found
