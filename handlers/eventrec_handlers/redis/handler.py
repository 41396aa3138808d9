"""The handler: batches into a buffer, each record once, from any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

import anyio

from eventrec import DestinationCheckpoints, EventHandler, FencedError, PauseError
from eventrec_handlers.redis.commits import Parting
from eventrec_handlers.redis.connection import Connection
from eventrec_handlers.redis.keys import shard_keys
from eventrec_handlers.redis.notices import Notices
from eventrec_handlers.redis.record_keys import TYPE, RecordKey
from eventrec_handlers.redis.shard_count import shard_count
from eventrec_handlers.redis.shard_writer import ShardWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from eventrec import Batch, EventReader
    from eventrec_handlers.redis.commits import Part
    from eventrec_handlers.redis.options import Target
    from eventrec_handlers.redis.shard_writer import RedisOverflow

_NAMESPACE: Final = UUID("3f1c3a52-5d5c-5f5b-9c6e-0b7f1f6d4a10")

_IDLE_CHECK_SECONDS: Final = 10.0
"""One call, and one for each shard: what that costs a server is nothing."""

_MAX_PLACES: Final = 1_024
"""Logs and subscriptions whose places are remembered. Of one that is not, `resume` is asked."""


class RedisHandler(EventHandler, DestinationCheckpoints):
    """Appends batches to the buffer of `target`, effectively once, for relays to read.

    Each record goes to the shard that `shard_by` says (`record_keys.py`), so records of one key stay in order. Each
    shard moves its own note of the batch's log together with the records; a batch that reached some of the shards is
    completed, and none gets a record twice.

    `max_records` and `max_bytes` bound each shard (0: they do not); `overflow="refuse"` has producers keep the rest in
    their logs, `"drop_oldest"` drops the oldest records, whether or not they were read. `notices`, `notice_by` and
    `heartbeat_by` are told in `notices.py`.

    A server that lost all it had, or its last records, is the same destination: what is missing of a producer's log is
    sent again, as far as the log holds it (the recorder's option `retain`). What a relay had read of it before is then
    read twice, under the same ids. A producer that has nothing to send looks every few seconds whether that happened.

    Raises:
        ValueError: An argument is not one of those allowed.
    """

    def __init__(
        self,
        target: Target,
        *,
        shard_by: str = TYPE,
        max_records: int = 0,
        max_bytes: int = 0,
        overflow: RedisOverflow = "refuse",
        notices: bool = False,
        notice_by: str | None = None,
        heartbeat_by: str | None = None,
    ) -> None:
        if overflow not in ("refuse", "drop_oldest"):
            raise ValueError(f"overflow must be refuse or drop_oldest, got {overflow!r}")
        if max_records < 0 or max_bytes < 0:
            raise ValueError("max_records and max_bytes must not be negative")
        if notice_by is not None and not notices and heartbeat_by is None:
            raise ValueError("notice_by is what notices and heartbeats go by: set notices, or heartbeat_by")
        self._target = target
        self._connection = Connection(target)
        self._key = RecordKey(shard_by)
        self._notices = Notices(target.stream, notices=notices, notice_by=notice_by, heartbeat_by=heartbeat_by)
        self._max_records, self._max_bytes = max_records, max_bytes
        self._overflow: RedisOverflow = overflow
        self._shards: list[ShardWriter] = []
        self._parting: Parting | None = None
        self._places: dict[tuple[UUID, str], list[int]] = {}
        """Where each shard is, as far as is known here: what it says itself counts."""
        self._reached: dict[tuple[UUID, str], int] = {}
        """How far all shards were once: what the server forgets of that it has lost."""
        self._prepared: tuple[Batch, list[int], list[Part]] | None = None
        self._evicts = ""
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<RedisHandler {self._target} {'open' if self._connection.is_open else 'closed'}>"

    @property
    def checkpoints(self) -> Self:
        return self

    @property
    def idle_check_seconds(self) -> float | None:
        return _IDLE_CHECK_SECONDS

    @property
    def remarks(self) -> Sequence[str]:
        remarks = []
        if self._evicts:
            remarks.append(f"{self._target}: maxmemory-policy is {self._evicts}: it may evict what was not read")
        if dropped := self._dropped + sum(shard.dropped for shard in self._shards):
            remarks.append(f"{self._target}: it is full, {dropped} records were dropped for newer ones")
        untold = next((shard.untold for shard in self._shards if shard.untold), "")
        if untold:
            remarks.append(f"{self._target}: notices are not sent: {untold}")
        return remarks

    def reader(self) -> EventReader:
        from eventrec_handlers.redis.reader import RedisReader  # noqa: PLC0415 - for those who read

        return RedisReader(self._target)

    async def open(self) -> None:
        """Connect, and note of how many shards the buffer is.

        Raises:
            PauseError: Credentials, rights or certificates are refused, or the buffer has another number of shards.
            TransientError: The server cannot be reached, or is not ready.
        """
        await self._connection.open()
        try:
            await self._look_at_shards()
            await self._look_at_policy()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self._places.clear()
        self._prepared = None
        await self._connection.close()

    async def prepare(self, batch: Batch) -> None:
        place = self._places.get((batch.log_id, batch.subscription))
        starts = [batch.start] * len(self._shards)
        if self._parting is not None and (place is None or max(place) <= batch.start):
            self._prepared = batch, starts, self._parting.parts(batch, starts)

    async def handle(self, batch: Batch) -> None:
        """Append `batch`: each shard its part, or nothing.

        Raises:
            FencedError: A shard has another start than the batch, or `resume` was never asked.
            TransientError: A shard is full, or cannot be reached; other shards may have their part.
            PauseError: As `open`; or something at our keys is not ours.
        """
        place, prepared = (batch.log_id, batch.subscription), self._prepared
        self._prepared = None
        starts = self._places.get(place)
        if starts is None or self._parting is None or min(starts) != batch.start:
            where = "unknown" if starts is None else min(starts)
            raise FencedError(f"{self._target}: next is {where}, the batch starts at {batch.start}")
        if prepared is not None and prepared[0] is batch and prepared[1] == starts:
            parts = prepared[2]
        else:
            parts = self._parting.parts(batch, starts)
        await self._append(batch, starts, parts)
        self._note_reached(place, batch.end)

    async def destination_id(self) -> str:
        """It follows from the buffer's name: whatever becomes of the server, the buffer is the same."""
        return str(uuid5(_NAMESPACE, self._target.stream))

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        """As `DestinationCheckpoints`.

        Raises:
            PauseError: The server lost how far it was, and removes what it was given to keep: it would lose it again,
                and everything be sent again, for ever.
        """
        place = log_id, subscription
        self._places.pop(place, None)
        await self._look_at_shards()
        starts = [await shard.resume(_origin(log_id, subscription), start) for shard in self._shards]
        if (reached := self._reached.get(place, 0)) > min(starts):
            await self._look_at_policy()
            if self._evicts:
                raise PauseError(
                    f"{self._target}: it was at {reached} and is at {min(starts)}: maxmemory-policy is {self._evicts}, "
                    "which evicts what was not read; set noeviction"
                )
        while len(self._places) >= _MAX_PLACES:
            del self._places[next(iter(self._places))]
        self._places[place] = starts
        self._note_reached(place, min(starts))
        return min(starts)

    def _note_reached(self, place: tuple[UUID, str], offset: int) -> None:
        while len(self._reached) >= _MAX_PLACES and place not in self._reached:
            del self._reached[next(iter(self._reached))]
        self._reached[place] = offset

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        """Stamp it in every shard.

        Raises:
            FencedError: The server lost what it had of this log: the log is not finished.
        """
        known = self._places.pop((log_id, subscription), None)
        for number, shard in enumerate(self._shards):
            least = None if known is None else known[number]
            await shard.retire(_origin(log_id, subscription), end, known=least)

    async def sizes(self) -> list[tuple[int, int]]:
        """Records and bytes of content that each shard holds: in time that goes by its logs, which are few.

        What is gone from where a log begins is not counted, whatever removed it; a hole in the middle is, until then.
        """
        return [await shard.sizes() for shard in self._shards]

    async def _append(self, batch: Batch, starts: list[int], parts: Sequence[Part]) -> None:
        """To all shards at once; `starts` moves on where that went well. Of several failures the gravest is raised.

        Where one failed it may have been carried out: then the same again is fenced, and `resume` asked.
        """
        origin, failures = _origin(batch.log_id, batch.subscription), []

        async def append(number: int) -> None:
            try:
                await self._shards[number].append(origin, starts[number], batch.end, parts[number])
                starts[number] = batch.end
            except Exception as exc:  # noqa: BLE001 - one of them is raised below
                failures.append(exc)

        numbers = [number for number, start in enumerate(starts) if start < batch.end]
        if len(numbers) == 1:
            await append(numbers[0])
        else:
            async with anyio.create_task_group() as tasks:
                for number in numbers:
                    tasks.start_soon(append, number)
        if failures:
            raise min(failures, key=lambda exc: (not isinstance(exc, PauseError), isinstance(exc, FencedError)))

    async def _look_at_shards(self) -> None:
        """Of how many shards the buffer is: as the first who came has said."""
        shards, _ = await shard_count(self._connection, known=len(self._shards), claims=True)
        if len(self._shards) != shards:
            self._dropped += sum(shard.dropped for shard in self._shards)
            self._places.clear()
            keys = [shard_keys(self._target.stream, shard, shards) for shard in range(shards)]
            self._parting = Parting(keys, self._key, self._notices)
            self._shards = [
                ShardWriter(
                    self._connection,
                    each,
                    channel=self._notices.channel,
                    max_records=self._max_records,
                    max_bytes=self._max_bytes,
                    overflow=self._overflow,
                )
                for each in keys
            ]

    async def _look_at_policy(self) -> None:
        """Whether the server removes what it was given to keep."""
        if not self._target.cluster:
            found = await self._connection.call("INFO", "memory")
            limit, policy = int(found.get("maxmemory", 0)), str(found.get("maxmemory_policy", ""))
            self._evicts = policy if limit and policy.startswith("allkeys") else ""


def _origin(log_id: UUID, subscription: str) -> str:
    return f"{log_id}:{subscription}"
