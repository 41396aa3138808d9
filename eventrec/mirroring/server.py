"""Serving a log directory to its mirrors: who may connect, how many, and for how long they may say nothing.

accept      at most so many connections; of those that have not said yet who they are, the oldest makes room
TLS         then the mirror's HELLO: both within ten seconds, and no byte of it is believed before the token is
session     one of a name at a time: see session.py
"""

from __future__ import annotations

import hmac
import ssl
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute, SocketListener

from eventrec.errors import EventrecError, MirrorError
from eventrec.mirroring.addresses import is_loopback, place_of
from eventrec.mirroring.connection import LOST, Connection, ConnectionLostError, cancelled_of
from eventrec.mirroring.frames import FROM_MIRROR, VERSION, Kind, ProtocolError
from eventrec.mirroring.messages import Hello, Refused, Runs, Welcome, decode, encode
from eventrec.mirroring.session import MAX_CLAIMS, WINDOW_BYTES, MirrorSession
from eventrec.mirroring.tls import wrap_tls
from eventrec.runs.directory import LogDirectory
from eventrec.runs.mirrors import Mirrors
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from uuid import UUID

    from anyio.abc import ByteStream, SocketStream

    from eventrec.mirroring.addresses import Address

HEARTBEAT_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 10.0
MAX_MIRRORS: Final = 16
_MAX_HANDSHAKES: Final = 16

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

_logger = get_logger("eventrec.mirroring")


