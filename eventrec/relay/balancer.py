"""One subscription's shards among relays that do not know of each other but by the bus: each comes to its share.

    look      tell the others how many shards are served here, and hear the same of them: one call, whatever there is
    take      parts ask for leases while the share is not full, each in its turn
    give      where others lack some, as many parts as the share says end in good order, and their leases are free

Nothing is given before two looks in a row say so, nor again within the time of a lease: relays that see different
things for a moment, or start and end in quick turns, move nothing back and forth. A share is not a right: a shard that
no relay serves for several times a lease, whatever the others say of themselves, is asked for beyond it.
"""

from __future__ import annotations

import math
from collections import deque
from random import uniform
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from eventrec.bus.bus import Presence
from eventrec.delivery.worker.containment import contained
from eventrec.delivery.worker.outcome import error_text
from eventrec.errors import ShardsChangedError
from eventrec.relay.share import share_of
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.bus.bus import Bus
    from eventrec.relay.options import RelayOptions

_logger = get_logger("eventrec.relay")

_LOOKS_PER_LEASE: Final = 3
_LOOK_SECONDS: Final = 1.0
"""Between two looks at most: what another relay gives back is not left lying."""

_CONFIRM_PER_LEASE: Final = 12
"""How soon after a look that says that some are to be given the next one is."""

_JITTER: Final = 0.2
_BETWEEN_LOOKS: Final = 0.05
"""Seconds between two looks at least, whatever changes."""

_PATIENCE_LEASES: Final = 3
_MAX_PATIENCE_FACTOR: Final = 8
"""Of so many times as much: where what was taken beyond the share was given back."""

_LEAVE_SECONDS: Final = 0.3


class Served(Protocol):
    """A part, as far as its balancer knows it."""

    @property
    def is_failing(self) -> bool:
        """Whether it does not go through."""

    @property
    def can_hand_over(self) -> bool:
        """Whether what it has in hand will be settled soon."""

    def hand_over(self) -> None:
        """Settle what is in hand, and end the lease."""


