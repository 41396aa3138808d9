"""A relay: serves every shard of a bus, its stages in order, and behind the last one each subscription.

    shard → stage → outlet → stage → outlet → subscriptions

Each of them under a lease of its own, so that any number of relays may run: what one of them serves the others wait
for, and each comes to its share (`balancer.py`). Where the bus has other shards by now, all is handed over, and begun
again with those. It contains whatever the bus throws.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.worker.containment import contained
from eventrec.delivery.worker.outcome import error_text
from eventrec.delivery.worker.retry import Pauses
from eventrec.errors import PauseError
from eventrec.relay.accounts import Tally, are_settled
from eventrec.relay.balancer import Balancer
from eventrec.relay.link import Link
from eventrec.relay.notices import SavedNotices
from eventrec.relay.phases import Phases
from eventrec.relay.stage_part import StagePart
from eventrec.relay.subscription_part import SubscriptionPart
from eventrec.runtime.logging import get_logger
from eventrec.runtime.starting import when_begun
from eventrec.status import PhaseTime, RelayPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from eventrec.bus.bus import Bus, Shard
    from eventrec.bus.stage import Stage
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.shared_handler import SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.worker.worker import Worker
    from eventrec.relay.options import RelayOptions
    from eventrec.relay.part import Part
    from eventrec.status import SubscriptionStatus

_logger = get_logger("eventrec.relay")

_LONGEST_PAUSE: Final = 10.0
_CLOSE_SECONDS: Final = 0.3
_FLUSH_POLL: Final = 0.05


def new_holder() -> str:
    """Who this is, for operators: unlike any other, also of this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Relay:
    """Delivers `bus` through `stages` to `subscriptions`. For the loop's thread, but `status` and `phases`."""

    def __init__(
        self,
        bus: Bus,
        stages: Sequence[Stage],
        options: RelayOptions,
        *,
        subscriptions: Iterable[Subscription],
        handlers: Mapping[str, SharedHandler],
        letters: DeadLetters,
        on_drop: Callable[[str, int], None],
        on_rewind: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._stages = stages
        self._options = options
        self._subscriptions = list(subscriptions)
        self._handlers = handlers
        self._letters = letters
        self._on_drop = on_drop
        self._on_rewind = on_rewind
        self._phases = Phases()
        self._opening = anyio.Lock()
        self._opened = 0
        self._must_open = False
        self._is_begun = False
        self._is_done = anyio.Event()
        self._closing = anyio.Event()
        self._holder = new_holder()
        self._link = self._new_link()
        self._sources: list[Shard] = []
        self._parts: list[Part] = []
        self._former: dict[str, Tally] = {}
        """What was done for each subscription on shards that the bus has no more."""
        self._trouble: Exception | None = None

    def __repr__(self) -> str:
        return f"<Relay {self._holder} {self._parts}>"

    def _new_link(self) -> Link:
        return Link(self._holder, self._options, self._phases, self._reopen, self._note_other_shards)

    # -- the account

    def status(self) -> list[RelayPart]:
        """What it does, part by part."""
        parts = [part.status() for part in self._parts]
        if not parts and self._trouble is not None:
            state = "holding" if isinstance(self._trouble, PauseError) else "retrying"
            said = error_text(self._trouble)
            is_held = state == "holding"
            parts = [RelayPart("bus", "relay", "bus", f"{state}: {said}", healthy=False, held=is_held, last_error=said)]
        return parts

    def phases(self) -> dict[str, PhaseTime]:
        """What each phase took."""
        return self._phases.times()

    def shares(self, name: str) -> list[SubscriptionStatus]:
        """What this process did, and has to do, for the subscription `name`."""
        former = self._former.get(name, Tally()).total
        now = [share for part in self._serving(name) for share in part.shares()]
        return now if former is None else [former, *now]

    def now(self, name: str) -> list[SubscriptionStatus]:
        """How the logs are doing that are delivered to it now."""
        return [part.delivery.status() for part in self._serving(name) if part.delivery is not None]

    def _serving(self, name: str) -> list[SubscriptionPart]:
        return [part for part in self._parts if isinstance(part, SubscriptionPart) and part.subscription == name]

    def workers(self) -> list[Worker]:
        """Those that deliver now."""
        found = [part.delivery for part in self._parts if isinstance(part, SubscriptionPart)]
        return [each.worker for each in found if each is not None]

    # -- its life

    async def run(self) -> None:
        """Serve until cancelled, or until all was handed over. May be called again."""
        self._is_begun = True
        pauses = Pauses(limit=_LONGEST_PAUSE)
        while not self._closing.is_set():
            await self._open_patiently()
            if not self._parts:
                self._parts = [part for shard in self._sources for part in self._of(shard)]
            await self._serve()
            if not self._closing.is_set():
                self._begin_again()
                with anyio.move_on_after(pauses.next()):
                    await self._closing.wait()
        self._is_done.set()

    async def _serve(self) -> None:
        """Until all parts have handed over."""
        async with anyio.create_task_group() as balancers:
            for balancer in self._link.balancers.values():
                name = f"eventrec share of {balancer.subscription}"
                balancers.start_soon(when_begun(balancer.run), name=name)
            async with anyio.create_task_group() as parts:
                for part in self._parts:
                    parts.start_soon(when_begun(part.run), name=f"eventrec relay {part.subscription}")
            balancers.cancel_scope.cancel()

    def _note_other_shards(self, exc: Exception) -> None:
        if not self._link.closing.is_set():
            _logger.warning("shards changed", error=error_text(exc))
            self._hand_over_all()

    def _begin_again(self) -> None:
        """With the shards that the bus has now."""
        for part in self._parts:
            if isinstance(part, SubscriptionPart):
                for share in part.shares():
                    self._former.setdefault(part.subscription, Tally()).add(share)
        self._parts, self._sources, self._link = [], [], self._new_link()

    async def _open_patiently(self) -> None:
        pauses, said = Pauses(limit=_LONGEST_PAUSE), ""
        while not self._closing.is_set():
            try:
                with contained(also_cancellations=False):
                    await self._bus.close()
                    await self._bus.open()
                    self._sources = list(await self._bus.shards())
            except Exception as exc:  # noqa: BLE001 - whatever a bus throws: it is tried again
                self._trouble = exc
                if said != error_text(exc):
                    said = error_text(exc)
                    _logger.warning("bus not opened", error=said)
                with anyio.move_on_after(pauses.next()):
                    await self._closing.wait()
            else:
                if said:
                    _logger.info("bus opened")
                self._trouble = None
                return

    async def _reopen(self, *, is_needed: bool) -> None:
        """Once for all parts that ask for it at the same time; also where it is not needed, but failed before."""
        before = self._opened
        async with self._opening:
            if (is_needed and self._opened == before) or self._must_open:
                self._opened += 1
                self._must_open = True
                await self._bus.close()
                await self._bus.open()
                self._must_open = False

    def _of(self, shard: Shard) -> list[Part]:
        parts: list[Part] = []
        for stage in self._stages:
            parts.append(self._balanced(StagePart(shard, self._link, stage)))
            shard = shard.outlet(stage.name)
        for subscription in self._subscriptions:
            notices = None
            if self._options.project is not None:
                notices = SavedNotices(shard, subscription.name, self._options.project)
            part = SubscriptionPart(
                shard,
                self._link,
                subscription=subscription,
                handler=self._handlers[subscription.name],
                letters=self._letters,
                on_drop=self._on_drop,
                on_rewind=self._on_rewind,
                notices=notices,
            )
            parts.append(self._balanced(part))
        return parts

    def _balanced(self, part: Part) -> Part:
        name, link = part.subscription, self._link
        if name not in link.balancers:
            link.balancers[name] = Balancer(
                self._bus, name, self._holder, self._options, on_shards_changed=link.on_shards_changed
            )
        link.balancers[name].add(part)
        return part

    async def hand_over(self) -> None:
        """Deliver what is in hand, save, and give back all leases: the next relay goes on at once."""
        self._closing.set()
        self._hand_over_all()
        if self._is_begun:
            await self._is_done.wait()

    def _hand_over_all(self) -> None:
        self._link.closing.set()
        for part in self._parts:
            part.hand_over()

    async def end(self) -> None:
        """Disconnect."""
        self._closing.set()
        self._hand_over_all()
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            try:
                await self._bus.close()
            except Exception as exc:  # noqa: BLE001 - at the end of its life
                _logger.info("bus failed to close", error=error_text(exc))

    # -- what operators and applications ask of it

    def resume(self, name: str) -> None:
        """Whatever waits after an error tries again at once: stages too, on which all depends."""
        for part in self._parts:
            if part.kind == "stage" or part.subscription == name:
                part.resume()

    async def flush(self) -> bool:
        """True once all that the bus held is settled, by whichever relays; False where a part of ours is held."""
        while not self._parts:
            if self._closing.is_set() or isinstance(self._trouble, PauseError):
                return False
            await anyio.sleep(_FLUSH_POLL)
        for source in self._sources:
            shard = source
            for stage in self._stages:
                if not await self._settled(shard, [f"stage:{stage.name}"]):
                    return False
                shard = shard.outlet(stage.name)
            if not await self._settled(shard, [each.name for each in self._subscriptions]):
                return False
        return True

    async def _settled(self, shard: Shard, names: Sequence[str]) -> bool:
        ends: Mapping[UUID, int] | None = None
        while True:
            if any(part.is_held for part in self._parts) or any(worker.is_held for worker in self.workers()):
                return False
            with suppress(Exception):  # which the parts say
                logs = await shard.logs()
                ends = {log.id: log.end for log in logs} if ends is None else ends
                for part in self._parts:
                    if isinstance(part, SubscriptionPart) and part.shard.name == shard.name and part.delivery:
                        part.delivery.worker.hurry(part.delivery.source.end)
                if are_settled(ends, logs, await shard.subscriptions(), names):
                    return True
            await anyio.sleep(_FLUSH_POLL)

    def abandon(self) -> None:
        """In the child of a fork: never use what is the parent's."""
        for worker in self.workers():
            worker.abandon()
