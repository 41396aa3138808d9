"""How relays share the shards of a bus: who may take how many, and who gives some back. Values in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.bus.bus import Presence


@dataclass(frozen=True, slots=True)
class Share:
    """What a relay does next about its part of the shards.

    Attributes:
        takes: How many shards it may have in all: not more than it has where no shard is free.
        gives: How many of those that it has are to be others'.
    """

    takes: int
    gives: int = 0


def share_of(holder: str, present: Sequence[Presence], shards: int) -> Share:
    """The share of `holder`, which is among `present`, in `shards` shards.

    Shares are equal, as far as the bounds of all allow, or differ by one. Nothing is moved where that is so already;
    what no relay serves at the moment goes to those who have less than their share, before others are asked for any.
    All that see the same relays come to the same result.
    """
    low, high = _levels([each.bound for each in present], shards)
    lacking = sum(max(0, min(each.bound, low) - each.served) for each in present)
    surplus = sum(max(0, each.served - min(each.bound, high)) for each in present)
    free = max(0, shards - sum(each.served for each in present))
    served = {each.holder: each.served for each in present}
    least = {each.holder: min(each.bound, low) for each in present}
    for _ in range(max(lacking, surplus) - free):
        giver = max(served, key=lambda name: (served[name] - least[name], name))
        if served[giver] <= least[giver]:
            break
        served[giver] -= 1
    own = next(each for each in present if each.holder == holder)
    limit = min(own.bound, low if lacking else high)
    return Share(takes=min(limit, own.served + free), gives=own.served - served[holder])


def _levels(bounds: Sequence[int], shards: int) -> tuple[int, int]:
    """How many shards each relay has at least, and at most, unless its bound is lower."""
    left = shards
    for number, bound in enumerate(sorted(bounds)):
        sharing = len(bounds) - number
        if bound * sharing > left:
            return left // sharing, -(-left // sharing)
        left -= bound
    return shards, shards
