"""Finding the next valid commit behind damage, in one pass over the bytes however often it is asked.

A header can stand at any byte, and damage may be full of things that look like one, each claiming megabytes. So no
candidate's checksum is computed by itself: one running CRC passes over the bytes, and the CRC of any stretch follows
from its two ends, because CRC(ab) = shift(CRC(a), len b) ^ CRC(b). The work is linear in the bytes, plus a small
constant per candidate.
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import google_crc32c

from eventrec.errors import CorruptCommitError
from eventrec.log.commit import MAX_OFFSET, MAX_RECORDS, Header, header_size, read_header
from eventrec.log.crc import RESIDUE, extend_by_zeros, shift_crc

if TYPE_CHECKING:
    from eventrec.log.storage import ReadableFile

CHUNK: Final = 1 << 18
PEEK: Final = 256
"""Bytes of a commit's content that `is_ours` is shown, at most."""

IsOurs = Callable[[bytes], bool]


@dataclass(slots=True)
class Candidate:
    """What may be a commit: its header is plausible. `is_valid` is None until its checksum has been passed."""

    position: int
    header: Header
    crc_before: int
    is_valid: bool | None = None

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.position + self.header.size


class Resync:
    """Valid commits of `file` from byte `start` on whose offsets lie in [lowest, upper), found without a chain.

    `upper=None` is the end of a log: no more than fits the bytes. `is_ours(first bytes of the content)` may veto.
    """

    def __init__(
        self,
        file: ReadableFile,
        start: int,
        size: int,
        *,
        version: int,
        lowest: int,
        upper: int | None,
        is_ours: IsOurs | None,
    ) -> None:
        self._file = file
        self._frontier = start
        self._size = size
        self._version = version
        self._is_ours = is_ours
        head = header_size(version)
        most = lowest + (size - start) // (head + 4) * MAX_RECORDS + MAX_RECORDS
        self._upper = min(most, MAX_OFFSET + 1) if upper is None else upper
        if lowest >= self._upper:
            self._frontier = size  # No offset is left.
            lowest = self._upper - 1
        self._pattern, self._shift = _header_pattern(lowest, self._upper, version)
        self._crc = 0
        self._found: deque[Candidate] = deque()
        self._ends: list[tuple[int, int, Candidate]] = []

    def find(self, position: int, lowest: int) -> Candidate | None:
        """The valid commit that begins first at or after `position` with an offset of at least `lowest`.

        Both must not fall from call to call.
        """
        while True:
            while self._found:
                first = self._found[0]
                if first.position < position or first.header.offset < lowest or first.is_valid is False:
                    self._found.popleft()
                elif first.is_valid:
                    return first
                else:
                    # Until it is decided nothing behind it counts: that may lie inside its records.
                    break
            if self._frontier >= self._size:
                return None
            self._advance()

    def _advance(self) -> None:
        """Pass over the next chunk: collect the candidates that begin in it, decide those that end in it."""
        if not self._pass_hole():
            self._pass_chunk()
        if self._frontier >= self._size:
            for _, _, candidate in self._ends:
                candidate.is_valid = False
            self._ends.clear()

    def _pass_hole(self) -> bool:
        """Pass over a hole of more than a chunk: zeros, in which nothing begins. False: there is none."""
        data = self._file.data_from(self._frontier)
        # A header may begin with zeros.
        until = self._size if data >= self._size else data - header_size(1)
        if until - self._frontier <= CHUNK:
            return False
        while self._ends and self._ends[0][0] <= until:
            end, position, candidate = heapq.heappop(self._ends)
            self._crc, self._frontier = extend_by_zeros(self._crc, end - self._frontier), end
            candidate.is_valid = self._is_valid(candidate, end - position)
        self._crc, self._frontier = extend_by_zeros(self._crc, until - self._frontier), until
        return True

    def _is_valid(self, candidate: Candidate, size: int) -> bool:
        """Whether the `size` bytes that were passed since `candidate` began end with their own checksum."""
        return self._crc ^ shift_crc(candidate.crc_before, size) == RESIDUE

    def _pass_chunk(self) -> None:
        span = min(CHUNK, self._size - self._frontier)
        data = self._file.read(self._frontier, min(CHUNK + PEEK + header_size(1), self._size - self._frontier))
        if len(data) < span:
            # The file was cut meanwhile: what is open can end no more.
            self._size = self._frontier + len(data)
            span = len(data)
        at = 0
        for candidate in self._candidates(data, span):
            at = self._decide(data, at, candidate.position - self._frontier)
            candidate.crc_before = self._crc
            self._found.append(candidate)
            heapq.heappush(self._ends, (candidate.end, candidate.position, candidate))
        self._decide(data, at, span)
        self._frontier += span

    def _decide(self, data: bytes, at: int, until: int) -> int:
        """Run the CRC from byte `at` of the chunk to byte `until`, deciding the candidates that end on the way."""
        while self._ends and self._ends[0][0] <= self._frontier + until:
            end, position, candidate = heapq.heappop(self._ends)
            self._crc = google_crc32c.extend(self._crc, data[at : end - self._frontier])
            at = end - self._frontier
            candidate.is_valid = self._is_valid(candidate, end - position)
        self._crc = google_crc32c.extend(self._crc, data[at:until])
        return until

    def _candidates(self, data: bytes, span: int) -> list[Candidate]:
        found: list[Candidate] = []
        if data.count(0) == len(data):
            return found
        head = header_size(self._version)
        for match in self._pattern.finditer(data, self._shift):
            at = match.start() - self._shift
            if at >= span:
                break
            try:
                header = read_header(data, at, self._size - self._frontier - at, self._version)
            except CorruptCommitError:
                continue
            if header.end > self._upper:
                continue
            content = data[at + head : at + head + min(PEEK, header.length)]
            if self._is_ours is None or self._is_ours(content):
                found.append(Candidate(self._frontier + at, header, 0))
        return found


def _header_pattern(lowest: int, upper: int, version: int) -> tuple[re.Pattern[bytes], int]:
    """A pattern for headers with offsets in [lowest, upper), and how many bytes of the header stand before it.

    It begins with the highest byte of the offset that varies and the equal ones above it, which are mostly zeros.
    """
    low, high = lowest.to_bytes(8, "big"), max(lowest, upper - 1).to_bytes(8, "big")
    same = next((i for i in range(7) if low[i] != high[i]), 7)
    varying = b"[%s-%s]" % (re.escape(low[same : same + 1]), re.escape(high[same : same + 1]))
    above = re.escape(low[:same][::-1])
    gap = b".{8}" if version == 1 else b""
    # Looking ahead consumes nothing: headers that overlap are all seen. A commit has at least one record.
    return re.compile(b"%s(?=%s%s(?!\\0\\0)..)" % (varying, above, gap), re.DOTALL), 7 - same