class Balancer:
    """The shards of `subscription`, of which this relay, `holder`, serves some. For the loop's thread.

    `on_shards_changed` is called where the bus has other ones by now.
    """

    def __init__(
        self,
        bus: Bus,
        subscription: str,
        holder: str,
        options: RelayOptions,
        *,
        on_shards_changed: Callable[[Exception], object],
    ) -> None:
        self.subscription = subscription
        self._bus = bus
        self._holder = holder
        self._lease_seconds = options.lease_seconds
        self._max_shards = options.max_shards
        self._on_shards_changed = on_shards_changed
        self._parts: list[Served] = []
        self._served: dict[Served, bool] = {}
        """In the order in which they were acquired, with whether they are to be given to others."""
        self._asking: set[Served] = set()
        self._waiting: deque[tuple[Served, anyio.Event]] = deque()
        self._takes = 0
        self._patience = _PATIENCE_LEASES * options.lease_seconds
        self._is_beyond = False
        self._changed = anyio.Event()
        self._said = ""
        self.looked = anyio.Event()
        """Set once it is known which relays there are, and parts that may ask for their lease were told so."""

    def __repr__(self) -> str:
        return f"<Balancer {self.subscription!r} {len(self._kept)} of {self._takes}, {len(self._parts)} shards>"

    @property
    def _kept(self) -> list[Served]:
        return [part for part, is_given in self._served.items() if not is_given]

    @property
    def bound(self) -> int:
        """How many shards it can serve: parts that fail without a lease cannot."""
        able = sum(part in self._served or not part.is_failing for part in self._parts)
        return able if self._max_shards is None else min(able, self._max_shards)

    @property
    def is_full(self) -> bool:
        """Whether it serves as many as it may, whatever the others do."""
        return self._max_shards is not None and len(self._served) + len(self._asking) >= self._max_shards

    def add(self, part: Served) -> None:
        """One more shard, before anything runs."""
        self._parts.append(part)

    # -- what parts ask

    async def permit(self, part: Served) -> None:
        """Return once `part` may ask for its lease: in turn, so that none is asked for twice before all others were.

        One that fails is not part of the share (`bound`): it tries again by its own pauses. `settle` has to follow,
        whatever comes of it; not where this is cancelled.
        """
        if part.is_failing and not self.is_full:
            self._asking.add(part)
            return
        turn = part, anyio.Event()
        self._waiting.append(turn)
        self._admit()
        try:
            while not turn[1].is_set():
                with anyio.move_on_after(self._patience * uniform(1.0, 1.0 + _JITTER)):  # noqa: S311 - a pause
                    await turn[1].wait()
                if not turn[1].is_set() and not self.is_full:
                    self._waiting.remove(turn)
                    self._asking.add(part)
                    return
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self.settle(part)
            raise

    def note_served(self, part: Served) -> None:
        """`part` has its lease."""
        self._asking.discard(part)
        self._served[part] = False
        self._is_beyond = len(self._kept) > self._takes
        self._changed.set()

    def settle(self, part: Served) -> None:
        """`part` asks no more, or has no lease any more."""
        self._asking.discard(part)
        if self._served.pop(part, None) is not None:
            self._changed.set()
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._kept) + len(self._asking) < self._takes and not self.is_full:
            part, may = self._waiting.popleft()
            self._asking.add(part)
            may.set()

    # -- looks

    async def run(self) -> None:
        """Look, until cancelled; then tell the others that this relay is gone."""
        try:
            await self._look_again_and_again()
        finally:
            with anyio.move_on_after(_LEAVE_SECONDS, shield=True):
                await self._announced(seconds=0.0)

    async def _look_again_and_again(self) -> None:
        gave_at, last_gives = -math.inf, 0
        while True:
            self._changed = anyio.Event()
            present = await self._announced(seconds=self._lease_seconds)
            share = share_of(self._holder, present, len(self._parts))
            self._takes = share.takes
            self._admit()
            self.looked.set()
            gives = min(share.gives, last_gives)
            if gives and anyio.current_time() - gave_at >= self._lease_seconds and self._give(gives):
                gave_at = anyio.current_time()
            last_gives = share.gives
            await anyio.sleep(min(_BETWEEN_LOOKS, self._lease_seconds / _CONFIRM_PER_LEASE))
            pause = min(_LOOK_SECONDS, self._lease_seconds / (_CONFIRM_PER_LEASE if last_gives else _LOOKS_PER_LEASE))
            with anyio.move_on_after(pause * uniform(1.0 - _JITTER, 1.0 + _JITTER)):  # noqa: S311 - a pause
                await self._changed.wait()

    async def _announced(self, *, seconds: float) -> list[Presence]:
        """Those that are there now. Where the bus does not say, this one alone: then the leases decide."""
        own = Presence(self._holder, len(self._kept), self.bound)
        found: list[Presence] = []
        try:
            with contained(also_cancellations=False):
                found = list(await self._bus.announce(self.subscription, own, seconds=seconds))
        except ShardsChangedError as exc:
            self._on_shards_changed(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a bus throws: the parts meet it too
            if self._said != error_text(exc):
                self._said = error_text(exc)
                _logger.info("relays not heard of", subscription=self.subscription, error=self._said)
        else:
            self._said = ""
        return [own, *(each for each in found if each.holder != self._holder)]

    def _give(self, count: int) -> bool:
        """Whether any was given: those that were acquired last, of which nothing is held up."""
        given = [part for part in reversed(self._kept) if part.can_hand_over][:count]
        for part in given:
            _logger.info("shard handed over", subscription=self.subscription, shard=repr(part))
            self._served[part] = True
            part.hand_over()
        if given and self._is_beyond:
            self._is_beyond = False
            self._patience = min(2 * self._patience, _MAX_PATIENCE_FACTOR * _PATIENCE_LEASES * self._lease_seconds)
        self._changed.set()
        return bool(given)
