"""What refreshing rollups into tables means in every database: marks, buckets as they are noted, and what is said."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec import CatalogueError, PauseError
from eventrec.analytics import Bucket, MigrationError
from eventrec_handlers._sql.zone_rules import seamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventrec.analytics import RollupPlan

QUARTER: Final = 900_000_000_000
"""What a mark is about, in nanoseconds: the zones of the world are a multiple of it away from UTC."""


def marked_buckets(bucket: Bucket, since: int) -> Iterator[int]:
    """The buckets that a mark is about: those of the quarter of an hour from `since` on."""
    start = bucket.floor(since)
    while start < since + QUARTER:
        yield start
        start = bucket.after(start)


def bucket_of_row(unit: str, every: int, zone: str, seam: int | None = None) -> Bucket:
    """The bucket that a row of `eventrec_rollups` is about; for `seam` see `seamed`.

    Raises:
        PauseError: Its zone is not known on this machine.
    """
    try:
        return seamed(Bucket(unit, every, zone), seam)  # type: ignore[arg-type] # it refuses what is not a unit
    except CatalogueError as exc:
        raise PauseError(f"a rollup that is declared in the database: {exc}") from exc


def late_remarks(rows: int) -> list[str]:
    """What a reader is told of so many rows that came too late."""
    if not rows:
        return []
    return [f"{rows} rows arrived for buckets whose events are no longer stored, and are not counted in"]


def refuse_same_version(plan: RollupPlan, version: int) -> None:
    """Raise MigrationError where `plan`, which tells something else than before, does not have a version above that."""
    if plan.version <= version:
        raise MigrationError(
            f"rollup {plan.name!r} tells something else than before, and its version is {plan.version} still:"
            f" declare version={version + 1}"
        )


def overdue_remark(name: str, minutes: int) -> str:
    """What an operator is told of a rollup that nothing has refreshed for so long."""
    return (
        f"rollup {name!r} was not refreshed for {minutes:,} minutes, and events wait for it: run eventrec"
        " refresh --every, or give the handler refresh=true"
    )


class OverdueLooks:
    """When it is looked for rollups that are overdue, and what the last look has found.

    They are not refreshed for twice the time that their schedule says, while events wait.
    """

    PAUSE: Final = 60.0
    """Seconds between two looks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.remarks: tuple[str, ...] = ()
        """A sentence for each."""
        self._pause(self.PAUSE)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self._clock() >= self._not_before

    def _pause(self, seconds: float) -> None:
        self._not_before = self._clock() + seconds
