"""One batch into the tables: chunks in parallel, each under a token of its own, so that none is there twice.

    a chunk that              leads to
    is stored                 it is never sent again for this batch, by this process
    fails for now             TransientError, once the others have ended: the same batch comes again, with the same
                              tokens, and only what is missing is sent
    holds a bad record        it is divided until that record stands alone; PartialError names it, all others are stored
    fails for each record     nothing is told of the records: the failure is the server's

The tokens of a batch are made of its own token, the table, and the rows of the chunk. So a process that has forgotten
what it stored sends all of it again, and the server drops what it has. A chunk is divided only where the server has
answered that it refused it: one that may come through later keeps its token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec import DeliveryError, PartialError, PauseError, PermanentError, TransientError
from eventrec_handlers.clickhouse.dividing import Divider
from eventrec_handlers.clickhouse.errors import Failure, UnknownCodeError
from eventrec_handlers.clickhouse.options import CHUNK_ROWS
from eventrec_handlers.clickhouse.progress import Progress
from eventrec_handlers.clickhouse.rows import Chunk, chunks_of
from eventrec_handlers.clickhouse.sending import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import Batch
    from eventrec_handlers.clickhouse.nodes import Nodes
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.rows import Part
    from eventrec_handlers.clickhouse.tables import Tables

REMEMBERED: Final = 64
"""Batches of which is known what they have stored: those of several subscriptions at once."""


class Inserter:
    """Stores batches in chunks of `chunk_rows`; remembers what it stored of those that have to come again."""

    def __init__(self, nodes: Nodes, tables: Tables, options: Options) -> None:
        self._nodes = nodes
        self._tables = tables
        self._options = options
        self._progress: dict[str, Progress] = {}
        self.chunk_rows = options.chunk_rows or CHUNK_ROWS

    async def store(self, batch: Batch, parts: Sequence[Part], refused: Mapping[int, str]) -> None:
        """Store all rows of `parts`, but for the records that are `refused` already.

        Raises:
            DeliveryError: See above. PermanentError: nothing is stored, and it names the records at fault.
            UnknownCodeError: Nothing is stored, and the code does not tell why.
        """
        progress = self._progress.pop(batch.token, None) or Progress()
        sender = Sender(batch, progress, self._nodes, self._tables, self._options)
        delivery = _Delivery(batch, progress, sender, Divider(progress, self._nodes, sender))
        try:
            failure = await delivery.run(parts, refused, self._chunks(parts), at_once=self._options.concurrency)
        except BaseException:
            self._remember(batch.token, progress)
            raise
        if failure is not None:
            self._remember(batch.token, progress)
            raise failure
        if progress.bad:
            delivered = [offset for offset in batch.offsets if offset not in progress.bad]
            if not delivered:
                raise _permanent(progress.bad, len(batch))
            raise PartialError({offset: PermanentError(why) for offset, why in progress.bad.items()})

    def _chunks(self, parts: Sequence[Part]) -> list[Chunk]:
        rows, size = self.chunk_rows, self._options.chunk_bytes
        return [chunk for part in parts for chunk in chunks_of(part, rows=rows, size=size)]

    def _remember(self, token: str, progress: Progress) -> None:
        self._progress[token] = progress
        while len(self._progress) > REMEMBERED:
            del self._progress[next(iter(self._progress))]


class _Delivery:
    """One attempt of one batch."""

    def __init__(self, batch: Batch, progress: Progress, sender: Sender, divider: Divider) -> None:
        self._batch = batch
        self._progress = progress
        self._sender = sender
        self._divider = divider
        self._failures: list[Exception] = []

    async def run(
        self, parts: Sequence[Part], refused: Mapping[int, str], chunks: Sequence[Chunk], *, at_once: int
    ) -> Exception | None:
        """Store what is missing. What came in the way; None: all is stored, but for the bad records."""
        found = dict(refused)
        for part in parts:
            found |= await self._sender.refused_of(part)
        if found and self._progress.is_clean:
            raise _permanent(found, len(self._batch))
        self._progress.refuse(found)
        waiting = iter(chunks)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(at_once, len(chunks))):
                tasks.start_soon(self._work, waiting)
        self._sender.refuse_repeated()
        return min(self._failures, key=_rank) if self._failures else None

    async def _work(self, waiting: Iterator[Chunk]) -> None:
        """The first failure does not end the others: what they store need not be sent again."""
        for chunk in waiting:
            try:
                await self._divider.deliver(chunk)
            except Failure as exc:
                self._failures.append(self._raised(exc))
            except (DeliveryError, UnknownCodeError) as exc:
                self._failures.append(exc)

    def _raised(self, failure: Failure) -> Exception:
        error = failure.as_delivery_error()
        if not self._progress.is_clean and not isinstance(error, (PauseError, TransientError)):
            # No word of the others leaves the batch, and its tokens, as they are.
            error = TransientError(f"part of a batch was not stored, the rest was: {failure}")
        error.__cause__ = failure
        return error


def _permanent(bad: Mapping[int, str], records: int) -> PermanentError:
    offset, why = next(iter(bad.items()))
    return PermanentError(f"{len(bad)} of {records} records cannot be stored; at offset {offset}: {why}", records=bad)


def _rank(failure: Exception) -> int:
    """An operator first, then what will pass by itself: after that, the others are tried again by themselves."""
    for rank, kind in enumerate((PauseError, TransientError, UnknownCodeError)):
        if isinstance(failure, kind):
            return rank
    return 3
