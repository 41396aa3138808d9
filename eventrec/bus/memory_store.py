"""What a bus in memory holds, whichever of its connections are open; and what may befall it.

Producers append; tests move its clock, lose the tail of its logs, trim, put it out of reach, and come between a call
and its answer. Changes are made in one step of the loop, so each is whole. For one loop's thread.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from eventrec.bus.bus import STAGE_PREFIX, LogBounds, Presence
from eventrec.runs.run import new_run_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry

_NAME: Final = "memory"


class MemoryStore:
    """A bus's memory. `names` are those of its shards; `clock` is what its own is ahead of, in seconds."""

    def __init__(self, names: Sequence[str] = (_NAME,), *, clock: Callable[[], float] = time.time) -> None:
        self.shards = [MemoryLogs(name, self) for name in names]
        self.is_reachable = True
        self.arriving: Callable[[str], Awaitable[object]] | None = None
        """Awaited with the name of each call before it is carried out: may fail, or hang."""
        self.answering: Callable[[str], Awaitable[object]] | None = None
        """Likewise once it was: what it raises is an answer that was lost."""
        self.notices: list[tuple[str, bytes]] = []
        """All that was told, by channel."""
        self.present: dict[str, dict[str, tuple[Presence, float, float]]] = {}
        """By subscription and holder: which relays there are, until when, and how long they said."""
        self._clock = clock
        self._ahead = 0.0

    def __repr__(self) -> str:
        return f"<MemoryStore {self.shards}>"

    def time(self) -> float:
        """Seconds since the epoch, as far as its users know."""
        return self._clock() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        self._ahead += seconds

    def announce(self, subscription: str, presence: Presence, *, seconds: float) -> list[Presence]:
        """As `Bus.announce`."""
        now, present = self.time(), self.present.setdefault(subscription, {})
        present[presence.holder] = presence, now + seconds, seconds
        for holder, (its, until, lasts) in list(present.items()):
            if until <= now:
                del present[holder]
            else:
                present[holder] = its, min(until, now + lasts), lasts  # less, where the clock went back
        return [its for its, _, _ in present.values()]

    def append(self, entries: Sequence[Entry], *, static_context: bytes | None = None) -> UUID:
        """Append a producer's commit to the first shard; the id of the log it is in."""
        return self.shards[0].append(entries, static_context=static_context)

    def backup(self) -> object:
        """All of it as it is now, for `restore`."""
        return [shard.backup() for shard in self.shards]

    def restore(self, backup: Any) -> None:
        """Die, and come back as of `backup`: what was live then ends there, and may have been longer."""
        for shard, held in zip(self.shards, backup, strict=True):
            shard.restore(held)


class _Entries(list["tuple[Entry | None, bytes | None]"]):
    """Records with their static context, None where one was removed. A copy has the same ones."""

    def __deepcopy__(self, memo: object) -> _Entries:
        return _Entries(self)


@dataclass
class MemoryLog:
    """One log: its records from `oldest` on."""

    id: UUID
    oldest: int = 0
    entries: _Entries = field(default_factory=_Entries)
    is_live: bool = True
    may_have_lost_tail: bool = False

    @property
    def end(self) -> int:
        """The next offset."""
        return self.oldest + len(self.entries)

    def trim(self, to: int) -> None:
        """Keep nothing below `to`."""
        if to > self.oldest:
            to = min(to, self.end)
            del self.entries[: to - self.oldest]
            self.oldest = to

    def bounds(self) -> LogBounds:
        """What a relay is told of it."""
        return LogBounds(self.id, self.oldest, self.end, self.is_live, self.may_have_lost_tail)


@dataclass
class MemoryLease:
    """Which relay serves a subscription: none any more once `token` is empty."""

    holder: str = ""
    token: str = ""
    until: float = 0.0
    seconds: float = 0.0


