"""What was just written, handed to the workers of this process as it is: else they would decode it from the disk.

Bounded by bytes: what does not fit is read from the log, where all of it stands. The thread that writes adds, the
loop's thread takes, and neither waits for the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.entry import Entry

MAX_BYTES: Final = 8 << 20
"""By the size that entries count; what is waiting to be decoded would be as much."""


class Written(NamedTuple):
    """The records of one commit: the offset of the first, the entries, and what they count in bytes."""

    first: int
    entries: Sequence[Entry]
    size: int

    @property
    def end(self) -> int:
        """The offset behind the last one."""
        return self.first + len(self.entries)


class Handover:
    """Commits in the order of their offsets, perhaps with gaps, at most `max_bytes` of them."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._commits: deque[Written] = deque()
        self._added = 0
        """Bytes, altogether: changed by the thread that writes alone."""
        self._taken = 0
        """Likewise, by the loop's thread alone."""

    def __repr__(self) -> str:
        return f"<Handover of {len(self._commits)} commits, {self._added - self._taken} bytes>"

    def add(self, commit: Written) -> None:
        """`commit` is in the page cache. For the thread that writes."""
        if self._added - self._taken + commit.size <= self._max_bytes:
            self._added += commit.size
            self._commits.append(commit)

    def take(self, offset: int, *, readable: int) -> Written | None:
        """The commit that `offset` is in, if it is here and ends at `readable` at the latest; it is here no more.

        Nor are those before it: a caller that asks for them reads the log. For the loop's thread.
        """
        commits = self._commits
        while commits and commits[0].end <= offset:
            self._taken += commits.popleft().size
        if not commits or commits[0].first > offset or commits[0].end > readable:
            return None
        commit = commits.popleft()
        self._taken += commit.size
        return commit
