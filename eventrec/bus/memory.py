"""The bus in one process: what a bus must do, in the fewest words; and what relays are tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import anyio

from eventrec.bus.bus import STAGE_PREFIX, Bus, Held, Lease, LogBounds, Presence, Shard, Step
from eventrec.bus.memory_store import MemoryLease, MemoryLog, MemoryLogs, MemoryStage, MemoryStore
from eventrec.delivery.sources.source import Records
from eventrec.errors import LeaseLostError, ShardsChangedError, TransientError
from eventrec.records.entry import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from eventrec.bus.stage import Output
    from eventrec.records.entry import Entry

T = TypeVar("T")


class MemoryBus(Bus):
    """A connection to `store`, which outlives it and may have several."""

    shard_class: type[MemoryShard]

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self._is_open = False
        self._given: list[MemoryLogs] = []

    def __repr__(self) -> str:
        return f"<MemoryBus {'open' if self._is_open else 'closed'}>"

    async def open(self) -> None:
        await anyio.lowlevel.checkpoint()
        if not self.store.is_reachable:
            raise TransientError("the bus is out of reach")
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def shards(self) -> Sequence[MemoryShard]:
        self._given = list(self.store.shards)
        return [self.shard_class(self, logs) for logs in self._given]

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        def announce() -> list[Presence]:
            self.check()
            return self.store.announce(subscription, presence, seconds=seconds)

        return await self.call("announce", announce)

    def check(self) -> None:
        """Raise ShardsChangedError where the store has other shards by now than were given."""
        if self._given and self._given != self.store.shards:
            raise ShardsChangedError(f"the bus has {len(self.store.shards)} shards by now, not {len(self._given)}")

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        """Carry out `change`, unless the store is out of reach; being cancelled, it may have been done or not.

        Raises:
            TransientError: It was not done, unless the answer alone was lost.
        """
        await anyio.lowlevel.checkpoint()
        if self.store.arriving is not None:
            await self.store.arriving(verb)
        if not (self._is_open and self.store.is_reachable):
            raise TransientError("the bus is out of reach" if self._is_open else "the bus is not open")
        answer = change()
        if self.store.answering is not None:
            await self.store.answering(verb)
        return answer


class MemoryShard(Shard):
    """One shard of it, or the outlet of a stage."""

    def __init__(self, bus: MemoryBus, logs: MemoryLogs) -> None:
        self._bus = bus
        self._logs = logs

    def __repr__(self) -> str:
        return f"<MemoryShard {self.name!r}>"

    @property
    def name(self) -> str:
        return self._logs.name

    # -- reading

    async def logs(self) -> Sequence[LogBounds]:
        return await self._bus.call("logs", lambda: [log.bounds() for log in self._logs.held.logs.values()])

    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        def read() -> Records:
            log = self._logs.held.logs.get(log_id)
            return Records(start, start) if log is None else _read(log, start, max_records, max_bytes)

        return await self._bus.call("read", read)

    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        def is_over() -> bool:
            log = self._logs.held.logs.get(log_id)
            return log is None or not log.is_live or log.end > end

        with anyio.move_on_after(seconds):
            while not await self._bus.call("wait", is_over):
                await self._logs.next_change()

    # -- who serves a subscription

    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        def acquire() -> Lease | None:
            self._bus.check()
            held, now = self._logs.held, self._bus.store.time()
            lease = held.leases.get(subscription, MemoryLease())
            if lease.token and lease.holder != holder and lease.until > now:
                lease.until = min(lease.until, now + lease.seconds)  # less, where the clock went back
                return None
            held.scanned.setdefault(subscription, {})
            held.leases[subscription] = MemoryLease(holder, str(uuid4()), now + seconds, seconds)
            return Lease(subscription, holder, held.leases[subscription].token)

        return await self._bus.call("acquire", acquire)

    async def renew(self, lease: Lease, *, seconds: float) -> None:
        def renew() -> None:
            kept = self._lease(lease)
            kept.until, kept.seconds = self._bus.store.time() + seconds, seconds

        await self._bus.call("renew", renew)

    async def release(self, lease: Lease) -> None:
        def release() -> None:
            kept = self._logs.held.leases.get(lease.subscription)
            if kept is not None and kept.token == lease.token:
                del self._logs.held.leases[lease.subscription]

        await self._bus.call("release", release)

    def _lease(self, lease: Lease) -> MemoryLease:
        kept = self._logs.held.leases.get(lease.subscription)
        if kept is None or kept.token != lease.token:
            raise LeaseLostError(f"{self.name}: the lease of {lease.subscription!r} is lost")
        return kept

    async def subscriptions(self) -> Sequence[Held]:
        return await self._bus.call("subscriptions", self._subscriptions)

    def _subscriptions(self) -> list[Held]:
        found, now = [], self._bus.store.time()
        for name, scanned in self._logs.held.scanned.items():
            lease = self._logs.held.leases.get(name, MemoryLease())
            seconds = max(0.0, lease.until - now)
            found.append(Held(name, dict(scanned), lease.holder if seconds else "", seconds))
        return found

    async def forget(self, subscription: str) -> bool:
        return await self._bus.call("forget", lambda: self._logs.forget(subscription))

    # -- how far it is

    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        def load() -> dict[UUID, bytes]:
            self._lease(lease)
            return dict(self._logs.held.saved.get(lease.subscription, {}))

        return await self._bus.call("load", load)

    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        def save() -> None:
            self._lease(lease)
            if log_id in self._logs.held.logs:
                self._logs.held.saved.setdefault(lease.subscription, {})[log_id] = content
                self._logs.held.scanned[lease.subscription][log_id] = scanned
                self._logs.trim()

        await self._bus.call("save", save)

    # -- stages

    def outlet(self, stage: str) -> MemoryShard:
        return type(self)(self._bus, self._logs.outlet(stage))

    async def progress(self, lease: Lease) -> Mapping[UUID, int]:
        def progress() -> dict[UUID, int]:
            self._lease(lease)
            return dict(self._logs.stage(_stage_of(lease)).at)

        return await self._bus.call("progress", progress)

    async def state(self, stage: str, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self._bus.call("state", lambda: [self._logs.stage(stage).state.get(key) for key in keys])

    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        def due() -> list[tuple[str, bytes]]:
            kept, now = self._logs.stage(stage), self._bus.store.time()
            over = sorted((at, key) for key, at in kept.due.items() if at <= now)
            return [(key, kept.state[key]) for _, key in over[:limit]]

        return await self._bus.call("due", due)

    async def commit(self, lease: Lease, step: Step) -> None:
        def commit() -> None:
            self._lease(lease)
            name, held = _stage_of(lease), self._logs.held
            stage = self._logs.stage(name)
            if step.log_id is not None:
                if step.log_id not in held.logs:
                    raise LeaseLostError(f"{self.name}: the log {step.log_id} of the stage {name!r} is not there")
                if (at := stage.at.get(step.log_id, 0)) != step.start:
                    raise LeaseLostError(f"{self.name}: the stage {name!r} is at {at}, not at {step.start}")
                stage.at[step.log_id] = held.scanned[lease.subscription][step.log_id] = step.end
            held.stages[name] = stage
            _keep(stage, step.output, self._bus.store.time())
            if step.output.entries:
                self._logs.outlet(name).append(step.output.entries, static_context=step.output.static_context)
            self._logs.trim()

        await self._bus.call("commit", commit)

    async def time(self) -> float:
        return await self._bus.call("time", self._bus.store.time)

    async def size(self, stage: str) -> int:
        return await self._bus.call("size", lambda: len(self._logs.stage(stage).state))

    async def tallies(self, stage: str) -> Mapping[str, int] | None:
        return await self._bus.call("tallies", lambda: dict(self._logs.stage(stage).tallies))

    # -- views

    async def view(self, stage: str, key: str) -> bytes | None:
        def view() -> bytes | None:
            value, until = self._logs.stage(stage).views.get(key, (None, 0.0))
            return value if until > self._bus.store.time() else None

        return await self._bus.call("view", view)

    async def count_seen(self, stage: str, index: str, *, seconds: float) -> int:
        def count() -> int:
            since = self._bus.store.time() - seconds
            return sum(at > since for at in self._logs.stage(stage).seen.get(index, {}).values())

        return await self._bus.call("count_seen", count)

    async def notify(self, channel: str, messages: Sequence[bytes]) -> None:
        told = [(channel, message) for message in messages]
        await self._bus.call("notify", lambda: self._bus.store.notices.extend(told))


MemoryBus.shard_class = MemoryShard


def _stage_of(lease: Lease) -> str:
    return lease.subscription.removeprefix(STAGE_PREFIX)


def _read(log: MemoryLog, start: int, max_records: int, max_bytes: int) -> Records:
    """What comes next: as much as one answer may have, of one static context."""
    first = max(start, log.oldest)
    offsets: list[int] = []
    entries: list[Entry] = []
    end, size = first, 0
    context: bytes | None = None
    for entry, its in log.entries[first - log.oldest :]:
        if entry is not None:
            size += entry[SIZE]
            if entries and (len(entries) >= max_records or size > max_bytes or its != context):
                break
            context = its
            offsets.append(end)
            entries.append(entry)
        end += 1
    return Records(first, max(end, first), offsets, entries, context) if end > start else Records(start, start)


def _count(stage: MemoryStage, tallies: Mapping[str, int]) -> None:
    """Change what is counted of the state, which has not changed yet."""
    if not stage.state:
        stage.tallies.clear()
    for name, change in tallies.items():
        stage.tallies[name] = stage.tallies.get(name, 0) + change


def _keep(stage: MemoryStage, output: Output, now: float) -> None:
    """Change `stage` as `output` says."""
    _count(stage, output.tallies)
    for key, value in output.state.items():
        if value is None:
            stage.state.pop(key, None)
            stage.due.pop(key, None)
        else:
            stage.state[key] = value
    for key, seconds in output.deadlines.items():
        stage.due.pop(key, None)
        if seconds is not None and key in stage.state:
            stage.due[key] = now + seconds
    for each in output.published:
        stage.views.pop(each.key, None)
        if each.value is not None:
            stage.views[each.key] = each.value, now + each.seconds
    for seen in output.seen:
        members = stage.seen.setdefault(seen.index, {})
        members[seen.member] = now
        for member in [member for member, at in members.items() if at <= now - seen.seconds]:
            del members[member]