class MirrorServer:
    """Serves `directory`. Without `tls` it listens on this machine's own addresses alone.

    `token` is what a mirror has to know, where there is one; `heartbeat` and `handshake` are in seconds.

    Attributes:
        mirrors: Those that are connected, by name, and from where.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        handshake: float = HANDSHAKE_SECONDS,
        max_mirrors: int = MAX_MIRRORS,
        window: int = WINDOW_BYTES,
    ) -> None:
        self.mirrors: dict[str, str] = {}
        self._directory = LogDirectory.of(directory)
        self._known = Mirrors(self._directory)
        self._tls = tls
        self._token = token
        self._heartbeat = heartbeat
        self._handshake = handshake
        self._max_mirrors = max_mirrors
        self._window = window
        self._handshakes: OrderedDict[int, anyio.CancelScope] = OrderedDict()
        self._instances: dict[str, UUID] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<MirrorServer of {self._directory}: {len(self.mirrors)} mirrors>"

    async def serve(self, address: Address, *, on_listening: Callable[[int], object] = lambda _port: None) -> None:
        """Listen on `address` and serve until cancelled. `on_listening` is told the port; 0 takes any.

        Raises:
            MirrorError: It is reached by other machines, and there is no TLS, or neither a token nor a client's CA.
            OSError: It cannot be listened on.
        """
        try:
            listener = await anyio.create_tcp_listener(local_host=address.host, local_port=address.port)
        except UnicodeError as exc:
            raise OSError(f"{address.host!r} cannot be a host: {exc}") from exc
        async with listener:
            sockets = [each for each in listener.listeners if isinstance(each, SocketListener)]
            self._check_reach([str(each.extra(SocketAttribute.local_address)[0]) for each in sockets])  # noqa: S610 - not Django's
            on_listening(sockets[0].extra(SocketAttribute.local_port))  # noqa: S610 - likewise
            async with anyio.create_task_group() as tasks:
                for each in sockets:
                    tasks.start_soon(self._accept, each)

    def _check_reach(self, hosts: list[str]) -> None:
        far = [host for host in hosts if not is_loopback(host)]
        if far and self._tls is None:
            raise MirrorError(f"{far[0]} is reached by other machines: that takes TLS")
        if far and self._token is None and self._tls is not None and self._tls.verify_mode is not ssl.CERT_REQUIRED:
            raise MirrorError(f"{far[0]} is reached by other machines: that takes a token, or a CA of clients")

    async def _accept(self, listener: SocketListener) -> None:
        pause = _FIRST_PAUSE
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    # Descriptors ran out: those that are connected go on.
                    if pause == _FIRST_PAUSE:
                        _logger.warning("mirrors are not accepted", error=described(exc))
                    await anyio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    pause = _FIRST_PAUSE
                    tasks.start_soon(self._welcome, stream)

    async def _welcome(self, stream: SocketStream) -> None:
        """One connection, from its first byte to its last. Whatever goes wrong ends it alone."""
        peer = _peer_of(stream)
        try:
            with anyio.CancelScope() as scope:
                connection, hello = await self._greet(stream, scope)
                await self._serve_mirror(connection, hello, peer)
        except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - a peer's bytes, the disk's errors: see above
            for each in _causes(exc):
                if isinstance(each, Exception):
                    _say_ended(each, peer)
            if (cancelled := cancelled_of(exc)) is not None:
                raise cancelled from None
        finally:
            with anyio.CancelScope(shield=True), suppress(*LOST):
                await anyio.aclose_forcefully(stream)

    async def _greet(self, stream: SocketStream, scope: anyio.CancelScope) -> tuple[Connection, Hello]:
        """Who it is, within the time for that.

        Raises:
            MirrorError: It did not say, or may not connect.
        """
        if len(self._handshakes) >= _MAX_HANDSHAKES:
            # A peer of ours says at once who it is.
            self._handshakes.popitem(last=False)[1].cancel()
        self._count += 1
        number = self._count
        self._handshakes[number] = scope
        try:
            with anyio.fail_after(self._handshake):
                wrapped: ByteStream = stream
                if self._tls is not None:
                    wrapped = await wrap_tls(stream, self._tls)
                connection = Connection(wrapped, FROM_MIRROR, silence=3 * self._heartbeat, by_frame=True)
                return connection, await self._hello(connection)
        except TimeoutError:
            raise ConnectionLostError(f"it did not say who it is within {self._handshake:g} s") from None
        except LOST as exc:
            raise ConnectionLostError(f"no TLS: {exc}") from exc
        finally:
            self._handshakes.pop(number, None)

    async def _hello(self, connection: Connection) -> Hello:
        frame = await connection.receive()
        if frame.kind is not Kind.HELLO:
            raise ProtocolError(f"a frame {frame.kind.name} in place of HELLO")
        hello = decode(frame, Hello)
        reason = self._reason_against(hello)
        if reason is None and hello.place and hello.place == await in_thread(place_of, self._directory):
            reason = "its directory is the one that is served"
        if reason is not None:
            await connection.send(encode(Refused(reason=reason)))
            raise MirrorError(f"refused: {reason}")
        claims, more = list(hello.runs), hello.more
        while more:
            frame = await connection.receive()
            if frame.kind is not Kind.RUNS:
                raise ProtocolError(f"a frame {frame.kind.name} in place of RUNS")
            runs = decode(frame, Runs)
            claims, more = claims + runs.runs, runs.more
            if len(claims) > MAX_CLAIMS:
                raise ProtocolError(f"more than {MAX_CLAIMS:,} logs")
        hello.runs[:] = claims
        return hello

    def _reason_against(self, hello: Hello) -> str | None:
        if self._token is not None and not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            return "the token is not right"
        if hello.version != VERSION:
            return f"it speaks version {hello.version} of the protocol, this source version {VERSION}"
        instance = self._instances.get(hello.name)
        if instance is not None and instance != hello.instance:
            return f"another mirror of the name {hello.name!r} is connected, from {self.mirrors[hello.name]}"
        if instance is None and len(self._instances) >= self._max_mirrors:
            return f"{len(self._instances)} mirrors are connected: there is no room for another"
        return None

    async def _serve_mirror(self, connection: Connection, hello: Hello, peer: str) -> None:
        name = hello.name
        old = self._scopes.get(name)
        if old is not None:
            old.cancel()  # The same process is back: its connection before is of no use to it.
        with anyio.CancelScope() as scope:
            self._scopes[name], self._instances[name], self.mirrors[name] = scope, hello.instance, peer
            try:
                if await in_thread(self._known.register, name):
                    _logger.info("mirror known from now on", mirror=name)
                await connection.send(encode(Welcome()))
                _logger.info("mirror connected", mirror=name, peer=peer)
                session = MirrorSession(
                    connection,
                    self._directory,
                    self._known,
                    name,
                    hello.runs,
                    bandwidth=hello.bandwidth,
                    takes_layouts=hello.takes_layouts,
                    window=self._window,
                )
                await session.run()
            finally:
                if self._scopes.get(name) is scope:
                    del self._scopes[name], self._instances[name], self.mirrors[name]


def _peer_of(stream: SocketStream) -> str:
    try:
        return str(stream.extra(SocketAttribute.remote_address)[0])  # noqa: S610 - not Django's
    except (OSError, anyio.TypedAttributeLookupError):
        return "?"


def _causes(exc: BaseException) -> list[BaseException]:
    """What went wrong, of tasks that ran beside each other."""
    if isinstance(exc, BaseExceptionGroup):
        return [cause for each in exc.exceptions for cause in _causes(each)]
    return [exc]


def _say_ended(exc: BaseException, peer: str) -> None:
    if isinstance(exc, EventrecError | OSError):
        _logger.info("connection of a mirror ended", peer=peer, reason=described(exc))
    else:
        _logger.error("connection of a mirror failed", peer=peer, exc_info=exc)
