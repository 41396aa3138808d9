"""Writing a mirror's stream into segments: the receiving half of a mirror."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from eventrec.errors import DivergedError, LogClosedError
from eventrec.log.head import Head
from eventrec.log.index import INDEX_INTERVAL
from eventrec.log.reader import LogReader
from eventrec.log.segment import HEADER_SIZE, create_segment, segment_name
from eventrec.log.stream_end import End, LastCommit, Note, OnTrailing, find_end, recut
from eventrec.log.stream_parser import MAX_COMMIT_BYTES, Received, StreamParser
from eventrec.log.writer import translated
from eventrec.runtime.backend import in_thread
from eventrec.runtime.native import RLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyio.abc import ByteReceiveStream

    from eventrec.log.storage import Storage

__all__ = ["LastCommit", "OnTrailing", "StreamWriter"]


class StreamWriter:
    """Appends a stream to the log in a directory, which no other may write meanwhile.

    Nothing of a header or a commit is written before it is there whole, known to be valid, and what comes next. After
    an error, be it the stream's or the disk's, the writer is consumed: it holds no descriptor any more, and every call
    but `close` raises LogClosedError. What it wrote before is in the files; make it again, which looks at them.

    Its methods block; each waits for the one that another thread is in, but `sync_beside`.

    Attributes:
        next_offset: The record that comes next; 0 where the log is empty, and then any may.
        last: The last commit, None where the log is empty.
        records: How many it wrote.
        synced: Every record below survives a power cut; 0 where the log is empty.
    """

    def __init__(
        self, storage: Storage, end: End | None, *, index_interval: int, max_commit_bytes: int, allows_gaps: bool
    ) -> None:
        """Not to be called: see `create`."""
        self._storage = storage
        self._index_interval = index_interval
        self._lock = RLock()
        # Held while the disk syncs, and while the head is replaced; taken after `_lock`, never before it.
        self._syncing = RLock()
        self._consumed: BaseException | None = None
        self._is_closed = False
        self._head: Head | None = None
        self._batch: list[Received] = []
        self._repeating: LogReader | None = None
        self._repeated: Received | None = None
        self.records = 0
        self.last = None if end is None else end.last
        self.next_offset = self.synced = 0 if end is None else end.last.next_offset
        self._parser = StreamParser(
            next_offset=None if end is None else self.next_offset,
            version=None if end is None else end.version,
            segment=self.segment,
            last=None if self.last is None else (self.last.offset, self.last.checksum),
            max_commit_bytes=max_commit_bytes,
            allows_gaps=allows_gaps,
        )
        if end is not None and not end.is_compressed:
            self._head = self._head_at(end.last.segment, end.position, end.notes, indexed=end.indexed)

    @classmethod
    def create(
        cls,
        storage: Storage,
        *,
        on_trailing: OnTrailing = OnTrailing.ERROR,
        index_interval: int = INDEX_INTERVAL,
        max_commit_bytes: int = MAX_COMMIT_BYTES,
        allows_gaps: bool = False,
    ) -> Self:
        """Go on with the log that is there, or with none. On return what it holds is synced.

        Args:
            storage: The directory.
            on_trailing: What becomes of bytes behind the last good commit.
            index_interval: How far apart the commits in a segment's index are, in bytes: as the source has it.
            max_commit_bytes: A commit that claims more is refused.
            allows_gaps: A segment may begin past the record that comes next: records before it are missing.

        Raises:
            CorruptCommitError: `ERROR`, and there are such bytes. Nothing was changed.
            LogError: The last segment is compressed, and zstd is not installed; or of a version that is not known.
            LogWriteError: The disk refused.
        """
        with translated("open a mirror"):
            end = find_end(storage, on_trailing=on_trailing)
            return cls(
                storage,
                end,
                index_interval=index_interval,
                max_commit_bytes=max_commit_bytes,
                allows_gaps=allows_gaps,
            )

    def __repr__(self) -> str:
        state = "closed " if self._is_closed else "consumed " if self._consumed else ""
        return f"<StreamWriter {state}next={self.next_offset} synced={self.synced} in {self._storage!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def segment(self) -> int | None:
        """The first offset of the segment that is written, None where the log is empty."""
        return None if self.last is None else self.last.segment

    def write(
        self,
        piece: bytes | memoryview,
        progress: Callable[[range], object] | None = None,
        *,
        more: Sequence[bytes | memoryview] = (),
    ) -> None:
        """Take the next piece of the stream, cut at any byte. On return the commits complete by it are written.

        `more` are pieces that come right behind it: taken together they are copied less.
        `progress` is told the records of each, once it is in the page cache.

        Raises:
            CorruptCommitError: The stream holds what may not come next. What comes before is written.
            DivergedError: It repeats what this log holds, with other content.
            LogWriteError: The disk refused.
            LogError: A segment with content is in the way.
            LogClosedError: The writer is consumed, or closed.
        """
        with self._used("write a mirror"):
            try:
                for received in self._parser.feed(piece, *more):
                    if received.is_repeated:
                        self._flush(progress)
                        self._compare(received)
                        continue
                    if received.header is not None:
                        self._flush(progress)
                        self._begin(received.offset, received.header)
                    self._batch.append(received)
            finally:
                self._flush(progress)

    def finish(self) -> None:
        """Say that the stream ended: another may follow.

        Raises:
            CorruptCommitError: SHORT: it ended inside of a header, a commit or a repetition.
            LogClosedError: The writer is consumed, or closed.
        """
        with self._used("end a stream"):
            self._parser.finish()

    def sync_all(self) -> int:
        """On return all that was written survives a power cut; the index too, if that can be done. Returns `synced`.

        Raises:
            LogWriteError: The disk failed; the message names the segment.
            LogClosedError: The writer is consumed, or closed.
        """
        with self._lock:
            with self._used("sync a mirror"):
                self._sync()
            return self.synced

    def sync_beside(self) -> int:
        """On return what was written before the call survives a power cut: not the index, which is only a hint.

        Another thread may write meanwhile. Returns the record below which all does. Raises as `sync_all`.
        """
        try:
            with self._syncing:
                self._check_usable()
                end = self.next_offset
                if self._head is not None and end != self.synced:
                    with translated(f"sync {segment_name(self._head.first)}"):
                        self._head.sync_commits()
                self.synced = end
                return end
        except BaseException as exc:
            self._consume(exc)
            raise

    async def append_all(self, stream: ByteReceiveStream, progress: Callable[[range], object] | None = None) -> None:
        """Write the whole of `stream`. Being cancelled, or an error of the stream, consumes the writer.

        `progress` is told the records of each commit, on the loop. Nothing is synced by it: see `sync_all`.

        Raises:
            Exception: As `write` and `finish` do, and what the stream raises.
        """
        try:
            async for piece in stream:
                written: list[range] = []
                await in_thread(self.write, piece, written.append)
                if progress is not None:
                    for records in written:
                        progress(records)
            await in_thread(self.finish)
        except BaseException as exc:
            self._consume(exc)
            raise

    def close(self) -> None:
        """Sync what was written, unless the writer is consumed, and close. Idempotent; closed even where it raises.

        Raises:
            LogWriteError: What is not synced may be lost.
        """
        with self._lock:
            if self._is_closed:
                return
            try:
                if self._consumed is None:
                    self.sync_all()
            finally:
                self._is_closed = True
                self._let_go()

    @contextlib.contextmanager
    def _used(self, action: str) -> Iterator[None]:
        """One call: whatever it raises consumes the writer."""
        with self._lock:
            self._check_usable()
            try:
                with translated(action):
                    yield
            except BaseException as exc:
                self._consume(exc)
                raise

    def _check_usable(self) -> None:
        if self._is_closed:
            raise LogClosedError("the mirror is closed")
        if self._consumed is not None:
            raise LogClosedError(f"consumed by an error, make it again: {self._consumed}")

    def _consume(self, exc: BaseException) -> None:
        with self._lock:
            if self._consumed is None:
                self._consumed = exc
            self._let_go()

    def _let_go(self) -> None:
        """Give the descriptors back. What the index lacks, the next writer adds."""
        if self._repeating is not None:
            self._repeating.close()
        with self._syncing:
            if self._head is not None:
                self._head.abandon()
                self._head = None

    def _begin(self, first: int, header: bytes) -> None:
        """Begin the segment of the commit that comes next."""
        self._sync()
        create_segment(self._storage, first, header=header)
        self._replace_head(self._head_at(first, HEADER_SIZE))

    def _replace_head(self, head: Head) -> None:
        with self._syncing:
            old, self._head = self._head, head
            if old is not None:
                old.close()

    def _flush(self, progress: Callable[[range], object] | None) -> None:
        """Write the commits that wait, and say so; where the disk refuses, those that are written whole."""
        if not (batch := self._batch):
            return
        self._batch = []
        if self._head is None:
            # The last segment is compressed, and the stream goes on inside it.
            assert self.last is not None  # noqa: S101  or there would have been a header
            self._recut(self.last.segment, None)
        head = self._head
        assert head is not None  # noqa: S101  `_recut` made one
        position = head.position
        try:
            with translated(f"write {segment_name(head.first)} at byte {position}"):
                head.write([received.raw for received in batch])
        finally:
            written = None
            for received in batch:
                size = len(received.raw)
                if position + size > head.position:
                    break
                head.note(received.offset, position, size)
                position += size
                written = received
                if progress is not None:
                    progress(range(received.offset, received.end))
            if written is not None:
                self.last = LastCommit(head.first, written.offset, written.end, written.checksum)
                self.records += written.end - batch[0].offset
                self.next_offset = written.end
                head.spill_index()

    def _sync(self) -> None:
        with self._syncing:
            if self._head is not None:
                if self.synced != self.next_offset:
                    with translated(f"sync {segment_name(self._head.first)}"):
                        self._head.sync()
                self._head.sync_index()
            self.synced = self.next_offset

    def _compare(self, received: Received) -> None:
        """Compare a repeated commit with what is held; once all are known to be equal, begin a segment with them."""
        if self._repeating is None or self._repeated is None:
            self._repeating = LogReader(self._storage, received.offset, strict=True)
            self._repeated = received
        held = self._repeating.read_stored()
        if held is None or held.raw != received.raw:
            raise DivergedError(
                f"what comes again from record {received.offset} on is not what is held", offset=received.offset
            )
        if received.end == self.next_offset:
            self._repeating.close()
            self._repeating = None
            self._recut(self._repeated.offset, self._repeated.header)

    def _recut(self, first: int, header: bytes | None) -> None:
        """Have what is held from record `first` on stand in a segment of its own: uncompressed, behind `header`."""
        assert self.last is not None  # noqa: S101  else nothing is held
        self._sync()
        cut = recut(self._storage, self.last.segment, first, header)
        self._replace_head(self._head_at(first, cut.size, cut.notes))
        self.last = self.last._replace(segment=first)

    def _head_at(self, first: int, position: int, notes: Sequence[Note] = (), *, indexed: int = 0) -> Head:
        head = Head(self._storage, first, position, index_interval=self._index_interval)
        head.note_again(notes, indexed=indexed)
        return head
