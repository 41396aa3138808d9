"""One shard of a bus on Redis, or the outlet of a stage: each change is one script, so it is whole or not at all.

What was evicted, flushed or lost is told where it is noticed, and mended where it can be:

    meta                 the streams that this process knows are taken back as sealed logs
    the stream of a log  what it held is a lost range
    at:LOG               nothing is trimmed until all have saved again; stages have their place twice
    the list subs        nothing is trimmed before it is made again from at:LOG
    saved:SUB            said; the subscription begins as one without a checkpoint
    lease:SUB            the lease is lost; the next one is acquired
    a stage's place      taken from at:LOG
    a stage's state      said: what was open is gone
    a stage's deadlines  said; the stage is asked about every key at once
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import anyio

from eventrec import DeliveryError, get_logger
from eventrec.bus import Held, Lease, LogBounds, Records, Shard
from eventrec_handlers.redis.calls import ShardCalls, pairs, seconds_of
from eventrec_handlers.redis.keys import channel as notice_channel
from eventrec_handlers.redis.shard_logs import ShardLogs
from eventrec_handlers.redis.shard_sizes import ShardSizes
from eventrec_handlers.redis.stages import OutletBounds, ShardStages, stage_of
from eventrec_handlers.redis.steps import milliseconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from eventrec.bus import Step
    from eventrec_handlers.redis.connection import Connection
    from eventrec_handlers.redis.keys import ShardKeys

_NOTICE: Final = 1.0
"""Seconds that notices may take. Nothing depends on them."""

_UNBOUNDED: Final = OutletBounds()

_logger = get_logger("eventrec.redis")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a shard holds, exactly, without a scan. `content_bytes` are those of commits, as they were written."""

    records: int
    content_bytes: int


