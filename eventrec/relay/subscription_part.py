"""Delivers the logs of one shard to one subscription: the oldest first, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.relay.accounts import Tally, share
from eventrec.relay.delivery import BusDelivery
from eventrec.relay.kept import decode_checkpoint, encode_checkpoint
from eventrec.relay.part import Part
from eventrec.runs.checkpoint import Checkpoint, Progress
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from eventrec.bus.bus import Lease, LogBounds, Shard
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.shared_handler import SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.records.batch import Batch
    from eventrec.relay.link import Link
    from eventrec.relay.notices import SavedNotices
    from eventrec.status import RelayPart, SubscriptionStatus

_LOOK_SECONDS: Final = 0.25
"""How often a shard without a log to deliver is looked at."""


class SubscriptionPart(Part):
    """Of `shard`, or of the outlet of a stage."""

    kind = "subscription"

    def __init__(
        self,
        shard: Shard,
        link: Link,
        *,
        subscription: Subscription,
        handler: SharedHandler,
        letters: DeadLetters,
        on_drop: Callable[[str, int], None],
        on_rewind: Callable[[], None],
        notices: SavedNotices | None = None,
    ) -> None:
        super().__init__(shard, subscription.name, link)
        self.delivery: BusDelivery | None = None
        self._of = subscription
        self._handler = handler
        self._letters = letters
        self._on_drop = on_drop
        self._on_rewind = on_rewind
        self._notices = notices
        self._tally = Tally()
        self._is_new: bool | None = None
        """Whether the bus did not know the subscription before this part came; None: that is not known yet."""

    @property
    def can_hand_over(self) -> bool:
        """Not while its destination takes nothing: no other relay would get further."""
        return super().can_hand_over and (self.delivery is None or not self.delivery.worker.is_failing)

    # -- the account

    def shares(self) -> list[SubscriptionStatus]:
        """What this process did, and has to do."""
        delivery, over = self.delivery, self._tally.total
        now = [] if delivery is None else [share(delivery.status(), delivery.began)]
        return [*([] if over is None else [over]), *now]

    def status(self) -> RelayPart:
        delivery = self.delivery
        account = None if delivery is None else delivery.status()
        return self._told(
            pending=0 if account is None else account.pending,
            log=None if delivery is None else str(delivery.source.id),
            account=account,
            remark=self._remark(account),
        )

    def _remark(self, account: SubscriptionStatus | None) -> str:
        days = self.link.options.days_to_keep
        oldest = None if account is None else account.oldest_pending
        return f"records wait for more than {days} days" if oldest is not None and oldest > days * 86_400 else ""

    # -- serving

    async def run(self) -> None:
        if self._notices is None:
            await super().run()
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._notices.run), name=f"eventrec notices of {self.subscription}")
            await super().run()
            tasks.cancel_scope.cancel()

    async def _serve_once(self) -> None:
        if self._is_new is None:
            self._is_new = await self._scanned() is None
        await super()._serve_once()

    async def serve(self, lease: Lease) -> None:
        kept = await self.shard.load(lease)
        checkpoints = {log_id: decode_checkpoint(content, self._of.name, log_id) for log_id, content in kept.items()}
        settled = await self._scanned() or {}
        while not self.is_leaving:
            logs = await self.shard.logs()
            if self._is_new:
                for bounds in logs:
                    await self._join(lease, bounds, checkpoints)
                self._is_new = False
            self.note_serving()
            begins = {each.id: each.oldest if each.id in settled else 0 for each in logs}
            oldest = next((each for each in logs if not _is_done(each, checkpoints.get(each.id), begins)), None)
            if oldest is None:
                await self.sleep(_LOOK_SECONDS)
            else:
                await self._deliver(lease, oldest, checkpoints, begins[oldest.id])

    async def _scanned(self) -> Mapping[UUID, int] | None:
        """What the bus has of it as settled, by log, with a checkpoint or without; None: the bus does not know it."""
        held = await self.shard.subscriptions()
        return next((each.scanned for each in held if each.subscription == self.subscription), None)

    async def _deliver(self, lease: Lease, bounds: LogBounds, checkpoints: dict[UUID, Checkpoint], begin: int) -> None:
        delivery = BusDelivery(
            self,
            lease,
            bounds,
            subscription=self._of,
            handler=self._handler,
            letters=self._letters,
            checkpoint=checkpoints.get(bounds.id),
            begin=begin,
            on_drop=self._on_drop,
            on_rewind=self._on_rewind,
            on_handled=_nothing if self._notices is None else self._notices.add,
        )
        self.delivery = delivery
        try:
            await delivery.run()
        finally:
            checkpoints[bounds.id] = delivery.worker.checkpoint()
            over = share(delivery.status(), delivery.began, is_over=True)
            self.delivery = None
            self._tally.add(over)

    async def _join(self, lease: Lease, bounds: LogBounds, checkpoints: dict[UUID, Checkpoint]) -> None:
        """What was gone of a log before the subscription is not lost to it; what is there may be not new to it.

        Of any other log it is owed all: what it does not find of it is.
        """
        at = bounds.end if self._of.start == "latest" else bounds.oldest
        if at and bounds.id not in checkpoints:
            checkpoint = Checkpoint(subscription=self._of.name, progress=Progress(at, at, at))
            await self.shard.save(lease, bounds.id, scanned=at, content=encode_checkpoint(checkpoint))
            checkpoints[bounds.id] = checkpoint


def _is_done(bounds: LogBounds, checkpoint: Checkpoint | None, begins: Mapping[UUID, int]) -> bool:
    """Whether nothing of a log is to be delivered, or told as lost, any more."""
    scanned = begins[bounds.id] if checkpoint is None else checkpoint.progress.scanned
    return not bounds.is_live and scanned >= bounds.end


def _nothing(_: Batch) -> None:
    """No listener is told."""
