"""The life of a recorder that is a relay: its own log as in any recorder, and beside it a bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.relay.accounts import summed
from eventrec.relay.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.delivery.subscription import NewDestination
    from eventrec.delivery.worker.worker import Worker
    from eventrec.relay.plan import RelayPlan
    from eventrec.runs.requests import OperatorRequest
    from eventrec.status import PhaseTime, RelayPart, SubscriptionStatus


class RelaySupervisor(LogSupervisor):
    """As `LogSupervisor`, with what `plan` says."""

    def __init__(self, plan: RelayPlan, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._relay = Relay(
            plan.bus(),
            plan.stages,
            plan.options,
            subscriptions=self._subscriptions,
            handlers=self._handlers,
            letters=self._letters,
            on_drop=self._drops.note,
            on_rewind=self._retained.note_rewind,
        )

    # -- the account

    def status(self) -> dict[str, SubscriptionStatus]:
        return {
            name: summed(own, self._relay.shares(name), self._relay.now(name)) for name, own in super().status().items()
        }

    def relay(self) -> list[RelayPart]:
        return self._relay.status()

    def phases(self) -> dict[str, PhaseTime]:
        return self._relay.phases()

    # -- its life

    def _delivered_beside(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {"relay": self._relay.run}

    async def flush(self) -> bool:
        return await super().flush() and await self._relay.flush()

    async def _settle_others(self) -> None:
        await self._relay.hand_over()
        await super()._settle_others()

    async def _let_go(self) -> None:
        await self._relay.end()
        await super()._let_go()

    def abandon(self) -> None:
        super().abandon()
        self._relay.abandon()

    def _all_workers(self) -> list[Worker]:
        return [*super()._all_workers(), *self._relay.workers()]

    # -- what operators ask for

    def resume(self, name: str, start: NewDestination | None = None) -> None:
        super().resume(name, start)
        for worker in self._relay.workers():
            if worker.name == name:
                worker.resume(start)
        self._relay.resume(name)

    def _apply(self, request: OperatorRequest) -> bool:
        applied = [worker.apply(request) for worker in self._relay.workers() if worker.name == request.subscription]
        self._relay.resume(request.subscription)
        return super()._apply(request) or any(applied)
