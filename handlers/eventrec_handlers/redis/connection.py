"""A connection to Redis, standalone, in a cluster, or behind sentinels: calls bounded in time, also under trio.

The driver repeats nothing by itself, but for a cluster's redirections: a call that failed may have been carried out,
and its caller decides. One that is cancelled, or that takes too long, takes its socket with it, so that no
answer is ever read by another call. Errors come out as what they mean (`errors.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CancelScope, to_thread
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from eventrec import DeliveryError, PauseError, TransientError
from eventrec_handlers._thread import Portal, is_trio
from eventrec_handlers.redis.errors import is_missing_script, meaning, needs_new_connections
from eventrec_handlers.redis.keys import shards_key
from eventrec_handlers.redis.scripts import all_scripts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Self, TypeAlias

    from eventrec_handlers.redis.options import Target
    from eventrec_handlers.redis.scripts import Script

    Client: TypeAlias = Redis | RedisCluster

T = TypeVar("T")

_PROTOCOL: Final = 2
"""Answers are the same in every version of the driver; and a server tells us nothing that we did not ask for."""

_REDIRECTIONS: Final = 5
"""How often a call may be sent to another node of a cluster."""

_CLOSING: Final = 2.0
"""Seconds that it may take to say good-bye."""


class Connection:
    """A pool of connections to the buffer of `target`, made as calls need them. For one loop between open and close."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._portal: Portal | None = None
        self._client: Client | None = None
        self._sentinel: Sentinel | None = None
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Connection {self.target} {'open' if self._is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether calls may be made."""
        return self._is_open

    async def open(self) -> None:
        """Connect. May be called again.

        Raises:
            PauseError: Credentials, rights or certificates are refused, or it is not a server that we can use.
            TransientError: It cannot be reached, or is not ready.
        """
        if self._portal is None and is_trio():
            self._portal = Portal("eventrec-redis")
        await to_thread.run_sync(self._read_files)
        self._is_open = True
        try:
            await self.call("EXISTS", shards_key(self.target.stream))
        except BaseException:
            await self.close()
            raise

    def _read_files(self) -> None:
        """In a thread: what is needed from the disk is there. The driver would take it for an outage if it is not."""
        all_scripts()
        for path in (self.target.tls_ca, self.target.tls_cert, self.target.tls_key):
            try:
                if path is not None:
                    Path(path).read_bytes()
            except OSError as exc:
                raise PauseError(f"{self.target}: {path} cannot be read: {exc.strerror}") from exc

    async def close(self) -> None:
        """Disconnect. May be called again, and without `open`."""
        self._is_open = False
        with CancelScope(shield=True):
            portal, self._portal = self._portal, None
            if portal is None:
                await self._disconnect()
            else:
                await portal.run(self._disconnect)
                await portal.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any] = (), *, seconds: float = 0.0) -> Any:
        """What `script` answers: text as bytes, numbers as int, tables as lists.

        All keys are of one shard. `seconds` are allowed in addition to the timeout, as in `call`.

        Raises:
            DeliveryError: What an error of the driver or of the script means. It may have been carried out.
        """

        async def do(client: Client) -> Any:
            try:
                return await client.execute_command("EVALSHA", script.digest, len(keys), *keys, *args)
            except Exception as exc:
                if not is_missing_script(exc):
                    raise
            return await client.execute_command("EVAL", script.text, len(keys), *keys, *args)

        return await self.do(do, seconds=seconds)

    async def call(self, *command: Any, seconds: float = 0.0) -> Any:
        """What the server answers. `seconds` are allowed in addition to the timeout: for commands that wait.

        Raises:
            DeliveryError: As `run`.
        """
        return await self.do(lambda client: client.execute_command(*command), seconds=seconds)

    async def do(self, job: Callable[[Client], Awaitable[T]], *, seconds: float = 0.0) -> T:
        """What `job` gives, run on asyncio with the driver's client, which is its own no longer than that.

        Raises:
            RuntimeError: It is not open.
            DeliveryError: As `run`.
        """
        if not self._is_open:
            raise RuntimeError(f"closed: the connection to {self.target} is not open")

        async def bounded() -> T:
            client: Client | None = None
            try:
                async with asyncio.timeout(self.target.timeout + seconds):
                    client = await self._connected()
                    return await job(client)
            except Exception as exc:
                if needs_new_connections(exc):
                    await self._disconnect()
                meant = meaning(exc, str(self.target))
                if meant is exc and client is not None and client is not self._client:
                    # Another call has given the client up, under this one: then it fails in odd ways.
                    meant = exc if isinstance(exc, DeliveryError) else TransientError(f"{self.target}: disconnected")
                if meant is exc:
                    raise
                raise meant from exc

        return await (bounded() if self._portal is None else self._portal.run(bounded))

    # -- on the driver's loop

    async def _connected(self) -> Client:
        """The driver's client; it connects when it is asked something."""
        if self._client is None:
            target = self.target
            if target.cluster:
                self._client = RedisCluster(
                    startup_nodes=[ClusterNode(host, port) for host, port in target.nodes],
                    retry=Retry(NoBackoff(), _REDIRECTIONS),
                    username=target.user,
                    password=target.password,
                    **self._settings(),
                )
            elif target.sentinel is not None:
                self._sentinel = Sentinel(  # type: ignore[no-untyped-call] # the driver's
                    target.nodes,
                    sentinel_kwargs={
                        **self._settings(),
                        "retry": Retry(NoBackoff(), 0),
                        "username": target.sentinel_user,
                        "password": target.sentinel_password,
                    },
                )
                self._client = self._sentinel.master_for(target.sentinel, **self._of_server())
            else:
                host, port = target.nodes[0]
                place = {"unix_socket_path": target.socket} if target.socket else {"host": host, "port": port}
                self._client = Redis(**place, **self._of_server())
        return self._client

    def _of_server(self) -> dict[str, Any]:
        target = self.target
        return {
            **self._settings(),
            "retry": Retry(NoBackoff(), 0),
            "db": target.database,
            "username": target.user,
            "password": target.password,
        }

    def _settings(self) -> dict[str, Any]:
        target = self.target
        settings: dict[str, Any] = {
            **_nameless(),
            "protocol": _PROTOCOL,
            "socket_timeout": None,  # a call is bounded as a whole
            "socket_connect_timeout": target.connect_timeout,
        }
        if target.tls:
            settings |= {
                "ssl": True,
                "ssl_ca_certs": target.tls_ca,
                "ssl_certfile": target.tls_cert,
                "ssl_keyfile": target.tls_key,
                "ssl_cert_reqs": "required" if target.tls_verify else "none",
                "ssl_check_hostname": target.tls_verify,
            }
        return settings

    async def _disconnect(self) -> None:
        """Close every socket; the next call makes new ones. Whatever was under way fails."""
        client, self._client = self._client, None
        sentinel, self._sentinel = self._sentinel, None
        with suppress(Exception):  # it is given up
            async with asyncio.timeout(_CLOSING):
                if client is not None:
                    await client.aclose()
                if sentinel is not None:
                    await sentinel.aclose()


@cache
def _nameless() -> dict[str, None]:
    """What keeps the driver from looking for its own version on the disk, to tell it to the server."""
    if "driver_info" in signature(Redis.__init__).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}  # before redis-py 7.2
