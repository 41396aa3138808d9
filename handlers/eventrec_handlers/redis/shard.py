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
import structlog

from eventrec import DeliveryError
from eventrec.bus import Held, Lease, LogBounds, Records, Shard
from eventrec_handlers.redis.calls import ShardCalls, pairs, seconds_of
from eventrec_handlers.redis.keys import channel as notice_channel
from eventrec_handlers.redis.picture import Picture, picture
from eventrec_handlers.redis.reading import CommitReader, is_commit
from eventrec_handlers.redis.stages import OutletBounds, ShardStages, stage_of
from eventrec_handlers.redis.steps import milliseconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from eventrec.bus import Step
    from eventrec_handlers.redis.connection import Connection
    from eventrec_handlers.redis.keys import ShardKeys

_WAITING: Final = 1.0
"""Seconds that one command waits: then it is asked whether the log has ended."""

_NOTICE: Final = 1.0
"""Seconds that notices may take. Nothing depends on them."""

_MAX_TRIMS: Final = 1000
"""How often one caller trims: about a thousand commits each time."""

_BETWEEN_SWEEPS: Final = 5.0
"""Seconds between two looks at sealed logs that might go."""

_LAST: Final = 2**64 - 1
"""The last id of a stream entry with the same end."""

_PASSED_AT_ONCE: Final = 100
"""Entries of others among ours that are passed at once."""

_UNBOUNDED: Final = OutletBounds()

