"""What a snapshot knows of a rollup: which of its buckets are right in its table, and which have to be computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql.refreshing import marked_buckets
from eventrec_handlers._sql.zone_rules import other_rules_remark
from eventrec_handlers.sqlite.marks import EARLIEST, Arrivals
from eventrec_handlers.sqlite.own_tables import PENDING
from eventrec_handlers.sqlite.rollups.registry import floor_of, has_table, is_marked, registered
from eventrec_handlers.sqlite.rollups.select import HIGHEST, LOWEST

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from eventrec.analytics import Bucket, RollupPlan

BEGIN: Final = LOWEST
END: Final = HIGHEST + 1
"""All moments that SQLite can hold are from the one on, and before the other."""


@dataclass(slots=True)
class Known:
    """What the snapshot knows of a rollup.

    Attributes:
        bucket: How time is parted.
        is_made: Whether it has a table that may be read.
        floor: Buckets that begin before it are never computed from the events: some of these may be gone.
        filled_to: Buckets that begin there or later have to be computed, but for those that begin before `floor`.
        waiting: Buckets whose events have changed.
        late_rows: Events that are in no bucket, because they came too late.
        remarks: What else a reader is told.
    """

    bucket: Bucket
    is_made: bool = False
    floor: int = BEGIN
    filled_to: int = BEGIN
    waiting: set[int] = field(default_factory=set)
    late_rows: int = 0
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, connection: sqlite3.Connection, plan: RollupPlan) -> Known:
        """Of `plan`; where there is no table, or that of another declaration, all is computed from the events.

        So is what begins at the floor or later, where other rules of the zone have filled the table.
        """
        found = registered(connection, plan.name)
        if found is None or found.fingerprint != plan.fingerprint or not has_table(connection, plan):
            return cls(plan.bucket)
        known = cls(
            found.bucket,
            is_made=True,
            floor=found.floor(floor_of(connection, plan.table)),
            filled_to=found.filled_to,
            late_rows=found.late_rows,
        )
        arrivals = Arrivals.of(connection, plan.table)
        if not found.is_ours:
            known.remarks += [other_rules_remark(plan)] if found.filled_to > EARLIEST else []
            known.filled_to = EARLIEST
        elif arrivals is None or not is_marked(connection, plan.table) or not arrivals.is_intact(connection):
            known.filled_to = EARLIEST
        else:
            for since in arrivals.quarters(connection, known.filled_to):
                known.waiting.update(marked_buckets(found.bucket, since))
        waiting = connection.execute(f"SELECT bucket FROM {PENDING} WHERE rollup = ?", (plan.name,))  # noqa: S608 - a constant
        known.waiting.update(bucket for (bucket,) in waiting)
        return known

    def to_compute(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of moments in [`start`, `end`) whose buckets are not right in the table, in order."""
        found = [(max(self.filled_to, self.floor), END)]
        if self.is_made:
            found += [(BEGIN, EARLIEST)] if self.floor <= EARLIEST else []
            found += [(at, self.bucket.after(at)) for at in self.waiting if self.floor <= at < self.filled_to]
        clipped = ((max(low, start), min(high, end)) for low, high in found)
        return merged(span for span in clipped if span[0] < span[1])


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """`spans` in order, those that meet put together."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found
