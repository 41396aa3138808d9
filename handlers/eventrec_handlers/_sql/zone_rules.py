"""By which rules of its zone a rollup's table was filled: tzdata changes them, and machines may have different ones.

What a table keeps is right where it was filled by the rules that this machine has. Otherwise all is answered from the
events, and a refresh fills the table again. Of processes with different rules the last one to come does, once: those
whose rules were replaced leave the table alone, for as long as others refresh it.

Rules are noted as digests (`Bucket.rules`), the present ones first, behind them those that they have replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec.analytics import Bucket

if TYPE_CHECKING:
    from eventrec.analytics import RollupPlan

LONGEST_REST: Final = 86_400.0
"""Seconds after which a table that others have not refreshed is theirs no more; or twice the time between refreshes."""


@dataclass(frozen=True, slots=True)
class FilledBy:
    """By which rules a table was filled.

    Attributes:
        noted: The digests; none: it was never filled, or by a version that did not note them.
        refresh_every: How often it is refreshed, in seconds.
    """

    noted: tuple[str, ...] = ()
    refresh_every: float = 0.0

    @classmethod
    def of(cls, text: str | None, *, refresh_every: float = 0.0) -> FilledBy:
        """As it is kept."""
        return cls(tuple((text or "").split()), refresh_every)

    def is_ours(self, bucket: Bucket) -> bool:
        """Whether these are the rules that this machine has."""
        return bucket.rules is None or self.noted[:1] == (bucket.rules,)

    def is_held(self, bucket: Bucket, *, rested: float) -> bool:
        """Whether other rules fill it, and it is refreshed by them: the last time `rested` seconds ago."""
        rest = max(LONGEST_REST, 2 * self.refresh_every)
        return bool(self.noted) and not self.is_ours(bucket) and rested <= rest

    def may_fill(self, bucket: Bucket, *, rested: float) -> bool:
        """Whether it may be filled by our rules: they are new to it, or nothing refreshes it by those that it has."""
        return bucket.rules not in self.noted[1:] or not self.is_held(bucket, rested=rested)

    def replaced(self, bucket: Bucket) -> str:
        """What is kept once it is filled by our rules."""
        return " ".join((bucket.rules or "", *(rules for rules in self.noted if rules != bucket.rules)))


def other_rules_remark(plan: RollupPlan) -> str:
    """What a reader or an operator is told of a table that was filled by other rules than this machine has."""
    return (
        f"rollup {plan.name!r} was counted by other rules of its zone {plan.bucket.zone} than this process has: it is"
        " answered from the events"
    )


def held_remark(plan: RollupPlan) -> str:
    """What an operator is told where other processes refresh the table by their rules."""
    return f"{other_rules_remark(plan)}, and not refreshed by it: update tzdata here, and restart"


def refilled_remark(plan: RollupPlan, filled_by: FilledBy) -> str:
    """What an operator is told of a table that is filled again."""
    why = "have changed" if filled_by.noted else "by which it was counted are not known"
    return f"rollup {plan.name!r} is counted again: the rules of its zone {plan.bucket.zone} {why}"


@dataclass(frozen=True, slots=True)
class SeamedBucket(Bucket):
    """Buckets of which one begins at `seam`: up to there, events were counted by other rules, and some may be gone."""

    seam: int = 0

    @property
    def is_fixed(self) -> bool:
        return False

    def floor(self, moment: int) -> int:
        start = Bucket.floor(self, moment)
        return max(start, self.seam) if moment >= self.seam else start

    def after(self, start: int) -> int:
        following = Bucket.after(self, start)
        return self.seam if start < self.seam < following else following


def seamed(bucket: Bucket, seam: int | None) -> Bucket:
    """`bucket`, of which one begins at `seam` in any case; None: there is none."""
    if seam is None or bucket.floor(seam) == seam:
        return bucket
    return SeamedBucket(bucket.unit, bucket.every, bucket.zone, seam)
