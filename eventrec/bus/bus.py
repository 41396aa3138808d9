"""A bus: logs that many processes write and relays read, with what a relay must know to take over from another.

    Bus             one connection to it; it gives its shards, and tells relays of each other
    Shard           logs, leases, checkpoints, stages and their state that change together or not at all
    a log           records numbered from 0 on, with an id of its own; a bus that lost some of them begins another one
    lease           the right to serve one subscription, for some seconds by the bus's own clock

Everything that a holder changes is fenced by its lease: where that was lost, nothing is changed and LeaseLostError is
raised, however late a paused process wakes up. Any other error is one of a handler's words (see `eventrec.handler`):
TransientError for what may pass, PauseError for what an operator has to mend; what is not one of them is an outage.
A cancelled call may have been carried out or not; no connection may be left in a state in which it answers another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from eventrec.bus.stage import Output
    from eventrec.delivery.sources.source import Records


STAGE_PREFIX: Final = "stage:"
"""What serves the stage NAME has the lease of `stage:NAME`: no other subscription begins so."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to serve `subscription` on one shard.

    Attributes:
        holder: Who holds it, for operators.
        token: No other lease of the bus ever has it.
    """

    subscription: str
    holder: str
    token: str


@dataclass(frozen=True, slots=True)
class LogBounds:
    """A log of a shard: what of it can be read lies in `[oldest, end)`.

    Attributes:
        is_live: Producers write it. One that is not gets no more records, ever.
        may_have_lost_tail: It had more than `end` says, perhaps: a destination may be further.
    """

    id: UUID
    oldest: int
    end: int
    is_live: bool
    may_have_lost_tail: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a shard knows of a subscription.

    Attributes:
        scanned: By log: everything below is settled.
        holder: Who serves it; empty: no process does.
        lease_seconds: How long its lease lasts still.
    """

    subscription: str
    scanned: Mapping[UUID, int]
    holder: str = ""
    lease_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Presence:
    """A relay that serves a subscription, or would.

    Attributes:
        holder: The name under which it acquires leases.
        served: Of how many shards it has the lease, and keeps it.
        bound: Of how many it can have it.
    """

    holder: str
    served: int
    bound: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage has made of the records `[start, end)` of the log `log_id`; None: of time alone, and it stays."""

    output: Output
    log_id: UUID | None = None
    start: int = 0
    end: int = 0


class Bus(ABC):
    """A connection to a bus, for one loop."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Called again after `close` where something unknown went wrong."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. May be called twice, and of a bus that never opened."""

    @abstractmethod
    async def shards(self) -> Sequence[Shard]:
        """All of them, in an order that does not change; one unless the bus is sharded.

        Raises:
            PauseError: They are others than those that were given before, of which some hold records still.
        """

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        """Tell other relays of this one for so long, by the bus's clock; 0: no more. All that are known now.

        What is forgotten of it is announced again: relays share shards by it, and nothing else depends on it. By
        default no relay knows of another, and each serves what is free. One call costs as much as the relays that it
        tells of.

        Raises:
            ShardsChangedError: `shards` would give others by now.
        """
        del subscription
        return [presence] if seconds else []

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class Shard(ABC):
    """A part of a bus within which a change is whole or not at all."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What operators call it; a stage's output has the stage's name in it."""

    # -- reading

    @abstractmethod
    async def logs(self) -> Sequence[LogBounds]:
        """Its logs, the oldest first; at most the last one is live. One of which all is settled may be missing."""

    @abstractmethod
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        """What comes next from `start` on, without waiting: at least one record, where there is one.

        The answer begins at `start`, or later where what lies between can never be read again; it is empty, and begins
        and ends alike, where nothing more is there. A hole within it has no record. What is gone did so as `lost_as`
        says: `overflow`, it made room for newer records; `lost`, something else removed it; `corrupt`, it is there and
        cannot be read.
        """

    @abstractmethod
    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        """Return as soon as the log has more than `[0, end)`, or ends, or another one begins; or after `seconds`."""

    # -- who serves a subscription

    @abstractmethod
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        """A lease for so long, by the bus's clock; None: another holder has one that has not run out.

        The holder itself is given another one, and its earlier one is lost: so a call whose answer was lost, or a
        change of which it is not known whether it was made, is made certain by acquiring again.
        The subscription is known from then on: what it has not settled is kept, as far as the bus's bounds allow.

        Raises:
            ShardsChangedError: The bus has other shards by now.
        """

    @abstractmethod
    async def renew(self, lease: Lease, *, seconds: float) -> None:
        """Let it last so long from now on.

        Raises:
            LeaseLostError: It ran out and another one was given; or it was released, or forgotten. One that only ran
                out is not lost.
        """

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give it back at once, for the next to acquire. Nothing where it was lost."""

    @abstractmethod
    async def subscriptions(self) -> Sequence[Held]:
        """All that are known, stages too, for operators: from any process, without a lease."""

    @abstractmethod
    async def forget(self, subscription: str) -> bool:
        """Keep nothing for it any more; False: it was not known. Its holder loses its lease."""

    # -- how far it is

    @abstractmethod
    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        """What `save` has kept, by log.

        Raises:
            LeaseLostError: As `renew`.
        """

    @abstractmethod
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        """Keep `content`, durably as the bus is, and that everything below `scanned` is settled.

        What every known subscription and stage has settled may be trimmed. `scanned` may go back. Of a log that is
        not there any more nothing is kept.

        Raises:
            LeaseLostError: As `renew`. Nothing is kept.
        """

    # -- stages

    @abstractmethod
    def outlet(self, stage: str) -> Shard:
        """Where the stage of that name puts its output: a shard of its own, committed together with this one."""

    @abstractmethod
    async def progress(self, lease: Lease) -> Mapping[UUID, int]:
        """The next offset of each log for the stage whose lease this is; 0 for a log that is not in it.

        Raises:
            LeaseLostError: As `renew`.
        """

    @abstractmethod
    async def state(self, stage: str, keys: Sequence[str]) -> Sequence[bytes | None]:
        """What the stage has kept under `keys`."""

    @abstractmethod
    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        """Keys whose deadline has passed by the bus's clock, the oldest first, with what is kept under them.

        It takes time for those that are due, none for the others.
        """

    @abstractmethod
    async def commit(self, lease: Lease, step: Step) -> None:
        """Append the step's records to the outlet, change the state, and move on from `step.start` to `step.end`.

        All of it or nothing; once. Where the stage has moved already, from elsewhere than `step.start`, nothing. The
        notices are the caller's to send.

        Raises:
            LeaseLostError: As `renew`; or the stage is not at `step.start`.
        """

    @abstractmethod
    async def time(self) -> float:
        """Seconds since the epoch by the bus's clock, which no clock of ours agrees with."""

    @abstractmethod
    async def size(self, stage: str) -> int:
        """How many keys the stage keeps, exactly, in constant time."""

    async def tallies(self, stage: str) -> Mapping[str, int] | None:
        """What the stage has counted of its state, exactly, in constant time: sums of `Output.tallies`.

        They change together with the state, and begin at 0 with an empty one. None: they are not known, because what
        is kept began before they were counted; or the bus keeps none, as by default.
        """
        del stage
        return None

    # -- views: what stages publish for others to read

    @abstractmethod
    async def view(self, stage: str, key: str) -> bytes | None:
        """What a stage has published under `key`; None where nothing is, or its time is over."""

    @abstractmethod
    async def count_seen(self, stage: str, index: str, *, seconds: float) -> int:
        """How many members of `index` were seen within the last `seconds`."""

    # -- notices

    async def notify(self, channel: str, messages: Sequence[bytes]) -> None:
        """Tell the readers that listen now. Nothing is kept, and nothing may depend on it; the default tells none."""
        del channel, messages
