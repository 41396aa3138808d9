"""All copies of a mirror: what they have, and what the frames of a source make of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Final

from eventrec.errors import EventrecError
from eventrec.mirroring.copy import Copy
from eventrec.mirroring.copy_sync import CopySync
from eventrec.mirroring.frames import Kind, ProtocolError
from eventrec.mirroring.layouts import ReceivedLayouts
from eventrec.mirroring.messages import (
    CLAIMS_IN_A_FRAME,
    Begin,
    CarriedCheckpoint,
    Claim,
    Retired,
    Runs,
    Stopped,
    Trimmed,
    decode,
    decode_data,
    encode,
)
from eventrec.mirroring.pauses import CopyPauses
from eventrec.runs.directory import DEAD, LogDirectory
from eventrec.runs.leftovers import sweep
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from eventrec.mirroring.frames import Frame
    from eventrec.mirroring.schedule import Key

_LONGEST_WHY: Final = 1_000

_logger = get_logger("eventrec.mirroring")


@dataclass(slots=True)
class MirrorCounts:
    """What a mirror has received since it began.

    Attributes:
        logs: Copies that there are now.
        bytes: Of streams.
        records: Synced.
        diverged: Logs that the source refuses to go on with, and why.
        refused: Logs that cannot be written here, and why.
        kept: Logs that the source has no more, and that are not settled here.
    """

    logs: int = 0
    bytes: int = 0
    records: int = 0
    diverged: dict[UUID, str] = field(default_factory=dict)
    refused: dict[UUID, str] = field(default_factory=dict)
    kept: set[UUID] = field(default_factory=set)


class Copies:
    """The copies in `directory`. Blocking; from one thread at a time, but for the `run` of what is to be synced.

    `sweep_letters` is called where a log of dead letters may be settled. `clock` gives seconds, and never goes back.

    Attributes:
        counts: What came so far.
        unsynced: Bytes that were written since the last `sync`.
    """

    def __init__(
        self,
        directory: LogDirectory,
        *,
        sweep_letters: Callable[[], object],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.counts = MirrorCounts()
        self._parts = {False: directory, True: directory / DEAD}
        self._layouts = ReceivedLayouts(directory)
        self._sweep_letters = sweep_letters
        self._copies: dict[Key, Copy] = {}
        self._streams: dict[int, Copy] = {}
        self.unsynced = 0
        self._changed: set[int] = set()
        """Streams of which something is to be acknowledged."""
        self._unindexed: set[int] = set()
        """Streams of which an index may lack something."""
        self._pauses = CopyPauses(clock)
        self._unread: dict[Key, Exception] = {}
        """Copies of which it is not known what they hold, and why."""

    def claims(self) -> list[Claim]:
        """What each copy has; its lock is taken, unless another process holds it, or it cannot be read: that is said.

        Raises:
            OSError: The directory cannot be read, or made.
        """
        self._streams.clear()
        self._changed.clear()
        self._unindexed.clear()
        self.unsynced = 0
        self._pauses.note_all_offered()
        self.counts.diverged.clear()
        found: list[Claim] = []
        self._parts[False].opened(create=True)
        for is_dead, part in self._parts.items():
            sweep(part)
            for id_ in part.runs():
                copy = self._copies.setdefault((id_, is_dead), Copy(part, id_, is_dead=is_dead))
                claim = self._claim_of(copy)
                if claim is not None:
                    found.append(claim)
        self.counts.logs = len(self._copies)
        return found

    def _claim_of(self, copy: Copy) -> Claim | None:
        """What it has, nothing where it is not there; None where that is not known."""
        key = copy.id, copy.is_dead
        try:
            claim = copy.claim() if copy.hold() else Claim(run=copy.id, is_dead=copy.is_dead)
            copy.rest()
        except (EventrecError, OSError) as exc:
            copy.close()
            self._unread[key] = exc
            self._refuse(key, exc)
            return None
        self._unread.pop(key, None)
        return claim

    def take(self, frames: Sequence[Frame]) -> list[bytes]:
        """Do what `frames` say, in order; with none, what there is time for then. Returns the frames to send.

        What goes wrong with one copy stops that alone.

        Raises:
            ProtocolError: The source says what it may not.
        """
        answers: list[bytes] = []
        for is_data, together in groupby(frames, lambda frame: frame.kind is Kind.DATA):
            if is_data:
                for stream, pieces in groupby(map(decode_data, together), itemgetter(0)):
                    self._write(stream, [piece for _, piece in pieces], answers)
            else:
                for frame in together:
                    self._apply(frame, answers)
        if not frames:
            self._layouts.retry()
            self._sync_indexes(answers)
        return answers + self._offer_again()

    def syncs(self) -> list[CopySync]:
        """What is to be synced, and acknowledged then: all that was taken so far. None of it is returned again."""
        found = []
        for stream in sorted(self._changed):
            copy = self._streams.get(stream)
            if copy is not None:
                found.append(CopySync(stream, copy.syncing(), copy.take_checkpoints(), copy.take_records()))
        self._changed.clear()
        self.unsynced = 0
        return found

    def settle(self, syncs: Iterable[CopySync]) -> list[bytes]:
        """Returns the frames that say of `syncs`, which ran, what is synced. What was stopped meanwhile is left out."""
        answers: list[bytes] = []
        for each in syncs:
            copy = self._streams.get(each.stream)
            if copy is None:
                continue
            try:
                if each.error is not None:
                    raise each.error
                copy.check_in_place()
            except (EventrecError, OSError) as exc:
                self._stop(copy, exc, answers)
                continue
            self.counts.records += each.records
            key = copy.id, copy.is_dead
            if self._pauses.note_passed(key, records=each.records):
                self._note_well(key)
            answers += each.acks()
        return answers

    @property
    def is_synced(self) -> bool:
        """Whether there is nothing to sync, and nothing to acknowledge."""
        return not self._changed

    def _sync_indexes(self, answers: list[bytes]) -> None:
        """Have indexes as those of the source, now that little comes."""
        streams, self._unindexed = self._unindexed, set()
        for stream in streams:
            copy = self._streams.get(stream)
            if copy is not None:
                try:
                    copy.sync_all()
                except (EventrecError, OSError) as exc:
                    self._stop(copy, exc, answers)

    def _write(self, stream: int, pieces: Sequence[bytes | memoryview], answers: list[bytes]) -> None:
        size = sum(map(len, pieces))
        self.counts.bytes += size
        self.unsynced += size
        self._unindexed.add(stream)
        self._with(stream, answers, lambda copy: copy.write(*pieces))

    def _apply(self, frame: Frame, answers: list[bytes]) -> None:
        match frame.kind:
            case Kind.CHECKPOINT:
                checkpoint = decode(frame, CarriedCheckpoint)
                self._with(checkpoint.stream, answers, lambda copy: self._save(copy, checkpoint))
            case Kind.LAYOUT:
                self._layouts.take(frame)
            case Kind.TRIMMED:
                trimmed = decode(frame, Trimmed)
                self._with(trimmed.stream, answers, lambda copy: copy.trim(trimmed.first))
            case Kind.BEGIN:
                self._begin(decode(frame, Begin), answers)
            case Kind.RETIRED:
                retired = decode(frame, Retired)
                self._retire((retired.run, retired.is_dead))
            case Kind.DIVERGED:
                stopped = decode(frame, Stopped)
                key = stopped.run, stopped.is_dead
                self._end_streams_of(key)
                if self._pauses.note_failed(key):
                    _logger.error("log not mirrored", log=str(stopped.run), reason=stopped.why)
                self.counts.diverged[stopped.run] = stopped.why
            case _:
                raise ProtocolError(f"a frame {frame.kind.name} after the handshake")

    def _with(self, stream: int, answers: list[bytes], work: Callable[[Copy], object]) -> None:
        """Do `work` with the copy that `stream` is written to; nothing where that was stopped."""
        copy = self._streams.get(stream)
        if copy is None:
            return
        try:
            work(copy)
            self._changed.add(stream)
        except (EventrecError, OSError) as exc:
            self._stop(copy, exc, answers)

    def _begin(self, begin: Begin, answers: list[bytes]) -> None:
        key = begin.run, begin.is_dead
        self._end_streams_of(key)
        copy = self._copy_of(key)
        try:
            if key in self._unread:
                raise self._unread[key]  # It is not replaced by what the source has.
            self._parts[begin.is_dead].opened(create=True)
            copy.begin(is_fresh=begin.is_fresh, checkpoints=begin.checkpoints)
        except (EventrecError, OSError) as exc:
            self._stop(copy, exc, answers)
            return
        self.counts.logs = len(self._copies)
        self._streams[begin.stream] = copy
        self._changed.add(begin.stream)

    def _copy_of(self, key: Key) -> Copy:
        id_, is_dead = key
        return self._copies.setdefault(key, Copy(self._parts[is_dead], id_, is_dead=is_dead))

    def _save(self, copy: Copy, checkpoint: CarriedCheckpoint) -> None:
        """Save a checkpoint, once the letters of which it says that they were set aside are on the disk."""
        for letters in self._copies.values():
            if letters.is_dead and letters is not copy:
                letters.sync_unsynced()
        copy.save_checkpoint(checkpoint.name, checkpoint.content)

    def _stop(self, copy: Copy, exc: Exception, answers: list[bytes]) -> None:
        """Nothing more of that log, until it is tried again."""
        key = copy.id, copy.is_dead
        self._end_streams_of(key)
        copy.close()
        self._refuse(key, exc)
        answers.append(encode(Stopped(run=copy.id, is_dead=copy.is_dead, why=described(exc)[:_LONGEST_WHY]), Kind.STOP))

    def _refuse(self, key: Key, exc: Exception) -> None:
        if self._pauses.note_failed(key):
            _logger.warning("log cannot be mirrored", log=str(key[0]), error=described(exc))
        self.counts.refused[key[0]] = described(exc)

    def _note_well(self, key: Key) -> None:
        self.counts.refused.pop(key[0], None)
        self.counts.diverged.pop(key[0], None)
        _logger.info("log is mirrored again", log=str(key[0]))

    def _offer_again(self) -> list[bytes]:
        """Say of the logs that were stopped, and whose pause is over, what is there of them."""
        for key in self._pauses.take_lasting():
            self._note_well(key)
        due = self._pauses.due(CLAIMS_IN_A_FRAME)
        claims = [claim for key in due if (claim := self._claim_of(self._copy_of(key)))]
        self._pauses.note_offered((claim.run, claim.is_dead) for claim in claims)
        return [encode(Runs(runs=claims))] if claims else []

    def _retire(self, key: Key) -> None:
        self._end_streams_of(key)
        copy = self._copies.pop(key, None)
        self._pauses.forget(key)
        self.counts.logs = len(self._copies)
        if copy is None:
            return
        try:
            if copy.is_dead:
                copy.close()
                self._sweep_letters()
            elif not copy.retire():
                self.counts.kept.add(copy.id)
                _logger.warning("log kept: its source has it no more, and not all of it is delivered", log=str(copy.id))
        except (EventrecError, OSError) as exc:
            _logger.warning("log not deleted", log=str(copy.id), error=described(exc))
        finally:
            copy.close()

    def _end_streams_of(self, key: Key) -> None:
        for stream in [each for each, copy in self._streams.items() if (copy.id, copy.is_dead) == key]:
            del self._streams[stream]
            self._changed.discard(stream)

    def rest(self) -> None:
        """The connection ended: sync what came whole."""
        self._streams.clear()
        for copy in self._copies.values():
            copy.rest()

    def close(self) -> None:
        """Let go of all copies."""
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()
