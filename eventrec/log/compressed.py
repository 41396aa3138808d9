"""Compressed segments: zstd's seekable format, in frames of at most 4096 bytes, so that any byte is near.

Layout (facebook/zstd, contrib/seekable_format): frames, then one skippable frame: 0x184D2A5E u32, bytes that follow
u32, per frame its compressed and its decompressed size u32 u32 [checksum u32], then the footer: number of frames u32,
descriptor u8 (bit 7: there are checksums), 0x8F92EAB1 u32.
"""

import bisect
import importlib
import itertools
import struct
from typing import Any

from eventrec.errors import LogError
from eventrec.log.storage import File, write_all

MAGIC = b"\x28\xb5\x2f\xfd"
FRAME_SIZE = 4096

_MODULES = ("compression.zstd", "backports.zstd")
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A5E
_FOOTER = struct.Struct("<IBI")
_FOOTER_MAGIC = 0x8F92EAB1
_WITH_CHECKSUMS = 0x80
_SIZES = struct.Struct("<II")
_WINDOW = 1 << 17
_MAX_FRAME = 1 << 30
"""The greatest frame the seekable format allows."""


def load_zstd() -> Any:
    """The module that knows zstd: the standard library's, else backports.zstd.

    Raises:
        LogError: There is none; it says what to install.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise LogError("compressed segments need zstd: pip install 'eventrec[zstd]'")


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
        self._bad: set[int] = set()

    def read(self, position: int, size: int) -> bytes:
        """See `File`. Positions are those of the uncompressed bytes."""
        end = min(position + size, self._positions[-1])
        pieces = []
        while position < end:
            frame = bisect.bisect_right(self._positions, position) - 1
            start = self._positions[frame]
            pieces.append(self._frame(frame)[position - start : end - start])
            position = self._positions[frame + 1]
        return b"".join(pieces)

    def size(self) -> int:
        """Length of the uncompressed bytes."""
        return self._positions[-1]

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
        at = 0
        window = _WINDOW
        while at < size:
            raw = self._file.read(at, window)
            try:
                length = self._zstd.get_frame_size(raw)
                content = self._zstd.ZstdDecompressor().decompress(raw[:length], max_length=_MAX_FRAME)
            except self._zstd.ZstdError:
                if window >= size or not raw.startswith(MAGIC):
                    break
                # Not ours: a plain zstd file is one frame as long as itself.
                window = size
                continue
            sizes.append((length, len(content)))
            at += length
        return sizes


def _are_even(sizes: list[int]) -> bool:
    """Whether all frames hold equally much, the last at most that: any other table is not believed."""
    return all(size == sizes[0] for size in sizes[:-1]) and all(size <= sizes[0] <= _MAX_FRAME for size in sizes[-1:])
