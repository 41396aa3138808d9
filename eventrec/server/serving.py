"""What every endpoint is given: the recorder, what can be read, who may, and the limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.letters.counts import LetterCounter
from eventrec.durations import duration_seconds
from eventrec.server.delivered import DeliveryRounds
from eventrec.server.measures import ServerMeasures
from eventrec.server.memory import BodyMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventrec.analytics import Catalogue
    from eventrec.recorder import EventRecorder
    from eventrec.server.access import Access
    from eventrec.server.options import ServerOptions
    from eventrec.server.reading.pool import Pool

_UNPACKERS: Final = 4
_LOOKERS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server.

    Attributes:
        recorder: What takes the events.
        options: Its limits.
        access: Who may do what.
        pool: Answers questions about what is stored; None: no destination that can be read was named.
        catalogue: The rollups that can be asked for; None: none.
        log: The directory of the recorder's log, where its dead letters are; None: it has none.
        takes_events: Whether clients may send some.
        measures: What it has done: `count_events` is for who takes some.
        endings: What ends answers that go on for ever; see `end`.
    """

    recorder: EventRecorder
    options: ServerOptions
    access: Access
    pool: Pool | None = None
    catalogue: Catalogue | None = None
    log: Path | None = None
    takes_events: bool = True
    measures: ServerMeasures = field(init=False, default_factory=ServerMeasures)
    endings: list[Callable[[], object]] = field(init=False, default_factory=list)
    _shared: SharedState = field(init=False, repr=False)

    def __post_init__(self) -> None:
        memory = BodyMemory(self.options.max_body_memory, retry_after=duration_seconds(self.options.retry_after))
        object.__setattr__(self, "_shared", SharedState(memory=memory))

    def end(self) -> None:
        """The server takes no more requests: answers that go on for ever are to end. On the loop's thread."""
        for each in self.endings:
            each()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedState:
    """What the endpoints of this package share.

    Attributes:
        memory: What the bodies of all requests take.
        unpackers: How many large bodies are unpacked at once, each in a thread.
        lookers: How many requests look at the log directory at once, each in a thread.
        letters: Counts the dead letters in the directory of the recorder's log.
        rounds: Of requests that wait until what they brought is delivered, where the recorder has no log.
    """

    memory: BodyMemory
    unpackers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_UNPACKERS))
    lookers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_LOOKERS))
    letters: LetterCounter = field(default_factory=LetterCounter)
    rounds: DeliveryRounds = field(default_factory=DeliveryRounds)


def shared_state(server: Server) -> SharedState:
    """Of one server, for the endpoints of this package."""
    return server._shared  # noqa: SLF001 - no application is given it
