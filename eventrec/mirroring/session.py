"""What one mirror is sent while it is connected: all logs of the directory, in turns, and what becomes of them.

layouts   of tables: before the records that were written after them
look      which logs are there, and which of them have something new
turn      a piece of one log's stream, and the checkpoints that it covers; then the next log's
letters   before a checkpoint: the dead letters that it says were set aside, and so need not be delivered
window    no more is sent while too much is not acknowledged
note      what the mirror acknowledges, in the file that owners read before they delete
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec.errors import DivergedError, LogError, MirrorError, TrimmedError
from eventrec.mirroring.frames import Kind, ProtocolError
from eventrec.mirroring.layouts import OfferedLayouts
from eventrec.mirroring.letter_sweeps import SweepTimes, sweep_settled
from eventrec.mirroring.messages import Ack, Begin, Claim, Retired, Runs, Stopped, decode, encode
from eventrec.mirroring.notes import Notes
from eventrec.mirroring.outgoing import Outgoing
from eventrec.mirroring.schedule import Key, Schedule
from eventrec.mirroring.turn_frames import TurnFrames
from eventrec.mirroring.turns import LogTurns
from eventrec.mirroring.window import Window
from eventrec.runs.mirrors import Acknowledged
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec.mirroring.connection import Connection
    from eventrec.mirroring.frames import Frame
    from eventrec.mirroring.served_run import LogTurn, ServedRun
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.mirrors import Mirrors

WINDOW_BYTES: Final = 32 << 20
"""What may be in flight to a mirror: sent, and not acknowledged."""

MAX_CLAIMS: Final = 20_000
"""Logs that a mirror may say it has."""

_SOON: Final = 0.01
_IDLE: Final = 0.05
_BUSY_SECONDS: Final = 1.0
"""How long after something moved it is looked as soon as that."""

_LITTLE: Final = 256 << 10
"""Bytes: after less than these it rests for a moment."""

_LOOKS_EVERY: Final = 0.1
"""How often it is looked for new ones while there is much to send."""

_IN_TURNS: Final = 8
"""Logs that are sent in turns; each costs some descriptors."""

_MAX_NAMES: Final = 4_000
"""Files of checkpoints that are named when a stream begins: so many fit into a frame, however long their names are."""

_RETRY_SECONDS: Final = 2.0
_LONGEST_WHY: Final = 1_000

_logger = get_logger("eventrec.mirroring")


class MirrorSession:
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
        takes_layouts: bool = False,
        window: int = WINDOW_BYTES,
    ) -> None:
        self._connection = connection
        self._mirrors = mirrors
        self._name = name
        self._claims = {(each.run, each.is_dead): each for each in claims}
        self._outgoing = Outgoing(connection, bandwidth=bandwidth)
        self._window = Window(window)
        self._schedule = Schedule(directory)
        self._layouts = OfferedLayouts(directory) if takes_layouts else None
        self._streams: dict[int, ServedRun] = {}
        self._carried: dict[int, dict[str, int]] = {}
        """The checkpoints that the mirror acknowledged, of each stream."""
        self._last_stream = 0
        self._notes = Notes(mirrors, name)
        self._bytes = 0
        self._stopped: dict[Key, str] = {}
        """Logs that could not be given out the last time, and why."""
        self._sweeps = SweepTimes()
        self._moved_at = -_BUSY_SECONDS

    def __repr__(self) -> str:
        return f"<MirrorSession of {self._name!r}: {self._schedule!r} {self._window!r}>"

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            MirrorError: The connection is lost, or the mirror says what it may not.
            OSError: The directory cannot be read, or the mirror was forgotten.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive)
                tasks.start_soon(self._outgoing.run)
                tasks.start_soon(self._notes.run)
                tasks.start_soon(self._connection.watch)
                tasks.start_soon(self._connection.keep_alive)
                await self._forget_claims_of_what_is_gone()
                while True:
                    await self._round()
        finally:
            self._outgoing.close()
            with anyio.CancelScope(shield=True):
                await in_thread(self._schedule.close)

    # -- sending

    async def _round(self) -> None:
        """Send what there is, in turns, till there is nothing new; then rest."""
        before, turns = self._bytes, LogTurns(_IN_TURNS)
        if self._layouts is not None and self._layouts.is_due:
            await self._outgoing.say(*await in_thread(self._layouts.frames))
        turns.offer(await in_thread(self._schedule.due))
        looked_at = monotonic()
        while (key := turns.take(has_begun=self._has_begun)) is not None:
            sent = self._bytes
            if await self._serve(key) and not turns.give_back(key, self._bytes - sent):
                await in_thread(self._schedule.rest_of, key)
            if monotonic() - looked_at >= _LOOKS_EVERY:
                # What is written now does not wait for what was written long ago.
                looked_at = monotonic()
                turns.offer(await in_thread(self._schedule.due))
        if self._bytes != before:
            self._moved_at = monotonic()
        # What the mirror has as settled was kept for it alone, once that is noted where owners read it.
        if self._notes.are_written:
            await sweep_settled(self._schedule.parts[True].path, self._sweeps, mirror=self._name)
        # What is read is synced first: not for every few records.
        if self._bytes - before < _LITTLE:
            await in_thread(self._schedule.rest)
            await anyio.sleep(_SOON if monotonic() - self._moved_at < _BUSY_SECONDS else _IDLE)

    def _has_begun(self, key: Key) -> bool:
        run = self._schedule.runs.get(key)
        return run is not None and bool(run.stream)

    async def _serve(self, key: Key, *, has_checkpoints: bool = True) -> bool:
        """One turn of a log; whether it may have more."""
        run = self._schedule.runs.get(key)
        if run is None or self._schedule.is_stopped(key):
            return False
        try:
            return await self._turn(run, key, has_checkpoints=has_checkpoints)
        except TrimmedError as exc:
            # What the mirror lacks is deleted here: it begins where the log does by now.
            _logger.warning("mirror fell behind, begins again", mirror=self._name, log=str(run.id), first=exc.first)
            self._claims.pop(key, None)
            self._drop(run)
            return True
        except DivergedError as exc:
            self._notes.note(Acknowledged(log=run.id), is_dead=run.is_dead)  # What it has is not this log.
            await self._stop(run, key, f"diverged: {exc}")
        except LogError as exc:
            await self._stop(run, key, str(exc))
        except FileNotFoundError:
            await self._end(run, key)
        except OSError as exc:
            _logger.warning("log cannot be read", mirror=self._name, log=str(run.id), error=described(exc))
            self._schedule.pause(key, _RETRY_SECONDS)
        return False

    async def _turn(self, run: ServedRun, key: Key, *, has_checkpoints: bool) -> bool:
        if not run.stream:
            await self._begin(run, key)
        stream = run.stream
        await self._window.wait_for_room()
        if not stream or run.stream != stream:
            return not self._schedule.is_stopped(key)
        turn, layouts, frames = await in_thread(self._read, run, stream, has_checkpoints)
        await self._outgoing.say(*layouts)
        if run.stream != stream:
            return not self._schedule.is_stopped(key)  # The mirror stopped it meanwhile, or has it begin again.
        if turn.is_gone:
            await self._end(run, key)
            return False
        if turn.parts:
            size = sum(map(len, turn.parts))
            self._window.note_sent(stream, turn.end, size)
            self._bytes += size
            self._stopped.pop(key, None)
            await self._outgoing.say(*frames.data)
        for name, content in turn.checkpoints.items():
            if content is None:
                self._carried.get(stream, {}).pop(name, None)
        if frames.checkpoints:
            await self._say_checkpoints(run, key, frames.checkpoints)
        await self._outgoing.say(*frames.others)
        return bool(turn.parts)

    def _read(self, run: ServedRun, stream: int, has_checkpoints: bool) -> tuple[LogTurn, list[bytes], TurnFrames]:  # noqa: FBT001 - called by name of a thread
        """In a thread. What comes next of a log, the layouts to be said before it, and the frames that say it."""
        turn = run.turn(self._outgoing.piece_bytes, has_checkpoints=has_checkpoints)
        layouts = [] if not turn.parts or self._layouts is None else self._layouts.frames()
        return turn, layouts, TurnFrames.of(turn, stream, are_whole=self._outgoing.is_bounded)

    # -- dead letters

    async def _say_checkpoints(self, run: ServedRun, key: Key, frames: Mapping[str, bytes]) -> None:
        """Say them once all dead letters are said that were there when they were read; else they are due again."""
        stream = run.stream
        if await self._has_said_letters(excluding=key):
            await self._outgoing.say(*frames.values())
        elif run.stream == stream:
            run.take_back(frames)

    async def _has_said_letters(self, *, excluding: Key) -> bool:
        for key in await in_thread(self._schedule.letters_due):
            if key != excluding:
                while await self._serve(key, has_checkpoints=False):
                    pass
                if self._schedule.is_waiting(key) and key not in self._stopped:
                    return False
        return True

    async def _begin(self, run: ServedRun, key: Key) -> None:
        claim = self._claims.get(key)
        last = None if claim is None or claim.last is None else claim.last.as_commit()
        self._last_stream += 1
        stream = self._last_stream
        try:
            checkpoints = await in_thread(run.begin, stream, last)
        except BaseException:
            run.stream = 0
            raise
        if run.stream != stream:
            return  # The mirror stopped it meanwhile, or has it begin again.
        end = 0 if last is None else last.next_offset
        self._streams[stream] = run
        self._window.begin(stream, end)
        self._notes.note(Acknowledged(log=run.id, next_offset=end), is_dead=run.is_dead)
        await self._outgoing.say(
            encode(
                Begin(
                    run=run.id,
                    is_dead=run.is_dead,
                    stream=stream,
                    is_fresh=last is None,
                    checkpoints=checkpoints[:_MAX_NAMES],
                )
            )
        )

    def _drop(self, run: ServedRun) -> None:
        """Its stream is over: what of it is in flight is not waited for."""
        stream, run.stream = run.stream, 0
        self._streams.pop(stream, None)
        self._carried.pop(stream, None)
        self._window.drop(stream)

    async def _end(self, run: ServedRun, key: Key) -> None:
        """The log is gone: retired, or taken away.

        Raises:
            MirrorError: Another one has its name: where that begins, a new connection finds.
        """
        self._drop(run)
        await in_thread(run.close)
        self._schedule.forget(key)
        if await in_thread(self._schedule.parts[key[1]].is_ours, run.id):
            raise MirrorError(f"the log {run.id} was replaced")
        await self._retire(key)

    async def _retire(self, key: Key) -> None:
        self._claims.pop(key, None)
        await self._outgoing.say(encode(Retired(run=key[0], is_dead=key[1])))
        await self._notes.forget(key)

    async def _forget_claims_of_what_is_gone(self) -> None:
        """Say of what the mirror has, and this directory has not, that it is gone; and forget what it had before."""
        there = {is_dead: set(await in_thread(part.runs)) for is_dead, part in self._schedule.parts.items()}
        for id_, is_dead in list(self._claims):
            if id_ not in there[is_dead]:
                await self._retire((id_, is_dead))
        for is_dead, ids in there.items():
            for id_ in await in_thread(partial(self._mirrors.logs_of, self._name, is_dead=is_dead)):
                if id_ not in ids or (id_, is_dead) not in self._claims:
                    await self._notes.forget((id_, is_dead))

    async def _stop(self, run: ServedRun, key: Key, why: str) -> None:
        """Nothing more of that log, until the mirror asks for it again: it does, after pauses that grow."""
        if self._stopped.get(key) != why:
            _logger.error("log not mirrored", mirror=self._name, log=str(run.id), reason=why)
        self._stopped[key] = why
        self._schedule.stop(key)
        self._drop(run)
        await in_thread(run.rest)
        stopped = Stopped(run=run.id, is_dead=run.is_dead, why=why[:_LONGEST_WHY])
        await self._outgoing.say(encode(stopped, Kind.DIVERGED))

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
                run = self._schedule.runs.get(key)
                if run is not None:
                    _logger.warning("mirror takes no more", mirror=self._name, log=str(key[0]), reason=stopped.why)
                    self._schedule.stop(key)
                    self._drop(run)
            case Kind.RUNS:
                for claim in decode(frame, Runs).runs:
                    key = (claim.run, claim.is_dead)
                    self._claims[key] = claim
                    self._schedule.resume(key)
                    if key in self._schedule.runs:
                        self._drop(self._schedule.runs[key])
                if len(self._claims) > MAX_CLAIMS:
                    raise ProtocolError(f"more than {MAX_CLAIMS:,} logs")
            case _:
                raise ProtocolError(f"a frame {frame.kind.name} after the handshake")

    def _acknowledge(self, ack: Ack) -> None:
        run, end = self._streams.get(ack.stream), self._window.acknowledge(ack.stream, ack.next_offset)
        if run is None or end is None:
            return
        carried = self._carried.setdefault(ack.stream, {})
        # What was not sent is not believed, nor kept.
        carried.update((name, at) for name, at in ack.checkpoints.items() if run.has_sent(name))
        self._notes.note(Acknowledged(log=run.id, next_offset=end, checkpoints=dict(carried)), is_dead=run.is_dead)
        if run.is_dead:
            self._sweeps.note_new()
