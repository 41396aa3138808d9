"""One thing that a relay does on a shard, under a lease: whatever goes wrong with it, the others go on.

    acquire    wait while another relay serves it, or is to have it (`balancer.py`)
    serve      what the part is for; the lease is renewed at a third of its time, and lost where that fails for so long
    let go     released when closing, or when another relay is to have it, so that the next takes over at once; where it
               was lost, everything is dropped

An error ends in the part's state, is said once, and tried again after a pause that grows.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio

from eventrec.delivery.worker.containment import contained
from eventrec.delivery.worker.outcome import error_text
from eventrec.errors import DeliveryError, LeaseLostError, ShardsChangedError
from eventrec.relay.held_lease import HeldLease
from eventrec.relay.troubles import Troubles
from eventrec.runtime.logging import get_logger
from eventrec.runtime.starting import when_begun
from eventrec.status import RelayPart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.bus.bus import Lease, Shard
    from eventrec.relay.balancer import Balancer
    from eventrec.relay.link import Link

_logger = get_logger("eventrec.relay")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_LET_GO_SECONDS: Final = 0.3
"""How long letting go may take: a bus that is out of reach takes back no lease."""

_LOOK_SECONDS: Final = 1.0
"""How often it is asked for a lease that another relay has, at least."""


class Part(ABC):
    """For the loop's thread, but `status`."""

    kind: Literal["subscription", "stage"]

    def __init__(self, shard: Shard, subscription: str, link: Link) -> None:
        self.shard = shard
        self.subscription = subscription
        self.link = link
        self.is_held = False
        """An operator has to act."""
        self.is_failing = False
        self.last_error: str | None = None
        self._state = "starting"
        self._troubles = Troubles()
        self._interrupted = anyio.Event()
        self._leaving = anyio.Event()
        self.held = HeldLease(shard, seconds=link.options.lease_seconds)
        self._holder = ""
        self._since: float | None = None
        self._leases_lost = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.subscription!r} on {self.shard.name!r} {self._state}>"

    @property
    def state(self) -> str:
        """In words: serving, `waiting: …` for another relay, `retrying: …`, `holding: …`."""
        return self._state

    @property
    def is_leaving(self) -> bool:
        """Whether what is in hand is to be settled, and nothing else begun."""
        return self._leaving.is_set()

    @property
    def can_hand_over(self) -> bool:
        """Whether what it has in hand will be settled soon."""
        return not self.is_failing

    @abstractmethod
    def status(self) -> RelayPart:
        """For operators. From any thread."""

    def hand_over(self) -> None:
        """Settle what is in hand, and give the lease back: another relay is to have it, or this one closes."""
        self._leaving.set()

    def _told(self, **more: Any) -> RelayPart:
        """What all parts tell, and `more`."""
        is_ours = self._since is not None
        return RelayPart(
            shard=self.shard.name,
            name=self.subscription,
            kind=self.kind,
            state=self.state,
            healthy=not self.is_failing,
            held=self.is_held,
            last_error=self.last_error,
            holder=self._holder,
            since=self._since,
            lease_seconds=self.held.seconds_left if is_ours else None,
            leases_lost=self._leases_lost,
            **more,
        )

    def resume(self) -> None:
        """An operator acted: try again at once."""
        if self.is_held:
            self._become("resuming")
        interrupted, self._interrupted = self._interrupted, anyio.Event()
        interrupted.set()

    # -- its state

    def note_serving(self) -> None:
        """It goes through."""
        if self._troubles.were_said:
            _logger.info("relay goes on", subscription=self.subscription, shard=self.shard.name)
        self._become("serving")

    def note_trouble(self, exc: Exception, *, of: str = "serving") -> None:
        """What `of` names failed, until `note_through` is told the same; several may, and each error is said once."""
        self.last_error = error = error_text(exc)
        if self._troubles.note(of, exc):
            _logger.warning("relay interrupted", subscription=self.subscription, shard=self.shard.name, error=error)
        self._state, self.is_held, self.is_failing = self._troubles.state, self._troubles.is_held, True

    def note_through(self, *of: str) -> None:
        """What these name works, or is over."""
        if not self._troubles.end(of):
            return
        if self._troubles:
            self._state, self.is_held = self._troubles.state, self._troubles.is_held
        else:
            self.note_serving()

    def _note_waiting(self, why: str) -> None:
        if self._state != why:
            _logger.info("relay waits", subscription=self.subscription, shard=self.shard.name, why=why)
        self._become(why)

    def _become(self, state: str) -> None:
        self._troubles.clear()
        self._state, self.is_held, self.is_failing = state, False, False

    # -- its life

    async def run(self) -> None:
        """Serve until closing, whatever is thrown meanwhile."""
        grown = 0.0
        while not self.link.closing.is_set():
            began = anyio.current_time()
            pause = 0.0
            try:
                with contained(also_cancellations=False):
                    await self._serve_once()
            except LeaseLostError as exc:
                self._leases_lost += 1
                _logger.warning(
                    "lease lost", subscription=self.subscription, shard=self.shard.name, why=error_text(exc)
                )
                self._note_waiting("waiting: the lease was lost")
                pause = min(_LOOK_SECONDS, self.link.options.lease_seconds / 3)
            except ShardsChangedError as exc:
                self.link.on_shards_changed(exc)
                pause = _LOOK_SECONDS
            except Exception as exc:  # noqa: BLE001 - of this part alone
                self.note_trouble(exc)
                pause = grown = min(max(2 * grown, _FIRST_PAUSE), _LONGEST_PAUSE)
                await self._reopen(is_needed=not isinstance(exc, DeliveryError))
            if anyio.current_time() - began > 2 * _LONGEST_PAUSE:
                grown = 0.0
            await self.sleep(pause)

    async def _reopen(self, *, is_needed: bool) -> None:
        try:
            with contained(also_cancellations=False):
                await self.link.reopen(is_needed=is_needed)
        except Exception as exc:  # noqa: BLE001 - it is tried again
            self.note_trouble(exc)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, or when leaving, or as soon as an operator acts."""
        interrupted = self._interrupted
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:

                async def until(event: anyio.Event) -> None:
                    await event.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(when_begun(until, interrupted))
                tasks.start_soon(when_begun(until, self._leaving))

    async def unless_leaving(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, or what of it is done when leaving. What it raises comes out."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await self._leaving.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(when_begun(end))
            try:
                await work()
            except Exception as exc:  # noqa: BLE001 - raised below, out of the group
                failure = exc
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _serve_once(self) -> None:
        """Serve under a lease until leaving; or wait a little where another relay has it, or is to have it."""
        balancer = self.link.balancers[self.subscription]
        may_ask = False

        async def permit() -> None:
            nonlocal may_ask
            if balancer.is_full and not self._state.startswith("waiting"):
                self._note_waiting("waiting: this relay serves as many shards as it may")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(when_begun(self._say_for_whom, balancer))
                await balancer.permit(self)
                tasks.cancel_scope.cancel()
            may_ask = True

        await self.unless_leaving(permit)
        if not may_ask:
            return
        is_served = False
        try:
            is_served = await self._serve_leased(balancer)
        finally:
            balancer.settle(self)
            if not self.link.closing.is_set():
                self._leaving = anyio.Event()
        if not is_served:
            await self.sleep(min(_LOOK_SECONDS, self.link.options.lease_seconds / 3))
        elif not self.link.closing.is_set():
            self._note_waiting("waiting: handed over, so that relays have equal shares")

    async def _say_for_whom(self, balancer: Balancer) -> None:
        """That it waits, where it may not even ask for its lease: it is in another relay's share."""
        await balancer.looked.wait()
        if not self._state.startswith(("waiting", "retrying", "holding")):
            with suppress(Exception):  # which the part meets once it asks
                self._holder = await self._holder_of_lease()
            self._note_waiting(f"waiting: {self._holder or 'another relay'} serves it")

    async def _holder_of_lease(self) -> str:
        held = await self.shard.subscriptions()
        return next((each.holder for each in held if each.subscription == self.subscription), "")

    async def _serve_leased(self, balancer: Balancer) -> bool:
        """False: another relay has the lease."""
        seconds = self.link.options.lease_seconds
        asked = anyio.current_time()
        lease = await self.shard.acquire(self.subscription, self.link.holder, seconds=seconds)
        if lease is None:
            self._holder = await self._holder_of_lease()
            self._note_waiting(f"waiting: {self._holder or 'another relay'} serves it")
            return False
        is_lost = False
        self._holder, self._since = self.link.holder, time.time()
        try:
            balancer.note_served(self)
            self.held.note(asked)
            await self._serve_while_held(lease)
        except LeaseLostError:
            is_lost = True
            raise
        finally:
            self._holder, self._since = "", None
            if not is_lost:
                with anyio.move_on_after(_LET_GO_SECONDS, shield=True):
                    await self._release(lease)
        return True

    async def _release(self, lease: Lease) -> None:
        try:
            await self.shard.release(lease)
        except Exception as exc:  # noqa: BLE001 - it runs out by itself
            _logger.info("lease not released", subscription=self.subscription, error=error_text(exc))

    async def _serve_while_held(self, lease: Lease) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def contain(run: Callable[[], Awaitable[None]]) -> None:
                nonlocal failure
                try:
                    with contained(also_cancellations=False):
                        await run()
                except Exception as exc:  # noqa: BLE001 - raised below, out of the group
                    failure = failure or exc
                tasks.cancel_scope.cancel()

            async def keep() -> None:
                await self.held.keep(lease)

            async def serve() -> None:
                await self.serve(lease)

            async def hand_over() -> None:
                await self._leaving.wait()
                await anyio.sleep(self.link.options.lease_seconds)
                if self.link.closing.is_set():  # for which the recorder has a time of its own
                    await anyio.sleep_forever()

            tasks.start_soon(when_begun(contain, keep), name=f"eventrec lease of {self.subscription}")
            tasks.start_soon(when_begun(contain, hand_over))
            tasks.start_soon(when_begun(contain, serve), name=f"eventrec relay {self.subscription}")
        if failure is not None:
            raise failure

    @abstractmethod
    async def serve(self, lease: Lease) -> None:
        """Do what it is for, until leaving; it is cancelled where the lease is lost. What it raises is contained."""
