"""Reads events back from a buffer: what it holds still, and what comes in, beside its producers and relays.

It is not a relay: it takes no lease, is not a subscription, and holds nothing back from being trimmed.
"""

from __future__ import annotations

import heapq
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import msgspec

from eventrec import Batch, EventPage, EventReader, PauseError, StoredEvent
from eventrec.bus import Ids
from eventrec_handlers._cursors import CursorText
from eventrec_handlers.redis.bus import RedisBus
from eventrec_handlers.redis.connection import Connection
from eventrec_handlers.redis.keys import shards_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator

    from eventrec.bus import LogBounds, Records, Shard
    from eventrec_handlers.redis.options import Target

T = TypeVar("T", bound="_Arrival | _Range")

_RECORDS: Final = 2_048
_BYTES: Final = 4 << 20
"""Of one read."""


class RedisReader(EventReader):
    """Reads the buffer of `target`: every shard, every log.

    Arrival is the order in each shard: its logs, and in them the records; shards are merged by their timestamps. What
    was trimmed is gone. There is no index: `latest` reads from the ends, `range` reads all there is, for each page.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._bus = RedisBus(target)

    def __repr__(self) -> str:
        return f"<RedisReader {self._target}>"

    async def open(self) -> None:
        async with Connection(self._target) as connection:
            key = shards_key(self._target.stream)
            if not self.is_awaited and not await connection.call("EXISTS", key):
                raise PauseError(f"{self._target}: there is no such buffer, {key} is not there")
        await self._bus.open()

    async def close(self) -> None:
        await self._bus.close()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        found: list[_Found] = []
        arrival = _Arrival({})
        for shard in await self._bus.shards():
            logs = list(await shard.logs())
            if logs:
                arrival.places[shard.name] = _NextRow(str(logs[-1].id), logs[-1].end)
            newest: list[_Found] = []
            for log in reversed(logs):
                newest = await _last(shard, log, limit - len(newest), types) + newest
            found += newest[len(newest) - min(limit, len(newest)) :]
        found.sort(key=lambda each: each.event.timestamp)
        events = [each.event for each in found[len(found) - min(limit, len(found)) :]]
        return EventPage.of(events, _CURSORS.encoded(arrival))

    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: str | None = None,
    ) -> EventPage:
        self.check_limit(limit)
        after = None if cursor is None else _CURSORS.decoded(cursor, _Range).last
        first: list[_Backwards] = []
        for shard in await self._bus.shards():
            for log in await shard.logs():
                async with aclosing(_events(shard, log, log.oldest, 0, log.end)) as events:
                    async for each in events:
                        key = (each.event.timestamp, shard.name, *each.place)
                        if (
                            limit
                            and (start is None or each.event.timestamp >= start)
                            and (end is None or each.event.timestamp < end)
                            and (types is None or each.event.type in types)
                            and (after is None or key > after)
                        ):
                            push = heapq.heappush if len(first) < limit else heapq.heappushpop
                            push(first, _Backwards(key, each.event))
        first.sort(reverse=True)
        last = first[-1].key if first else after
        return EventPage(tuple(each.event for each in first), _CURSORS.encoded(_Range(last)))

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        arrival = _CURSORS.decoded(cursor, _Arrival)
        events: list[StoredEvent] = []
        for shard in await self._bus.shards():
            place = arrival.places.get(shard.name)
            for log in _logs_from(list(await shard.logs()), place):
                begin, row = (place.next, place.row) if place and place.log == str(log.id) else (log.oldest, 0)
                reached = _NextRow(str(log.id), max(begin, log.end) if limit > len(events) else begin, row)
                reached.row = row if reached.next == begin else 0
                async with aclosing(_events(shard, log, begin, row, log.end)) as found:
                    async for each in found:
                        if len(events) == limit:
                            reached = _NextRow(*each.place)
                            break
                        if types is None or each.event.type in types:
                            events.append(each.event)
                arrival.places[shard.name] = reached
                if len(events) == limit:
                    break
        return EventPage.of(events, _CURSORS.encoded(arrival))


# -- cursors ----------------------------------------------------------------------------------------------------------


class _NextRow(msgspec.Struct, array_like=True):
    """The next row to be read: of which log, at which offset."""

    log: str
    next: int
    row: int = 0


class _Arrival(msgspec.Struct, frozen=True, tag="arrival"):
    """The cursor of `latest` and `follow`: the place in each shard, by its name."""

    places: dict[str, _NextRow]


class _Range(msgspec.Struct, frozen=True, tag="range"):
    """The cursor of `range`: timestamp, shard, log, offset and row of the last event that was given."""

    last: tuple[int, str, str, int, int] | None


_CURSORS: Final = CursorText("RedisReader", _Arrival, _Range)


# -- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """An event, and where its row stands: log, offset, number of the row."""

    event: StoredEvent
    place: tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class _Backwards:
    """An event by its key, the last one first: on top of a heap is the one that the others push out."""

    key: tuple[int, str, str, int, int]
    event: StoredEvent

    def __lt__(self, other: _Backwards) -> bool:
        return self.key > other.key


def _logs_from(logs: list[LogBounds], place: _NextRow | None) -> list[LogBounds]:
    """Those that a reader at `place` has not passed; all, where its log is gone."""
    known = [number for number, log in enumerate(logs) if place is not None and str(log.id) == place.log]
    return logs[known[0] :] if known else logs


async def _last(shard: Shard, log: LogBounds, limit: int, types: Collection[str] | None) -> list[_Found]:
    """The last events of a log, at most `limit`, in their order."""
    found: list[_Found] = []
    end, step = log.end, _RECORDS
    while end > log.oldest and len(found) < limit:
        start = max(log.oldest, end - step)
        async with aclosing(_events(shard, log, start, 0, end)) as events:
            some = [each async for each in events if types is None or each.event.type in types]
        found, end = some + found, start
    return found[len(found) - min(limit, len(found)) :]


async def _events(shard: Shard, log: LogBounds, start: int, row: int, end: int) -> AsyncGenerator[_Found, None]:
    """The events of a log from a row of `start` on, up to the offset `end`."""
    while start < end:
        records = await shard.read(log.id, start, max_records=min(_RECORDS, end - start), max_bytes=_BYTES)
        if records.end <= start:
            return
        for each in _rows(log.id, records):
            if each.place[1:] >= (start, row) and each.place[1] < end:
                yield each
        start, row = records.end, 0


def _rows(log_id: UUID, records: Records) -> Iterator[_Found]:
    """Each row of `records` as an event."""
    if not records.entries:
        return
    ids, log = Ids(log_id), str(log_id)
    batch = Batch(
        log_id=log_id,
        subscription="",
        start=records.start,
        end=records.end,
        offsets=records.offsets,
        entries=records.entries,
        static_context=records.static_context,
    )
    for record in batch.records:
        names = [column.name for column in record.columns]
        for number, values in enumerate(record.rows):
            yield _Found(
                StoredEvent(
                    table=record.table,
                    id=record.id if not number else ids.as_text(record.offset, number, UUID(record.id).bytes),
                    type=record.type,
                    timestamp=record.timestamp,
                    payload=record.payload.decode(errors="replace"),
                    context=None if record.context is None else record.context.decode(errors="replace"),
                    columns=dict(zip(names, values, strict=True)),
                ),
                (log, record.offset, number),
            )
