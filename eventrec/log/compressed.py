"""Compressed segments: zstd's seekable format, in frames of at most 4096 bytes, so that any byte is near.

Layout (facebook/zstd, contrib/seekable_format): frames, then one skippable frame: 0x184D2A5E u32, bytes that follow
u32, per frame its compressed and its decompressed size u32 u32 [checksum u32], then the footer: number of frames u32,
descriptor u8 (bit 7: there are checksums), 0x8F92EAB1 u32.
"""

from __future__ import annotations

import bisect
import importlib
import itertools
import struct
from typing import Any, Final

from eventrec.errors import LogError
from eventrec.log.storage import File, write_all

MAGIC: Final = b"\x28\xb5\x2f\xfd"
FRAME_SIZE: Final = 4096

_MODULES: Final = ("compression.zstd", "backports.zstd")
_SKIPPABLE: Final = struct.Struct("<II")
_SKIPPABLE_MAGIC: Final = 0x184D2A5E
_FOOTER: Final = struct.Struct("<IBI")
_FOOTER_MAGIC: Final = 0x8F92EAB1
_WITH_CHECKSUMS: Final = 0x80
_SIZES: Final = struct.Struct("<II")
_WINDOW: Final = 1 << 17
_CHUNK: Final = 1 << 20
_MAX_KEPT: Final = 4 << 20
"""A larger frame is not kept whole: it is read from its beginning on, as far as it is wanted."""

_MAX_FRAME: Final = 1 << 30
"""The greatest frame the seekable format allows."""

_MAX_SIZE: Final = 8 << 30
"""Bytes of a segment, uncompressed: a few kilobytes can claim any number, and each would have to be looked at."""


def load_zstd() -> Any:
    """The module that knows zstd: the standard library's, else backports.zstd.

    Raises:
        LogError: There is none; it says what to install.
    """
    missing: ImportError | None = None
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as exc:
            missing = exc
    raise LogError("compressed segments need zstd: pip install 'eventrec[zstd]'") from missing


def compress(source: File, target: File) -> tuple[int, int]:
    """Write `source` compressed to the empty `target`. Returns the bytes read and written. Syncs nothing."""
    zstd = load_zstd()
    sizes = []
    read = written = 0
    while piece := source.read(read, FRAME_SIZE):
        frame = zstd.compress(piece)
        written = write_all(target, frame, written)
        read += len(piece)
        sizes.append(_SIZES.pack(len(frame), len(piece)))
    table = b"".join(sizes) + _FOOTER.pack(len(sizes), 0, _FOOTER_MAGIC)
    return read, write_all(target, _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(table)) + table, written)


