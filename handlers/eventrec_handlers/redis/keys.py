"""The names of all keys of a buffer in Redis.

    {eventrec:NAME}:shards               STRING  how many shards the buffer has
    {eventrec:NAME}:relays:SUBSCRIPTION  HASH    relay → until (ms), for (ms), shards that it serves, that it can serve
    BASE of a shard                              {eventrec:NAME}, or {eventrec:NAME:0} … where there are several
    BASE of the outlet of a stage                the shard's, and :out:STAGE: a shard of its own behind the same tag
    BASE:meta                            HASH    its logs: `scripts/shard.lua` says which fields
    BASE:origins                         HASH    LOG:SUBSCRIPTION → next offset, or "next retired" (ms): of producers
    BASE:log:LOG                         STREAM  commits `<end>-<count>` of one log: b (bytes before it), c (content)
    BASE:subs                            HASH    the subscriptions and stages that are known
    BASE:at:LOG                          ZSET    subscription → scanned
    BASE:saved:SUBSCRIPTION              HASH    LOG → what its holder has saved
    BASE:lease:SUBSCRIPTION              HASH    holder, token, until (ms), for (ms), done
    BASE:stage:STAGE:state               HASH    key → what the stage keeps; 0xFF → what it has counted of that
    BASE:stage:STAGE:due                 ZSET    key → deadline (ms)
    BASE:stage:STAGE:at                  HASH    LOG → next offset
    BASE:stage:STAGE:view:KEY            STRING  what it has published, for as long as that holds
    BASE:stage:STAGE:seen:INDEX          ZSET    member → when it was seen last (ms)

What stands in braces is the hash tag: all keys of a shard are on one node of a cluster. Scripts are told each key that
they touch. LOG is a UUID in its usual text form. Notices are published on channels `eventrec:NAME:KIND`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

_NAME: Final = re.compile(r"[^\s:{}\x00-\x1f\x7f]+(?: [^\s:{}\x00-\x1f\x7f]+)*")
_MAX_NAME: Final = 200


def is_name(text: str) -> bool:
    """Whether a buffer may be called so: no colon and no brace, which part the names of keys."""
    return len(text) <= _MAX_NAME and _NAME.fullmatch(text) is not None


def shards_key(name: str) -> str:
    """Where the number of shards of the buffer `name` is kept."""
    return f"{{eventrec:{name}}}:shards"


def relays_key(name: str, subscription: str) -> str:
    """Which relays serve `subscription` of the buffer `name`, on any of its shards."""
    return f"{{eventrec:{name}}}:relays:{subscription}"


def channel(name: str, kind: str) -> str:
    """The channel of the buffer `name` on which notices of that kind are published: no key, and on no shard."""
    return f"eventrec:{name}:{kind}"


def shard_keys(name: str, shard: int, shards: int) -> ShardKeys:
    """The keys of one shard of several, or of the only one."""
    return ShardKeys(f"{{eventrec:{name}}}" if shards == 1 else f"{{eventrec:{name}:{shard}}}")


class ShardKeys:
    """The keys of one shard, by its base."""

    __slots__ = ("base", "meta", "origins", "subscriptions")

    def __init__(self, base: str) -> None:
        self.base = base
        self.meta = f"{base}:meta"
        self.origins = f"{base}:origins"
        self.subscriptions = f"{base}:subs"

    def __repr__(self) -> str:
        return f"<ShardKeys {self.base}>"

    def log(self, log_id: UUID | str) -> str:
        """The commits of a log."""
        return f"{self.base}:log:{log_id}"

    def scanned(self, log_id: UUID | str) -> str:
        """How far each subscription is in a log."""
        return f"{self.base}:at:{log_id}"

    def saved(self, subscription: str) -> str:
        """What the holder of a subscription has saved."""
        return f"{self.base}:saved:{subscription}"

    def lease(self, subscription: str) -> str:
        """Who serves a subscription."""
        return f"{self.base}:lease:{subscription}"

    def stage_state(self, stage: str) -> str:
        """What a stage keeps."""
        return f"{self.base}:stage:{stage}:state"

    def stage_due(self, stage: str) -> str:
        """When a stage is to be asked about its keys."""
        return f"{self.base}:stage:{stage}:due"

    def stage_progress(self, stage: str) -> str:
        """How far a stage is in each log."""
        return f"{self.base}:stage:{stage}:at"

    def view(self, stage: str, key: str) -> str:
        """What a stage has published under `key`."""
        return f"{self.base}:stage:{stage}:view:{key}"

    def seen(self, stage: str, index: str) -> str:
        """When members of `index` were seen last."""
        return f"{self.base}:stage:{stage}:seen:{index}"

    def outlet(self, stage: str) -> ShardKeys:
        """The keys of the shard into which a stage puts its output."""
        return ShardKeys(f"{self.base}:out:{stage}")
