"""The logs of one shard: which there are, what is in them, and what of them goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec import get_logger
from eventrec.bus import Records
from eventrec_handlers.redis.picture import Picture
from eventrec_handlers.redis.picture import picture as picture_of
from eventrec_handlers.redis.reading import CommitReader, is_commit
from eventrec_handlers.redis.steps import milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.bus import LogBounds
    from eventrec_handlers.redis.calls import ShardCalls

_WAITING: Final = 1.0
"""Seconds that one command waits: then it is asked whether the log has ended."""

_MAX_TRIMS: Final = 1000
"""How often one caller trims: about a thousand commits each time."""

_BETWEEN_SWEEPS: Final = 5.0
"""Seconds between two looks at sealed logs that might go."""

_LAST: Final = 2**64 - 1
"""The last id of a stream entry with the same end."""

_PASSED_AT_ONCE: Final = 100
"""Entries of others among ours that are passed at once."""

_logger = get_logger("eventrec.redis")


class ShardLogs:
    """Those of the shard that `calls` is for."""

    def __init__(self, calls: ShardCalls) -> None:
        self._calls = calls
        self._keys = calls.keys
        self._reader = CommitReader(calls.name)
        self._noted: list[UUID] = []
        """Logs that this process has seen: the only ones that can be missed."""
        self._beyond: tuple[UUID | None, bytes] = None, b""
        """A log, and the last entry behind its end: no wait returns because of one that is not ours."""
        self._swept_at = -_BETWEEN_SWEEPS

    def __repr__(self) -> str:
        return f"<ShardLogs of {self.name!r}>"

    @property
    def name(self) -> str:
        """What operators call the shard."""
        return self._calls.name

    async def bounds(self) -> Sequence[LogBounds]:
        """As `Shard.logs`. Now and then what is over goes."""
        found = await self.picture()
        if len(found.logs) > 1 and anyio.current_time() - self._swept_at > _BETWEEN_SWEEPS:
            self._swept_at = anyio.current_time()
            gone = [log.id for log in found.logs if not log.is_live and await self.trim(log.id) == b"gone"]
            return [log for log in found.logs if log.id not in gone]
        return found.logs

    async def picture(self) -> Picture:
        """What is known of the logs; those that meta has forgotten, but not Redis, are taken back first."""
        found = await self._asked()
        missing = [log for log in self._noted if log not in found.ids]
        if missing:
            adopted = [log for log in reversed(missing) if await self.adopt(log)]
            if adopted:
                found = await self._asked()
            elif not found.is_known:
                _logger.warning("a buffer in Redis is gone, with all that it held", shard=self.name)
        self._noted = found.ids
        return found

    async def _asked(self) -> Picture:
        answer = await self._calls.run("logs", [self._keys.meta])
        return picture_of(answer[0], answer[1], self.name) if isinstance(answer, list) else Picture(is_known=False)

    async def adopt(self, log_id: UUID) -> bool:
        """Take a log back, if its stream is there though it is not in meta."""
        if not await self._calls.run("adopt", [self._keys.meta, self._keys.log(log_id)], [str(log_id)]):
            return False
        _logger.warning(
            "Redis lost what it knew of a log, not its records: it is taken back", shard=self.name, log=str(log_id)
        )
        return True

    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        """As `Shard.read`."""
        kept = self._reader.kept(log_id, start, max_records=max_records, max_bytes=max_bytes)
        if kept is not None:
            return kept
        count = self._reader.commits(max_records, max_bytes)
        # In this order: nothing that is appended, or dropped, meanwhile is taken for lost.
        stored, found, dropped = await self._calls.pipeline(
            ("HGET", self._keys.meta, f"{log_id}:end"),
            ("XRANGE", self._keys.log(log_id), f"{start + 1}-0", "+", "COUNT", count),
            ("HGET", self._keys.meta, f"{log_id}:dropped"),
        )
        if stored is None:
            if log_id in self._noted and log_id in (await self.picture()).ids:
                return await self.read(log_id, start, max_records=max_records, max_bytes=max_bytes)
            return Records(start, start)
        end = int(stored)
        if end <= start:
            return Records(start, start)
        while found and not any(is_commit(fields) for _, fields in found):
            found = await self._calls.call(
                "XRANGE", self._keys.log(log_id), b"(" + found[-1][0], f"{end}-{_LAST}", "COUNT", _PASSED_AT_ONCE
            )
        return self._reader.records(
            log_id, found, start, end, dropped=int(dropped or 0), max_records=max_records, max_bytes=max_bytes
        )

    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        """As `Shard.wait`."""
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

    async def trim(self, log_id: UUID) -> bytes:
        """Trim what all have settled, some of it at a time; "gone" if the whole log went."""
        answer = b"more"
        for _ in range(_MAX_TRIMS):
            if answer != b"more":
                break
            answer = await self.settle(log_id)
        return answer

    async def settle(self, log_id: UUID, *, how: str = "") -> bytes:
        """Trim what all have settled, in one call: "more", "gone" or "ok". With `how="1"`, see `settle.lua`."""
        keys = self._keys
        told: bytes = await self._calls.run(
            "settle", [keys.meta, keys.log(log_id), keys.scanned(log_id), keys.subscriptions], [str(log_id), how]
        )
        return told