class CompressedFile:
    """A compressed segment, read as if it were not. A frame that cannot be decompressed reads as zeros."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._zstd = load_zstd()
        sizes = self._table()
        # Each list has one entry more than there are frames: the end.
        self._compressed = [0, *itertools.accumulate(size for size, _ in sizes)]
        self._positions = [0, *itertools.accumulate(size for _, size in sizes)]
        self._last: tuple[int, bytes] = (-1, b"")
        self._stream: _Stream | None = None
        self._bad: set[int] = set()

    def read(self, position: int, size: int) -> bytes:
        """See `File`. Positions are those of the uncompressed bytes."""
        end = min(position + size, self._positions[-1])
        pieces = []
        while position < end:
            frame = bisect.bisect_right(self._positions, position) - 1
            start, stop = self._positions[frame : frame + 2]
            if stop - start > _MAX_KEPT:
                pieces.append(self._part(frame, position - start, min(end, stop) - position))
            else:
                pieces.append(self._frame(frame)[position - start : end - start])
            position = stop
        return b"".join(pieces)

    def size(self) -> int:
        """Length of the uncompressed bytes."""
        return self._positions[-1]

    def data_from(self, position: int) -> int:
        """See `File`. What is compressed has no holes."""
        return position

    def write(self, piece: bytes, position: int) -> int:
        """Refused: a compressed segment does not change."""
        raise LogError(f"a compressed segment takes no {len(piece)} bytes at {position}")

    def truncate(self, size: int) -> None:
        """Refused: a compressed segment does not change."""
        raise LogError(f"a compressed segment is not cut to {size} bytes")

    def sync(self) -> None:
        """See `File`."""
        self._file.sync()

    def close(self) -> None:
        """See `File`."""
        self._file.close()

    @property
    def bad_frames(self) -> list[tuple[int, int]]:
        """Of the frames met that could not be decompressed, the position in the file and the size there."""
        return [(self._compressed[n], self._compressed[n + 1] - self._compressed[n]) for n in sorted(self._bad)]

    def _frame(self, number: int) -> bytes:
        if self._last[0] != number:
            start, end = self._compressed[number : number + 2]
            size = self._positions[number + 1] - self._positions[number]
            raw = self._file.read(start, end - start)
            try:
                content = self._zstd.ZstdDecompressor().decompress(raw, max_length=size + 1)
            except self._zstd.ZstdError:
                content = b""
            if len(content) != size:
                self._bad.add(number)
                content = bytes(size)
            self._last = (number, content)
        return self._last[1]

    def _part(self, number: int, position: int, size: int) -> bytes:
        """`size` bytes at `position` of a frame that is not kept."""
        start, end = self._compressed[number : number + 2]
        if self._stream is None or self._stream.start != start or self._stream.position > position:
            self._stream = _Stream(self._file, self._zstd, start, end)
        try:
            self._stream.skip_to(position)
            content = self._stream.read(size)
        except (self._zstd.ZstdError, EOFError):
            content = b""
        if len(content) != size:
            self._stream = None
            self._bad.add(number)
            content = bytes(size)
        return content

    def _table(self) -> list[tuple[int, int]]:
        """The compressed and decompressed size of every frame: from the table if it adds up, else frame by frame."""
        size = self._file.size()
        footer = self._file.read(max(0, size - _FOOTER.size), _FOOTER.size)
        if len(footer) == _FOOTER.size:
            frames, descriptor, magic = _FOOTER.unpack(footer)
            entry = _SIZES.size + (4 if descriptor & _WITH_CHECKSUMS else 0)
            start = size - _FOOTER.size - frames * entry - _SKIPPABLE.size
            if magic == _FOOTER_MAGIC and start >= 0:
                raw = self._file.read(start + _SKIPPABLE.size, frames * entry)
                sizes = [_SIZES.unpack_from(raw, at) for at in range(0, len(raw), entry)]
                if sum(pair[0] for pair in sizes) == start and _are_even([pair[1] for pair in sizes]):
                    return sizes
        return self._frames(size)

    def _frames(self, size: int) -> list[tuple[int, int]]:
        """The sizes of the frames, told by the frames themselves, up to the first that is damaged."""
        sizes: list[tuple[int, int]] = []
        at = total = 0
        # Not ours: a plain zstd file is one frame as long as itself.
        while at < size and self._file.read(at, len(MAGIC)) == MAGIC:
            stream = _Stream(self._file, self._zstd, at, size)
            try:
                stream.skip_to(_MAX_SIZE - total)
            except (self._zstd.ZstdError, EOFError):
                break
            if not stream.is_at_end:
                break
            sizes.append((stream.consumed, stream.position))
            total += stream.position
            at += stream.consumed
        return sizes


class _Stream:
    """One frame, decompressed from its beginning on, a little at a time."""

    def __init__(self, file: File, zstd: Any, start: int, end: int) -> None:
        self.start = start
        self.position = 0
        self._file = file
        self._decompressor = zstd.ZstdDecompressor()
        self._at, self._end = start, end

    @property
    def is_at_end(self) -> bool:
        """Whether all of it was read."""
        return bool(self._decompressor.eof)

    @property
    def consumed(self) -> int:
        """Bytes of the file that it took, once it is at its end."""
        return self._at - self.start - len(self._decompressor.unused_data)

    def skip_to(self, position: int) -> None:
        """Read on to `position`, or to the end."""
        while self.position < position and self._next(position - self.position):
            pass

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        pieces = []
        while size > 0 and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _next(self, size: int) -> bytes:
        """Some bytes, at most `size`; none only at the end. EOFError where the file ends before the frame."""
        while not self._decompressor.eof:
            raw = b""
            if self._decompressor.needs_input:
                raw = self._file.read(self._at, min(_WINDOW, self._end - self._at))
                if not raw:
                    raise EOFError
                self._at += len(raw)
            content: bytes = self._decompressor.decompress(raw, max_length=min(_CHUNK, size))
            if content:
                self.position += len(content)
                return content
        return b""


def _are_even(sizes: list[int]) -> bool:
    """Whether all frames hold equally much, the last at most that: any other table is not believed."""
    is_even = all(size == sizes[0] for size in sizes[:-1]) and all(size <= sizes[0] for size in sizes[-1:])
    return is_even and all(size <= _MAX_FRAME for size in sizes[:1]) and sum(sizes) <= _MAX_SIZE
