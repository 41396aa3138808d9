"""Reaching a server: by socket and TLS, with few rights; what it answers when it will not; calls that hang or end."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from anyio import to_thread

from eventrec import Batch, Event, FencedError, HandlerURL, HandlerURLError, PauseError, TransientError
from eventrec.registry import default_name, handler_from_url
from eventrec.testing.redis import RedisServer
from eventrec.testing.server_process import free_port
from eventrec_handlers.redis import RedisHandler, Target, from_url
from eventrec_handlers.redis.bus import RedisBus, from_bus_url
from eventrec_handlers.redis.connection import Connection

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]

Events = Callable[..., Event]
Batches = Callable[..., Batch]

RIGHTS = (
    "+get +set +exists +info +eval +evalsha +time +hget +hset +hsetnx +hmget +hdel +hscan +xadd +xrange +xtrim +unlink"
    " +publish +zadd +zremrangebyscore +pexpire"
)
"""All that a producer needs; `~{eventrec:NAME*` and `&eventrec:NAME:*` are its keys and channels."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Refusing:
    """A server that answers everything with one error, but `+OK` to what a driver says first."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                while client.recv(65_536):
                    client.sendall(b"-" + self.answer + b"\r\n")


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    server = Refusing()
    yield server
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "UNKNOWNCODE what no version has said so far",
        "ERR max number of clients reached",
        "MOVED 7 127.0.0.1:7001",
    ],
)
async def test_what_may_pass_is_transient_in_one_line(refusing: Refusing, answer: str) -> None:
    refusing.answer = answer.encode()
    handler = from_url(f"redis://127.0.0.1:{refusing.port}")

    with pytest.raises(TransientError) as caught:
        await handler.open()

    assert str(caught.value).startswith(f"redis://127.0.0.1:{refusing.port}/0 'events': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions to run the 'exists' command",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR unknown command 'EXISTS', with args beginning with:",
        "EVENTREC x is of version 2, this eventrec writes 1",
    ],
)
async def test_what_an_operator_must_mend_pauses_in_one_line(refusing: Refusing, answer: str) -> None:
    refusing.answer = answer.encode()
    handler = from_url(f"redis://127.0.0.1:{refusing.port}")

    with pytest.raises(PauseError) as caught:
        await handler.open()

    assert "\n" not in str(caught.value)


async def test_no_server_and_no_host_are_transient() -> None:
    for url in (f"redis://127.0.0.1:{free_port()}", "redis+unix:///nowhere/at/all", "redis://nowhere.invalid"):
        with pytest.raises(TransientError):
            await from_url(url).open()


async def test_wrong_password_pauses_and_is_not_shown(server: RedisServer) -> None:
    with pytest.raises(PauseError) as caught:
        await from_url(server.url(user="nobody:hidden-word")).open()

    assert "hidden" not in "".join(map(repr, (caught.value, caught.value.__cause__)))


async def test_database_that_is_not_there_pauses(server: RedisServer) -> None:
    with pytest.raises(PauseError, match="DB index"):
        await from_url(server.url(database=5_000)).open()


async def test_unix_socket(server: RedisServer, stream: str, batch: Batches, event: Events) -> None:
    handler = from_url(f"redis+unix://{server.socket_path}?stream={stream}&db=1")
    await handler.open()

    await handler.resume(batch(event(1)).log_id, "tested", 0)
    await handler.handle(batch(event(1)))

    assert await handler.sizes() == [(1, (await handler.sizes())[0][1])]
    await handler.close()
    assert await to_thread.run_sync(lambda: server.execute("EXISTS", f"{{eventrec:{stream}}}:meta", database=1)) == 1


async def test_tls(tls_front: Any, certificate: tuple[Path, Path], stream: str, batch: Batches, event: Events) -> None:
    handler = from_url(f"rediss://127.0.0.1:{tls_front.port}?stream={stream}&tls_ca={certificate[0]}")
    await handler.open()

    await handler.resume(batch(event(1)).log_id, "tested", 0)
    await handler.handle(batch(event(1)))

    assert (await handler.sizes())[0][0] == 1
    await handler.close()


async def test_certificate_that_no_one_vouches_for_pauses(tls_front: Any) -> None:
    with pytest.raises(PauseError, match="certificate verify failed"):
        await from_url(f"rediss://127.0.0.1:{tls_front.port}").open()


async def test_file_of_certificates_that_is_not_there_pauses() -> None:
    with pytest.raises(PauseError, match=r"/nowhere/ca\.pem"):
        await from_url("rediss://127.0.0.1:1?tls_ca=/nowhere/ca.pem").open()


async def test_producer_needs_no_more_rights_than_are_documented(
    server: RedisServer, stream: str, batch: Batches, event: Events
) -> None:
    rights = ("reset", "on", ">pw", f"~{{eventrec:{stream}*", f"&eventrec:{stream}:*", *RIGHTS.split())
    await to_thread.run_sync(lambda: server.execute("ACL", "SETUSER", stream, *rights))
    handler = from_url(
        server.url(
            user=f"{stream}:pw", stream=stream, notices="true", heartbeat_by="n", max_records=1, overflow="drop_oldest"
        )
    )
    await handler.open()
    one = batch(event({"n": 1}))

    await handler.resume(one.log_id, "tested", 0)
    await handler.handle(one)
    await handler.handle(batch(event({"n": 2}), start=1))
    await handler.retire(one.log_id, "tested", 2)

    assert handler.remarks == [
        f"{Target.of(HandlerURL(server.url(stream=stream)))}: it is full, 1 records were dropped for newer ones"
    ]
    await handler.close()
    await to_thread.run_sync(lambda: server.execute("ACL", "DELUSER", stream))


async def test_right_that_a_script_lacks_pauses_and_names_it(server: RedisServer, stream: str) -> None:
    rights = ("reset", "on", ">pw", "~*", "+@all", "-hsetnx")
    await to_thread.run_sync(lambda: server.execute("ACL", "SETUSER", stream, *rights))
    handler = from_url(server.url(user=f"{stream}:pw", stream=stream))
    await handler.open()

    with pytest.raises(PauseError, match="hsetnx"):
        await handler.resume(uuid4(), "tested", 0)

    await handler.close()
    await to_thread.run_sync(lambda: server.execute("ACL", "DELUSER", stream))


@pytest.fixture
async def connection(target: Target) -> AsyncIterator[Connection]:
    async with Connection(target) as connection:
        yield connection


async def test_cancelled_call_leaves_no_answer_for_another(connection: Connection, stream: str) -> None:
    for turn in range(20):
        waiting = asyncio.create_task(connection.call("BLPOP", f"{stream}-nothing", 5, seconds=5))
        await asyncio.sleep(0.001 * (turn % 4))
        waiting.cancel()

        assert await connection.call("ECHO", f"turn {turn}") == f"turn {turn}".encode()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_call_that_takes_too_long_leaves_no_answer_for_another(connection: Connection, stream: str) -> None:
    usual = connection.target
    connection.target = replace(usual, timeout=0.1)

    with pytest.raises(TransientError, match="no answer in time"):
        await connection.call("BLPOP", f"{stream}-nothing", 1)
    connection.target = usual

    assert await connection.call("ECHO", "mine") == b"mine"


async def test_server_that_hangs_is_transient_and_its_late_answer_is_nobodys(
    make_server: Callable[..., RedisServer], batch: Batches, event: Events
) -> None:
    server = await to_thread.run_sync(make_server)
    handler = from_url(server.url())
    await handler.open()
    await handler.resume(batch(event(1)).log_id, "tested", 0)
    usual = handler._connection.target
    handler._connection.target = replace(usual, timeout=0.3)
    server.pause()

    with pytest.raises(TransientError, match="no answer in time"):
        await handler.handle(batch(event(1)))
    handler._connection.target = usual
    server.resume()

    # What was sent may be carried out still: then the same again is fenced.
    with suppress(FencedError):
        await handler.handle(batch(event(1)))
    assert await handler.resume(batch(event(1)).log_id, "tested", 0) == 1
    assert [records for records, _ in await handler.sizes()] == [1]
    await handler.close()


async def test_script_that_the_server_has_forgotten_is_sent_again(
    server: RedisServer, stream: str, batch: Batches, event: Events
) -> None:
    handler = from_url(server.url(stream=stream))
    await handler.open()
    await handler.resume(batch(event(1)).log_id, "tested", 0)

    await to_thread.run_sync(lambda: server.execute("SCRIPT", "FLUSH"))
    await handler.handle(batch(event(1)))

    assert (await handler.sizes())[0][0] == 1
    await handler.close()


# -- URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/x", "number of a database"),
        ("redis://h/0?db=1", "number of a database, once"),
        ("redis://h?strem=x", "unknown option 'strem'"),
        ("redis://h?stream=a:b", "stream must be a name"),
        ("redis://h?shards=1000", "shards"),
        ("redis://h?shard_by=a..b", "a path is names of fields"),
        ("redis://h?overflow=drop", "overflow"),
        ("redis://h?tls_ca=x", "need rediss"),
        ("redis://h?cluster=true&sentinel=x", "a cluster has neither"),
        ("redis://h?notice_by=x", "set notices"),
        ("redis://h?nodes=a:b", "nodes must be"),
        ("redis://h?timeout=0", "timeout must be more"),
        ("redis://h,g/0", "several hosts are members of a cluster (cluster=true), or sentinels (sentinel=NAME)"),
        ("redis://h:1,g:2/0?stream=x", "several hosts are members"),
        ("redis://h?nodes=g", "several hosts are members"),
        ("redis://h,g?cluster=true&nodes=i", "not in both"),
        ("redis://h,g:x?cluster=true", "nodes must be"),
        ("redis+unix://", "names a socket"),
        ("redis+unix://host/x", "has no host"),
    ],
)
def test_url_that_cannot_be_meant_is_refused(url: str, said: str) -> None:
    with pytest.raises(HandlerURLError, match=re.escape(said)):
        from_url(url)


def test_parts_of_a_url_reach_the_target() -> None:
    handler = from_url(
        "rediss://u:p%40@h:7000/3?stream=s&shards=4&sentinel=m&nodes=i:1,[::1]:2&tls_verify=false&timeout=2s"
    )

    target = handler._target
    assert target.nodes == (("h", 7000), ("i", 1), ("::1", 2))
    assert (target.user, target.password, target.database, target.stream) == ("u", "p@", 3, "s")
    assert (target.tls, target.tls_verify, target.sentinel, target.shards, target.timeout) == (True, False, "m", 4, 2.0)
    assert "p@" not in repr(handler)


@pytest.mark.parametrize("from_url", [from_url, from_bus_url])
@pytest.mark.parametrize(
    "url",
    [
        "redis://u:a,b@h:1,g:2,[::1]/0?sentinel=m",
        "redis://u:a,b@h:1,g:2,[::1]?sentinel=m",
        "redis://u:a,b@h:1,g:2,[::1]/?sentinel=m&stream=events",
    ],
)
def test_several_hosts_are_sentinels_or_members_of_a_cluster(from_url: Any, url: str) -> None:
    made = from_url(url)

    target = made.target if isinstance(made, RedisBus) else made._target
    assert target.nodes == (("h", 1), ("g", 2), ("::1", 26_379))
    assert (target.user, target.password, target.database, target.stream) == ("u", "a,b", 0, "events")


def test_all_schemes_are_one_subscription() -> None:
    assert {default_name(f"{scheme}://x") for scheme in ("redis", "rediss", "redis+unix")} == {"redis"}
    assert isinstance(handler_from_url("redis://localhost"), RedisHandler)
