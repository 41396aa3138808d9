"""Claims about relays that hear of each other through a bus, by its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.bus import Presence
from eventrec.testing.bus_conformance.claim import LONG, BusClaims, claim, opened

if TYPE_CHECKING:
    from eventrec.bus import Bus
    from eventrec.testing.bus_conformance.harness import BusHarness

ONE: Final = Presence("host:1", 3, 8)
OTHER: Final = Presence("größe 🙂", 0, 2)


async def heard(bus: Bus, subscription: str = "sqlite") -> set[Presence]:
    """Who is there, without one more."""
    return set(await bus.announce(subscription, Presence("listener", 0, 0), seconds=0.0))


class PresenceClaims(BusClaims):
    """Relays know how many they are, and what each of them serves."""

    @claim("presence")
    async def test_relays_of_a_subscription_hear_of_each_other(self, harness: BusHarness) -> None:
        async with opened(harness) as bus, opened(harness) as another:
            alone = await bus.announce("sqlite", ONE, seconds=LONG)
            both = await another.announce("sqlite", OTHER, seconds=LONG)
            elsewhere = await bus.announce("postgres", ONE, seconds=LONG)

        assert list(alone) == [ONE]
        assert {*both} == {ONE, OTHER}
        assert len(both) == 2
        assert list(elsewhere) == [ONE]

    @claim("presence")
    async def test_relay_is_there_for_as_long_as_it_said(self, harness: BusHarness) -> None:
        async with opened(harness) as bus:
            await bus.announce("sqlite", ONE, seconds=LONG)
            await bus.announce("sqlite", OTHER, seconds=harness.tick)
            await harness.advance(2 * harness.tick)

            assert await heard(bus) == {ONE}

    @claim("presence")
    async def test_what_a_relay_says_last_stands(self, harness: BusHarness) -> None:
        async with opened(harness) as bus:
            await bus.announce("sqlite", ONE, seconds=harness.tick)
            now = Presence(ONE.holder, 1, 2)
            await bus.announce("sqlite", now, seconds=LONG)
            await harness.advance(2 * harness.tick)

            assert await heard(bus) == {now}

    @claim("presence")
    async def test_relay_that_leaves_is_gone_at_once(self, harness: BusHarness) -> None:
        async with opened(harness) as bus:
            await bus.announce("sqlite", ONE, seconds=LONG)
            await bus.announce("sqlite", OTHER, seconds=LONG)

            left = await bus.announce("sqlite", ONE, seconds=0.0)

            assert list(left) == [OTHER]
            assert await heard(bus) == {OTHER}
