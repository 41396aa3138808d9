"""Giving out what a log's files hold as a mirror's stream: the sending half of a mirror."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from eventrec.errors import CorruptCommitError, Damage, DivergedError, TrimmedError
from eventrec.log.reader import LogReader
from eventrec.log.segment import HEADER_SIZE, Segment, encode_header, list_segments, segment_name
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from eventrec.log.storage import File, Storage
    from eventrec.log.stream_end import LastCommit
    from eventrec.log.walk import Gap

PIECE_BYTES: Final = 1 << 20
"""What is read and sent at once, unless the caller says otherwise."""

_logger = get_logger(__name__)


class _Next(NamedTuple):
    """What is given out next: a commit, behind the header of its segment where it begins one."""

    segment: int
    is_compressed: bool
    end: int
    raw: bytes


class StreamReader:
    """Gives out the records [start, end) of the log in `storage`, which another process may be writing.

    The stream begins with the commit that contains `start`; the last one contains the record before `end`. A segment
    begins with its header where its first commit is given out, unless `start` lies inside of that. One without a
    commit in the range gives nothing, nor does an empty range. What is compressed is given out uncompressed.

    Use by one thread at a time; its methods block. It writes nothing into the directory, and needs no lock.

    Args:
        storage: The directory.
        start: The first record; 0 is wherever the log begins.
        end: The record after the last one; None: whatever comes.
        sync: Have what is given out on the disk before. Where it cannot be synced, nothing more of that segment is
            given out, until its owner has written it again.
        passes_damage: Go on behind damage, with a header, instead of raising: see `StreamWriter`'s `allows_gaps`.

    Attributes:
        next_offset: The record after the last one given out.
        reached_end: Whether all up to `end` was given out; else there may be more later.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        start: int = 0,
        end: int | None = None,
        sync: bool = False,
        passes_damage: bool = False,
    ) -> None:
        self.next_offset = start
        self.reached_end = end is not None and start >= end
        self._storage = storage
        self._start = start
        self._end = end
        self._sync = sync
        self._passes_damage = passes_damage
        # The record after the last one given out, also where that was given out before; and its segment.
        self._at = start
        self._segment: int | None = None
        self._is_compressed = False
        self._log = LogReader(storage, start, on_gap=self._meet_gap)
        self._next: _Next | None = None
        self._is_behind_gap = False
        self._failure: CorruptCommitError | TrimmedError | None = None
        self._head: _HeadFile | None = None
        self._refused: tuple[int, tuple[int, int] | None] | None = None

    @classmethod
    def resume(
        cls,
        storage: Storage,
        last: LastCommit,
        *,
        end: int | None = None,
        sync: bool = False,
        passes_damage: bool = False,
    ) -> Self:
        """Go on for a mirror whose last commit is `last`: this log has to have it.

        Where the segment that it is in begins later here, the stream begins with that.

        Raises:
            DivergedError: This log has another commit there, or none yet: the mirror is ahead.
            TrimmedError: The commit that comes next is deleted.
            CorruptCommitError: What this log had there is damaged.
            OSError: The disk cannot be read.
        """
        first = min(list_segments(storage), default=None)
        if first is not None and first > last.next_offset:
            raise TrimmedError(last.next_offset, first)
        # Where that commit itself is deleted, and the next is not, there is nothing to compare.
        if first != last.next_offset:
            try:
                cls._compare(storage, last)
            except CorruptCommitError:
                if not passes_damage:
                    raise
        reader = cls(storage, start=last.next_offset, end=end, sync=sync, passes_damage=passes_damage)
        reader._segment = last.segment
        return reader

    @staticmethod
    def _compare(storage: Storage, last: LastCommit) -> None:
        with LogReader(storage, last.offset, strict=True) as log:
            stored = log.read_stored()
        if stored is None:
            raise DivergedError(
                f"the mirror holds records up to {last.next_offset - 1}, which is more than its source does",
                offset=last.offset,
            )
        if (stored.commit.offset, stored.commit.end, stored.commit.checksum) != last[1:]:
            raise DivergedError(
                f"the mirror's commit of records {last.offset} to {last.next_offset - 1} is not its source's",
                offset=last.offset,
            )

    def __repr__(self) -> str:
        state = "refused " if self._refused else f"failed: {self._failure} " if self._failure else ""
        return f"<StreamReader {state}next={self.next_offset} in {self._storage!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptors back. A later read opens what it needs."""
        self._log.close()
        if self._head is not None:
            self._head.file.close()
            self._head = None

    def read(self, max_bytes: int = PIECE_BYTES) -> bytes:
        """The next of the stream, in whole headers and commits: no more once it holds `max_bytes`; b"" if none is now.

        Raises:
            TrimmedError: The records that come next are deleted. Every call raises it.
            CorruptCommitError: What comes next is damaged. Every call raises it.
            OSError: The disk cannot be read. Reading goes on there when called again.
            LogError: A segment is compressed, and zstd is not installed; or of a version that is not known here.
        """
        return b"".join(self.read_parts(max_bytes))

    def read_parts(self, max_bytes: int = PIECE_BYTES) -> list[bytes | memoryview]:
        """As `read`, in parts that come one behind the other, as they were read."""
        if self._failure is not None:
            raise self._failure
        if self.reached_end or self._is_held_back():
            return []
        before = (self._at, self._segment)
        try:
            while (pieces := self._collect(max_bytes)) is None:
                self._go_back(*before)
            if not pieces or not self._sync or self._has_synced():
                self.next_offset = max(self.next_offset, self._at)
                if self._end is not None and self._at >= self._end:
                    self.reached_end = True
                return pieces
        except (CorruptCommitError, TrimmedError):
            raise  # It comes before anything else: every call raises it.
        except BaseException:
            self._go_back(*before)
            raise
        self._go_back(*before)
        return []

    async def send(self, stream: ByteSendStream, *, max_bytes: int = PIECE_BYTES) -> None:
        """Send all there is now, in pieces of `max_bytes` or one commit more. Raises as `read`, and what it raises."""
        while piece := await in_thread(self.read, max_bytes):
            await stream.send(piece)

    def _collect(self, max_bytes: int) -> list[bytes | memoryview] | None:
        """Headers and commits of one segment. None: another one was begun inside of them, which holds them now."""
        pieces: list[bytes | memoryview] = []
        size = end = 0
        try:
            while size < max_bytes and (found := self._peek()) is not None:
                if pieces and found.segment != self._segment:
                    if self._at < end:
                        return None
                    break
                pieces.append(found.raw)
                size += len(found.raw)
                self._at, self._segment, self._is_compressed = found.end, found.segment, found.is_compressed
                self._next = None
                if self._end is None and size < max_bytes:
                    pieces += (run := self._log.read_run(max_bytes - size))
                    size += sum(map(len, run))
                    self._at = max(self._at, self._log.next_offset)
                end = self._at
        except (CorruptCommitError, TrimmedError) as exc:
            # What was read before it is not lost by it; the next call meets it first.
            self._failure = exc
            if not pieces:
                raise
        return pieces

    def _peek(self) -> _Next | None:
        """What is to be given out next, None where there is nothing now."""
        if self._next is not None:
            return self._next
        stored = self._log.read_stored()
        if (stored is None or stored.segment.first != self._segment) and (moved := self._moved()) is not None:
            self._begin_again(moved)
            stored = self._log.read_stored()
        if stored is None:
            return None
        commit, segment = stored.commit, stored.segment
        if self._end is not None and commit.offset >= self._end:
            self.reached_end = True
            return None
        if commit.offset > self.next_offset and commit.offset > self._at > 0 and not self._is_behind_gap:
            raise TrimmedError(self._at, commit.offset)
        is_first = commit.offset == segment.first and (self._segment is not None or self._start <= segment.first)
        header = _header_of(segment) if is_first or self._is_behind_gap else b""
        self._is_behind_gap = False
        self._next = _Next(
            segment.first, segment.is_compressed, commit.end, header + stored.raw if header else stored.raw
        )
        return self._next

    def _moved(self) -> int | None:
        """The segment that begins inside of what was given out already; None where there is none."""
        if self._segment is None:
            return None
        return next((first for first in list_segments(self._storage) if self._segment < first < self._at), None)

    def _begin_again(self, first: int) -> None:
        """Give out segment `first` from its beginning on."""
        self._log.close()
        self._log = LogReader(self._storage, first, on_gap=self._meet_gap)
        self._at = first

    def _go_back(self, at: int, segment: int | None) -> None:
        self._begin_again(at)
        self._segment = segment
        self._next, self._failure = None, None
        self.reached_end = False

    def _meet_gap(self, gap: Gap) -> None:
        is_missing = gap.reason is Damage.HOLE and gap.position == HEADER_SIZE and not gap.size
        if is_missing and min(list_segments(self._storage), default=0) > gap.offset:
            if gap.offset + gap.missing <= self.next_offset:
                return  # It was given out before, and was to be again.
            raise TrimmedError(gap.offset, gap.offset + gap.missing)
        if not self._passes_damage:
            raise CorruptCommitError(
                gap.reason, segment=segment_name(gap.segment), position=gap.position, offset=gap.offset
            )
        self._is_behind_gap = True

    def _has_synced(self) -> bool:
        """Have what was read of the segment on the disk; False where the disk fails."""
        segment = self._segment
        if segment is None or self._is_compressed or max(list_segments(self._storage), default=segment) > segment:
            return True  # Its owner synced it before the next one got its name.
        head = self._opened(segment)
        try:
            head.file.sync()
        except OSError as exc:
            _logger.warning("sync failed", segment=segment_name(segment), error=str(exc))
            self._refused = (head.segment, head.identity)
            return False
        return True

    def _opened(self, segment: int) -> _HeadFile:
        """Its file, held open: an error of the disk is told to those that had it open when it happened."""
        identity = self._storage.size(segment_name(segment)).identity
        if self._head is not None and (self._head.segment, self._head.identity) != (segment, identity):
            self._head.file.close()
            self._head = None
        if self._head is None:
            self._head = _HeadFile(segment, identity, self._storage.open(segment_name(segment), "read"))
        return self._head

    def _is_held_back(self) -> bool:
        """Whether the segment that could not be synced is still the last."""
        if self._refused is not None:
            newest = max(list_segments(self._storage), default=self._refused[0])
            if (newest, self._storage.size(segment_name(newest)).identity) != self._refused:
                self._refused = None
        return self._refused is not None


class _HeadFile(NamedTuple):
    """The segment that is written, as it was opened to be synced."""

    segment: int
    identity: tuple[int, int] | None
    file: File


def _header_of(segment: Segment) -> bytes:
    return encode_header(segment.version) if segment.damage else segment.file.read(0, HEADER_SIZE)
