"""Makes the delivery of each log of a recorder: its own, those that others left, those that others write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from eventrec.delivery.following.followed_delivery import FollowedDelivery
from eventrec.delivery.log_delivery import LogDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from uuid import UUID

    from eventrec.delivery.delivered_log import DeliveredLog
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.orphans.opened_orphan import OpenedOrphan
    from eventrec.delivery.shared_handler import FailedBatch, SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.runs.followed import FollowedRun
    from eventrec.runs.retention import Retain
    from eventrec.runs.run import Run

_D = TypeVar("_D", bound=LogDelivery)


class Deliveries:
    """What all deliveries of one recorder have in common; see `LogDelivery` for each."""

    def __init__(
        self,
        subscriptions: Iterable[Subscription],
        *,
        handlers: Mapping[str, SharedHandler],
        letters: DeadLetters,
        on_drop: Callable[[str, int], None],
        sync: Literal["interval", "never", "take"],
        sync_interval: float,
        retain: Retain,
        on_rewind: Callable[[], None],
        failed: Callable[[UUID, str], FailedBatch | None],
    ) -> None:
        self._subscriptions = list(subscriptions)
        self._handlers = handlers
        self._letters = letters
        self._on_drop = on_drop
        self._sync: Literal["interval", "never", "take"] = sync
        self._sync_interval = sync_interval
        self._retain = retain
        self._on_rewind = on_rewind
        self._failed = failed

    def of_our_own(self, run: Run, log: DeliveredLog) -> LogDelivery:
        """That of the log that this recorder writes."""
        return self._make(LogDelivery, run, log, None, self._subscriptions)

    def of_orphan(self, run: Run, opened: OpenedOrphan) -> LogDelivery:
        """That of a log that an earlier run left, and whose lock is ours."""
        return self._make(LogDelivery, run, opened.log, opened, self._subscriptions)

    def of_followed(self, run: FollowedRun, opened: OpenedOrphan, names: Collection[str]) -> FollowedDelivery:
        """That of a log that another process writes, for the subscriptions `names`."""
        subscriptions = [each for each in self._subscriptions if each.name in names]
        return self._make(FollowedDelivery, run, opened.log, opened, subscriptions)

    def _make(
        self,
        kind: type[_D],
        run: Run,
        log: DeliveredLog,
        opened: OpenedOrphan | None,
        subscriptions: Iterable[Subscription],
    ) -> _D:
        return kind(
            run,
            log,
            opened=opened,
            subscriptions=subscriptions,
            handlers=self._handlers,
            letters=self._letters,
            on_drop=self._on_drop,
            sync=self._sync,
            sync_interval=self._sync_interval,
            retain=self._retain,
            on_rewind=self._on_rewind,
            failed=self._failed,
        )