class RedisShard(Shard):
    """The shard with `keys`, called `name`; for one loop, as the connection. `claim` goes before each lease."""

    def __init__(
        self,
        connection: Connection,
        keys: ShardKeys,
        name: str,
        *,
        claim: Callable[[], Awaitable[None]],
        bounds: OutletBounds = _UNBOUNDED,
    ) -> None:
        self._calls = ShardCalls(connection, keys, name)
        self._sizes = ShardSizes(connection, keys)
        self._keys = keys
        self._claim = claim
        self._bounds = bounds
        self._logs = ShardLogs(self._calls)
        self._stages = ShardStages(self._calls, bounds)
        self._outlets: dict[str, RedisShard] = {}

    def __repr__(self) -> str:
        return f"<RedisShard {self.name!r} of {self._calls.connection.target}>"

    @property
    def name(self) -> str:
        return self._calls.name

    # -- reading

    async def logs(self) -> Sequence[LogBounds]:
        return await self._logs.bounds()

    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        return await self._logs.read(log_id, start, max_records=max_records, max_bytes=max_bytes)

    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        await self._logs.wait(log_id, end, seconds=seconds)

    # -- who serves a subscription

    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        await self._claim()
        token = await self._calls.run(
            "acquire",
            [self._keys.lease(subscription), self._keys.subscriptions, self._keys.meta],
            [subscription, holder, milliseconds(seconds), uuid4().hex],
        )
        return None if token is None else Lease(subscription, holder, token.decode())

    async def renew(self, lease: Lease, *, seconds: float) -> None:
        if not await self._calls.run("renew", [self._calls.lease(lease)], [lease.token, milliseconds(seconds)]):
            raise self._calls.lost(lease)

    async def release(self, lease: Lease) -> None:
        await self._calls.run("renew", [self._calls.lease(lease)], [lease.token, ""])

    async def subscriptions(self) -> Sequence[Held]:
        found = await self._logs.picture()
        known, now, *scores = await self._calls.pipeline(
            ("HKEYS", self._keys.subscriptions),
            ("TIME",),
            *(("ZRANGE", self._keys.scanned(log), "0", "-1", "WITHSCORES") for log in found.ids),
        )
        scanned: dict[str, dict[UUID, int]] = {name.decode(): {} for name in known}
        for log, its in zip(found.ids, scores, strict=True):
            for name, score in pairs(its):
                scanned.setdefault(name.decode(), {})[log] = int(float(score))
        if not scanned:
            return []
        leases = await self._calls.pipeline(*(("HMGET", self._keys.lease(name), "holder", "until") for name in scanned))
        held = []
        for name, (holder, until) in zip(scanned, leases, strict=True):
            left = max(0.0, int(until or 0) / 1000 - seconds_of(now))
            held.append(Held(name, scanned[name], holder.decode() if left and holder else "", left))
        return held

    async def forget(self, subscription: str) -> bool:
        keys, stage = self._keys, stage_of(subscription)
        own = [keys.meta, keys.subscriptions, keys.lease(subscription), keys.saved(subscription)]
        if stage:
            own += [keys.stage_progress(stage), keys.stage_state(stage), keys.stage_due(stage)]
        answer = b"again"
        while answer == b"again":
            found = await self._logs.picture()
            answer = await self._calls.run(
                "forget", [*own, *map(keys.scanned, found.ids)], [subscription, found.joined, len(own)]
            )
        for log in found.ids:
            await self._logs.trim(log)
        return answer == b"1"

    # -- how far it is

    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        found, keys = await self._logs.picture(), self._keys
        answer = await self._calls.run(
            "load",
            [self._calls.lease(lease), keys.saved(lease.subscription), keys.meta, *map(keys.scanned, found.ids)],
            [lease.token, lease.subscription, *map(str, found.ids)],
        )
        if answer is None:
            raise self._calls.lost(lease)
        saved = {UUID(log.decode()): content for log, content in pairs(answer[0])}
        for log, settled in pairs(answer[1]):
            if UUID(log.decode()) not in saved:
                _logger.warning(
                    "Redis lost the checkpoint of a subscription: what it has had may come again",
                    shard=self.name,
                    subscription=lease.subscription,
                    log=log.decode(),
                    settled=int(settled),
                )
        return {log: saved[log] for log in saved if log in found.ids or await self._is_kept(lease, log)}

    async def _is_kept(self, lease: Lease, log: UUID) -> bool:
        """Whether a log that meta does not know is there after all; if not, what was saved for it goes too."""
        if await self._logs.adopt(log):
            return True
        await self._calls.call("HDEL", self._keys.saved(lease.subscription), str(log))
        return False

    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        keys = self._keys
        answer = await self._calls.run(
            "save",
            [
                self._calls.lease(lease),
                keys.meta,
                keys.log(log_id),
                keys.scanned(log_id),
                keys.subscriptions,
                keys.saved(lease.subscription),
            ],
            [lease.token, lease.subscription, str(log_id), scanned, content],
        )
        if answer[0] == b"lost":
            raise self._calls.lost(lease)
        if answer[0] == b"more":
            await self._logs.trim(log_id)
        if len(answer) > 1 and answer[1]:
            await self._restore_list()

    async def _restore_list(self) -> None:
        """Put those who have settled something back into the list of subscriptions, which was evicted."""
        _logger.warning(
            "Redis lost the list of subscriptions: those that had settled something are in it again", shard=self.name
        )
        for log in (await self._logs.picture()).ids:
            await self._logs.settle(log, how="1")

    # -- stages

    def outlet(self, stage: str) -> RedisShard:
        if stage not in self._outlets:
            self._outlets[stage] = RedisShard(
                self._calls.connection,
                self._keys.outlet(stage),
                f"{self.name}/{stage}",
                claim=self._claim,
                bounds=self._bounds,
            )
        return self._outlets[stage]

    async def progress(self, lease: Lease) -> Mapping[UUID, int]:
        return await self._stages.progress(lease, (await self._logs.picture()).ids)

    async def state(self, stage: str, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self._stages.state(stage, keys)

    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        return await self._stages.due(stage, limit=limit)

    async def commit(self, lease: Lease, step: Step) -> None:
        if await self._stages.commit(lease, step) and step.log_id is not None:
            await self._logs.trim(step.log_id)

    async def time(self) -> float:
        return seconds_of(await self._calls.call("TIME"))

    async def size(self, stage: str) -> int:
        return await self._stages.size(stage)

    async def tallies(self, stage: str) -> Mapping[str, int] | None:
        return await self._stages.tallies(stage)

    async def sizes(self) -> Sizes:
        """How much the shard holds. What is gone from where its logs begin is not there, whatever is known of it."""
        return Sizes(*await self._sizes.look())

    async def left(self) -> int:
        """Records in it and in the outlets that were served here."""
        return (await self.sizes()).records + sum([await outlet.left() for outlet in self._outlets.values()])

    # -- views

    async def view(self, stage: str, key: str) -> bytes | None:
        return await self._stages.view(stage, key)

    async def count_seen(self, stage: str, index: str, *, seconds: float) -> int:
        return await self._stages.count_seen(stage, index, seconds=seconds)

    # -- notices

    async def notify(self, channel: str, messages: Sequence[bytes]) -> None:
        where = notice_channel(self._calls.connection.target.stream, channel)
        with suppress(DeliveryError), anyio.move_on_after(_NOTICE):
            if messages:
                await self._calls.pipeline(*(("PUBLISH", where, message) for message in messages))
