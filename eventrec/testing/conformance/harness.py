"""What an author writes: how to reach the destination, and how to hurt it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, get_args

from eventrec.testing.conformance.watched import Calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Event, EventHandler, ReceivedEvent

Capability: TypeAlias = Literal[
    "checkpoints",
    "columns",
    "late_commit",
    "lost_answer",
    "order",
    "outage",
    "pause",
    "poison",
    "replace",
    "restore",
    "too_large",
]
"""What a handler, its destination or its harness may lack.

    checkpoints   the destination keeps them: `handler().checkpoints` is not None. Without them: at least once
    columns       it keeps the extra columns of an event: fields declared as `Column()`, which are not in its payload
    late_commit   `lose_answer(late=…)`: a commit that is still under way while the retry arrives
    lost_answer   `lose_answer()`
    order         `delivered()` tells in which order the records of a table and type arrived
    outage        `disconnect` and `reconnect`
    pause         `forbid` and `permit`
    poison        `poison`
    replace       `replace`
    restore       `backup` and `restore`
    too_large     `oversized`
"""

CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)


@dataclass(frozen=True, slots=True)
class Delivered:
    """One row as the destination holds it: a record, for most have one row.

    `timestamp` is in nanoseconds since the epoch, `payload` JSON text in UTF-8. `columns` are the extra ones, name to
    value, which `payload` does not have; those that hold nothing may be left out.
    """

    id: str
    type: str
    timestamp: int
    payload: bytes
    table: str = "events"
    columns: Mapping[str, object] = field(default_factory=dict)


class HandlerHarness(ABC):
    """One destination, made for one claim: empty at `start`, gone after `stop`.

    Write `handler` and `delivered`, and each of the other methods whose capability `lacks` does not name.

    Attributes:
        lacks: Capability to the reason why it is lacking: what a skipped claim shows. `Capability` says what each is.
        largest_batch: Records of the largest batch that the handler must take in one piece. A recorder makes batches
            of up to `batch_rows` (1,000, unless it is told otherwise); one that is larger than the destination takes
            is `BatchTooLargeError`, and is split.
        largest_payload: Bytes of the largest payload that it must take.
        timestamp_unit: Nanoseconds in the unit that the destination cuts timestamps to: 1,000 where it keeps
            microseconds. Coarser differences count as faults.
        payloads: Whether a payload comes back as the bytes it was, or as JSON of the same value ("value"): a column of
            JSON keeps neither blanks nor the order of keys.
        longest_block: Seconds for which no call of the handler may keep the event loop from others: what takes longer
            belongs into a driver that awaits, or into a thread. Time in which other processes had the processor does
            not count on Linux, and the best of five measurements does everywhere: no need for more on a slow machine.
        patience: Seconds after which a claim is given up, and the call named that has not returned. Less, and a handler
            that hangs is found sooner; more, where the destination is slow.
    """

    lacks: ClassVar[Mapping[Capability, str]] = {}
    largest_batch: ClassVar[int] = 1_000
    largest_payload: ClassVar[int] = 1 << 20
    timestamp_unit: ClassVar[int] = 1
    payloads: ClassVar[Literal["bytes", "value"]] = "bytes"
    longest_block: ClassVar[float] = 0.1
    patience: ClassVar[float] = 90.0

    @cached_property
    def _watched_calls(self) -> Calls:
        return Calls()

    async def start(self) -> None:
        """Make the destination: empty, in reach."""

    async def stop(self) -> None:
        """Remove it; called whatever happened before."""

    @abstractmethod
    def handler(self) -> EventHandler:
        """A new handler for the destination, not open. Several of them must be able to work at once."""

    @abstractmethod
    async def delivered(self) -> Sequence[Delivered]:
        """Everything the destination holds, in the order of arrival, read without any handler.

        Also called while the destination is out of the handler's reach.
        """

    async def disconnect(self) -> None:
        """Break every connection and refuse new ones, until `reconnect`. What is committed stays."""
        raise NotImplementedError

    async def reconnect(self) -> None:
        """Back in reach."""
        raise NotImplementedError

    def poison(self) -> Event | ReceivedEvent:
        """An event that the destination refuses for good, though its neighbours are fine.

        It comes through a recorder: one that is larger than `max_event_bytes` (1 MiB) would not get so far.
        """
        raise NotImplementedError

    def oversized(self) -> Sequence[Event]:
        """Events that the destination refuses as one batch for its size alone; each of them alone is fine."""
        raise NotImplementedError

    async def forbid(self) -> None:
        """Refuse the handler's credentials, or its rights, until `permit`."""
        raise NotImplementedError

    async def permit(self) -> None:
        """Take them again."""
        raise NotImplementedError

    async def lose_answer(self, *, late: float = 0.0) -> None:
        """Let the next batch be committed without its handler learning so: its connection breaks first.

        A proxy that cuts as soon as COMMIT has passed does it (`eventrec.testing.proxy`); in an embedded database, an
        error injected after the commit. `late`: the commit is done that many seconds after the connection broke.
        """
        raise NotImplementedError

    async def backup(self) -> object:
        """What the destination holds now, checkpoints and its id too; for `restore`."""
        raise NotImplementedError

    async def restore(self, backup: Any) -> None:
        """Put the destination back to what it was at `backup`. Handlers may be open meanwhile."""
        raise NotImplementedError

    async def replace(self) -> None:
        """Put another, empty destination in the place of this one. No handler is open meanwhile."""
        raise NotImplementedError


def watched_calls(harness: HandlerHarness) -> Calls:
    """What the suite sees of the calls of its handlers."""
    return harness._watched_calls  # noqa: SLF001 - no author is given it


METHODS: Final[Mapping[Capability, tuple[str, ...]]] = {
    "late_commit": ("lose_answer",),
    "lost_answer": ("lose_answer",),
    "outage": ("disconnect", "reconnect"),
    "pause": ("forbid", "permit"),
    "poison": ("poison",),
    "replace": ("replace",),
    "restore": ("backup", "restore"),
    "too_large": ("oversized",),
}
"""What a harness must override to have a capability."""


def unsaid(harness: HandlerHarness) -> list[str]:
    """What the harness neither has nor names in `lacks`, and what it names wrongly; nothing where all is well."""
    faults = [
        f"`lacks` names {name!r}, which is not a capability" for name in harness.lacks if name not in CAPABILITIES
    ]
    faults += [f"`lacks` gives no reason for {name!r}" for name, reason in harness.lacks.items() if not reason.strip()]
    for capability, methods in METHODS.items():
        missing = [name for name in methods if getattr(type(harness), name) is getattr(HandlerHarness, name)]
        if missing and capability not in harness.lacks:
            faults.append(f"write {' and '.join(missing)}, or say why not in lacks[{capability!r}]")
    keeps = harness.handler().checkpoints is not None
    if keeps == ("checkpoints" in harness.lacks):
        faults.append(
            "the handler has checkpoints: take 'checkpoints' out of `lacks`"
            if keeps
            else "the handler has no checkpoints, so it delivers at least once: say why in lacks['checkpoints']"
        )
    return faults
