"""What is a rule about sessions: `SessionPolicy`; and the stage that applies one to the records of a bus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from eventrec.bus.stage import Stage
from eventrec.records.entry import EXPLICIT_ID
from eventrec.records.ids import Ids
from eventrec.sessions.fields import EventFields, FieldReader
from eventrec.sessions.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from eventrec.bus.stage import Output
    from eventrec.delivery.sources.source import Records
    from eventrec.sessions.fields import SessionEvent


OPEN_SESSIONS: Final = "open_sessions"
"""What policies count of their state as sessions open and end, so that it is known without a look at any of them."""


class SessionPolicy(ABC):
    """What opens, extends and ends a session; what is held back, inherited and emitted; when one is idle.

    All of it is pure: it reads and changes the turn alone, and has neither a clock nor anything that it remembers.

    Attributes:
        name: Of the stage, unless that is given another one.
        kept: What is kept under a key, in the plural, for operators.
        fields: How a record is read.
        has_flat_properties: Events go out with `properties` of texts alone, nested ones by their paths with dots: what
            a column of texts by names holds.
        idle_seconds: What is kept under a key is given to `idle` so long after it was put, by the bus's clock.
    """

    name: str = "sessions"
    kept: str = "keys"

    def __init__(
        self, *, fields: EventFields | None = None, idle_seconds: float = 1_800.0, flat_properties: bool = False
    ) -> None:
        self.has_flat_properties = flat_properties
        self.fields = EventFields() if fields is None else fields
        self.reader = FieldReader(self.fields)
        self.idle_seconds = idle_seconds

    @abstractmethod
    def keys(self, event: SessionEvent) -> Iterable[str]:
        """Under which keys the state is that `take` reads for `event`."""

    @abstractmethod
    def decode(self, key: str, kept: bytes) -> Any:
        """What `encode` has made bytes of.

        Raises:
            PauseError: It is not that.
        """

    @abstractmethod
    def encode(self, value: Any) -> bytes:
        """What is kept, as bytes; it changes nothing afterwards."""

    @abstractmethod
    def take(self, event: SessionEvent, turn: Turn) -> None:
        """What becomes of one event: it is passed on, or held back in the state."""

    @abstractmethod
    def idle(self, key: str, turn: Turn) -> None:
        """The time of what is kept under `key` is over. It has to be put again, or to go."""

    def settle(self, turn: Turn) -> None:  # noqa: B027 - most policies have nothing to add
        """Called once, after all that a turn is about."""


class SessionStage(Stage):
    """The stage that applies `policy`.

    A record that cannot be read is passed on as it is and counted as `unreadable`; none is ever lost, nor an error.
    """

    def __init__(self, policy: SessionPolicy, *, name: str | None = None) -> None:
        self._policy = policy
        self._name = policy.name if name is None else name
        self._read: dict[int, tuple[UUID, Records, list[SessionEvent | None]]] = {}

    def __repr__(self) -> str:
        return f"<SessionStage {self._name!r}: {type(self._policy).__name__}>"

    @property
    def name(self) -> str:
        """The key of its state and of its place."""
        return self._name

    @property
    def kept(self) -> str:
        """As the policy says."""
        return self._policy.kept

    @property
    def policy(self) -> SessionPolicy:
        """Its rules."""
        return self._policy

    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        """One or two for each session that an event is of."""
        keys_of = self._policy.keys
        keys: dict[str, None] = {}
        for event in self._events(log_id, records):
            if event is not None:
                for key in keys_of(event):
                    keys[key] = None
        return list(keys)

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        """What the rules say; `now` has no part in it.

        Raises:
            PauseError: What is kept under a key was not written by this policy.
        """
        del now
        policy = self._policy
        events = self._events(log_id, records)
        self._read.pop(id(records), None)
        turn = Turn(policy, state, records.static_context)
        take = policy.take
        ids = None
        for offset, entry, event in zip(records.offsets, records.entries, events, strict=True):
            if event is not None:
                take(event, turn)
                continue
            ids = Ids(log_id) if ids is None else ids
            turn.pass_on(entry, ids.as_bytes(offset, 0, entry[EXPLICIT_ID]))
            turn.counts["unreadable"] += 1
        policy.settle(turn)
        return turn.output()

    def expire(self, due: Mapping[str, bytes], now: float) -> Output:
        """What the rules say of keys that were idle.

        Raises:
            PauseError: As `process`.
        """
        del now
        turn = Turn(self._policy, due)
        for key in due:
            self._policy.idle(key, turn)
        self._policy.settle(turn)
        return turn.output()

    def _events(self, log_id: UUID, records: Records) -> list[SessionEvent | None]:
        """The records as rules see them: `process` is asked about those that `keys` was asked about just before."""
        read = self._read.get(id(records))
        if read is not None and read[0] == log_id:
            return read[2]
        events = self._policy.reader.read(log_id, records)
        if len(self._read) >= _MAX_READ:
            self._read.clear()
        self._read[id(records)] = (log_id, records, events)
        return events


_MAX_READ: Final = 16
"""Shards that one stage may be between `keys` and `process` of, before it reads records twice."""
