"""The one interface to implement: a destination for batches.

What `handle` raises decides what the worker does:

    nothing              the records are safe at the destination; on to the next batch
    TransientError       the same batch again after a back-off, at least `retry_after` seconds
    PermanentError       one record: it is set aside as a dead letter; many: those it names, else bisected
    PartialError         what it does not name was delivered; permanent ones are dead, transient ones tried again
    BatchTooLargeError   the batch is split; a single record: as permanent
    PauseError           holds, health red, tries again slowly
    anything else        a traceback once; close, back off, open, the same batch again; after ten in a row over a minute
                         or more it is bisected: what fails alone while another record passes is set aside

Whatever a handler throws, from any of its methods, concerns its own subscription alone: also SystemExit, and a
cancellation that was not asked for, as of a task of its own. Likewise a wrong answer of its `DestinationCheckpoints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from eventrec.analytics.migration_target import MigrationTarget
    from eventrec.analytics.store import RollupStore
    from eventrec.reading import EventReader
    from eventrec.records.batch import Batch
    from eventrec.records.layout import Layout


class EventHandler(ABC):
    """Delivers batches to one destination. Most handlers write `handle` and nothing else."""

    dedupes_by_token: ClassVar[bool] = False
    """True: the destination drops a `batch.token` that it has seen, and refuses none that it may still commit.

    Where it refused one of a request that comes through later, what the batch is split into would be there twice.
    """

    takes_unique_ids: ClassVar[bool] = False
    """True: with `unique_ids=true` in its URL, records that came with an id are stored once. A server of ours asks for
    that, since a client that had no answer sends again."""

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        """Where the destination keeps how far it is, written in the transaction of the rows; None: it does not."""
        return None

    def reader(self) -> EventReader | None:
        """What reads the destination back; None: nothing does. Asked for at any time, also of a handler not open."""
        return None

    def rollups(self) -> RollupStore | None:
        """What answers rollups from the destination; None: nothing does. Asked for at any time, as `reader`."""
        return None

    def migrations(self) -> MigrationTarget | None:
        """What migrates the destination; None: nothing does. Asked for at any time, also of a handler not open."""
        return None

    def inherit_ttl(self, seconds: float) -> None:
        """Told before `open` that the recorder's option `ttl` is set: rows older than that may be deleted. Optional.

        A handler that was given a ttl of its own keeps that one; the default deletes nothing.
        """

    def inherit_chunk_rows(self, rows: int) -> None:
        """Told before `open` how many rows a relay wants to be sent at once. Optional.

        For handlers that send a batch in several requests. One that was given a number of its own keeps that one; the
        default does nothing.
        """

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        """Told before `open` how records of some tables become their rows: table to layout. Optional.

        What it was told before of other tables stays. A handler of a destination without tables has no use for it; one
        that has tables, and cannot write them by a layout, says so in its `remarks`. The default does nothing.

        Raises:
            LayoutError: The destination cannot have such a table.
        """

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        """Told how other programs declare tables of which records wait in the log: table to layout. Optional.

        They count for tables that neither this program nor the destination knows a layout of. From any thread, at any
        time, before the first such record. The default does nothing.

        Raises:
            LayoutError: The destination cannot have such a table. It is logged.
        """

    @property
    def remarks(self) -> Sequence[str]:
        """What an operator should know while batches are delivered, a sentence each: what cannot be cleaned up, say.

        They are among the reasons of `Status.health`. Asked for at any time, from any thread, by `status()` and by the
        end of `close`, which take as long as this takes: tell what is known, and wait for nothing. The first 100 are
        told, and the first 4,000 characters of each. What it raises is ignored.
        """
        return ()

    async def open(self) -> None:
        """Connect. Called before the first batch, and again after `close` when something unknown went wrong."""

    async def prepare(self, batch: Batch) -> None:
        """Get ready for `batch` while the one before it is still being handled: encode it, say. Optional.

        Called only where it is overridden, with the very object that `handle` will be given, if it comes to that: a
        failure in between makes another batch of the same records. What it raises is ignored; it may be cancelled.
        """

    @abstractmethod
    async def handle(self, batch: Batch) -> None:
        """Deliver `batch`. Returning means: every record is safe at the destination.

        Raises:
            DeliveryError: See the table in `help("eventrec.handler")`. Anything else is taken for a bug, or an outage
                that has no word.
        """

    async def close(self) -> None:
        """Disconnect. Never called while `handle` runs; may be called twice."""


class DestinationCheckpoints(ABC):
    """How far a destination is, kept by itself: the authority where it exists.

    `handle` moves the row in its transaction, only if it still stands at `batch.start`, and raises FencedError else.
    """

    @property
    def idle_check_seconds(self) -> float | None:
        """Where there was nothing to send for so long, `resume` is asked again; None, the default: with the next batch.

        Less than a second counts as a second.

        For a destination that may lose what it had without an error that a handler would see.
        """
        return None

    @abstractmethod
    async def destination_id(self) -> str:
        """A random id, stored at the destination on first use; it survives backups and a change of host."""

    @abstractmethod
    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        """The next offset stored for this log and subscription; where there is none, a row is made at `start`."""

    @abstractmethod
    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        """Stamp the row as finished at `end`: it still answers `resume`."""
