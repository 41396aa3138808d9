"""What one mirror is sent while it is connected: all logs of the directory, in turns, and what becomes of them.

look      which logs are there, and which of them have something new
turn      a piece of one log's stream, and the checkpoints that it covers; then the next log's
window    no more is sent while too much is not acknowledged
note      what the mirror acknowledges, in the file that owners read before they delete
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias
from uuid import UUID

import anyio

from eventrec.errors import DivergedError, LogError, MirrorError, TrimmedError
from eventrec.mirroring.frames import Kind, ProtocolError
from eventrec.mirroring.messages import (
    Ack,
    Begin,
    Checkpoint,
    Claim,
    Retired,
    Runs,
    Stopped,
    Trimmed,
    decode,
    encode,
    encode_data,
)
from eventrec.mirroring.served_run import ServedRun
from eventrec.runs.directory import DEAD
from eventrec.runs.mirrors import Acknowledged
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.mirroring.connection import Connection
    from eventrec.mirroring.frames import Frame
    from eventrec.mirroring.served_run import Turn
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.mirrors import Mirrors

WINDOW_BYTES: Final = 4 << 20
"""What may be on the way to a mirror: sent, and not acknowledged."""

MAX_CLAIMS: Final = 20_000
"""Logs that a mirror may say it has."""

PIECE_BYTES: Final = 1 << 20
_DATA_BYTES: Final = 256 << 10
_SOON: Final = 0.01
_IDLE: Final = 0.05
_BUSY_SECONDS: Final = 1.0
"""How long after something moved it is looked as soon as that."""

_QUIET_SECONDS: Final = 5.0
"""How often a log is looked at that no process holds, and in which nothing moved for as long."""

_LITTLE: Final = 256 << 10
"""Bytes: after less than these it rests for a moment."""

_LISTS_EVERY: Final = 1.0
_IN_TURNS: Final = 8
"""Logs that are sent in turns; each costs some descriptors."""

_RETRY_SECONDS: Final = 2.0
_LONGEST_WHY: Final = 1_000

Key: TypeAlias = tuple[UUID, bool]
"""A log, and whether it is one of dead letters."""

_logger = get_logger("eventrec.mirroring")


class Session:
    """Sends to the mirror `name` over `connection` what it lacks of `directory`. For the tasks of one loop.

    `claims` are what the mirror says it has; `bandwidth` is in bytes a second.
    """

    def __init__(
        self,
        connection: Connection,
        directory: LogDirectory,
        mirrors: Mirrors,
        name: str,
        claims: Iterable[Claim],
        *,
        bandwidth: int | None = None,
        window: int = WINDOW_BYTES,
    ) -> None:
        self._connection = connection
        self._parts = {False: directory, True: directory / DEAD}
        self._mirrors = mirrors
        self._name = name
        self._claims = {(each.run, each.is_dead): each for each in claims}
        self._bandwidth = bandwidth
        self._window = window
        self._runs: dict[Key, ServedRun] = {}
        self._streams: dict[int, ServedRun] = {}
        self._last_stream = 0
        self._sent: dict[int, deque[tuple[int, int]]] = {}
        """By stream, what is not acknowledged: the record after each piece, and its bytes."""
        self._in_flight = 0
        self._ends: dict[int, int] = {}
        """By stream, the record after the last one that was sent."""
        self._stopped: set[Key] = set()
        self._not_before: dict[Key, float] = {}
        self._noted: dict[UUID, Acknowledged] = {}
        """What is to be noted of each log."""
        self._has_to_note = anyio.Event()
        self._woken = anyio.Event()
        self._bytes = 0
        self._listed_at = self._moved_at = -_QUIET_SECONDS
        self._looked_at: dict[Key, float] = {}
        self._quiet: set[Key] = set()

    def __repr__(self) -> str:
        return f"<Session of {self._name!r}: {len(self._runs)} logs, {self._in_flight} bytes in flight>"

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            MirrorError: The connection is lost, or the mirror says what it may not.
            OSError: The directory cannot be read, or the mirror was forgotten.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive)
                tasks.start_soon(self._note)
                tasks.start_soon(self._connection.watch)
                tasks.start_soon(self._connection.keep_alive)
                await self._forget_claims_of_what_is_gone()
                while True:
                    await self._round()
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(self._close)

    def _close(self) -> None:
        for run in self._runs.values():
            run.close()

    # -- sending

    async def _round(self) -> None:
        """Send what there is of each log that has something new, in turns; then rest."""
        due = deque(await in_thread(self._look))
        in_turns: deque[Key] = deque()
        before = self._bytes
        while due or in_turns:
            while due and len(in_turns) < _IN_TURNS:
                in_turns.append(due.popleft())
            key = in_turns.popleft()
            if await self._serve(key):
                in_turns.append(key)
        if self._bytes != before:
            self._moved_at = monotonic()
        # What is read is synced first: not for every few records.
        if self._bytes - before < _LITTLE:
            await anyio.sleep(_SOON if monotonic() - self._moved_at < _BUSY_SECONDS else _IDLE)

    def _look(self) -> list[Key]:
        """In a thread. The logs that may have something new, oldest first; those that are gone last."""
        now = monotonic()
        if now - self._listed_at >= _LISTS_EVERY:
            self._listed_at = now
            there = {(id_, is_dead) for is_dead, part in self._parts.items() for id_ in part.runs()}
            for key in there - self._runs.keys():
                self._runs[key] = ServedRun(self._parts[key[1]], key[0], is_dead=key[1])
        return [key for key in sorted(self._runs, key=_rank) if self._is_due(key, now)]

    def _is_due(self, key: Key, now: float) -> bool:
        if key in self._stopped or now < self._not_before.get(key, 0.0):
            return False
        if key in self._quiet and now - self._looked_at.get(key, 0.0) < _QUIET_SECONDS:
            return False
        run = self._runs[key]
        if run.has_moved() or not run.stream:
            self._looked_at[key] = now
            self._quiet.discard(key)
            return True
        if key not in self._quiet and now - self._looked_at.get(key, 0.0) >= _QUIET_SECONDS:
            self._looked_at[key] = now
            if not run.is_held():
                run.rest()
                self._quiet.add(key)
                return True  # Its last checkpoint may have waited for that.
        return False

    async def _serve(self, key: Key) -> bool:
        """One turn of a log; whether it may have more."""
        run = self._runs.get(key)
        if run is None or key in self._stopped:
            return False
        try:
            return await self._turn(run, key)
        except TrimmedError as exc:
            # What the mirror lacks is deleted here: it begins where the log does by now.
            _logger.warning("mirror fell behind, begins again", mirror=self._name, log=str(run.id), first=exc.first)
            self._claims.pop(key, None)
            self._drop(run)
            return True
        except DivergedError as exc:
            if not run.is_dead:
                self._note_soon(Acknowledged(log=run.id))  # What it has is not this log.
            await self._stop(run, key, f"diverged: {exc}")
        except LogError as exc:
            await self._stop(run, key, str(exc))
        except FileNotFoundError:
            await self._end(run, key)
        except OSError as exc:
            _logger.warning("log cannot be read", mirror=self._name, log=str(run.id), error=described(exc))
            self._not_before[key] = monotonic() + _RETRY_SECONDS
        return False

    async def _turn(self, run: ServedRun, key: Key) -> bool:
        if not run.stream:
            await self._begin(run, key)
        stream = run.stream
        await self._window_has_room()
        turn = await in_thread(run.turn, self._piece_bytes)
        if run.stream != stream:
            return key not in self._stopped  # The mirror stopped it meanwhile, or has it begin again.
        if turn.is_gone:
            await self._end(run, key)
        elif not turn.is_empty:
            await self._send(run, turn)
        return bool(turn.piece)

    async def _begin(self, run: ServedRun, key: Key) -> None:
        claim = self._claims.get(key)
        last = None if claim is None or claim.last is None else claim.last.as_commit()
        stream = self._next_stream()
        try:
            checkpoints = await in_thread(run.begin, stream, last)
        except BaseException:
            run.stream = 0
            raise
        self._enroll(run, stream, 0 if last is None else last.next_offset)
        await self._connection.send(
            encode(
                Begin(
                    run=run.id,
                    is_dead=run.is_dead,
                    stream=stream,
                    is_fresh=last is None,
                    checkpoints=checkpoints,
                )
            )
        )

    def _next_stream(self) -> int:
        self._last_stream += 1
        return self._last_stream

    def _enroll(self, run: ServedRun, stream: int, end: int) -> None:
        self._streams[stream] = run
        self._sent[stream] = deque()
        self._ends[stream] = end
        if not run.is_dead:
            self._note_soon(Acknowledged(log=run.id, next_offset=end))

    def _drop(self, run: ServedRun) -> None:
        """Its stream is over: what is on the way of it is not waited for."""
        stream, run.stream = run.stream, 0
        self._streams.pop(stream, None)
        self._ends.pop(stream, None)
        self._in_flight -= sum(size for _, size in self._sent.pop(stream, ()))
        self._woken.set()

    async def _window_has_room(self) -> None:
        while self._in_flight >= self._window:
            self._woken = anyio.Event()
            await self._woken.wait()

    @property
    def _piece_bytes(self) -> int:
        return PIECE_BYTES if self._bandwidth is None else max(1, min(PIECE_BYTES, self._bandwidth))

    async def _send(self, run: ServedRun, turn: Turn) -> None:
        piece, stream = turn.piece, run.stream
        if piece:
            self._sent[stream].append((turn.end, len(piece)))
            self._in_flight += len(piece)
            self._bytes += len(piece)
            self._ends[stream] = turn.end
        frames = [encode_data(stream, piece[at : at + _DATA_BYTES]) for at in range(0, len(piece), _DATA_BYTES)]
        frames += [
            encode(Checkpoint(stream=stream, name=name, content=content)) for name, content in turn.checkpoints.items()
        ]
        if turn.first is not None:
            frames.append(encode(Trimmed(stream=stream, first=turn.first)))
        if self._bandwidth is None:
            await self._connection.send(*frames)
            return
        for frame in frames:
            await self._connection.send(frame)
            await anyio.sleep(len(frame) / self._bandwidth)

    async def _end(self, run: ServedRun, key: Key) -> None:
        """The log is gone: retired, or taken away.

        Raises:
            MirrorError: Another one has its name: where that begins, a new connection finds.
        """
        self._drop(run)
        await in_thread(run.close)
        del self._runs[key]
        if await in_thread(self._parts[key[1]].is_ours, run.id):
            raise MirrorError(f"the log {run.id} was replaced")
        await self._retire(key)

    async def _retire(self, key: Key) -> None:
        self._claims.pop(key, None)
        await self._connection.send(encode(Retired(run=key[0], is_dead=key[1])))
        if not key[1]:
            self._noted.pop(key[0], None)
            await in_thread(self._mirrors.forget_log, self._name, key[0])

    async def _forget_claims_of_what_is_gone(self) -> None:
        """Say of what the mirror has, and this directory has not, that it is gone; and forget what it had before."""
        there = {is_dead: set(await in_thread(part.runs)) for is_dead, part in self._parts.items()}
        for id_, is_dead in list(self._claims):
            if id_ not in there[is_dead]:
                await self._retire((id_, is_dead))
        for id_ in await in_thread(self._mirrors.logs_of, self._name):
            if id_ not in there[False] or (id_, False) not in self._claims:
                await in_thread(self._mirrors.forget_log, self._name, id_)

    async def _stop(self, run: ServedRun, key: Key, why: str) -> None:
        _logger.error("log not mirrored", mirror=self._name, log=str(run.id), reason=why)
        self._stopped.add(key)
        self._drop(run)
        await in_thread(run.rest)
        stopped = Stopped(run=run.id, is_dead=run.is_dead, why=why[:_LONGEST_WHY])
        await self._connection.send(encode(stopped, Kind.DIVERGED))

    # -- receiving

    async def _receive(self) -> NoReturn:
        while True:
            self._take(await self._connection.receive())

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.ACK:
                self._acknowledge(decode(frame, Ack))
            case Kind.STOP:
                stopped = decode(frame, Stopped)
                key = (stopped.run, stopped.is_dead)
                if key in self._runs:
                    _logger.warning("mirror takes no more", mirror=self._name, log=str(key[0]), reason=stopped.why)
                    self._stopped.add(key)
                    self._drop(self._runs[key])
            case Kind.RUNS:
                for claim in decode(frame, Runs).runs:
                    key = (claim.run, claim.is_dead)
                    self._claims[key] = claim
                    self._stopped.discard(key)
                    if key in self._runs:
                        self._drop(self._runs[key])
                if len(self._claims) > MAX_CLAIMS:
                    raise ProtocolError(f"more than {MAX_CLAIMS:,} logs")
            case _:
                raise ProtocolError(f"a frame {frame.kind.name} after the handshake")

    def _acknowledge(self, ack: Ack) -> None:
        run = self._streams.get(ack.stream)
        if run is None:
            return  # That stream is over.
        # What was not sent cannot be there.
        end = min(ack.next_offset, self._ends[ack.stream])
        sent = self._sent[ack.stream]
        while sent and sent[0][0] <= end:
            self._in_flight -= sent.popleft()[1]
        self._woken.set()
        if not run.is_dead:
            self._note_soon(Acknowledged(log=run.id, next_offset=end, checkpoints=ack.checkpoints))

    def _note_soon(self, acknowledged: Acknowledged) -> None:
        self._noted[acknowledged.log] = acknowledged
        self._has_to_note.set()

    async def _note(self) -> NoReturn:
        while True:
            await self._has_to_note.wait()
            self._has_to_note = anyio.Event()
            noted, self._noted = self._noted, {}
            await in_thread(self._note_all, list(noted.values()))

    def _note_all(self, noted: list[Acknowledged]) -> None:
        for each in noted:
            self._mirrors.acknowledge(self._name, each)


def _rank(key: Key) -> tuple[bool, UUID]:
    """Logs of dead letters last; the oldest first."""
    return key[1], key[0]
