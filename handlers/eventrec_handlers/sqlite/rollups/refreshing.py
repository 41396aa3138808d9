"""Bringing the tables of rollups up to date: the buckets of what arrived wait, and are computed again.

    distribute   what arrived becomes buckets that wait, for every rollup of the table
    refresh      waiting buckets, and then the next ones behind those that the table has, up to the last that has ended

Buckets are computed in a snapshot, beside the writers, and replaced in a short transaction, whole or not at all: each
step may be the last one of a process that is killed.

**No row is lost.** A bucket waits until its rows are replaced by those of a snapshot that saw the last event that it
waits for: its stamp is the one of the snapshot then. A row that is stored in between has it wait once more.

**Nothing older replaces what is newer.** Of two processes that have computed a bucket, the second finds the stamp gone,
or the table filled further than its snapshot saw, and drops what it has.

**What was rolled up stays.** A bucket that begins before the floor of its table is never computed again: some of its
events may be gone. The floor is only raised together with what removes events (`retention.py`). Rows that arrive for
such buckets are counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.refreshing import marked_buckets
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.marks import EARLIEST, LATEST, Arrivals, has_arrived
from eventrec_handlers.sqlite.own_tables import PENDING, ROLLUPS
from eventrec_handlers.sqlite.rollups.computing import Computing
from eventrec_handlers.sqlite.rollups.known import merged
from eventrec_handlers.sqlite.rollups.registry import (
    check_declared,
    floor_of,
    recount,
    registered,
    registered_of,
)
from eventrec_handlers.sqlite.transactions import reading, writing

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from eventrec.analytics import Progress, RollupPlan
    from eventrec_handlers.sqlite.rollups.fields import Columns
    from eventrec_handlers.sqlite.rollups.registry import Registered

SET: Final = 24
"""Buckets that are computed at once, to begin with; more or fewer as their transaction takes less or more time."""

MAX_SET: Final = 2_048
LOCKED_SECONDS: Final = 0.05
"""How long writers should wait for a set, at most."""

SET_SECONDS: Final = 2.0
"""How long a set should be computed, at most."""

ARRIVED: Final = 10_000
"""Rows, and marks, that are distributed in one transaction."""

LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Done:
    """What one step has done: buckets computed, rows that came too late, and whether there may be more."""

    buckets: int = 0
    late: int = 0
    is_more: bool = False


@dataclass(frozen=True, slots=True)
class _Computed:
    """What one snapshot gives.

    Attributes:
        spans: The ranges whose rows were computed.
        rows: These rows.
        buckets: How many buckets that is: of those behind the table, the ones that have a row.
        stamps: What waited, of what was computed or came too late: bucket to stamp.
        filled_to: What the snapshot saw.
        reached: Up to where the table is filled with them; None: no further than before.
    """

    spans: list[tuple[int, int]]
    rows: list[tuple[Any, ...]]
    buckets: int
    stamps: dict[int, int]
    filled_to: int
    reached: int | None


def distribute(connection: sqlite3.Connection, table: str, seconds: float, *, now: int) -> None:
    """Turn what arrived in `table` into buckets that wait, for each of its rollups; `seconds` are waited for a lock.

    Where others refresh one of them, by other rules of its zone, what arrived is left to them: it is in other buckets.
    """
    is_more = True
    while is_more:
        check_cancelled()
        with reading(connection):
            is_more = has_arrived(connection, table)
        if is_more:
            with writing(connection, seconds):
                is_more = _distribute(connection, table, now)


def _distribute(connection: sqlite3.Connection, table: str, now: int) -> bool:
    """Distribute some of it; whether there may be more."""
    arrivals = Arrivals.of(connection, table)
    if arrivals is None:
        return False
    if not arrivals.is_intact(connection):
        arrivals.note_all(connection)
        recount(connection, "table_name", arrivals.key)
        return True
    rollups = registered_of(connection, table)
    if any(rollup.filled_by.is_held(rollup.bucket, rested=rollup.rested(now)) for rollup in rollups):
        return False
    arrived = arrivals.take(connection, ARRIVED)
    waiting: dict[tuple[str, int], int] = {}
    for rollup in rollups:
        if not rollup.is_ours:
            recount(connection, "name", rollup.name)  # which buckets of it wait, is not known here
            continue
        for since, rows in arrived.items():
            starts = [start for start in marked_buckets(rollup.bucket, since) if start >= EARLIEST]
            for start in starts:
                # Of several buckets in a quarter of an hour it is not known which the rows are of: counted once.
                waiting.setdefault((rollup.name, start), 0)
                waiting[rollup.name, start] += rows if start == starts[-1] else 0
    connection.executemany(
        f"INSERT INTO {PENDING} (rollup, bucket, rows, stamp) VALUES (?, ?, ?, random())"  # noqa: S608 - likewise
        " ON CONFLICT (rollup, bucket) DO UPDATE SET rows = rows + excluded.rows, stamp = excluded.stamp",
        [(name, start, rows) for (name, start), rows in waiting.items()],
    )
    return True


class Refreshing:
    """Refreshes `plan`, which has its tables, and whose events are in the columns `columns` of theirs.

    `seconds` are waited for a lock. The connection is in no transaction.
    """

    def __init__(self, connection: sqlite3.Connection, plan: RollupPlan, columns: Columns, *, seconds: float) -> None:
        self._connection = connection
        self._plan = plan
        self._bucket = plan.bucket
        self._columns = columns
        self._seconds = seconds

    def refresh(self, now: int, *, progress: Progress | None = None) -> Done:
        """Compute every bucket that waits, or that is not in the table yet and has ended `lag` before `now`."""
        plan = self._plan
        until = plan.bucket.floor(min(max(now - round(plan.refresh.lag * 1_000_000_000), EARLIEST), LATEST))
        buckets, late, size, is_more = 0, 0, SET, True
        while is_more:
            check_cancelled()
            begun = time.monotonic()
            computed = self._compute(until, size)
            if computed is None:
                break
            locked = time.monotonic()
            one = self._store(computed)
            size = _adapted(size, locked - begun, time.monotonic() - locked)
            buckets, late, is_more = buckets + one.buckets, late + one.late, one.is_more
            if progress is not None and one.buckets and computed.reached is not None:
                progress(buckets, buckets + max(0, until - computed.reached) // plan.bucket.step)
        return Done(buckets, late)

    def expire(self, now: int) -> None:
        """Delete the rollup's own rows that are older than its retention."""
        plan = self._plan
        if plan.retention is None:
            return
        before = plan.bucket.floor(now - round(plan.retention * 1_000_000_000))
        own, bucket = quoted(plan.name), quoted(plan.bucket_name)
        with reading(self._connection):
            (first,) = self._connection.execute(f"SELECT min({bucket}) FROM {own}").fetchone()  # noqa: S608 - quoted
        if first is not None and first < before:
            with writing(self._connection, self._seconds):
                self._connection.execute(f"DELETE FROM {own} WHERE {bucket} < ?", (before,))  # noqa: S608 - quoted

    def remaining(self) -> int:
        """How many buckets wait, those included that have not ended."""
        found: int
        (found,) = self._connection.execute(
            f"SELECT count(*) FROM {PENDING} WHERE rollup = ?",  # noqa: S608 - a constant
            (self._plan.name,),
        ).fetchone()
        return found

    # -- one step: in a snapshot, then in a transaction

    def _compute(self, until: int, size: int) -> _Computed | None:
        """The next buckets, `size` at most; None: there are none."""
        with reading(self._connection):
            found = self._registered()
            if found is None:
                return None
            waiting = self._waiting(f"bucket < ? LIMIT {size}", found.filled_to)
            if waiting:
                return self._computed_again(found, waiting)
            return self._computed_next(found, until, size) if found.filled_to < until else None

    def _computed_again(self, found: Registered, waiting: dict[int, int]) -> _Computed:
        floor = self._floor(found)
        kept = [start for start in waiting if start >= floor]
        spans = merged((start, self._bucket.after(start)) for start in kept)
        return _Computed(spans, self._rows(spans), len(kept), waiting, found.filled_to, None)

    def _computed_next(self, found: Registered, until: int, size: int) -> _Computed:
        bucket = self._bucket
        low = bucket.ceiling(max(found.filled_to, self._floor(found)))
        first = Computing(self._connection, self._plan, self._columns).next_event(low, until)
        if first is None:
            spans, reached = [], until
        else:
            start = reached = bucket.floor(first)
            count = 0
            while reached < until and count < size:
                count, reached = count + 1, bucket.after(reached)
            spans = [(start, reached)]
        stamps = self._waiting("bucket >= ? AND bucket < ?", found.filled_to, reached)
        rows = self._rows(spans)
        place = self._plan.column_names.index(self._plan.bucket_name)
        return _Computed(spans, rows, len({row[place] for row in rows}), stamps, found.filled_to, reached)

    def _store(self, computed: _Computed) -> Done:
        """Replace what was computed, where nothing newer is there."""
        with writing(self._connection, self._seconds):
            found = self._registered()
            if found is None:
                return Done()
            is_next = computed.reached is not None
            if is_next and found.filled_to != computed.filled_to:
                return Done(is_more=True)
            floor = self._floor(found)
            settled, late = self._settle(computed.stamps, floor)
            self._replace(computed, None if is_next else {at for at in settled if at >= floor})
            if late or is_next:
                self._connection.execute(
                    f"UPDATE {ROLLUPS} SET late_rows = late_rows + ?, filled_to = ? WHERE name = ?",  # noqa: S608 - a constant
                    (late, computed.reached if is_next else found.filled_to, self._plan.name),
                )
        return Done(computed.buckets if is_next else len({at for at in settled if at >= floor}), late, is_more=True)

    def _settle(self, stamps: dict[int, int], floor: int) -> tuple[set[int], int]:
        """Take what does not wait any more off the list: these buckets, and how many rows of them came too late."""
        settled: set[int] = set()
        late = 0
        for bucket, stamp in stamps.items():
            key = (self._plan.name, bucket, stamp)
            where = f"FROM {PENDING} WHERE rollup = ? AND bucket = ? AND stamp = ?"
            found = self._connection.execute(f"SELECT rows {where}", key).fetchone()
            if found is not None:
                self._connection.execute(f"DELETE {where}", key)
                settled.add(bucket)
                late += found[0] if bucket < floor else 0
        return settled, late

    def _replace(self, computed: _Computed, only: set[int] | None) -> None:
        """Write the rows that were computed: all, or those of the buckets `only`."""
        plan = self._plan
        own, bucket = quoted(plan.name), quoted(plan.bucket_name)
        place = plan.column_names.index(plan.bucket_name)
        delete = f"DELETE FROM {own} WHERE {bucket} >= ? AND {bucket} < ?"  # noqa: S608 - quoted
        rows = computed.rows
        if only is None:
            self._connection.executemany(delete, computed.spans)
        else:
            self._connection.executemany(delete, [(start, self._bucket.after(start)) for start in only])
            rows = [row for row in rows if row[place] in only]
        names = ", ".join(map(quoted, plan.column_names))
        marks = ", ".join("?" * len(plan.column_names))
        self._connection.executemany(
            f"INSERT INTO {own} ({names}) VALUES ({marks})",  # noqa: S608 - quoted
            [tuple(map(_storable, row)) for row in rows],
        )

    def _rows(self, spans: Sequence[tuple[int, int]]) -> list[tuple[Any, ...]]:
        if not spans:
            return []
        computing = Computing(self._connection, replace(self._plan, bucket=self._bucket), self._columns)
        return [row for start, end in spans for row in computing.rows(start, end)]

    def _waiting(self, where: str, *moments: int) -> dict[int, int]:
        rows = self._connection.execute(
            f"SELECT bucket, stamp FROM {PENDING} WHERE rollup = ? AND {where}",  # noqa: S608 - ours
            (self._plan.name, *moments),
        )
        return dict(rows.fetchall())

    def _floor(self, found: Registered) -> int:
        return found.floor(floor_of(self._connection, self._plan.table))

    def _registered(self) -> Registered | None:
        """What the file has of it; None: nothing, or what other rules of its zone fill."""
        found = registered(self._connection, self._plan.name)
        if found is not None:
            check_declared(self._plan, found)
            self._bucket = found.bucket
        return found if found is not None and found.is_ours else None


def _storable(value: object) -> object:
    """A sum of more than 64 bits as a text."""
    return str(value) if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST else value


def _adapted(size: int, computing: float, locked: float) -> int:
    """How many buckets to take next, after `size` of them took so many seconds, and held the lock for so many."""
    if computing > SET_SECONDS or locked > LOCKED_SECONDS:
        return max(1, size // 2)
    if computing < SET_SECONDS / 4 and locked < LOCKED_SECONDS / 4:
        return min(MAX_SET, size * 2)
    return size
