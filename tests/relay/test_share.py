"""How many shards each relay has: equal shares from any start, by as few moves as that takes, and then rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventrec.bus import Presence
from eventrec.relay.share import Share, share_of

RELAYS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=7)
"""How many each serves, and how many it could at most."""


def relays_of(served: list[int], bounds: list[int] | None = None) -> list[Presence]:
    bounds = bounds or [99] * len(served)
    return [Presence(f"relay {i}", *of) for i, of in enumerate(zip(served, bounds, strict=True))]


def moves_of(relays: list[Presence], shards: int) -> int:
    """Let all act by their shares, one after the other, until nothing changes; how many shards were given."""
    moves = 0
    for _ in range(100):
        before = list(relays)
        for i, relay in enumerate(relays):
            share = share_of(relay.holder, relays, shards)
            free = shards - sum(each.served for each in relays)
            served = relay.served - share.gives
            served += max(0, min(free, share.takes - served)) if not share.gives else 0
            relays[i] = Presence(relay.holder, served, relay.bound)
            moves += share.gives
        if relays == before:
            return moves
    raise AssertionError(f"never at rest: {relays}")


def test_relay_alone_takes_every_shard() -> None:
    assert share_of("relay 0", relays_of([0]), 8) == Share(takes=8)


def test_relay_that_joins_is_given_its_share_and_no_more() -> None:
    relays = relays_of([8, 0])

    assert share_of("relay 0", relays, 8) == Share(takes=4, gives=4)
    assert share_of("relay 1", relays, 8) == Share(takes=0)
    assert share_of("relay 1", relays_of([4, 0]), 8) == Share(takes=4)


def test_shares_that_differ_by_one_are_left_alone() -> None:
    for relays in (relays_of([2, 1, 1]), relays_of([1, 2, 1]), relays_of([1, 1, 2])):
        assert [share_of(each.holder, relays, 4).gives for each in relays] == [0, 0, 0]


def test_what_is_free_goes_to_those_who_lack_before_anybody_gives() -> None:
    relays = relays_of([2, 1, 0])

    shares = [share_of(each.holder, relays, 4) for each in relays]

    assert shares == [Share(takes=1), Share(takes=1), Share(takes=1)]


def test_bound_of_a_relay_leaves_the_rest_to_others() -> None:
    relays = relays_of([0, 0, 0], [1, 99, 99])

    assert [share_of(each.holder, relays, 8).takes for each in relays] == [1, 3, 3]
    assert moves_of(relays, 8) == 0
    assert sorted(each.served for each in relays) == [1, 3, 4]


def test_relay_that_can_serve_nothing_is_given_nothing() -> None:
    relays = relays_of([4, 0], [99, 0])

    assert share_of("relay 0", relays, 4) == Share(takes=4)
    assert share_of("relay 1", relays, 4) == Share(takes=0)


@given(RELAYS, st.integers(1, 24))
def test_equal_shares_come_from_any_start_by_the_fewest_moves(given_: list[tuple[int, int]], shards: int) -> None:
    left, served = shards, []
    for wanted, bound in given_:
        served.append(min(wanted, bound, left))
        left -= served[-1]
    relays = relays_of(served, [bound for _, bound in given_])

    moves = moves_of(relays, shards)

    assert sum(each.served for each in relays) == min(shards, sum(each.bound for each in relays))
    top = max(each.served for each in relays)
    assert all(each.served >= min(each.bound, top - 1) for each in relays)
    assert moves <= sum(max(0, was - min(now.served, was)) for was, now in zip(served, relays, strict=True))
