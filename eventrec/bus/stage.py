"""A stage: a pure transformation of records between a bus and its subscriptions, with a state that the bus keeps.

What it holds is committed together with how far it has read and with what it has given out, so that a crash at any
point neither loses nor repeats. So it keeps nothing itself: what it knows of earlier records is in the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from eventrec.delivery.sources.source import Records
    from eventrec.records.entry import Entry


@dataclass(frozen=True, slots=True)
class Published:
    """Something that others may read under a key for so long, without the stage. `value=None` takes it back."""

    key: str
    value: bytes | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """`member` was seen in `index` just now: what was not seen for `seconds` is forgotten."""

    index: str
    member: str
    seconds: float


@dataclass(slots=True)
class Output:
    """What a stage makes of some records, or of time.

    Attributes:
        entries: Records to pass on, in order; each has an id of its own, so that it stays the same wherever it goes.
        static_context: What is true of all of them: a JSON object.
        state: What to keep under a key from now on; None: nothing.
        deadlines: When the stage is asked about a key again: seconds from now by the bus's clock; None: never. A key
            that is taken out of the state has no deadline.
        published: For others to read.
        seen: Likewise.
        notices: For readers that listen: channel to messages; sent after all of it is kept, perhaps.
        counts: Records by what became of them, for the metrics.
        tallies: By how much what is counted of the state changes, as `{"open_sessions": 1}`. Names are words without a
            blank. What was counted of a state begins at 0 with an empty one.
    """

    entries: list[Entry] = field(default_factory=list)
    static_context: bytes | None = None
    state: dict[str, bytes | None] = field(default_factory=dict)
    deadlines: dict[str, float | None] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    notices: dict[str, list[bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, int] = field(default_factory=dict)


class Stage(ABC):
    """A transformation. All its methods are pure: what they answer follows from what they are given."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The key of its state and of its place in the logs: letters, digits, "-", "_"."""

    @property
    def kept(self) -> str:
        """What a key of the state is, in the plural, for operators."""
        return "keys"

    @abstractmethod
    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        """The keys of the state that `process` needs for `records`, each once."""

    @abstractmethod
    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        """What becomes of `records`, of the log `log_id`.

        `state` has what was asked for; `now` is seconds since the epoch by the bus's clock.
        """

    def expire(self, due: Mapping[str, bytes], now: float) -> Output:
        """What becomes of keys whose deadline has passed. The default forgets them.

        Relays ask once they have processed what was there when they looked last, so that an outage of theirs ends
        nothing that goes on in what has come meanwhile. A key that the answer neither takes out of the state nor gives
        another deadline is asked for again.
        """
        del now
        return Output(state=dict.fromkeys(due))
