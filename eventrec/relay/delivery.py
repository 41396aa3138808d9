"""Delivery of one log of a bus to one subscription: a worker, and its checkpoint kept on the bus."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.bus.source import BusSource
from eventrec.delivery.worker.outcome import error_text
from eventrec.delivery.worker.worker import Worker
from eventrec.errors import LeaseLostError, TransientError
from eventrec.relay.kept import encode_checkpoint
from eventrec.relay.watched_handler import WatchedHandler
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.bus.bus import Lease, LogBounds, Shard
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.shared_handler import SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.records.batch import Batch
    from eventrec.relay.part import Part
    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.status import SubscriptionStatus

_LOOK_SECONDS: Final = 1.0
"""How long a bus is asked at most to say that a log goes on."""

_RETIRE_SECONDS: Final = 5.0
_SAVE_SECONDS: Final = 0.3
"""How long the last save may take where delivery is cancelled."""

_PAUSE: Final = 0.5

_READING: Final = "reading"
_LOOKING: Final = "looking"
_SAVING: Final = "saving"
"""What of it may fail apart from the rest."""


class BusDelivery:
    """Delivers the log that `bounds` is of, under `lease`, from `checkpoint` on, else from `begin` on."""

    def __init__(
        self,
        part: Part,
        lease: Lease,
        bounds: LogBounds,
        *,
        subscription: Subscription,
        handler: SharedHandler,
        letters: DeadLetters,
        checkpoint: Checkpoint | None,
        begin: int,
        on_drop: Callable[[str, int], None],
        on_rewind: Callable[[], None],
        on_handled: Callable[[Batch], object],
    ) -> None:
        self._part = part
        self._shard: Shard = part.shard
        self._lease = lease
        self._moved = anyio.Event()
        self._saving = anyio.Lock()
        self._saved = checkpoint
        timing = partial(part.link.phases.timing, "fetch")
        self.source = BusSource(
            part.shard, bounds, begin=begin, on_move=self._notice, on_trouble=self._note_read, timing=timing
        )
        self.worker = Worker(
            subscription,
            self.source,
            letters,
            on_drop=on_drop,
            checkpoint=checkpoint,
            handler=WatchedHandler(
                handler.lease(is_orphan=False), part.link.phases, certain=part.held.certain, on_handled=on_handled
            ),
            freeze=self._freeze,
            outage=handler.outage,
            on_rewind=on_rewind,
            on_health=self._notice,
        )
        progress = self.worker.progress
        self.began = replace(progress, dropped=dict(progress.dropped))

    def __repr__(self) -> str:
        return f"<BusDelivery {self.worker!r} of {self.source!r}>"

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to deliver of it, and never will be."""
        return self.source.is_over and self.worker.progress.scanned >= self.source.end

    def status(self) -> SubscriptionStatus:
        """The account of the log, whichever relays delivered of it."""
        return self.worker.status()

    def _notice(self) -> None:
        self._moved.set()

    def _note_read(self, exc: Exception | None) -> None:
        if exc is not None:
            self._part.note_trouble(exc, of=_READING)
        else:
            self._part.note_through(_READING)

    # -- its life

    async def run(self) -> None:
        """Deliver until all of it is settled, or until the part leaves, when what was read is delivered still.

        Raises:
            LeaseLostError: It is another relay's.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def save() -> None:
                nonlocal failure
                try:
                    await self._keep_saving()
                except LeaseLostError as exc:
                    failure = exc
                    tasks.cancel_scope.cancel()

            for run in (save, self.source.read_ahead, self.worker.run, self._look_after):
                tasks.start_soon(when_begun(run))
            try:
                await self._until_over()
                if self.is_settled and failure is None:
                    await self._save_surely()
            except LeaseLostError as exc:
                failure = exc
            finally:
                if failure is None:
                    with anyio.move_on_after(_SAVE_SECONDS, shield=True), suppress(Exception):
                        await self.save()
            tasks.cancel_scope.cancel()
        self._part.note_through(_READING, _LOOKING, _SAVING)
        if failure is not None:
            raise failure
        if self.is_settled:
            await self._retire()

    async def _until_over(self) -> None:
        while not self.is_settled and not self._part.is_leaving:
            await self._part.unless_leaving(self._next_change)
        if not self.is_settled:
            # What was read is delivered still; what is left is the next relay's.
            self.source.stop()
            await self.worker.flush(self.source.end)

    async def _next_change(self) -> None:
        if self.source.is_over:
            await self.worker.wait_settled(self.source.end)
        else:
            await self.source.next_change()

    async def _look_after(self) -> None:
        """Have the source know how far the log goes."""
        while not self.source.is_over:
            try:
                await self._shard.wait(self.source.id, self.source.bounds.end, seconds=_LOOK_SECONDS)
                found = {bounds.id: bounds for bounds in await self._shard.logs()}
            except Exception as exc:  # noqa: BLE001 - an outage, whatever it is called
                self._part.note_trouble(exc, of=_LOOKING)
                await anyio.sleep(_PAUSE)
            else:
                self._part.note_through(_LOOKING)
                self.source.note(found.get(self.source.id))

    async def _retire(self) -> None:
        """Its destination may forget the log: a row that is not stamped is only not swept."""
        with anyio.move_on_after(_RETIRE_SECONDS), suppress(Exception):
            await self.worker.retire()

    # -- its checkpoint

    async def save(self) -> None:
        """Keep on the bus how far it is, if that changed.

        Raises:
            Exception: What the bus says; LeaseLostError where it is another relay's.
        """
        async with self._saving:
            checkpoint = self.worker.checkpoint()
            if checkpoint != self._saved:
                content = encode_checkpoint(checkpoint)
                scanned = checkpoint.progress.scanned
                await self._shard.save(self._lease, self.source.id, scanned=scanned, content=content)
                self._saved = checkpoint

    async def _save_surely(self) -> None:
        """The last one of a log, which the bus may drop then: until the bus takes it, or the part leaves."""
        while not self._part.is_leaving:
            try:
                await self.save()
            except LeaseLostError:
                raise
            except Exception as exc:  # noqa: BLE001 - it is tried again
                self._part.note_trouble(exc, of=_SAVING)
                await self._part.sleep(_PAUSE)
            else:
                return

    async def _keep_saving(self) -> None:
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            try:
                await self.save()
            except LeaseLostError:
                raise
            except Exception as exc:  # noqa: BLE001 - it is tried again
                self._part.note_trouble(exc, of=_SAVING)
                self._moved.set()
                await anyio.sleep(_PAUSE)
            else:
                self._part.note_through(_SAVING)
            await anyio.sleep(self._part.link.options.save_seconds)

    async def _freeze(self) -> None:
        """Have what is sent next stand on the bus, so that any relay sends it again as it was.

        Raises:
            TransientError: The bus did not take it, so it must not be sent.
        """
        try:
            await self.save()
        except LeaseLostError:
            # The relay that has the lease sends it; the lease is found lost in a moment, and this task cancelled.
            self._moved.set()
            await anyio.sleep_forever()
        except Exception as exc:
            raise TransientError(f"what is to be sent cannot be kept on the bus: {error_text(exc)}") from exc