@dataclass
class MemoryStage:
    """What a stage keeps, and publishes."""

    at: dict[UUID, int] = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    views: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Value, and until when."""
    seen: dict[str, dict[str, float]] = field(default_factory=dict)
    tallies: dict[str, int] = field(default_factory=dict)


@dataclass
class _Held:
    """All that a shard holds but its outlets."""

    logs: dict[UUID, MemoryLog] = field(default_factory=dict)
    scanned: dict[str, dict[UUID, int]] = field(default_factory=dict)
    saved: dict[str, dict[UUID, bytes]] = field(default_factory=dict)
    leases: dict[str, MemoryLease] = field(default_factory=dict)
    stages: dict[str, MemoryStage] = field(default_factory=dict)


class MemoryLogs:
    """What one shard holds."""

    def __init__(self, name: str, store: MemoryStore) -> None:
        self.name = name
        self.held = _Held()
        self.outlets: dict[str, MemoryLogs] = {}
        self._store = store
        self._waiting: set[anyio.Event] = set()

    def __repr__(self) -> str:
        return f"<MemoryLogs {self.name!r} {[log.bounds() for log in self.held.logs.values()]}>"

    def outlet(self, stage: str) -> MemoryLogs:
        """That of `stage`; made where it is not there yet."""
        if stage not in self.outlets:
            self.outlets[stage] = MemoryLogs(f"{self.name}/{stage}", self._store)
        return self.outlets[stage]

    def stage(self, name: str) -> MemoryStage:
        """What `name` keeps: nothing, if it is new. It is not kept before it is changed."""
        return self.held.stages.get(name) or MemoryStage()

    # -- what producers do

    def append(self, entries: Sequence[Entry], *, static_context: bytes | None = None) -> UUID:
        """Append to the live log, which begins here if there is none."""
        log = next((log for log in self.held.logs.values() if log.is_live), None) or self._begin()
        log.entries += [(entry, static_context) for entry in entries]
        self.tell()
        return log.id

    def _begin(self) -> MemoryLog:
        log = MemoryLog(new_run_id())
        self.held.logs[log.id] = log
        return log

    # -- what befalls it

    def seal(self, *, lost: int = 0) -> None:
        """The live log ends without its last `lost` records, and another one begins with the next append."""
        for log in self.held.logs.values():
            if log.is_live:
                log.is_live, log.may_have_lost_tail = False, True
                del log.entries[max(0, len(log.entries) - lost) :]
        self.tell()

    def trim_all(self, log_id: UUID, to: int) -> None:
        """Drop what lies below `to`, whichever readers have not read it: a bound of its own took it."""
        self.held.logs[log_id].trim(to)

    def remove(self, log_id: UUID, offsets: Sequence[int]) -> None:
        """Make holes."""
        log = self.held.logs[log_id]
        for offset in offsets:
            log.entries[offset - log.oldest] = (None, log.entries[offset - log.oldest][1])

    def backup(self) -> object:
        """All of it, for `restore`."""
        return copy.deepcopy(self.held), {name: outlet.backup() for name, outlet in self.outlets.items()}

    def restore(self, backup: Any) -> None:
        """Be as of `backup`; what was live then has ended there."""
        held, outlets = backup
        self.held = copy.deepcopy(held)
        for name, outlet in self.outlets.items():
            outlet.restore(outlets.get(name, (_Held(), {})))
        self.seal()

    # -- what relays do

    def trim(self) -> None:
        """Drop what all that are known have settled, and sealed logs of which all is."""
        held = self.held
        known = [*held.scanned.values()]
        if not known:
            return
        for log in list(held.logs.values()):
            log.trim(min(scanned.get(log.id, 0) for scanned in known))
            if not log.is_live and not log.entries:
                del held.logs[log.id]
                for kept in (*held.scanned.values(), *held.saved.values()):
                    kept.pop(log.id, None)  # type: ignore[attr-defined]
                for stage in held.stages.values():
                    stage.at.pop(log.id, None)

    def forget(self, subscription: str) -> bool:
        """Keep nothing for it."""
        held = self.held
        is_known = held.scanned.pop(subscription, None) is not None
        held.saved.pop(subscription, None)
        held.leases.pop(subscription, None)
        if subscription.startswith(STAGE_PREFIX):
            held.stages.pop(subscription.removeprefix(STAGE_PREFIX), None)
        self.trim()
        return is_known

    def tell(self) -> None:
        """Wake what waits for a change."""
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.set()

    async def next_change(self) -> None:
        """Return once `tell` was called."""
        changed = anyio.Event()  # of the loop that waits: a store may outlive one
        self._waiting.add(changed)
        try:
            await changed.wait()
        finally:
            self._waiting.discard(changed)
