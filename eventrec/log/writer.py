"""Append, write and sync: three promises, and what happens when the disk keeps the last two from being kept."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.errors import LogClosedError, LogFullError, LogWriteError
from eventrec.log.commit import encode_commit, warn_if_slow
from eventrec.log.head import DISK_FULL, Head
from eventrec.log.index import INDEX_INTERVAL
from eventrec.log.reader import Extent
from eventrec.log.segment import HEADER_SIZE, create_segment, delete_segments, segment_name
from eventrec.runtime.logging import get_logger
from eventrec.runtime.native import RLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.log.repair import Recovered
    from eventrec.log.storage import Storage

_logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Sizes in bytes.

    Attributes:
        segment_bytes: A segment is followed by a new one once it holds this much; it may hold one commit more. Where no
            file may be as large, one follows sooner.
        kept_bytes: How much may be taken and not written, and as much again written and not synced.
        index_interval: How far apart the commits in a segment's index are.
    """

    segment_bytes: int = 64 << 20
    kept_bytes: int = 16 << 20
    index_interval: int = INDEX_INTERVAL


class LogWriter:
    """The writing half of a `Log`, which see.

    Two locks, always taken in this order: `_writing` for what the next write will do, `_syncing` for which file the
    next sync is of. A write takes the second only to begin a segment.
    """

    def __init__(self, storage: Storage, options: LogOptions, found: Recovered) -> None:
        """Go on where `found` says.

        Raises:
            OSError: The disk refused.
        """
        warn_if_slow()
        self.failed_syncs = 0
        self._storage = storage
        self._options = options
        self._writing = RLock()
        self._syncing = RLock()
        self._is_closed = False
        self._generation = 0
        self._begin(found)

    def _begin(self, found: Recovered) -> None:
        first, position = found.end if found.head is None else found.head, found.position
        if found.head is None:
            # If there is a file of that name, it was found to hold no commit.
            create_segment(self._storage, first, is_ours=True)
            position = HEADER_SIZE
        delete_segments(self._storage, [other for other in found.empty if other != first])
        self.recovered = found
        self._head = self._head_at(first, position)
        self._epoch = found.epoch
        self._appended = self._synced = found.end
        self._synced_position = position
        self._extent = Extent(first, position, found.end, self._generation)
        self._pending: deque[tuple[bytes, int]] = deque()
        self._kept: deque[tuple[bytes, int]] = deque()
        # Totals that only rise, each with one writer, so that what lies between them never drifts.
        self._appended_bytes = self._written_bytes = self._synced_bytes = 0
        self._failure: OSError | None = None
        self._is_rotation_due = False
        self._room: float = math.inf
        self._may_begin = True

    def _head_at(self, first: int, position: int) -> Head:
        return Head(self._storage, first, position, index_interval=self._options.index_interval)

    def __repr__(self) -> str:
        state = "closed " if self._is_closed else f"failed: {self._failure} " if self._failure else ""
        return f"<Log {state}appended={self.appended} written={self.written} synced={self.synced} in {self._storage!r}>"

    @property
    def appended(self) -> int:
        """The next offset: what the next record appended will be."""
        return self._appended

    @property
    def written(self) -> int:
        """Every record below is in the page cache."""
        return self._extent.offset

    @property
    def readable(self) -> int:
        """Every record below can be read: what is written, or after a failed sync what is synced."""
        return self._readable().offset

    @property
    def extent(self) -> Extent:
        """How far it can be read, by byte and by record, and which bytes those are."""
        return self._readable()

    @property
    def synced(self) -> int:
        """Every record below survives a power cut."""
        return self._synced

    @property
    def kept_from(self) -> int:
        """Every record from here on is written again where another program deletes the files of the log."""
        return self._head.first

    @property
    def unsynced_bytes(self) -> int:
        """Bytes taken and not synced, all of them in memory."""
        return self._appended_bytes - self._synced_bytes

    @property
    def epoch(self) -> int:
        """What the next commits will carry."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Have the commits appended from now on carry `epoch`. ValueError if it is lower than it was."""
        with self._writing:
            if epoch < self._epoch:
                raise ValueError(f"epoch {epoch} is lower than {self._epoch}")
            self._epoch = epoch

    def append(self, records: Sequence[bytes]) -> range:
        """Take `records` as one commit. Returns their offsets; of none, an empty range. Raises as `append_encoded`."""
        if not records:
            return range(self._appended, self._appended)
        return self.append_encoded(b"".join(records), len(records))

    def append_encoded(self, content: bytes, n: int) -> range:
        """Take `n` records, concatenated in `content`, as one commit. Returns their offsets.

        Nothing is written, unless the memory for what is not is used up.

        Raises:
            ValueError: `n` is not in 1..65535. Nothing was taken.
            LogFullError, LogWriteError: That memory is used up, and the disk refuses. Nothing was taken.
            LogClosedError: The log is closed.
        """
        with self._writing:
            self._check_open()
            offset = self._appended
            commit = encode_commit(offset, content, n, epoch=self._epoch)
            if self._pending and self._appended_bytes - self._written_bytes + len(commit) > self._options.kept_bytes:
                self.write()
            self._pending.append((commit, n))
            self._appended_bytes += len(commit)
            self._appended = offset + n
            return range(offset, self._appended)

    def write(self) -> int:
        """On return all that was taken is written. Returns `written`.

        Raises:
            LogFullError, LogWriteError: The disk refused, or the room is used up (see `limit`). What is not written
                stays taken; call again to try again. What was written is unharmed.
            LogClosedError: The log is closed.
        """
        with self._writing:
            self._check_open()
            self._mend()
            while self._pending:
                self._write_some()
                try:
                    # Nothing more belongs in a full segment: the next may be there, though it could not be opened.
                    self._mend()
                except LogWriteError:
                    # If all is written, that the disk is too full for a new segment is the next write's trouble.
                    if self._pending:
                        raise
            return self._extent.offset

    def limit(self, room: float, *, may_begin: bool = True) -> None:
        """Write no more than `room` bytes from now on, of what is taken and what will be; infinity: without limit.

        Unless it `may_begin` segments, none is begun for what is written; `begin_segment` does all the same.
        """
        with self._writing:
            self._room, self._may_begin = room, may_begin

    def sync(self) -> int:
        """On return all that was written before the call is synced. Returns `synced`. Callers at once share one sync.

        Raises:
            LogFullError, LogWriteError: The disk failed, and took no new segment either. Until it does, readers see
                only what is synced; call this or `write` to try again.
            LogClosedError: The log is closed.
        """
        with self._syncing:
            self._check_open()
            if self._failure is None and self._try_sync():
                return self._synced
        # Not while holding `_syncing`: the writer may hold `_writing` and wait for it.
        with self._writing:
            self._check_open()
            self._mend_failure()
            return self._synced

    def restore_deleted(self) -> int:
        """Where another program deleted the segment that is written, have what it held under its name again.

        On return all that was written is synced. Returns `synced`: what is written below, and cannot be found, is lost.

        Raises:
            LogFullError, LogWriteError: The disk refused, or the directory is gone too: see `move_to`. It is to be
                found again later.
            LogClosedError: The log is closed.
        """
        with self._writing:
            self._check_open()
            try:
                if self._failure is None:
                    self._head.check_name()
            except FileNotFoundError as exc:
                self._failure = exc
                _logger.warning("segment gone", segment=segment_name(self._head.first), lost_below=self.kept_from)
            self._mend()
            return self.sync()

    def close(self) -> None:
        """Write and sync what is taken, and close. Idempotent; closed even where it raises.

        Raises:
            LogFullError, LogWriteError: What is not synced may be lost.
        """
        with self._writing:
            if self._is_closed:
                return
            try:
                try:
                    self.write()
                finally:
                    self.sync()
            finally:
                with self._syncing:
                    self._is_closed = True
                    self._head.close()

    def abandon(self) -> None:
        """Close the descriptors and do nothing else: for the child of a fork. Takes no lock: its holder is not here."""
        self._is_closed = True
        self._head.abandon()

    def _check_open(self) -> None:
        if self._is_closed:
            raise LogClosedError("the log is closed")

    def _readable(self) -> Extent:
        if self._failure is not None:
            return Extent(self._head.first, self._synced_position, self._synced, self._generation)
        return self._extent

    def _try_sync(self) -> bool:
        extent = self._extent
        if extent.offset > self._synced:
            try:
                self._head.sync()
            except OSError as exc:
                self._failure = exc
                _logger.warning("sync failed", segment=segment_name(extent.first), error=str(exc))
                return False
            self._settle(extent)
        return True

    def _write_some(self) -> None:
        """Write commits up to the end of the segment, or as many as may be kept, or as a file may hold."""
        batch = self._next_batch()
        is_at_limit = False
        try:
            self._head.write(batch)
        except FileNotFoundError as exc:
            # As after a failed sync: what is kept, and what follows, goes to a new segment.
            self._failure = exc
            _logger.warning("segment gone", segment=segment_name(self._head.first), lost_below=self.kept_from)
        except OSError as exc:
            is_at_limit = exc.errno == errno.EFBIG and self._head.position > HEADER_SIZE
            if not is_at_limit:
                raise refused(f"write {segment_name(self._head.first)} at byte {self._head.position}", exc) from exc
        finally:
            self._publish()
        if is_at_limit:
            self._rotate(at=0)
        self._is_rotation_due = self._head.position >= self._options.segment_bytes

    def _next_batch(self) -> list[bytes]:
        """What is written at once, of what is taken.

        Raises:
            LogFullError, LogWriteError: The room is used up; or what is kept has to be synced first, which failed.
        """
        unsynced = self._written_bytes - self._synced_bytes
        if unsynced and unsynced + len(self._pending[0][0]) > self._options.kept_bytes:
            self.sync()
            unsynced = 0
        batch: list[bytes] = []
        size = 0
        for commit, _ in self._pending:
            if batch and unsynced + size + len(commit) > self._options.kept_bytes:
                break
            if size + len(commit) > self._room:
                if not batch:
                    raise LogFullError(f"no room for {len(commit):,} bytes, beside those that are spared")
                break
            batch.append(commit)
            size += len(commit)
            if self._head.position + size >= self._options.segment_bytes:
                break
        return batch

    def _publish(self) -> None:
        """Make what the head holds visible, to readers and to `sync`: what is visible is kept, to be written again."""
        position, offset = self._extent.position, self._extent.offset
        while self._pending and position + len(self._pending[0][0]) <= self._head.position:
            commit, n = self._pending.popleft()
            self._head.note(offset, position, len(commit))
            self._kept.append((commit, n))
            position += len(commit)
            offset += n
            self._written_bytes += len(commit)
            self._room -= len(commit)
        self._extent = Extent(self._head.first, position, offset, self._generation)

    def _settle(self, extent: Extent) -> None:
        """Everything up to `extent` is synced: keep it no longer."""
        while self._synced < extent.offset:
            commit, n = self._kept.popleft()
            self._synced_bytes += len(commit)
            self._synced += n
        self._synced_position = extent.position

    def _mend(self) -> None:
        """Do what a failure left undone."""
        self._mend_failure()
        if self._is_rotation_due and self._may_begin:
            self._rotate()
        elif self._is_rotation_due and self._pending:
            raise LogFullError("no room for a segment, beside the files that are spared")

    def _mend_failure(self) -> None:
        if self._failure is not None:
            with self._syncing:
                self._move_kept()

    def begin_segment(self) -> bool:
        """Write no more into the segment that is written now, so that it may be deleted; False: it holds nothing.

        On return all that was written is synced. What is taken and not written stays so.

        Raises:
            LogFullError, LogWriteError: The disk refused; the segment is written as before.
            LogClosedError: The log is closed.
        """
        with self._writing:
            self._check_open()
            self._mend_failure()
            if self._extent.position == HEADER_SIZE:
                return False
            self._rotate(at=0)
            return True

    def _rotate(self, at: int | None = None) -> None:
        """Begin a segment, where the one that is written has `at` bytes: the size of a segment, if not given."""
        self.sync()
        with self._syncing:
            # A failed sync may have moved little enough to a new segment.
            if self._head.position >= (self._options.segment_bytes if at is None else at):
                with translated("begin a segment"):
                    create_segment(self._storage, self.written)
                    self._replace_head(self._head_at(self.written, HEADER_SIZE))
                self._synced_position = HEADER_SIZE
            self._is_rotation_due = False

    def _move_kept(self) -> None:
        """The answer to a failed sync. On return all that was written is synced, in a new segment."""
        if isinstance(self._failure, FileNotFoundError):
            self._copy_synced(self._storage)
        commits = [commit for commit, _ in self._kept]
        # Should the new segment fail, these are still all that a kill leaves of what was written.
        self._head.restore(commits, self._synced_position)
        with translated("write again what could not be synced"):
            create_segment(self._storage, self._synced, commits, is_ours=True)
            head = self._head_at(self._synced, HEADER_SIZE + sum(map(len, commits)))
        self._note_kept(head)
        if head.first != self._head.first:
            self._head.cut(self._synced_position)
        self._generation += 1
        self._replace_head(head)
        self._settle(self._extent)
        self._failure = None
        self.failed_syncs += 1
        _logger.warning("sync recovered", segment=segment_name(head.first), commits=len(commits))

    def _copy_synced(self, storage: Storage) -> None:
        """The segment that is written was deleted: have what of it is synced in `storage`, as a segment by itself."""
        if self._synced == self._head.first:
            return
        with translated("write again what was deleted"):
            try:
                self._head.copy_to(storage, self._synced_position)
            except OSError as exc:
                if exc.errno not in {*DISK_FULL, errno.EFBIG}:
                    raise
                # What is not synced comes first: it is what no disk ever had.
                name = segment_name(self._head.first)
                _logger.warning("segment not written again", segment=name, lost_below=self._synced, error=str(exc))

    def _note_kept(self, head: Head) -> None:
        """Have the index of a segment that begins with what is kept know of it."""
        offsets = itertools.accumulate((n for _, n in self._kept), initial=self._synced)
        sizes = [len(commit) for commit, _ in self._kept]
        positions = itertools.accumulate(sizes, initial=HEADER_SIZE)
        head.note_again(zip(offsets, positions, sizes, strict=False), indexed=0)

    def is_in(self, storage: Storage) -> bool:
        """Whether it is written there: so `move_to` does not have to be called again."""
        return self._storage is storage

    def move_to(self, storage: Storage) -> None:
        """Go on in `storage`, an empty directory, because the one before is gone; what is below `kept_from` is lost.

        On return all else that was written is synced here. Offsets go on; readers made before find nothing.

        Raises:
            LogWriteError: The disk refused. The log is where it was; call again to try again.
        """
        with self._writing, self._syncing:
            self._check_open()
            self._copy_synced(storage)
            commits = [commit for commit, _ in self._kept]
            with translated("write again what a directory that is gone had"):
                create_segment(storage, self._synced, commits, is_ours=True)
                storage, self._storage = self._storage, storage
                try:
                    head = self._head_at(self._synced, HEADER_SIZE + sum(map(len, commits)))
                except BaseException:
                    self._storage = storage
                    raise
            self._note_kept(head)
            self._generation += 1
            self._replace_head(head)
            self._settle(self._extent)
            self._synced_position = head.position
            self._failure = None

    def _replace_head(self, head: Head) -> None:
        old, self._head = self._head, head
        self._extent = Extent(head.first, head.position, self.written, self._generation)
        old.close()


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise what the disk refuses as a LogWriteError that says it happened in `action`."""
    try:
        yield
    except OSError as exc:
        raise refused(action, exc) from exc


def refused(action: str, exc: OSError) -> LogWriteError:
    """The LogWriteError, or LogFullError, for `exc`."""
    kind = LogFullError if exc.errno in DISK_FULL else LogWriteError
    return kind(f"{action}: {exc.strerror or exc}")
