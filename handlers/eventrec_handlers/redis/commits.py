"""A batch as commits for a buffer: every record with an id of its own, parted by shard.

In a buffer a record stands under another number than in its log, so it takes along the id that it has there: the one it
was given, or the one that follows from its log and offset. The head of each commit names the log it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Final
from zlib import crc32

from eventrec.bus import Ids, encode_take
from eventrec_handlers.redis.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import Batch
    from eventrec.bus import Entry
    from eventrec_handlers.redis.keys import ShardKeys
    from eventrec_handlers.redis.notices import Notices
    from eventrec_handlers.redis.record_keys import RecordKey

_NOTHING: Final = Notice()


@dataclass(frozen=True, slots=True)
class Part:
    """What of a batch goes to one shard.

    Attributes:
        commits: Number of records and content of each, one after the other, as a script takes them.
        records: How many there are in all.
        size: Bytes of content in all.
        notice: What is told of them.
    """

    commits: tuple[int | bytes, ...] = ()
    records: int = 0
    size: int = 0
    notice: Notice = _NOTHING


class Parting:
    """How batches are parted: by `key`, for the shards of `keys`, with what `notices` tells of them."""

    def __init__(self, keys: Sequence[ShardKeys], key: RecordKey, notices: Notices) -> None:
        self._keys = keys
        self._key = key
        self._notices = notices

    def parts(self, batch: Batch, starts: Sequence[int]) -> list[Part]:
        """The parts of `batch`, one for each shard; without the records below the shard's start, which it has."""
        entries, shards = _with_ids(batch), len(self._keys)
        if shards == 1 and starts[0] <= batch.start:
            return [self._part(batch, entries, self._keys[0])]
        taken: list[list[Entry]] = [[] for _ in starts]
        for offset, entry in zip(batch.offsets, entries, strict=True):
            shard = shard_of(self._key.of(entry, batch.static_context), shards) if shards > 1 else 0
            if offset >= starts[shard]:
                taken[shard].append(entry)
        return [self._part(batch, each, keys) for each, keys in zip(taken, self._keys, strict=True)]

    def _part(self, batch: Batch, entries: Sequence[Entry], keys: ShardKeys) -> Part:
        commits: list[int | bytes] = []
        size = 0
        context = batch.static_context
        for content, count in encode_take(entries, batch.log_id, written=time_ns(), static_context=context):
            commits += (count, content)
            size += len(content)
        notice = self._notices.of(entries, context, keys) if self._notices.is_asked_for else _NOTHING
        return Part(tuple(commits), len(entries), size, notice)


def shard_of(key: bytes, shards: int) -> int:
    """The shard of a key: CRC-32 modulo their number. The same in every process, for ever."""
    return crc32(key) % shards


def _with_ids(batch: Batch) -> list[Entry]:
    ids = Ids(batch.log_id).first_bytes(batch.offsets, batch.entries)
    return [
        (shape, timestamp, payload, context, extras, id_, size)
        for id_, (shape, timestamp, payload, context, extras, _, size) in zip(ids, batch.entries, strict=True)
    ]
