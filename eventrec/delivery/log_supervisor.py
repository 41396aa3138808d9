"""Delivers a recorder's own log, and beside it what earlier runs in the same directory have left."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.deliveries import Deliveries
from eventrec.delivery.disk import DiskQuota
from eventrec.delivery.first_checkpoints import FirstCheckpoints
from eventrec.delivery.following.following import Following
from eventrec.delivery.last_writes import try_again, write_rest
from eventrec.delivery.letters.counts import WaitingLetters
from eventrec.delivery.letters.dead_letters import DeadLetterFile
from eventrec.delivery.letters.kept import forfeit_settled
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.log_layouts import LogLayouts
from eventrec.delivery.new_requests import NewRequests
from eventrec.delivery.orphans.adoption import SCAN_SECONDS, Adoption
from eventrec.delivery.orphans.small_orphans import SmallOrphans
from eventrec.delivery.retained_logs import RetainedLogs
from eventrec.delivery.shared_handler import SharedHandler
from eventrec.delivery.supervisor import Supervisor, flush_workers
from eventrec.delivery.worker.destination import close_handler, close_in_own_task
from eventrec.errors import LogFullError
from eventrec.intake.handover import Handover
from eventrec.intake.mirrored import MirrorWatch
from eventrec.runs.directory import DEAD
from eventrec.runs.requests import OperatorRequest
from eventrec.runs.retention import Bound, Retain
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from uuid import UUID

    from anyio.abc import TaskGroup

    from eventrec.delivery.following.followed_delivery import FollowedDelivery
    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.delivery.worker.worker import Worker
    from eventrec.intake.consumer import Counts
    from eventrec.intake.drops import Drops
    from eventrec.intake.queue import Intake
    from eventrec.intake.writer import Writer
    from eventrec.options import EventRecorderOptions
    from eventrec.runtime.backend import Backend
    from eventrec.status import SubscriptionStatus

_SELDOM: Final = 8

_logger = get_logger("eventrec.delivery")


class LogSupervisor(Supervisor):
    """The life of a recorder with a log, between `open` and the end of `close`."""

    def __init__(
        self,
        intake: Intake,
        writer: Writer,
        backend: Backend,
        options: EventRecorderOptions,
        *,
        subscriptions: Iterable[Subscription],
        drops: Drops,
    ) -> None:
        resolved = options.resolve(has_log=True)
        super().__init__(intake, backend, drops, close_timeout=resolved.close_timeout)
        self.workers = {}
        self.writer = writer
        self.mirrors = MirrorWatch(writer.directory)
        self._unwritable = 0
        """Records that the writer lost, as far as it was told."""
        self._unsaved_at_end: set[UUID] = set()
        """The logs whose checkpoints the disk refused to the end."""
        self._subscriptions = list(subscriptions)
        self._handlers = {each.name: SharedHandler(each.handler) for each in self._subscriptions}
        self._waiting = WaitingLetters(writer.directory.path)
        self._letters = LetterLog(
            writer.directory / DEAD,
            writer.run_id,
            max_bytes=options.max_dead_bytes,
            copy=None if options.dead_letters is None else DeadLetterFile(options.dead_letters),
            make_room=partial(forfeit_settled, writer.directory.path / DEAD),
            on_kept=self._waiting.note_written,
            while_writing=self._waiting.writing,
        )
        self._sync = resolved.sync
        self._own: LogDelivery | None = None
        retain = Retain(resolved.retain_seconds, resolved.retain_bytes)
        small = SmallOrphans(self._subscriptions, self._handlers, self._letters, retain=retain)
        self._retained = RetainedLogs(writer.directory, are_kept=bool(retain))
        self._making = Deliveries(
            self._subscriptions,
            handlers=self._handlers,
            letters=self._letters,
            on_drop=drops.note,
            sync=resolved.sync,
            sync_interval=resolved.sync_interval,
            retain=retain,
            on_rewind=self._retained.note_rewind,
            failed=small.failed,
        )
        layouts = LogLayouts(writer.directory, self._subscriptions)
        latest = [each.name for each in self._subscriptions if each.start == "latest"]
        self._adoption = Adoption(
            writer.directory,
            deliver=self._making.of_orphan,
            small=small,
            letters=self._letters,
            layouts=layouts,
            is_failing=self._is_failing,
            locking=writer.fork_guard,
            own_id=writer.run_id,
            latest=latest,
            on_requests=self._apply_requests,
        )
        self._following = None
        if options.follow and self._subscriptions:
            self._following = Following(
                writer.directory,
                list(self._handlers),
                deliver=self._making.of_followed,
                adoption=self._adoption,
                letters=self._letters,
                layouts=layouts,
                guard=writer.fork_guard,
                own_id=writer.run_id,
                latest=latest,
            )
        self._quota = DiskQuota(
            writer.directory,
            Bound(resolved.max_log_bytes, resolved.keep_free),
            retain,
            writer=writer,
            adoption=self._adoption,
            own=lambda: self._own,
            by_all=options.overflow == "drop_old",
            on_drop=drops.note,
            next_change=self.next_change,
        )
        self._requests = NewRequests()
        self._first = FirstCheckpoints(
            {each.name: each.address for each in self._subscriptions}, sync=self._sync != "never"
        )
        writer.beginning = self._first.begin
        writer.on_change = self.wake

    def _wake_here(self) -> None:
        woken, self._woken = self._woken, anyio.Event()
        woken.set()
        self._drops.note_pushed_out(self._intake)
        unwritable = self.writer.unwritable
        self._drops.note("not_written", unwritable - self._unwritable)
        self._unwritable = unwritable
        if self._own is not None:
            self._own.source.note_growth()

    def next_change(self) -> anyio.Event:
        """Set when more is written or synced, or the disk refused."""
        return self._woken

    # -- the account

    @property
    def counts(self) -> Counts:
        return self.writer.consumer.counts

    def status(self) -> dict[str, SubscriptionStatus]:
        return self._own.status() if self._own is not None else {}

    @property
    def untrusted(self) -> str | None:
        """Which logs another process writes though we hold their locks."""
        logs = ", ".join(map(str, sorted(self._adoption.untrusted)))
        return f"locks mean nothing here: {logs} grew though locked" if logs else None

    def adopted(self) -> dict[str, Callable[[], dict[str, SubscriptionStatus]]]:
        return {str(delivery.run_of.id): delivery.status for delivery in [*self._adopted(), *self._followed()]}

    def died(self) -> dict[str, int]:
        return {name: handler.outage.died for name, handler in self._handlers.items()}

    def dead_letters(self) -> dict[str, int] | None:
        return self._waiting.counts

    def elsewhere(self) -> dict[str, int]:
        return self._own.elsewhere if self._own is not None else {}

    def forfeited(self) -> dict[str, int]:
        return dict(self._quota.forfeited)

    def since_forfeit(self) -> float | None:
        return self._quota.since_forfeit

    def following(self) -> tuple[str, str | None, int] | None:
        if self._following is None:
            return None
        sole = self._following.sole
        return sole.state, sole.trouble, sole.refusals

    def unsaved(self) -> int:
        return len(self._unsaved_at_end | {each.run_of.id for each in self._deliveries() if each.is_unsaved})

    def left(self) -> dict[str, str]:
        live = {} if self._following is None else self._following.left
        return {str(id_): why for id_, why in [*list(self._adoption.left.items()), *list(live.items())]}

    def resume(self, name: str, start: NewDestination | None = None) -> None:
        self._adoption.resumed[name] = OperatorRequest(
            subscription=name, asked=time(), start=None if start == "pause" else start
        )
        for delivery in self._deliveries():
            if name in delivery.workers:
                delivery.workers[name].resume(start)

    # -- its life

    def abandon(self) -> None:
        super().abandon()
        if self._following is not None:
            self._following.abandon()
        self._adoption.abandon()
        with suppress(OSError):  # A program that closed every descriptor after the fork has closed these too.
            self._letters.abandon()
        if self._own is not None:
            with suppress(OSError):
                self._own.abandon()

    async def flush(self) -> bool:
        consumer = self.writer.consumer
        counts = consumer.counts
        target = counts.appended + counts.waiting
        self.writer.wake()
        while (log := self.writer.log) is None or log.written < target:
            if self.writer.failure is not None or self.writer.is_ended:
                return False
            _, in_intake, in_hand, _ = consumer.counts
            if log is not None and not in_intake and not in_hand and log.written == log.appended:
                # A full intake dropped some of its oldest.
                target = log.written
                break
            woken = self._woken
            if self.writer.log is log and (log is None or log.written < target):
                await woken.wait()
        while self._own is None and target:
            if self.writer.is_ended:
                return False
            await self._woken.wait()
        return await flush_workers(self.workers.values(), target)

    async def _deliver_until_closed(self) -> None:
        async with anyio.create_task_group() as tasks:
            self.writer.wake()
            self.makes_room = False
            if await self._begin(tasks):
                assert self._own is not None  # noqa: S101 - see `_begin`
                delivering: dict[str, Callable[[], Awaitable[None]]] = {"delivery": self._own.run}
                beside: dict[str, Callable[[], Awaitable[None]]] = {
                    "mirrors": self._watch_mirrors,
                    "other processes": self._own.keep_looking,
                }
                if not self._subscriptions:
                    _logger.info("no handler registered: left to other processes", directory=str(self.writer.directory))
                elif not self.makes_room:
                    delivering |= self._delivered_of_others()
                if not self.makes_room:
                    beside |= self._looked_at_beside()
                if not self._closing.is_set():
                    delivering |= self._delivered_beside()
                if not self._closing.is_set():
                    beside["disk bound"] = self._quota.run
                if self._subscriptions and not self._closing.is_set():
                    beside |= {
                        "retained logs": partial(self._retained.run, self._adoption.take_up_again),
                        "answers": self._note_silence,
                    }
                self.started.set()
                self._spawn(tasks, delivering)
                await anyio.lowlevel.checkpoint()  # `open` returns before what it does not wait for begins.
                self._spawn(tasks, beside)
            await self._closing.wait()
            with anyio.CancelScope(deadline=self._deadline):
                ways = self.flush_what_is_written, self._settle_others
                await write_rest(
                    self.writer,
                    self._own,
                    give_up_delivered=self._quota.give_up_delivered,
                    ways=ways,
                    next_change=self.next_change,
                )
                await self.flush_what_is_written()
                await self._settle_others()
            tasks.cancel_scope.cancel()

    def _delivered_of_others(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What delivers the logs of other runs."""
        delivering: dict[str, Callable[[], Awaitable[None]]] = {"adoption": self._adopt}
        if self._following is not None:
            delivering["live logs"] = self._following.run
        return delivering

    def _looked_at_beside(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What looks around the log directory: for dead letters, and for logs of other runs."""
        looking: dict[str, Callable[[], Awaitable[None]]] = {"dead letters": self._waiting.run}
        if self._subscriptions:
            looking["log directory"] = self._adoption.watch
        return looking

    def _delivered_beside(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What else is delivered: nothing, but by a relay."""
        return {}

    async def _adopt(self) -> None:
        if self._following is not None:
            await self._following.allowed.wait()
        await self._adoption.run()

    async def _settle_others(self) -> None:
        """Deliver what is there beside our own log, as far as it can be delivered now, and is ours to deliver."""
        await self._settle_logs_of_others()

    async def _settle_logs_of_others(self) -> None:
        if self._following is not None:
            if not self._following.allowed.is_set():
                return
            await self._following.wait_settled()
        if self._subscriptions:
            await self._adoption.wait_settled()

    def _spawn(self, tasks: TaskGroup, runs: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        for what, run in runs.items():
            tasks.start_soon(when_begun(self._keep_running, run, what), name=f"eventrec {what}")

    async def flush_what_is_written(self) -> bool:
        """True once everything written is settled in every subscription."""
        return self._own is None or await flush_workers(self.workers.values(), self._own.source.end)

    async def _begin(self, tasks: TaskGroup) -> bool:
        """Wait for the writer's log; False: `close` came first.

        Where the disk has no room for it, what is delivered and retained goes, and what other runs left is delivered
        meanwhile, in `tasks`.
        """
        is_last_try = False
        while self._own is None:
            woken = self._woken
            if self.writer.log is not None and self.writer.run is not None:
                self._own = self._making.of_our_own(self.writer.run, self.writer.log)
                if self._subscriptions:
                    handover = Handover()
                    self.writer.hand_over_to(handover)
                    self._own.source.take_over_from(handover, static_context=self.writer.static_context)
                self._own.note_saved(self._first.begun, is_synced=self._sync != "never")
                self.workers = self._own.workers
                self._wake_here()
                await self._own.save(sync=self._sync != "never")
            elif self._closing.is_set() and self.writer.is_ended:
                return False
            elif not await self._gives_up_delivered():
                if self.writer.failure is not None:
                    if not self.makes_room and await self._can_make_room():
                        self.makes_room = True
                        self._spawn(tasks, self._delivered_of_others() | self._looked_at_beside())
                    self.started.set()
                if self._closing.is_set():
                    if self.makes_room and not is_last_try:
                        is_last_try = True
                        await self._make_room_at_the_end()
                        continue
                    self.writer.close()
                await woken.wait()
        return True

    async def _gives_up_delivered(self) -> bool:
        """Whether something that was delivered went for the log that has no room; then the writer has tried again."""
        if not isinstance(self.writer.failure, LogFullError) or not await self._quota.give_up_delivered():
            return False
        await try_again(self.writer, lambda: self.writer.log is not None, next_change=self.next_change)
        return True

    async def _can_make_room(self) -> bool:
        """Whether the disk is full, and has logs that are ours to deliver: their room is the only one that may come."""
        if not self._subscriptions or not isinstance(self.writer.failure, LogFullError):
            return False
        try:
            if self._following is not None:  # Their owners delete what is delivered here.
                return bool(await in_thread(self.writer.directory.ids))
            return await in_thread(self._adoption.finds_free)
        except OSError:
            return False

    async def _make_room_at_the_end(self) -> None:
        """What waits for a log of its own gets one, if what can be delivered in time makes room for it."""
        self.writer.close(waits_for_room=True)
        with anyio.CancelScope(deadline=self._deadline):
            await self._settle_logs_of_others()
            await try_again(self.writer, lambda: self.writer.log is not None, next_change=self.next_change)

    def _is_failing(self, name: str) -> bool:
        worker = self.workers.get(name)
        return worker is not None and self._handlers[name].outage.since is not None

    async def _watch_mirrors(self) -> None:
        """How far mirrors are, for the status."""
        while True:
            assert self._own is not None  # noqa: S101 - see `_begin`
            with suppress(OSError):  # It is looked again.
                await self.mirrors.look(self._own.run_of.id)
            # Where there is none, the first one may be seen later: few directories ever have one.
            await anyio.sleep(SCAN_SECONDS if self.mirrors.ends else _SELDOM * SCAN_SECONDS)

    def mirror_lags(self) -> dict[str, int]:
        end = 0 if self._own is None else self._own.source.end
        return {name: max(0, end - at) for name, at in self.mirrors.ends.items()}

    async def _close_workers(self) -> None:
        self._intake.close("closed")
        self.writer.close()
        while not self.writer.is_ended:
            await self._woken.wait()
        async with anyio.create_task_group() as tasks:
            for delivery in self._deliveries():
                tasks.start_soon(when_begun(delivery.stamp))
        async with anyio.create_task_group() as tasks:
            for worker in self.workers.values():
                tasks.start_soon(when_begun(partial(worker.close, is_last=True)))
            # Those of logs of other runs have opened it, and one of our own was never made.
            for name, shared in self._handlers.items():
                if name not in self.workers and shared.is_open:
                    close = partial(close_handler, shared.lease(is_orphan=False), name)
                    tasks.start_soon(when_begun(partial(close_in_own_task, close, name)))

    async def _end(self) -> None:
        await self._let_go()
        self._adoption.adopted.clear()
        await self._quota.leave()
        for worker in self.workers.values():
            worker.mark_closed()

    async def _let_go(self) -> None:
        self.writer.close()
        while not self.writer.is_ended:
            await self._woken.wait()
        followed = self._followed()
        if self._following is not None:
            await self._following.let_go()
        for delivery in self._deliveries():
            await delivery.end()
        ended = [*followed, *self._deliveries()]
        self._unsaved_at_end.update(each.run_of.id for each in ended if each.is_unsaved)
        await self._adoption.let_go()
        # A run whose log could not be made belongs to the writer alone.
        lost = self.writer.settle() if self._own is not None else await in_thread(self.writer.give_back)
        self._drops.note("not_written", lost)
        await in_thread(self._letters.close)

    def end_stranded(self) -> None:
        # Its own log the writer has given back, or will.
        if self._following is not None:
            self._following.end_stranded()
        self._adoption.end_stranded()
        self._letters.close()
        super().end_stranded()

    def _close_elsewhere(self) -> None:
        super()._close_elsewhere()
        self.writer.close(waits_for_room=True)

    def _all_workers(self) -> list[Worker]:
        return [worker for delivery in self._deliveries() for worker in delivery.workers.values()]

    def _deliveries(self) -> list[LogDelivery]:
        return [*self._adopted(), *self._followed(), *([self._own] if self._own is not None else [])]

    def _adopted(self) -> list[LogDelivery]:
        return list(self._adoption.adopted.values())

    def _followed(self) -> list[FollowedDelivery]:
        return [] if self._following is None else list(self._following.followed.values())

    # -- what operators ask for

    def _apply_requests(self, found: Iterable[OperatorRequest]) -> None:
        for request in self._requests.among(found):
            if self._apply(request):
                _logger.info(
                    "request applied", subscription=request.subscription, start=request.start, skip=request.skip
                )

    def _apply(self, request: OperatorRequest) -> bool:
        """Whether it concerned something here."""
        applied = [delivery.apply(request) for delivery in self._deliveries()]
        return any(applied)
