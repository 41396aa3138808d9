"""Delivery of one run's log: a worker for each subscription, their checkpoints, and the end of a log that is done."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio
import anyio.to_thread

from eventrec._logging import described, get_logger
from eventrec.content import ContentDecoder, is_ours
from eventrec.delivery.checkpoint import Checkpoint, CheckpointFiles
from eventrec.delivery.log_source import LogSource
from eventrec.delivery.worker import Worker
from eventrec.errors import LogError, TransientError
from eventrec.log.log import Log
from eventrec.log.runs import CHECKPOINTS
from eventrec.log.segment import list_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from eventrec.delivery.dead_letters import DeadLetters
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.turns import SharedHandler
    from eventrec.delivery.wishes import Wish
    from eventrec.log.runs import Run
    from eventrec.status import SubscriptionStatus

_logging = get_logger("eventrec.delivery")

_STAMP_SECONDS: Final = 5.0

_BETWEEN_SAVES: Final = 0.05
"""Seconds: as much as a handler without checkpoints of its own may have to take again after a crash."""


class LogDelivery:
    """Delivers `log`, which is that of `run`, to `subscriptions`. For the loop's thread, where nothing else is said.

    `saved` are the checkpoints that were found; those of subscriptions that are not ours hold records too.
    """

    def __init__(
        self,
        run: Run,
        log: Log,
        *,
        saved: Mapping[str, Checkpoint],
        subscriptions: Iterable[Subscription],
        handlers: Mapping[str, SharedHandler],
        letters: DeadLetters,
        on_drop: Callable[[str, int], None],
        static_context: bytes | None,
        is_orphan: bool,
        sync: Literal["interval", "never", "take"],
        sync_interval: float,
    ) -> None:
        self.run_of = run
        self.log = log
        self._moved = anyio.Event()
        self.source = LogSource(log, run.id, static_context=static_context, on_lost=self._lost, on_move=self._notice)
        self.workers = {
            each.name: Worker(
                each,
                self.source,
                letters,
                on_drop=on_drop,
                checkpoint=saved.get(each.name),
                handler=handlers[each.name].view(is_orphan=is_orphan),
                freeze=self._freeze,
            )
            for each in subscriptions
        }
        others = [each.progress.scanned for name, each in saved.items() if name not in self.workers]
        self._others = min(others, default=None)
        self._files = CheckpointFiles(run.path / CHECKPOINTS)
        self._sync = sync
        self._sync_interval = sync_interval
        self._saved: dict[str, Checkpoint] = {}
        self._unsynced: set[str] = set()
        self._synced_at = -math.inf
        self._saving = anyio.Lock()
        self._is_refused = False
        self._is_stamped = False

    def __repr__(self) -> str:
        return f"<LogDelivery {self.run_of.id} of {self.source!r}>"

    @property
    def is_settled(self) -> bool:
        """Whether our subscriptions are past everything that is written."""
        end = self.source.end
        return bool(self.workers) and all(worker.progress.scanned >= end for worker in self.workers.values())

    @property
    def is_done(self) -> bool:
        """Whether nobody needs anything of it any more, of what was taken."""
        end = max(self.source.end, self.log.taken)
        scanned = [worker.progress.scanned for worker in self.workers.values()]
        return min([*scanned, end if self._others is None else self._others]) >= end and (bool(scanned) or end == 0)

    def status(self) -> dict[str, SubscriptionStatus]:
        """The account, by subscription."""
        return {name: worker.status() for name, worker in self.workers.items()}

    async def run(self, *, until_settled: bool = False) -> None:
        """Deliver until cancelled, or with `until_settled` until all that is written is. May be called again."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_checkpoints, name="eventrec checkpoints")
            for worker in self.workers.values():
                tasks.start_soon(worker.run, name=f"eventrec {worker.name}")
            if until_settled:
                end = self.source.end
                while not self.is_settled:
                    for worker in self.workers.values():
                        await worker.settled(end)
                    end = self.source.end
                tasks.cancel_scope.cancel()

    def grant(self, wish: Wish) -> None:
        """An operator wishes something of one of the subscriptions."""
        worker = self.workers.get(wish.subscription)
        if worker is not None:
            worker.apply(wish)

    async def save(self, *, sync: bool) -> None:
        """Save every checkpoint that changed; with `sync` durably, and then delete what all are past."""
        async with self._saving:
            now = {name: worker.checkpoint() for name, worker in self.workers.items()}
            changed = {name: each for name, each in now.items() if each != self._saved.get(name)}
            if not changed and not (sync and self._unsynced):
                return
            self._unsynced.update(changed)
            again = {name: now[name] for name in self._unsynced} if sync else changed
            lowest = min([each.progress.scanned for each in now.values()])
            if self._others is not None:
                lowest = min(lowest, self._others)
            try:
                durable = await anyio.to_thread.run_sync(partial(self._save, again, lowest, sync=sync))
            except (OSError, LogError) as exc:
                if not self._is_refused:
                    _logging.warning("checkpoint not saved", log=str(self.run_of.id), error=str(exc))
                self._is_refused = True
                return
            self._is_refused = False
            self._saved.update(changed)
            if durable:
                self._unsynced.clear()
                self._synced_at = anyio.current_time()

    def _save(self, checkpoints: Mapping[str, Checkpoint], lowest: int, *, sync: bool) -> bool:
        """In a thread. Whether all that was saved so far is durable now."""
        firsts = list_segments(self.run_of.storage)
        may_delete = len(firsts) > 1 and firsts[1] <= lowest
        sync = sync or (may_delete and self._sync != "interval" and set(checkpoints) >= self._unsynced)
        for checkpoint in checkpoints.values():
            self._files.save(checkpoint, sync=sync)
        if sync:
            self._files.sync_names()
            if may_delete:
                self.log.delete_below(lowest)
        return sync

    async def _keep_checkpoints(self) -> None:
        while True:
            waits = self._unsynced and self._sync == "interval"
            with anyio.move_on_after(self._sync_interval if waits else None):
                await self._moved.wait()
            self._moved = anyio.Event()
            is_due = anyio.current_time() - self._synced_at >= self._sync_interval
            await self.save(sync=self._sync == "take" or (self._sync == "interval" and is_due))
            await anyio.sleep(_BETWEEN_SAVES)

    async def _freeze(self) -> None:
        """Make the checkpoints durable.

        Raises:
            TransientError: The disk refused, so the batch must not be sent.
        """
        await self.save(sync=True)
        if self._is_refused:
            raise TransientError("the checkpoint cannot be saved")

    def _notice(self) -> None:
        self._moved.set()

    def _lost(self, name: str, count: int) -> None:
        self.workers[name].lost(count)

    async def end(self) -> None:
        """Save, close the log, and retire the run if it is done; else leave it, unlocked, to whoever comes."""
        await self.save(sync=self._sync != "never" or self.is_done)
        await anyio.to_thread.run_sync(self._end)

    async def stamp(self) -> None:
        """If the log is done, have every destination remember that: its rows still answer, to a copy of this log."""
        if not self.is_done or self._is_stamped:
            return
        await self.save(sync=self._sync != "never")
        with anyio.move_on_after(_STAMP_SECONDS):
            try:
                for worker in self.workers.values():
                    await worker.retire()
                self._is_stamped = True
            except Exception as exc:  # noqa: BLE001 - foreign code; the next adopter asks again
                _logging.warning("log not retired", log=str(self.run_of.id), error=described(exc))

    def _end(self) -> None:
        self.source.close()
        try:
            self.log.close()
        except (OSError, LogError) as exc:
            _logging.warning("log not synced at its end", log=str(self.run_of.id), error=str(exc))
        try:
            if self.is_done and self._is_stamped and not self._is_refused:
                self.run_of.retire()
            else:
                self.run_of.release()
        except OSError as exc:
            _logging.warning("log not deleted", log=str(self.run_of.id), error=str(exc))


OpenedOrphan: TypeAlias = "tuple[Log, dict[str, Checkpoint], bytes | None]"


def open_orphan(run: Run) -> OpenedOrphan:
    """The log of an adopted run, synced, its checkpoints, and its static context. Blocking.

    A checkpoint past the log's end was delivered before a power cut: the end is raised to it.

    Raises:
        OSError: The disk refused.
        LogError: It cannot be opened, or its content is of a version that we cannot read.
    """
    saved = CheckpointFiles(run.path / CHECKPOINTS).load()
    at_least = max((each.progress.scanned for each in saved.values()), default=0)
    log = Log.open(run.storage, is_ours=partial(is_ours, log_id=run.id), at_least=at_least)
    try:
        with log.reader() as reader:
            commits = reader.read(max_bytes=1)
        static_context = ContentDecoder().decode(commits[0].content).static_context if commits else None
    except BaseException:
        log.close()
        raise
    return log, saved, static_context
