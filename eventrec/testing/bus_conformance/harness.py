"""What an author of a bus writes: how to reach it, how to fill it, and how to hurt it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, get_args

import anyio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.bus import Bus, Entry

Capability: TypeAlias = Literal["lost_all", "lost_answer", "lost_head", "lost_tail", "outage", "pause", "presence"]
"""What a bus or its harness may lack.

    lost_all      `lose_all`
    lost_answer   `lose_answer`
    lost_head     `lose_head`
    lost_tail     `lose_tail`
    outage        `disconnect` and `reconnect`
    pause         `forbid` and `permit`
    presence      `Bus.announce`: relays that share its shards by themselves
"""

CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)

METHODS: Final[Mapping[Capability, tuple[str, ...]]] = {
    "lost_all": ("lose_all",),
    "lost_answer": ("lose_answer",),
    "lost_head": ("lose_head",),
    "lost_tail": ("lose_tail",),
    "outage": ("disconnect", "reconnect"),
    "pause": ("forbid", "permit"),
    "presence": (),
}
"""What a harness must override to have a capability."""


class BusHarness(ABC):
    """One bus, made for one claim: empty at `start`, gone after `stop`.

    Write `bus` and `append`, and each of the other methods whose capability `lacks` does not name.
    """

    lacks: ClassVar[Mapping[Capability, str]] = {}
    """Capability to the reason why it is lacking: what a skipped claim shows."""

    patience: ClassVar[float] = 90.0
    """Seconds after which a claim is given up."""

    tick: ClassVar[float] = 0.5
    """Seconds that a short lease lasts, or a deadline is away. Where `advance` is real time: as short as is certain."""

    async def start(self) -> None:
        """Make the bus: empty, in reach."""

    async def stop(self) -> None:
        """Remove it; called whatever happened before."""

    @abstractmethod
    def bus(self) -> Bus:
        """A new connection to it, not open. Several must be able to work at once."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry], context: bytes | None = None) -> None:
        """Append `entries` to the first shard as one producer does, behind all that is there. Each has an id."""

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass by the bus's clock. The default waits for them."""
        await anyio.sleep(seconds)

    async def disconnect(self) -> None:
        """Break every connection and refuse new ones, until `reconnect`. The bus keeps what it has."""
        raise NotImplementedError

    async def reconnect(self) -> None:
        """Back in reach."""
        raise NotImplementedError

    async def forbid(self) -> None:
        """Refuse what relays do, in a way that an operator has to mend, until `permit`."""
        raise NotImplementedError

    async def permit(self) -> None:
        """Take it again."""
        raise NotImplementedError

    async def lose_answer(self) -> None:
        """Let the next change of a relay be carried out without its learning so."""
        raise NotImplementedError

    async def lose_head(self, count: int) -> None:
        """Drop the oldest `count` records of the first shard's log, or a few more, as a bound on its size would."""
        raise NotImplementedError

    async def lose_tail(self, count: int) -> None:
        """The bus dies, and comes back without the last `count` records of the first shard, or a few more."""
        raise NotImplementedError

    async def lose_all(self) -> None:
        """The bus comes back with nothing at all."""
        raise NotImplementedError


def unsaid(harness: BusHarness) -> list[str]:
    """What the harness neither has nor names in `lacks`, and what it names wrongly; nothing where all is well."""
    faults = [
        f"`lacks` names {name!r}, which is not a capability" for name in harness.lacks if name not in CAPABILITIES
    ]
    faults += [f"`lacks` gives no reason for {name!r}" for name, reason in harness.lacks.items() if not reason.strip()]
    for capability, methods in METHODS.items():
        missing = [name for name in methods if getattr(type(harness), name) is getattr(BusHarness, name)]
        if missing and capability not in harness.lacks:
            faults.append(f"write {' and '.join(missing)}, or say why not in lacks[{capability!r}]")
    return faults
