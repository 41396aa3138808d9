"""Redis, or Valkey: a buffer between many processes.

A producer appends its batches (`RedisHandler`), each once, whatever is repeated, cut or killed; relays read them. What
lies in Redis, and under which keys, is told in `keys.py` and `scripts/shard.lua`.

What is appended is as durable as the server: `appendonly yes` survives its end, `appendfsync always` a power cut. What
it loses, producers send again as long as their logs hold it: the recorder's option `retain` says how long. The
server must not evict (`maxmemory-policy noeviction`); where it is full, producers wait.

A producer needs the keys `{eventrec:NAME*`, the channels `eventrec:NAME:*` for notices, and these commands: `get set
exists info eval evalsha time hget hset hsetnx hmget hdel hscan xadd xrange xtrim unlink`, for notices and heartbeats
also `publish zadd zremrangebyscore pexpire`. In a cluster `cluster` and `command` come to it.

A relay needs in addition: `del hgetall hkeys hlen hexists hscan publish type xread xrevrange xlen zadd zcard zcount
zmscore zrange zrangebyscore zrem zremrangebyscore zscore pexpire`.
"""

from __future__ import annotations

from typing import Final

from eventrec import HandlerURLError
from eventrec_handlers.redis.handler import RedisHandler
from eventrec_handlers.redis.options import TARGET_NAMES, Target, parsed_url
from eventrec_handlers.redis.record_keys import TYPE
from eventrec_handlers.redis.shard_writer import RedisOverflow

__all__ = ["RedisHandler", "RedisOverflow", "Target", "from_url"]

_NAMES: Final = (
    *("heartbeat_by", "max_bytes", "max_records", "notice_by", "notices", "overflow", "shard_by"),
    *TARGET_NAMES,
)


def from_url(url: str) -> RedisHandler:
    """The handler for `redis://user:password@host:port/db?option=value`; `rediss://` with TLS, `redis+unix:///socket`.

    Several hosts, parted by commas, are members of a cluster or sentinels.

    Options are the keyword arguments of `RedisHandler` and the attributes of `Target`.

    Raises:
        HandlerURLError: An option is unknown, or a value is not allowed.
    """
    parsed = parsed_url(url)
    is_unix = parsed.scheme == "redis+unix"
    parsed.accept(*_NAMES, parts=("user", "password", *(("path",) if is_unix else ("host", "port", "path"))))
    overflows: tuple[RedisOverflow, ...] = ("refuse", "drop_oldest")
    try:
        return RedisHandler(
            Target.of(parsed),
            shard_by=parsed.text("shard_by") or TYPE,
            max_records=parsed.integer("max_records", default=0),
            max_bytes=parsed.integer("max_bytes", default=0),
            overflow=parsed.choice("overflow", overflows, default="refuse"),
            notices=parsed.boolean("notices", default=False),
            notice_by=parsed.text("notice_by"),
            heartbeat_by=parsed.text("heartbeat_by"),
        )
    except ValueError as exc:
        raise HandlerURLError(f"in a {parsed.scheme} URL, {exc}") from exc
