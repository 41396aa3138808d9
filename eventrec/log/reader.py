"""Reading a log from any offset, while it is being written, over its segments and whatever damage they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from eventrec.errors import CorruptCommitError, Damage, LogError
from eventrec.log.commit import Commit
from eventrec.log.index import Entry
from eventrec.log.repair import keep_gap, rebuild_index, seek
from eventrec.log.segment import HEADER_SIZE, Segment, list_segments, load_index, segment_name
from eventrec.log.walk import Gap, Tail, Walk
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventrec.log.resync import IsOurs
    from eventrec.log.storage import Storage

T = TypeVar("T")

_logger = get_logger(__name__)


class Extent(NamedTuple):
    """How far a log may be read now: records below `offset`, which are bytes below `position` in segment `first`.

    `generation` changes when bytes moved: then what was opened before is stale.
    """

    first: int
    position: int
    offset: int
    generation: int


class Stored(NamedTuple):
    """A commit, the segment that it stands in, open until the reader's next call, and its bytes there."""

    commit: Commit
    segment: Segment
    raw: bytes


class LogReader:
    """Reads the log in `storage` from record `start` on. Use by one thread at a time; it writes nothing.

    It may be made before there is a segment, and follows the log as long as it is asked. Of a log written elsewhere it
    sees whole commits as they reach the page cache; a torn tail is where the log ends for now.

    Args:
        storage: The directory.
        start: The first record wanted. Where it is deleted, reading begins with the first that is there.
        strict: Raise at damage, and go no further, instead of passing over it.
        is_ours: Shown the first bytes of a commit's content; False: it is not of this log. Asked behind damage only.
        on_gap: Told of everything that is about to be passed over, which is counted and logged then. What it raises is
            raised instead.
        extent: Where the log is written in this process: how far it may be read.
        repair: Keep what is passed over in side files, and rebuild missing indexes: for the owner of the directory.

    Attributes:
        next_offset: The record after the last one returned.
        gaps: How many times something was passed over,
        missing: how many records that cost,
        skipped: and how many bytes.
        tail: After a read that returned nothing: what is left behind the last commit.
    """

    def __init__(
        self,
        storage: Storage,
        start: int = 0,
        *,
        strict: bool = False,
        is_ours: IsOurs | None = None,
        on_gap: Callable[[Gap], None] | None = None,
        extent: Callable[[], Extent] | None = None,
        repair: bool = False,
    ) -> None:
        self.next_offset = start
        self.gaps = self.missing = self.skipped = 0
        self.tail = Tail.CLEAN
        self._storage = storage
        self._start = start
        self._strict = strict
        self._is_ours = is_ours
        self._on_gap = on_gap
        self._extent = extent
        self._repair = repair
        self._walk: Walk | None = None
        self._generation = 0
        self._is_fresh = False
        # The segment and the place in it where the last walk was left.
        self._place: tuple[int, Entry] | None = None
        self._version: int | None = None
        self._expected = start
        self._dead_end: tuple[int, int, int, bytes] | None = None

    def __repr__(self) -> str:
        return f"<LogReader next={self.next_offset} gaps={self.gaps} missing={self.missing} tail={self.tail}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. A later read opens what it needs."""
        if self._walk is not None:
            self._walk.segment.close()
            self._place = (self._walk.segment.first, Entry(self._walk.offset, self._walk.position))
            # Of a segment without a commit yet it is a guess.
            self._version = self._walk.segment.version if self._walk.position > HEADER_SIZE else None
            self._expected = max(self._expected, self._walk.offset)
            self._walk = None

    @property
    def segment(self) -> int | None:
        """The first offset of the segment that it read last; None: it has not found one yet."""
        if self._walk is not None:
            return self._walk.segment.first
        return None if self._place is None else self._place[0]

    def read(self, *, max_bytes: int = 1 << 20) -> list[Commit]:
        """The next commits, in order: at least one unless there is none now, then no more once they hold `max_bytes`.

        The first one contains `start`, and may begin before it.

        Raises:
            CorruptCommitError: `strict`, and the next thing is damage: every call raises it.
            OSError: The disk cannot be read. Reading goes on there when called again.
        """
        commits: list[Commit] = []
        size = 0
        self._is_fresh = False
        try:
            while size < max_bytes and (commit := self._next()):
                commits.append(commit)
                size += commit.size
        except (LogError, OSError):
            # What was read before it is not lost by it; the next call meets it first.
            if not commits:
                raise
        return commits

    def commits(self) -> Iterator[Commit]:
        """Every commit up to where the log ends now."""
        while commits := self.read():
            yield from commits

    def records(self, decode: Callable[[bytes], Sequence[T]], *, stop: int | None = None) -> Iterator[tuple[int, T]]:
        """Every record from `start` to where the log ends now, or to `stop`, with its offset.

        `decode` makes the n records of a commit from its content; ValueError if it makes another number.
        """
        while stop is None or self.next_offset < stop:
            if not (commits := self.read()):
                return
            for commit in commits:
                for offset, record in enumerate(_decoded(commit, decode), commit.offset):
                    if self._start <= offset and (stop is None or offset < stop):
                        yield offset, record

    def read_stored(self) -> Stored | None:
        """The next commit, and how it stands in the files; None where there is none now. Raises as `read`."""
        self._is_fresh = False
        commit = self._next()
        if commit is None or self._walk is None:
            return None
        return Stored(commit, self._walk.segment, self._walk.raw)

    def read_run(self, max_bytes: int) -> list[memoryview]:
        """The bytes of commits that come right behind the last one in its segment, about `max_bytes` at most.

        It gives nothing where anything takes a closer look, or is not there yet: `read_stored` comes next. Not for a
        log that is written in this process.
        """
        if self._walk is None or self.next_offset != self._walk.offset:
            return []
        found = self._walk.run(max_bytes)
        self.next_offset = self._walk.offset
        return found

    def _next(self) -> Commit | None:
        if self._extent is not None and self.next_offset >= self._extent().offset:
            return None
        while self._walk is not None or self._enter():
            walk = self._walk
            assert walk is not None  # noqa: S101  mypy cannot see it through `_enter`
            step = walk.step()
            if isinstance(step, Commit):
                self._is_fresh = False
                if step.end > self.next_offset:
                    self.next_offset = step.end
                    return step
            elif step is not None:
                self._pass(walk, step)
            elif not self._leave(walk):
                break
        return None

    def _enter(self) -> bool:
        """Open the segment in which the next record is expected, where it is expected. False: there is none yet."""
        while True:
            extent = self._extent() if self._extent else None
            firsts = self._segments()
            if not firsts:
                return False
            first = next((first for first in reversed(firsts) if first <= self._expected), firsts[0])
            try:
                version = self._version if self._place is not None and self._place[0] == first else None
                segment = Segment.open(self._storage, first, version=version)
                break
            except FileNotFoundError:
                # Deleted since it was listed: the next list is without it.
                continue
        try:
            if first > self._expected:
                self._skip_to(segment)
            upper = next((other for other in firsts if other > first), None)
            # Since the extent was asked, a segment may have been filled and followed: then it is whole.
            is_head = extent is not None and extent.first == first and upper is None
            size = extent.position if extent and is_head else segment.file.size()
            entry = self._find(segment, is_sealed=upper is not None)
            here = (first, entry.position, size, segment.file.read(entry.position, HEADER_SIZE * 3))
        except BaseException:
            segment.close()
            raise
        if upper is None and here == self._dead_end:
            # Nothing has changed: looking for a commit behind the torn tail again would find none again.
            segment.close()
            return False
        self._dead_end = None
        self._generation = extent.generation if extent else 0
        self._is_fresh = True
        self._walk = Walk(
            segment, position=entry.position, offset=entry.offset, size=size, upper=upper, is_ours=self._is_ours
        )
        return True

    def _skip_to(self, segment: Segment) -> None:
        """Begin with `segment`, past the record expected. That is a gap only where reading had begun before."""
        if self._place is not None:
            missing = segment.first - self._expected
            self._report(segment, Gap(segment.first, HEADER_SIZE, 0, self._expected, missing, Damage.HOLE))
        self._expected = segment.first

    def _segments(self) -> list[int]:
        """The segments there, without a last one that is still empty: what holds nothing supersedes nothing."""
        firsts = list_segments(self._storage)
        if len(firsts) > 1:
            try:
                is_empty = self._storage.size(segment_name(firsts[-1])).length <= HEADER_SIZE
            except FileNotFoundError:
                is_empty = True
            if is_empty:
                firsts.pop()
        return firsts

    def _find(self, segment: Segment, *, is_sealed: bool) -> Entry:
        """Where to begin in `segment`: where it was left, or as near before the record expected as the index knows."""
        if self._place is not None and self._place[0] == segment.first:
            return self._place[1]
        if self._expected <= segment.first:
            return Entry(segment.first, HEADER_SIZE)
        entry = seek(segment, load_index(self._storage, segment.first), self._expected)
        if entry.position == HEADER_SIZE and self._repair and is_sealed and rebuild_index(self._storage, segment.first):
            entry = seek(segment, load_index(self._storage, segment.first), self._expected)
        return entry

    def _leave(self, walk: Walk) -> bool:
        """Leave the segment at its end. Returns whether there may be more elsewhere, or here by now."""
        if walk.upper is not None:
            if walk.offset < walk.upper:
                reason = walk.damage or Damage.HOLE
                missing = walk.upper - walk.offset
                gap = Gap(walk.segment.first, walk.position, walk.size - walk.position, walk.offset, missing, reason)
                if self._is_moved(walk):
                    return self._again()
                self._report(walk.segment, gap)
            self._expected = walk.upper
            return self._again()
        if not self._is_fresh:
            return self._again()
        self.tail = walk.tail
        if walk.tail is Tail.DAMAGED and self._strict:
            raise self._error(Gap(walk.segment.first, walk.position, 0, walk.offset, 0, Damage.CHECKSUM))
        if walk.tail is not Tail.CLEAN:
            head = walk.segment.file.read(walk.position, HEADER_SIZE * 3)
            self._dead_end = (walk.segment.first, walk.position, walk.size, head)
        self.close()
        return False

    def _again(self) -> bool:
        self.close()
        return True

    def _pass(self, walk: Walk, gap: Gap) -> None:
        """Pass over `gap`, unless the bytes moved since the segment was opened: then look again where they are now."""
        if self._is_moved(walk):
            walk.position, walk.offset = gap.position, gap.offset
            self.close()
            return
        if gap.offset + gap.missing > self._start:
            try:
                self._report(walk.segment, gap)
            except CorruptCommitError:
                walk.position, walk.offset = gap.position, gap.offset
                raise

    def _is_moved(self, walk: Walk) -> bool:
        """Whether damage may only seem so: the writer moved what it could not sync to a new segment meanwhile."""
        if self._extent is not None and self._extent().generation != self._generation:
            return True
        return next((first for first in self._segments() if first > walk.segment.first), None) != walk.upper

    def _report(self, segment: Segment, gap: Gap) -> None:
        if self._strict:
            raise self._error(gap)
        if self._on_gap is not None:
            self._on_gap(gap)
        self.gaps += 1
        self.missing += gap.missing
        self.skipped += gap.size
        if self._repair:
            keep_gap(self._storage, segment, gap)
        _logger.error("log damaged", **(gap._asdict() | {"segment": segment.name}))

    @staticmethod
    def _error(gap: Gap) -> CorruptCommitError:
        return CorruptCommitError(
            gap.reason, segment=segment_name(gap.segment), position=gap.position, offset=gap.offset
        )


def _decoded(commit: Commit, decode: Callable[[bytes], Sequence[T]]) -> Sequence[T]:
    records = decode(commit.content)
    if len(records) != commit.n:
        raise ValueError(f"decoded {len(records)} records from the commit at {commit.offset}, which holds {commit.n}")
    return records
