"""What stages keep on a shard in Redis, and how it changes: one script for each step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from eventrec import TransientError, get_logger
from eventrec.bus import STAGE_PREFIX, LeaseLostError, new_log_id
from eventrec_handlers.redis.calls import pairs
from eventrec_handlers.redis.steps import milliseconds, pack_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.bus import Lease, Step
    from eventrec_handlers.redis.calls import ShardCalls

_MARK: Final = b"\xff"
"""The field and member that no key of a stage is called: UTF-8 does not have it."""

_KEYS_AT_ONCE: Final = 1000
"""How many keys one call looks at where all of them have to be."""

_logger = get_logger("eventrec.redis")


@dataclass(frozen=True, slots=True)
class OutletBounds:
    """What an outlet holds at most; 0: any number. A stage waits while it is full."""

    max_records: int = 0
    max_bytes: int = 0


def stage_of(subscription: str) -> str:
    """The stage that is served under the name `subscription`; empty: none is."""
    return subscription.removeprefix(STAGE_PREFIX) if subscription.startswith(STAGE_PREFIX) else ""


class ShardStages:
    """The stages of one shard."""

    def __init__(self, calls: ShardCalls, bounds: OutletBounds) -> None:
        self._calls = calls
        self._keys = calls.keys
        self._bounds = bounds
        self._outlet_logs: dict[str, str] = {}
        """By stage: the log of its outlet that was the current one lately."""

    def __repr__(self) -> str:
        return f"<ShardStages of {self._calls.name!r}>"

    async def progress(self, lease: Lease, logs: Sequence[UUID]) -> Mapping[UUID, int]:
        """As `Shard.progress`, of `logs`."""
        stage, keys = stage_of(lease.subscription), self._keys
        answer = await self._calls.run(
            "progress",
            [
                self._calls.lease(lease),
                keys.meta,
                keys.stage_progress(stage),
                keys.stage_state(stage),
                keys.stage_due(stage),
                *map(keys.scanned, logs),
            ],
            [lease.token, lease.subscription, *map(str, logs)],
        )
        if answer is None:
            raise self._calls.lost(lease)
        await self._tell_losses(stage, answer[1])
        return {UUID(log.decode()): int(place) for log, place in pairs(answer[0])}

    async def state(self, stage: str, keys: Sequence[str]) -> Sequence[bytes | None]:
        """As `Shard.state`."""
        if not keys:
            return []
        found: list[bytes | None] = await self._calls.call("HMGET", self._keys.stage_state(stage), *keys)
        return found

    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        """As `Shard.due`."""
        answer = await self._calls.run("due", [self._keys.stage_due(stage), self._keys.stage_state(stage)], [limit])
        return [(key.decode(), value) for key, value in pairs(answer)]

    async def commit(self, lease: Lease, step: Step) -> bool:
        """As `Shard.commit`; whether there is more to trim than one call may."""
        stage = stage_of(lease.subscription)
        answer = await self._committed(lease, step, stage)
        match answer[0]:
            case b"lost":
                raise self._calls.lost(lease)
            case b"at":
                raise LeaseLostError(
                    f"{self._calls.name}: the stage {stage!r} is at {answer[1].decode()}, not at {step.start}"
                )
            case b"gone" if len(answer) == 1:
                raise LeaseLostError(
                    f"{self._calls.name}: the log {step.log_id}, which the stage {stage!r} read, is not there"
                )
            case b"full":
                raise TransientError(f"{self._calls.name}/{stage} is full: what is in it has to be delivered first")
        if len(answer) > 1:
            await self._tell_losses(stage, answer[1])
        return bool(answer[0] == b"more")

    async def _committed(self, lease: Lease, step: Step, stage: str) -> Sequence[Any]:
        """What the script answers once it was told the log that the outlet has."""
        keys, outlet = self._keys, self._keys.outlet(stage)
        candidate, mark = new_log_id(), uuid4().hex
        packed = pack_step(step.output, log_id=candidate, written=time.time_ns())
        log = "" if step.log_id is None else str(step.log_id)
        of_log = [keys.meta] * 2 if step.log_id is None else [keys.log(step.log_id), keys.scanned(step.log_id)]
        while True:
            current = self._outlet_logs.get(stage) or str(candidate)
            answer: Sequence[Any] = await self._calls.run(
                "commit",
                [
                    self._calls.lease(lease),
                    keys.meta,
                    *of_log,
                    keys.subscriptions,
                    keys.stage_progress(stage),
                    keys.stage_state(stage),
                    keys.stage_due(stage),
                    outlet.meta,
                    outlet.log(current),
                    outlet.log(candidate),
                    *(keys.view(stage, key) for key in packed.views),
                    *(keys.seen(stage, index) for index in packed.indexes),
                ],
                [
                    *(lease.token, lease.subscription, mark, log, step.start, step.end, current, str(candidate)),
                    *(self._bounds.max_records, self._bounds.max_bytes),
                    packed.changes,
                    *packed.contents,
                ],
            )
            if answer[0] != b"log":
                return answer
            self._outlet_logs[stage] = answer[1].decode()

    async def size(self, stage: str) -> int:
        """As `Shard.size`."""
        key = self._keys.stage_state(stage)
        total, has_mark = await self._calls.pipeline(("HLEN", key), ("HEXISTS", key, _MARK))
        return int(total) - int(has_mark)

    async def tallies(self, stage: str) -> Mapping[str, int] | None:
        """As `Shard.tallies`."""
        key = self._keys.stage_state(stage)
        told, total = await self._calls.pipeline(("HGET", key, _MARK), ("HLEN", key))
        is_empty = int(total) - (told is not None) == 0
        if not told and not is_empty:
            return None
        words = [] if is_empty else told.decode().split()
        return {name: int(number) for name, _, number in (word.partition("=") for word in words)}

    async def view(self, stage: str, key: str) -> bytes | None:
        """As `Shard.view`."""
        found: bytes | None = await self._calls.call("GET", self._keys.view(stage, key))
        return found

    async def count_seen(self, stage: str, index: str, *, seconds: float) -> int:
        """As `Shard.count_seen`."""
        return int(await self._calls.run("seen", [self._keys.seen(stage, index)], [milliseconds(seconds)]))

    async def _tell_losses(self, stage: str, lost: Sequence[bytes]) -> None:
        """Say what of a stage was evicted, and mend its deadlines."""
        said = {"shard": self._calls.name, "stage": stage}
        if b"place" in lost:
            _logger.warning("Redis lost where a stage is: it goes on where at:LOG has it", **said)
        if b"state" in lost:
            _logger.warning("Redis lost the state of a stage: what was open in it is gone", **said)
        if b"due" in lost:
            _logger.warning("Redis lost the deadlines of a stage: it is asked about every key now", **said)
            await self._remind(stage)

    async def _remind(self, stage: str) -> None:
        """Give each key of a stage that has no deadline the present time as one, some keys at a time."""
        state, due, cursor = self._keys.stage_state(stage), self._keys.stage_due(stage), "0"
        while True:
            answer = await self._calls.call("HSCAN", state, cursor, "COUNT", _KEYS_AT_ONCE)
            cursor = str(int(answer[0]))
            is_last = cursor == "0"
            await self._calls.run(
                "remind", [due, state], ["1" if is_last else "", *(key for key in answer[1] if key != _MARK)]
            )
            if is_last:
                return
