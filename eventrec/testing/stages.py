"""A stage without a bus: its state in a dict, its clock in the hands of the test."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from eventrec.bus import ContentDecoder, Ids, Records, Step, encode_take
from eventrec.records.context import merged_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventrec.bus import Entry, Output, Published, Stage


class StageRun:
    """Runs `stage` as a relay does: reads, asks for the state, and commits what came of it.

    What it gives out goes through the bytes of a commit, as on any bus, so what those cannot hold is an error here.

    Attributes:
        entries: All that was given out, in order, each with the static context of its output in its own.
        state: What is kept, by key; `deadlines` when each is due.
        published: What can be read now; `seen` when a member of an index was seen last.
        counts: What became of records; `tallies` what the stage has counted of its state.
        now: Seconds by the clock of the bus.
    """

    def __init__(self, stage: Stage, *, log_id: UUID | None = None, now: float = 1_000_000.0) -> None:
        self.stage = stage
        self.log_id = UUID(int=1) if log_id is None else log_id
        self.now = now
        self.next = 0
        self.entries: list[Entry] = []
        self.state: dict[str, bytes] = {}
        self.deadlines: dict[str, float] = {}
        self.seen: dict[tuple[str, str], float] = {}
        self.notices: dict[str, list[bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.tallies: Counter[str] = Counter()
        self._published: dict[str, tuple[bytes, float]] = {}
        self._decode = ContentDecoder().decode

    def feed(self, entries: Iterable[Entry], *, static_context: bytes | None = None) -> Output:
        """What the stage makes of `entries`, in one turn."""
        given = list(entries)
        end = self.next + len(given)
        records = Records(self.next, end, range(self.next, end), given, static_context)
        state = {key: self.state.get(key) for key in self.stage.keys(self.log_id, records)}
        output = self.stage.process(self.log_id, records, state, self.now)
        self.commit(Step(output, self.log_id, self.next, end))
        return output

    def wait(self, seconds: float) -> list[Output]:
        """Let time pass, and have the stage decide about what is due then; as often as something is."""
        self.now += seconds
        outputs = []
        while due := self.due():
            output = self.stage.expire(due, self.now)
            self.commit(Step(output))
            outputs.append(output)
            assert self.due().keys() != due.keys(), "it neither forgets what is due nor gives it more time"
        return outputs

    def due(self) -> dict[str, bytes]:
        """What is due now, the oldest first."""
        keys = sorted((at, key) for key, at in self.deadlines.items() if at <= self.now)
        return {key: self.state[key] for _, key in keys}

    def commit(self, step: Step) -> None:
        """Keep what `step` says, and what it gives out."""
        output = step.output
        for content, _ in encode_take(output.entries, self.log_id, written=0, static_context=output.static_context):
            for entry in self._decode(content).entries:
                shape, timestamp, payload, context, extras, id_, size = entry
                assert id_ is not None, f"an entry of type {shape.type!r} has no id"
                context = merged_context(output.static_context, context)
                self.entries.append((shape, timestamp, payload, context, extras, id_, size))
        for key, value in output.state.items():
            if value is None:
                self.state.pop(key, None)
                self.deadlines.pop(key, None)
            else:
                self.state[key] = value
        for key, seconds in output.deadlines.items():
            assert key in self.state, f"{key!r} has a deadline and no state"
            if seconds is None:
                self.deadlines.pop(key, None)
            else:
                self.deadlines[key] = self.now + seconds
        for each in output.published:
            self._publish(each)
        for one in output.seen:
            self.seen[one.index, one.member] = self.now
        for channel, messages in output.notices.items():
            self.notices.setdefault(channel, []).extend(messages)
        self.counts.update(output.counts)
        self.tallies.update(output.tallies)
        self.next = step.end or self.next

    @property
    def published(self) -> dict[str, bytes]:
        """What can be read by others now."""
        return {key: value for key, (value, until) in self._published.items() if until > self.now}

    def count_seen(self, index: str, *, seconds: float) -> int:
        """How many members of `index` were seen within the last `seconds`."""
        return sum(at > self.now - seconds for (other, _), at in self.seen.items() if other == index)

    def events(self, *types: str) -> list[dict[str, Any]]:
        """What was given out, of these types: the payload with `_type`, `_id`, `_table`, `_at` in milliseconds."""
        return payloads(self.entries, *types)

    def _publish(self, each: Published) -> None:
        if each.value is None:
            self._published.pop(each.key, None)
        else:
            self._published[each.key] = (each.value, self.now + each.seconds)


def payloads(entries: Sequence[Entry], *types: str) -> list[dict[str, Any]]:
    """The payloads of `entries`, of these types or all: with `_type`, `_id`, `_table`, `_at` in milliseconds."""
    ids = Ids(UUID(int=0))
    found = []
    for shape, timestamp, payload, _, _, id_, _ in entries:
        if not types or shape.type in types:
            members = msgspec.json.decode(payload)
            own = {
                "_type": shape.type,
                "_id": ids.as_text(0, 0, id_),
                "_table": shape.table,
                "_at": timestamp // 1_000_000,
            }
            found.append({**(members if isinstance(members, dict) else {"_payload": members}), **own})
    return found
