"""Buckets as PostgreSQL is told of them: their starts, put together to runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.rollups.tables import FIRST, LAST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventrec.analytics import Bucket, RollupPlan

LONGEST_RUN: Final = 2_048
"""Buckets that are computed by one statement, at most."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_MOMENT: Final = datetime.fromisoformat(FIRST)
LAST_MOMENT: Final = datetime.fromisoformat(LAST)


def quoted_bucket(plan: RollupPlan) -> str:
    """The column of the bucket, in SQL."""
    return quoted(plan.bucket_name)


def moment(nanoseconds: int) -> datetime:
    """The start of a bucket as the driver takes it: those are whole seconds."""
    return EPOCH + timedelta(microseconds=nanoseconds // 1_000)


def nanoseconds(at: datetime) -> int:
    """The opposite of `moment`."""
    return (at - EPOCH) // timedelta(microseconds=1) * 1_000


EARLIEST: Final = nanoseconds(FIRST_MOMENT)
LATEST: Final = nanoseconds(LAST_MOMENT)
"""Moments outside of these two are in no bucket."""


@dataclass(frozen=True, slots=True)
class Run:
    """Buckets that follow one another, or between which no event is stored: their starts, and the end of the last."""

    starts: tuple[int, ...]
    end: int

    @property
    def parameters(self) -> tuple[list[datetime], datetime]:
        """What `select.compute` wants as $1 and $2."""
        return [moment(start) for start in self.starts], moment(self.end)


def runs(bucket: Bucket, starts: Iterable[int], *, longest: int = LONGEST_RUN) -> Iterator[Run]:
    """`starts`, put together to runs of at most `longest`."""
    found: list[int] = []
    end = 0
    for start in sorted(set(starts)):
        if found and (start != end or len(found) >= longest):
            yield Run(tuple(found), end)
            found = []
        found.append(start)
        end = bucket.after(start)
    if found:
        yield Run(tuple(found), end)