_logger = structlog.get_logger("eventrec.redis")


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
        self._keys = keys
        self._claim = claim
        self._bounds = bounds
        self._reader = CommitReader(name)
        self._stages = ShardStages(self._calls, bounds)
        self._outlets: dict[str, RedisShard] = {}
        self._noted: list[UUID] = []
        """Logs that this process has seen: the only ones that can be missed."""
        self._beyond: tuple[UUID | None, bytes] = None, b""
        """A log, and the last entry behind its end: no wait returns because of one that is not ours."""
        self._swept_at = -_BETWEEN_SWEEPS

    def __repr__(self) -> str:
        return f"<RedisShard {self.name!r} of {self._calls.connection.target}>"

    @property
    def name(self) -> str:
        return self._calls.name

    # -- reading

    async def logs(self) -> Sequence[LogBounds]:
        found = await self._picture()
        if len(found.logs) > 1 and anyio.current_time() - self._swept_at > _BETWEEN_SWEEPS:
            self._swept_at = anyio.current_time()
            gone = [log.id for log in found.logs if not log.is_live and await self._trim(log.id) == b"gone"]
            return [log for log in found.logs if log.id not in gone]
        return found.logs

    async def _picture(self) -> Picture:
        """What is known of the logs; those that meta has forgotten, but not Redis, are taken back first."""
        found = await self._asked()
        missing = [log for log in self._noted if log not in found.ids]
        if missing:
            adopted = [log for log in reversed(missing) if await self._adopt(log)]
            if adopted:
                found = await self._asked()
            elif not found.is_known:
                _logger.warning("a buffer in Redis is gone, with all that it held", shard=self.name)
        self._noted = found.ids
        return found

    async def _asked(self) -> Picture:
        answer = await self._calls.run("logs", [self._keys.meta])
        return picture(answer[0], answer[1], self.name) if isinstance(answer, list) else Picture(is_known=False)

    async def _adopt(self, log_id: UUID) -> bool:
        """Take a log back, if its stream is there though it is not in meta."""
        if not await self._calls.run("adopt", [self._keys.meta, self._keys.log(log_id)], [str(log_id)]):
            return False
        _logger.warning(
            "Redis lost what it knew of a log, not its records: it is taken back", shard=self.name, log=str(log_id)
        )
        return True

    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        kept = self._reader.kept(log_id, start, max_records=max_records, max_bytes=max_bytes)
        if kept is not None:
            return kept
        count = self._reader.commits(max_records, max_bytes)
        bounds, found = await self._calls.pipeline(
            ("HMGET", self._keys.meta, f"{log_id}:oldest", f"{log_id}:end"),
            ("XRANGE", self._keys.log(log_id), f"{start + 1}-0", "+", "COUNT", count),
        )
        if bounds[1] is None:
            if log_id in self._noted and log_id in (await self._picture()).ids:
                return await self.read(log_id, start, max_records=max_records, max_bytes=max_bytes)
            return Records(start, start)
        end = int(bounds[1])
        if end <= start:
            return Records(start, start)
        while found and not any(is_commit(fields) for _, fields in found):
            found = await self._calls.call(
                "XRANGE", self._keys.log(log_id), b"(" + found[-1][0], f"{end}-{_LAST}", "COUNT", _PASSED_AT_ONCE
            )
        return self._reader.records(log_id, found, start, end, max_records=max_records, max_bytes=max_bytes)

    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        until = anyio.current_time() + seconds
        while not await self._has_more(log_id, end):
            left = until - anyio.current_time()
            if left <= 0:
                return
            await self._wait_once(log_id, end, min(left, _WAITING))

    async def _has_more(self, log_id: UUID, end: int) -> bool:
        """Whether there is more to read, or the log has ended."""
        stored, sealed = await self._calls.call("HMGET", self._keys.meta, f"{log_id}:end", f"{log_id}:sealed")
        return stored is None or sealed is not None or int(stored) > end

    async def _wait_once(self, log_id: UUID, end: int, seconds: float) -> None:
        """Return as soon as the stream has another entry, or after so long."""
        last = self._beyond[1] if self._beyond[0] == log_id else f"{end}-{_LAST}".encode()
        block = ("BLOCK", max(1, milliseconds(seconds)))
        found = await self._calls.call(
            "XREAD", "COUNT", 1, *block, "STREAMS", self._keys.log(log_id), last, seconds=seconds
        )
        if found and not await self._has_more(log_id, end):
            self._beyond = log_id, found[0][1][-1][0]

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
        found = await self._picture()
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
            found = await self._picture()
            answer = await self._calls.run(
                "forget", [*own, *map(keys.scanned, found.ids)], [subscription, found.joined, len(own)]
            )
        for log in found.ids:
            await self._trim(log)
        return answer == b"1"

    # -- how far it is

    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        found, keys = await self._picture(), self._keys
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
        if await self._adopt(log):
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
            await self._trim(log_id)
        if len(answer) > 1 and answer[1]:
            await self._restore_list()

    async def _trim(self, log_id: UUID) -> bytes:
        """Trim what all have settled, some of it at a time; "gone" if the whole log went."""
        answer = b"more"
        for _ in range(_MAX_TRIMS):
            if answer != b"more":
                break
            answer = await self._settle(log_id)
        return answer

    async def _settle(self, log_id: UUID, *, how: str = "") -> bytes:
        keys = self._keys
        told: bytes = await self._calls.run(
            "settle", [keys.meta, keys.log(log_id), keys.scanned(log_id), keys.subscriptions], [str(log_id), how]
        )
        return told

    async def _restore_list(self) -> None:
        """Put those who have settled something back into the list of subscriptions, which was evicted."""
        _logger.warning(
            "Redis lost the list of subscriptions: those that had settled something are in it again", shard=self.name
        )
        for log in (await self._picture()).ids:
            await self._settle(log, how="1")

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
        return await self._stages.progress(lease, (await self._picture()).ids)

    async def state(self, stage: str, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self._stages.state(stage, keys)

    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        return await self._stages.due(stage, limit=limit)

    async def commit(self, lease: Lease, step: Step) -> None:
        if await self._stages.commit(lease, step) and step.log_id is not None:
            await self._trim(step.log_id)

    async def time(self) -> float:
        return seconds_of(await self._calls.call("TIME"))

    async def size(self, stage: str) -> int:
        return await self._stages.size(stage)

    async def sizes(self) -> Sizes:
        """How much the shard holds."""
        found = await self._picture()
        return Sizes(found.records, sum(found.held_bytes.values()))

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
