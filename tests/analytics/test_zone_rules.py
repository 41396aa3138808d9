"""What tells the rules of a zone apart, and buckets that begin where others have ended by other rules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

import pytest

from eventrec.analytics import Bucket
from eventrec_handlers._sql.zone_rules import LONGEST_REST, FilledBy, seamed

ZONE = "America/Asuncion"
MOVED = ("2026-03-10T04:00+00:00", -3)


def at(said: str) -> int:
    """The moment, in nanoseconds since the epoch."""
    return int(datetime.fromisoformat(said).timestamp()) * 1_000_000_000


def test_utc_has_no_rules_and_a_zone_has_the_same_ones_each_time(zone_rules: Callable[..., None]) -> None:
    zone_rules(ZONE, -4, MOVED)
    rules = Bucket("day", 1, ZONE).rules

    zone_rules(ZONE, -4, MOVED)

    assert Bucket("day").rules is None
    assert rules is not None
    assert Bucket("month", 1, ZONE).rules == Bucket("week", 1, ZONE).rules == Bucket("day", 1, ZONE).rules == rules


@pytest.mark.parametrize(
    "other",
    [
        (-4,),
        (-3,),
        (-4, ("2026-03-10T04:00:01+00:00", -3)),
        (-4, ("2026-03-10T04:00+00:00", -3.5)),
        (-4, MOVED, ("2099-12-31T00:00+00:00", -4)),
        (-4, ("1900-01-02T00:00+00:00", -3), ("1900-01-03T00:00+00:00", -4), MOVED),
    ],
)
def test_other_rules_are_told_apart(zone_rules: Callable[..., None], other: tuple[object, ...]) -> None:
    zone_rules(ZONE, -4, MOVED)
    rules = Bucket("day", 1, ZONE).rules

    zone_rules(ZONE, *other)

    assert Bucket("day", 1, ZONE).rules != rules


def test_hours_do_not_depend_on_changes_by_whole_hours_and_of_several_they_do(zone_rules: Callable[..., None]) -> None:
    found = []
    for rules in [(-4,), (-4, MOVED), (-4, ("2026-03-10T04:00+00:00", -3.5))]:
        zone_rules(ZONE, *rules)
        found.append((Bucket("hour", 1, ZONE).rules, Bucket("hour", 6, ZONE).rules, Bucket("minute", 30, ZONE).rules))

    assert found[0][0] == found[1][0] != found[2][0]
    assert len({hours for _, hours, _ in found}) == 3
    assert len({minutes for *_, minutes in found}) == 1


def test_names_that_mean_the_same_have_the_same_rules() -> None:
    assert Bucket("day", 1, "Europe/Berlin").rules == Bucket("day", 1, "Arctic/Longyearbyen").rules != None  # noqa: E711
    assert Bucket("day", 1, "Europe/Berlin").rules != Bucket("day", 1, "Europe/Paris").rules


@pytest.mark.parametrize("unit", ["day", "week", "month", "hour"])
@pytest.mark.parametrize("seam", ["2026-03-09T04:00+00:00", "2026-03-11T04:00+00:00", "2026-03-11T02:45+00:00"])
def test_buckets_with_a_seam_follow_one_another_and_one_begins_there(
    zone_rules: Callable[..., None], unit: str, seam: str
) -> None:
    zone_rules(ZONE, -4, MOVED)
    plain = Bucket(unit, 1, ZONE)  # type: ignore[arg-type]

    bucket = seamed(plain, at(seam))

    starts = list(bucket.starts(at("2026-01-01T00:00+00:00"), at("2026-06-01T00:00+00:00")))
    assert set(starts) == {*plain.starts(at("2026-01-01T00:00+00:00"), at("2026-06-01T00:00+00:00")), at(seam)}
    assert (bucket is plain) == (plain.floor(at(seam)) == at(seam))
    assert bucket.rules == plain.rules
    assert not bucket.is_fixed
    for start, after in pairwise(starts):
        assert bucket.after(start) == after
        assert {bucket.floor(moment) for moment in (start, (start + after) // 2, after - 1)} == {start}
        assert bucket.ceiling(start) == start
        assert bucket.ceiling(start + 1) == after


def test_the_last_rules_to_come_fill_a_table_once(zone_rules: Callable[..., None]) -> None:
    bucket = Bucket("day", 1, ZONE)
    zone_rules(ZONE, -4)
    noted = FilledBy().replaced(bucket)
    zone_rules(ZONE, -3)
    newer = FilledBy.of(noted)
    found = [newer.is_ours(bucket), newer.is_held(bucket, rested=0), newer.may_fill(bucket, rested=0)]

    replaced = FilledBy.of(newer.replaced(bucket), refresh_every=LONGEST_REST)
    zone_rules(ZONE, -4)

    assert found == [False, True, True]
    assert not replaced.is_ours(bucket)
    assert [replaced.may_fill(bucket, rested=rested * LONGEST_REST) for rested in (0, 2, 2.1)] == [False, False, True]
    assert FilledBy.of(replaced.replaced(bucket)).noted == (noted, replaced.noted[0])


def test_what_was_never_noted_is_held_by_nothing_and_utc_is_always_ours() -> None:
    bucket = Bucket("day", 1, "Europe/Berlin")

    assert FilledBy.of(None).may_fill(bucket, rested=0)
    assert not FilledBy.of(None).is_ours(bucket)
    assert not FilledBy.of(None).is_held(bucket, rested=0)
    assert FilledBy.of(None).is_ours(Bucket("day"))
