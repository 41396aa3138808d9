"""What listeners are told of a batch, and who was seen: sent together with it, after it is kept, best effort.

A notice is a message a batch, shard and value of a field (`notice_by`: a project, say) on the channel
`eventrec:NAME:event:received`: JSON, `{"key": "a project", "count": 12}`, `key` is null where records have none. A
heartbeat is the value of another field (`heartbeat_by`: a visitor, say), noted in a set for each value of the first one
with the server's time, for five minutes: `BASE:stage:producers:seen:VALUE`, which a bus counts like those of a stage.
Both cost no call of their own. Where they fail, the batch is kept all the same; a remark of the handler says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec_handlers.redis.keys import channel
from eventrec_handlers.redis.record_keys import RecordKey, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.bus import Entry
    from eventrec_handlers.redis.keys import ShardKeys

RECEIVED: Final = "event:received"
PRODUCERS: Final = "producers"
"""The stage under whose name heartbeats are kept."""

_MAX_KEYS: Final = 1_000
"""Of one batch: records of further ones are told together, under null; and so many heartbeats."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What goes along with a batch to one shard.

    Attributes:
        messages: To be published.
        sets: Keys of the sets of heartbeats.
        beats: Who was seen: number of the set, from 1, and member, one after the other.
    """

    messages: tuple[bytes, ...] = ()
    sets: tuple[str, ...] = ()
    beats: tuple[int | bytes, ...] = ()


class Notices:
    """Makes them of records. With `notices`, messages; with `heartbeat_by`, heartbeats."""

    def __init__(self, stream: str, *, notices: bool, notice_by: str | None, heartbeat_by: str | None) -> None:
        self.channel = channel(stream, RECEIVED)
        self._is_telling = notices
        self._notice_by = None if notice_by is None else RecordKey(notice_by)
        self._heartbeat_by = None if heartbeat_by is None else RecordKey(heartbeat_by)

    @property
    def is_asked_for(self) -> bool:
        """Whether there is anything to tell, ever."""
        return self._is_telling or self._heartbeat_by is not None

    def of(self, entries: Sequence[Entry], static_context: bytes | None, keys: ShardKeys) -> Notice:
        """What is told of `entries`, which go to the shard of `keys`."""
        counts: Counter[str | None] = Counter()
        seen: dict[tuple[str, bytes], None] = {}
        for entry in entries:
            key = None if self._notice_by is None else text_of(self._notice_by.value(entry, static_context))
            counts[key if key in counts or len(counts) < _MAX_KEYS else None] += 1
            if self._heartbeat_by is not None and len(seen) < _MAX_KEYS:
                member = text_of(self._heartbeat_by.value(entry, static_context))
                if member is not None:
                    seen[key or "", member.encode("utf-8", "surrogatepass")] = None
        sets = {index: number for number, index in enumerate(dict.fromkeys(index for index, _ in seen), start=1)}
        return Notice(
            messages=tuple(msgspec.json.encode({"key": key, "count": count}) for key, count in counts.items())
            if self._is_telling
            else (),
            sets=tuple(keys.seen(PRODUCERS, index) for index in sets),
            beats=tuple(part for index, member in seen for part in (sets[index], member)),
        )
