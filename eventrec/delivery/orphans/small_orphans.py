"""Small logs that earlier runs left, delivered by the group: many killed processes leave as many.

Each is read in one go, handed over as one batch to each subscription, and the whole group is deleted at once. That is
for what goes well. Where anything about a log, a destination or the disk is not as it mostly is, nothing is decided
here: what was delivered till then is saved, and `LogDelivery` delivers the rest, one log at a time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.shared_handler import FailedBatch
from eventrec.delivery.worker.containment import EndedFromWithinError, contained, in_own_task
from eventrec.delivery.worker.destination import destination_id_of, hand_over, next_offset_of
from eventrec.delivery.worker.piece import Piece
from eventrec.errors import EventrecError
from eventrec.records.entry import SHAPE
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress
from eventrec.runs.files import file_name
from eventrec.runs.holds import DESTINATION_CHANGED
from eventrec.runs.mirrors import Mirrors
from eventrec.runs.run import retire_all
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.shared_handler import SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.handler import DestinationCheckpoints, EventHandler
    from eventrec.runs.retention import Retain
    from eventrec.runs.small_log import SmallLog

_SLICE_SECONDS: Final = 0.001
"""How long the loop is kept before other tasks have it."""

_MAX_FAILED: Final = 1_000


class OddAnswerError(EventrecError):
    """A destination is not where the log's checkpoint says, or is another one: that takes a closer look."""


@dataclass(slots=True, eq=False)
class SmallOrphan:
    """One of a group.

    Attributes:
        checkpoints: How far each of our subscriptions is: what is saved of it where the log is not deleted.
        changed: Those that got something of it.
        is_stamped: Whether every destination remembers that the log is done.
    """

    log: SmallLog
    checkpoints: dict[str, Checkpoint]
    changed: set[str] = field(default_factory=set)
    is_stamped: bool = False

    @property
    def is_done(self) -> bool:
        """Whether no subscription needs anything of it any more."""
        return all(each.progress.scanned >= self.log.end for each in self.checkpoints.values())


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where a subscription's batches go, while it is our turn; `id` where it keeps checkpoints."""

    subscription: Subscription
    handler: EventHandler
    checkpoints: DestinationCheckpoints | None
    id: str | None


