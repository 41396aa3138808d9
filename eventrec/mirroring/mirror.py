"""Mirroring a served directory: connect, say what is there, take what comes, acknowledge it, and connect again.

receive     frames, until too much waits
write       what waits, in a thread; then what came meanwhile
sync        what was written, in another thread beside that, and acknowledge it: one sync covers all that came meanwhile
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn
from uuid import uuid4

import anyio

from eventrec.delivery.letters.kept import sweep_letters
from eventrec.errors import EventrecError, MirrorError
from eventrec.mirroring.addresses import place_of
from eventrec.mirroring.connection import LOST, Connection, ConnectionLostError, cancelled_of
from eventrec.mirroring.copies import Copies
from eventrec.mirroring.frames import FROM_SOURCE, VERSION, Kind, ProtocolError
from eventrec.mirroring.messages import CLAIMS_IN_A_FRAME, Hello, Refused, Runs, Welcome, decode, encode
from eventrec.mirroring.server import HANDSHAKE_SECONDS, HEARTBEAT_SECONDS
from eventrec.mirroring.tls import wrap_tls
from eventrec.runs.directory import DEAD, LogDirectory
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Iterable

    from anyio.abc import ByteStream

    from eventrec.mirroring.addresses import Address
    from eventrec.mirroring.copies import MirrorCounts
    from eventrec.mirroring.copy_sync import CopySync
    from eventrec.mirroring.frames import Frame
    from eventrec.mirroring.messages import Claim

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0

_HELD_BYTES: Final = 16 << 20
"""Received, and not yet written: then no more is received."""

_BATCH_BYTES: Final = 4 << 20
_SYNC_BYTES: Final = 12 << 20
"""Written bytes that are synced though more comes: a good part of what may be in flight."""

_LONGEST_UNSYNCED: Final = 0.2
"""Seconds: who waits for what is acknowledged does not wait longer, though little comes all the time."""

_MOMENT: Final = 0.002
"""Seconds in which what is in flight arrives, and is written and synced with the rest."""

_FRAME_BYTES: Final = 256
"""What a frame takes beside its body."""

_TICK_SECONDS: Final = 0.5
"""How often it is looked whether what could not be written can be by now."""

_logger = get_logger("eventrec.mirroring")


class MirrorRefusedError(MirrorError):
    """The source does not take this mirror, and says why."""


class Mirror:
    """Mirrors what is served at `address` into `directory`, as the mirror `name`.

    With `tls` the source's certificate is checked. `bandwidth` is in bytes a second, `heartbeat` in seconds.

    Attributes:
        state: "connecting", "connected", or "waiting: …" with the reason.
        connections: How often it was connected so far.
    """

    def __init__(
        self,
        address: Address,
        directory: str | os.PathLike[str],
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        bandwidth: int | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        handshake: float = HANDSHAKE_SECONDS,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self.state = "connecting"
        self.connections = 0
        self._address = address
        self._tls = tls
        self._token = token or ""
        self._name = name
        self._bandwidth = bandwidth
        self._heartbeat = heartbeat
        self._handshake = handshake
        self._first_pause = first_pause
        self._instance = uuid4()
        self._directory = LogDirectory.of(directory)
        self._copies = Copies(self._directory, sweep_letters=self._sweep_letters)
        self._waiting: list[Frame] = []
        self._waiting_bytes = 0
        self._is_writing = False
        self._using = anyio.Lock()
        """Held by who uses the copies: to write what came, or to say what is synced."""
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Mirror {self._name!r} of {self._address}: {self.state}>"

    @property
    def counts(self) -> MirrorCounts:
        """What came so far, and what is wrong."""
        return self._copies.counts

    def _sweep_letters(self) -> None:
        sweep_letters(self._directory.path / DEAD)

    async def run(self) -> NoReturn:
        """Mirror until cancelled: what ends a connection is followed by another one, after pauses that grow.

        On the way out the copies are let go, as orphans.

        Raises:
            OSError: The directory cannot be made.
        """
        await in_thread(partial(self._directory.opened, create=True))
        pause, said = self._first_pause, ""
        try:
            while True:
                before = self.connections
                try:
                    await self._mirror_once()
                except (Exception, BaseExceptionGroup) as exc:
                    reason = _reason(exc)
                    if reason is None:
                        raise
                    if (cancelled := cancelled_of(exc)) is not None:
                        raise cancelled from None
                if self.connections > before:
                    pause, said = self._first_pause, ""
                if reason != said:
                    _logger.warning("mirror not connected", source=str(self._address), reason=reason)
                    said = reason
                self.state = f"waiting: {reason}"
                await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that mirrors spread out
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(self._copies.close)

    async def _mirror_once(self) -> NoReturn:
        """Be connected, until that ends.

        Raises:
            MirrorError: It ended, or the source refuses this mirror.
            OSError: There is no connection, or the directory cannot be read.
        """
        self.state = "connecting"
        claims = await in_thread(self._copies.claims)
        stream: ByteStream | None = None
        try:
            try:
                with anyio.fail_after(self._handshake):
                    stream = await self._connect()
                    connection = Connection(stream, FROM_SOURCE, silence=3 * self._heartbeat)
                    await self._greet(connection, claims)
            except TimeoutError:
                raise ConnectionLostError(f"no answer within {self._handshake:g} s") from None
            self.connections += 1
            self.state = "connected"
            _logger.info("mirror connected", source=str(self._address))
            self._waiting, self._waiting_bytes = [], 0
            self._changed, self._using = anyio.Event(), anyio.Lock()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, connection)
                tasks.start_soon(self._write, connection)
                tasks.start_soon(self._sync, connection)
                tasks.start_soon(connection.watch)
                tasks.start_soon(connection.keep_alive)
        finally:
            with anyio.CancelScope(shield=True):
                if stream is not None:
                    await anyio.aclose_forcefully(stream)
                await in_thread(self._copies.rest)
        raise AssertionError("unreachable")

    async def _connect(self) -> ByteStream:
        try:
            stream = await anyio.connect_tcp(self._address.host, self._address.port)
            return stream if self._tls is None else await wrap_tls(stream, self._tls, hostname=self._address.host)
        except (*LOST, UnicodeError) as exc:  # A name that is not one of a host is the latter.
            raise ConnectionLostError(f"no connection to {self._address}: {described(exc)}") from exc

    async def _greet(self, connection: Connection, claims: list[Claim]) -> None:
        parts = [claims[at : at + CLAIMS_IN_A_FRAME] for at in range(0, len(claims), CLAIMS_IN_A_FRAME)] or [[]]
        hello = Hello(
            token=self._token,
            name=self._name,
            instance=self._instance,
            place=await in_thread(place_of, self._directory),
            bandwidth=self._bandwidth,
            takes_layouts=True,
            runs=parts[0],
            more=len(parts) > 1,
        )
        rest = [Runs(runs=part, more=at < len(parts) - 1) for at, part in enumerate(parts[1:], 1)]
        await connection.send(encode(hello), *map(encode, rest))
        frame = await connection.receive()
        match frame.kind:
            case Kind.REFUSED:
                raise MirrorRefusedError(f"the source refuses this mirror: {decode(frame, Refused).reason}")
            case Kind.WELCOME:
                version = decode(frame, Welcome).version
                if version != VERSION:
                    raise ProtocolError(f"the source speaks version {version} of the protocol, not {VERSION}")
            case _:
                raise ProtocolError(f"a frame {frame.kind.name} in place of WELCOME")

    async def _receive(self, connection: Connection) -> NoReturn:
        while True:
            while self._is_writing or self._waiting_bytes >= _HELD_BYTES:
                await self._changed.wait()
            frame = await connection.receive()
            self._waiting.append(frame)
            self._waiting_bytes += len(frame.body) + _FRAME_BYTES
            self._note_change()

    def _note_change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _write(self, connection: Connection) -> NoReturn:
        while True:
            with anyio.move_on_after(_TICK_SECONDS):
                while not self._waiting:
                    await self._changed.wait()
            if 0 < self._waiting_bytes < _BATCH_BYTES:
                await anyio.sleep(_MOMENT)
            if answers := await self._take():
                await connection.send(*answers)

    async def _take(self) -> list[bytes]:
        """Write what waits. Nothing is received meanwhile: what comes is the system's to hold, and the thread is alone.

        Two threads that both let go of the interpreter every few microseconds mostly wait for each other.
        """
        async with self._using:
            frames, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._is_writing = True
            try:
                return await self._in_thread(self._copies.take, frames)
            finally:
                self._is_writing = False
                self._note_change()

    async def _sync(self, connection: Connection) -> NoReturn:
        """Sync what was written, and acknowledge it: the disk is waited for while more is received and written."""
        synced_at = anyio.current_time()
        while True:
            while not self._is_sync_due(synced_at):
                await self._changed.wait()
            if self._copies.unsynced < _SYNC_BYTES:
                await anyio.sleep(_MOMENT)
            async with self._using:
                syncs = self._copies.syncs()
            await self._in_thread(self._run_all, syncs)
            synced_at = anyio.current_time()
            async with self._using:
                answers = await self._in_thread(self._copies.settle, syncs)
            if answers:
                await connection.send(*answers)

    def _is_sync_due(self, synced_at: float) -> bool:
        if self._copies.is_synced:
            return False
        is_late = anyio.current_time() - synced_at >= _LONGEST_UNSYNCED
        is_quiet = not (self._waiting or self._is_writing)
        return is_quiet or is_late or self._copies.unsynced >= _SYNC_BYTES

    @staticmethod
    def _run_all(syncs: Iterable[CopySync]) -> list[bytes]:
        for each in syncs:
            each.run()
        return []

    @staticmethod
    async def _in_thread(work: Callable[..., list[bytes]], *arguments: object) -> list[bytes]:
        answers: list[bytes] = []
        # It is waited for: what a thread has in hand is written whole, or not at all.
        with anyio.CancelScope(shield=True):
            answers = await in_thread(work, *arguments)
        return answers  # noqa: RET504 - a scope may swallow what is raised in it, for all that a checker knows


def _reason(exc: BaseException) -> str | None:
    """Why a connection ended, in one line; None where that is a fault of ours."""
    if isinstance(exc, BaseExceptionGroup):
        errors = exc.subgroup(Exception)
        reasons = [None] if errors is None else [_reason(each) for each in errors.exceptions]
        return None if None in reasons else reasons[0]
    return str(exc) if isinstance(exc, EventrecError) else described(exc) if isinstance(exc, OSError) else None
