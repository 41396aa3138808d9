"""One turn of a stage: some records, or some keys whose time is over, and what its rules make of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from eventrec.bus.stage import Output, Published, Seen
from eventrec.records.context import merged_context
from eventrec.records.entry import CONTEXT, PAYLOAD, with_context, with_payload
from eventrec.sessions.payloads import encode, with_flat_properties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.records.entry import Entry

LIVE_SECONDS: Final = 300.0
"""How long a visitor counts as live after an event."""

_MISSING: Final = object()


class StateForm(Protocol):
    """What a turn has to know of a policy: how its state is kept, for how long, and how payloads go out."""

    idle_seconds: float
    has_flat_properties: bool

    def decode(self, key: str, kept: bytes) -> Any:
        """What `encode` has made bytes of."""

    def encode(self, value: Any) -> bytes:
        """It as bytes."""


class Turn:
    """What rules read and change. Nothing of it lasts longer than the turn but what `output` says.

    Attributes:
        entries: What is passed on, in order.
        static_context: That of the records of this turn.
        counts: Records by what became of them.
        tallies: By how much what is counted of the state changes.
        notes: For the policy itself.
    """

    def __init__(self, form: StateForm, state: Mapping[str, bytes | None], static: bytes | None = None) -> None:
        self.entries: list[Entry] = []
        self.static_context = static
        self.counts: Counter[str] = Counter()
        self.tallies: Counter[str] = Counter()
        self.notes: dict[str, Any] = {}
        self._form = form
        self._state = state
        self._values: dict[str, Any] = {}
        self._changed: dict[str, float | None] = {}
        self._idle_seconds = form.idle_seconds
        self._touched: dict[str, None] = {}
        self._published: dict[str, tuple[bytes | None, float]] = {}
        self._seen: dict[tuple[str, str], None] = {}
        self._received: Counter[str] = Counter()
        self._whole: set[int] = set()

    # -- state

    def get(self, key: str) -> Any:
        """What is kept under `key`, one object in all of this turn; None: nothing."""
        value = self._values.get(key, _MISSING)
        if value is _MISSING:
            kept = self._state[key]
            value = self._values[key] = None if kept is None else self._form.decode(key, kept)
        return value

    def peek(self, key: str) -> Any:
        """What this turn has put under `key`, or read of it; None: neither."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep `value`, and let its time begin again; None: keep nothing."""
        self._values[key] = value
        self._changed[key] = self._idle_seconds

    def put_for(self, key: str, value: Any, *, seconds: float | None) -> None:
        """Keep `value` for so long; None: for ever."""
        self._values[key] = value
        self._changed[key] = seconds

    # -- what goes out

    def pass_on(self, entry: Entry, id_: bytes) -> None:
        """`entry` as it came, under the id that it has."""
        shape, timestamp, payload, context, extras, explicit, size = entry
        self.entries.append(entry if explicit is not None else (shape, timestamp, payload, context, extras, id_, size))

    def pass_changed(self, entry: Entry, id_: bytes, payload: bytes) -> None:
        """`entry` with another payload."""
        self.pass_on(with_payload(entry, payload), id_)

    def pass_held(self, entry: Entry) -> None:
        """An entry of an earlier turn, of which the context is whole: the static one of its own time is in it."""
        self._whole.add(len(self.entries))
        self.entries.append(entry)

    def publish(self, key: str, value: bytes | None, seconds: float = 0.0) -> None:
        """For others to read under `key`; of several in one turn the last."""
        self._published[key] = (value, seconds)

    def note_visitor(self, project: str, visitor: str) -> None:
        """`visitor` is there now."""
        self._seen[project, visitor] = None

    def note_received(self, project: str) -> None:
        """One more event of `project`."""
        self._received[project] += 1

    def output(self) -> Output:
        """All of it."""
        encode_state = self._form.encode
        if self._form.has_flat_properties:
            self.entries = [with_payload(entry, with_flat_properties(entry[PAYLOAD])) for entry in self.entries]
        output = Output(entries=self.entries, static_context=self.static_context, counts=dict(self.counts))
        output.tallies = {name: change for name, change in self.tallies.items() if change}
        values = self._values
        for key, seconds in self._changed.items():
            value = values[key]
            if value is None:
                output.state[key] = None
            else:
                output.state[key] = encode_state(value)
                output.deadlines[key] = seconds
        output.published = [Published(key, *what) for key, what in self._published.items()]
        output.seen = [Seen(f"live:{project}", visitor, LIVE_SECONDS) for project, visitor in self._seen]
        if self._received:
            messages = [encode({"project_id": project, "count": count}) for project, count in self._received.items()]
            output.notices["event:received"] = messages
        if self._whole and self.static_context is not None:
            output.entries = [
                entry if i in self._whole else with_static(entry, self.static_context)
                for i, entry in enumerate(self.entries)
            ]
            output.static_context = None
        return output


def with_static(entry: Entry, static: bytes | None) -> Entry:
    """`entry`, in the context of which the static one is; as it came where its own cannot be read."""
    if static is None:
        return entry
    try:
        return with_context(entry, merged_context(static, entry[CONTEXT]))
    except (msgspec.DecodeError, RecursionError):
        return entry