class SmallOrphans:
    """Delivers groups of small logs to `subscriptions`. For the loop's thread."""

    def __init__(
        self,
        subscriptions: Iterable[Subscription],
        handlers: Mapping[str, SharedHandler],
        letters: DeadLetters,
        *,
        retain: Retain,
    ) -> None:
        self._subscriptions = list(subscriptions)
        self._handlers = handlers
        self._letters = letters
        # What must be sent again as it was, if at all, is made durable first, each batch by itself; and what is
        # retained keeps its checkpoints.
        self._can = not retain and not any(handlers[each.name].knows_tokens for each in self._subscriptions)
        self._failed: dict[tuple[UUID, str], FailedBatch] = {}

    @property
    def may_begin(self) -> bool:
        """Whether all goes well: no destination is down, or refused a record lately."""
        outages = [self._handlers[each.name].outage for each in self._subscriptions]
        return self._can and bool(outages) and not any(each.since is not None or each.brake for each in outages)

    def failed(self, log_id: UUID, subscription: str) -> FailedBatch | None:
        """The batch of that log that failed here, if one did; forgotten with this."""
        return self._failed.pop((log_id, subscription), None)

    def plan(self, log: SmallLog, *, followers: Collection[str] = ()) -> SmallOrphan | None:
        """How `log` is to be delivered; None: not here.

        `followers` are the subscriptions, by the file of a checkpoint, for which live logs are followed: one without a
        checkpoint in it is to get it still.
        """
        ours = {each.name: self._checkpoint(each, log) for each in self._subscriptions}
        others = [each.progress.scanned for name, each in log.checkpoints.items() if name not in ours]
        planned = {name: each for name, each in ours.items() if each is not None}
        if not {file_name(name) for name in [*ours, *log.checkpoints]}.issuperset(followers):
            return None
        if len(planned) < len(ours) or min(others, default=log.end) < log.end:
            return None
        return SmallOrphan(log, planned)

    def _checkpoint(self, subscription: Subscription, log: SmallLog) -> Checkpoint | None:
        settings, name = subscription.settings, subscription.name
        is_small = len(log.entries) <= settings.batch_rows and log.size <= settings.batch_bytes
        if not is_small or self._letters.known(log.run.id, name):
            return None
        found = log.checkpoints.get(name)
        if found is None:
            new = Checkpoint(subscription=name, progress=Progress(log.first, log.first, log.first))
            return new if subscription.start == "earliest" else None
        progress = found.progress
        is_plain = found.attempt is None and log.first <= progress.acknowledged <= progress.scanned <= log.end
        return found if is_plain else None

    async def deliver(self, orphans: Sequence[SmallOrphan]) -> None:
        """Hand over what each of `orphans` lacks, and have the destinations remember those that are done.

        A subscription in which something goes wrong gets nothing more of them. That is not said here: a worker meets
        it again.
        """
        await self._all(orphans, self._hand_over)
        done = [each for each in orphans if each.is_done]
        for orphan in done[: await self._all(done, self._stamp)]:
            orphan.is_stamped = True

    async def _all(
        self, orphans: Sequence[SmallOrphan], work: Callable[[_Destination, SmallOrphan], Awaitable[None]]
    ) -> int:
        """Do `work` with each of them for every subscription; with how many it went well for all."""
        counts = [0] * len(self._subscriptions)

        async def each(at: int, subscription: Subscription) -> None:
            counts[at] = await self._each(subscription, orphans, work)

        async def alone(at: int, subscription: Subscription) -> None:
            with suppress(EndedFromWithinError):
                await in_own_task(partial(each, at, subscription), f"eventrec {subscription.name}, small logs")

        # A handler that hangs, or ends the task that it is called in, keeps nothing from another one.
        async with anyio.create_task_group() as tasks:
            for at, subscription in enumerate(self._subscriptions):
                tasks.start_soon(when_begun(alone, at, subscription))
        return min(counts)

    async def _each(
        self,
        subscription: Subscription,
        orphans: Sequence[SmallOrphan],
        work: Callable[[_Destination, SmallOrphan], Awaitable[None]],
    ) -> int:
        """Do `work` with each of them, in turns with other logs; with how many it went well, till it did not."""
        shared, count = self._handlers[subscription.name], 0
        with suppress(Exception):
            while count < len(orphans):
                with contained():
                    async with shared.open_turn(is_orphan=True) as handler:
                        to = await _destination(subscription, handler)
                        began = perf_counter()
                        while count < len(orphans):
                            await work(to, orphans[count])
                            count += 1
                            if perf_counter() - began > _SLICE_SECONDS:
                                if shared.is_wanted:
                                    break
                                await anyio.lowlevel.checkpoint()
                                began = perf_counter()
        return count

    async def _hand_over(self, to: _Destination, orphan: SmallOrphan) -> None:
        """Have `to` get what it lacks of `orphan`.

        Raises:
            Exception: It went wrong, or takes a closer look: of `orphan`, nothing is known to have arrived.
        """
        log, name = orphan.log, to.subscription.name
        checkpoint = orphan.checkpoints[name]
        self._handlers[name].outage.note_address(name, to.subscription.address, log.run.id, checkpoint)
        progress = replace(checkpoint.progress, dropped=dict(checkpoint.progress.dropped))
        destination, generation = checkpoint.destination, checkpoint.generation
        piece = Piece(log.end, generation=generation, static_context=log.static_context)
        for offset, entry in enumerate(log.entries[progress.scanned - log.first :], progress.scanned):
            if to.subscription.wants(entry[SHAPE].type):
                piece.add(offset, entry)
        if to.checkpoints is not None and (piece.entries or destination is not None):
            if destination not in (None, to.id):
                raise OddAnswerError(DESTINATION_CHANGED)
            start = progress.acknowledged if destination is None else progress.start
            answer = next_offset_of(await to.checkpoints.resume(log.run.id, name, start))
            if not progress.acknowledged <= answer <= progress.scanned:
                raise OddAnswerError(f"the destination is at {answer}, not at {progress.acknowledged}")
            progress.acknowledged, destination = answer, to.id
        if piece.entries:
            await self._send(to, piece, log.run.id, progress.acknowledged)
            progress.acknowledged, generation = log.end, 0
        progress.settle_to(log.end, delivered=len(piece))
        orphan.checkpoints[name] = Checkpoint(
            subscription=name,
            progress=progress,
            destination=destination,
            generation=generation,
            address=to.subscription.address,
        )
        orphan.changed.add(name)

    async def _send(self, to: _Destination, piece: Piece, log_id: UUID, start: int) -> None:
        batch = piece.as_batch(log_id, to.subscription.name, start)
        try:
            with contained():
                await hand_over(to.handler, batch)
        except Exception as exc:
            # Part of it may have arrived, or be refused for good: what it says counts, and it is not asked twice.
            if len(self._failed) < _MAX_FAILED:
                self._failed[log_id, batch.subscription] = FailedBatch(batch.token, exc)
            raise

    async def _stamp(self, to: _Destination, orphan: SmallOrphan) -> None:
        if to.checkpoints is not None and orphan.checkpoints[to.subscription.name].destination is not None:
            await to.checkpoints.retire(orphan.log.run.id, to.subscription.name, orphan.log.end)


async def _destination(subscription: Subscription, handler: EventHandler) -> _Destination:
    checkpoints = handler.checkpoints
    id_ = None if checkpoints is None else destination_id_of(await checkpoints.destination_id())
    return _Destination(subscription, handler, checkpoints, id_)


@dataclass(slots=True)
class EndedGroup:
    """What became of a group.

    Attributes:
        gone: Deleted.
        again: Given back, to be delivered singly; what was delivered of them is saved.
        refused: Given back, since the disk refused something: what, by log.
        grown: Given back, since another process writes them though we held their locks.
    """

    gone: list[UUID] = field(default_factory=list)
    again: list[UUID] = field(default_factory=list)
    refused: dict[UUID, OSError] = field(default_factory=dict)
    grown: list[UUID] = field(default_factory=list)


def end_group(orphans: Iterable[SmallOrphan]) -> EndedGroup:
    """Delete those of `orphans` that are done, save what the others got, and let go of all. Blocking.

    Where the directory has a mirror, none is deleted here: what that has of it takes a closer look.
    """
    ended, done, has_mirrors = EndedGroup(), [], None
    for orphan in orphans:
        run = orphan.log.run
        try:
            has_mirrors = bool(Mirrors(run.directory).names()) if has_mirrors is None else has_mirrors
            if orphan.log.has_grown():
                ended.grown.append(run.id)
            elif orphan.is_done and orphan.is_stamped and not has_mirrors:
                done.append(run)
                continue
            else:
                _save(orphan)
                ended.again.append(run.id)
        except OSError as exc:
            ended.refused[run.id] = exc
        run.release()
    if done:
        ended.refused |= retire_all(done)
        ended.gone += [run.id for run in done if run.id not in ended.refused]
    return ended


def _save(orphan: SmallOrphan) -> None:
    """Have the checkpoints of what `orphan` got on the disk."""
    files = CheckpointFiles(orphan.log.run.storage)
    for name in orphan.changed:
        files.save(orphan.checkpoints[name], sync=True)
    if orphan.changed:
        files.sync_names()
