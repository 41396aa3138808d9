"""Dead letters delivered after all: a log of letters as a source, for one subscription alone.

A record comes with its own timestamp, and with the id that it would have had. What is refused again becomes a letter
again, in the log of letters of this process. How far a replay is stands in `checkpoints/` beside the letters, and at
the destination under an id of its own, so that a replay that is killed goes on where it was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from eventrec.delivery.letters.kept import LOCK, KeptLetter, has_unknown_version, kept_letters, replay_checkpoints
from eventrec.delivery.letters.source import LetterSource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.worker import Worker
from eventrec.log.disk import DiskStorage
from eventrec.runs.checkpoint import Progress
from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetter, DeadLetters
    from eventrec.handler import EventHandler
    from eventrec.options import DeliverySettings
    from eventrec.runs.checkpoint import Checkpoint

_BETWEEN_SAVES: Final = 0.2
"""Seconds: as much as a destination without checkpoints may be given twice after a kill."""


class _Again:
    """What is refused again: a new letter about the old record."""

    def __init__(self, letters: DeadLetters, originals: dict[int, DeadLetter]) -> None:
        self._letters = letters
        self._originals = originals

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await self._letters.write(
            [
                replace(self._originals[letter.offset], reason=letter.reason, seconds=letter.seconds)
                for letter in letters
            ]
        )

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        del log_id, subscription
        return ()


@dataclass(slots=True)
class Replayed:
    """What became of letters: delivered, or dead again. Not `is_done`: the rest waits, because of `state`."""

    delivered: int = 0
    dead: int = 0
    is_done: bool = True
    state: str = ""


async def replay(
    directory: Path,
    handler: EventHandler,
    *,
    name: str,
    settings: DeliverySettings,
    letters: DeadLetters,
    on_progress: Callable[[Replayed], object] = lambda _: None,
) -> Replayed:
    """Deliver to `handler` the letters below `directory` that wait for the subscription `name`.

    Ends when none waits, or the destination holds. A log with letters of a version that this eventrec does not know is
    left as it is. What is refused again goes to `letters`.

    Raises:
        LogLockedError: Another replay of the same letters is on.
    """
    total = Replayed()
    kept = await in_thread(lambda: list(kept_letters(directory)))
    for run in sorted({each.run for each in kept if each.is_waiting and each.letter.subscription == name}):
        if await in_thread(has_unknown_version, directory, run):
            continue
        of_run = [each for each in kept if each.run == run]
        source = LetterSource(directory, run, name, of_run)
        await _Replay(directory, source, of_run, letters, Subscription(name, handler, settings)).run(total, on_progress)
        if not total.is_done:
            break
    return total


class _Replay:
    """The letters of one run, delivered by a worker of their own."""

    def __init__(
        self,
        directory: Path,
        source: LetterSource,
        kept: Sequence[KeptLetter],
        letters: DeadLetters,
        subscription: Subscription,
    ) -> None:
        self._source = source
        self._storage = DiskStorage(directory / str(source.run))
        self._files = replay_checkpoints(directory, source.run)
        self._letters = _Again(letters, {each.number: each.letter for each in kept})
        self._subscription = subscription

    async def run(self, total: Replayed, on_progress: Callable[[Replayed], object]) -> None:
        """Deliver until all is settled or the subscription is held, and add what came of it to `total`."""
        lock = await in_thread(self._storage.lock, LOCK)
        try:
            saved = (await in_thread(self._files.load)).get(self._subscription.name)
            if saved is not None:
                # A replay is an operator's act: what paused the one before it does not count.
                saved = msgspec.structs.replace(saved, refused_types=[])
            await self._deliver(saved, total, on_progress)
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(lambda: lock.release(delete=True))
                self._storage.close()

    async def _deliver(
        self, saved: Checkpoint | None, total: Replayed, on_progress: Callable[[Replayed], object]
    ) -> None:
        before = saved.progress if saved is not None else Progress(0, 0, 0)
        so_far = replace(total)

        async def save() -> None:
            await in_thread(self._save, worker.checkpoint())

        async def keep_saving() -> None:
            while True:
                moved = self._source.moved
                await anyio.sleep(_BETWEEN_SAVES)
                if moved.is_set():
                    await save()
                count()

        def count() -> None:
            progress = worker.progress
            total.delivered = so_far.delivered + progress.delivered - before.delivered
            total.dead = so_far.dead + progress.dead - before.dead
            total.state = worker.status().state
            on_progress(total)

        worker = Worker(self._subscription, self._source, self._letters, checkpoint=saved, freeze=save)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                tasks.start_soon(keep_saving)
                total.is_done = await worker.flush(self._source.end)
                if total.is_done:
                    # A row that is not stamped is only not swept.
                    with suppress(Exception):
                        await worker.retire()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await worker.close()
                await save()
            count()

    def _save(self, checkpoint: Checkpoint) -> None:
        self._files.save(checkpoint, sync=True)
        self._files.sync_names()
