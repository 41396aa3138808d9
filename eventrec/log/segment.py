"""Segments: their names, their headers, opening one to read, making one to write."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec.errors import CorruptCommitError, Damage, LogError
from eventrec.log.commit import MAX_OFFSET, VERSION, VERSIONS, header_size, read_header
from eventrec.log.compressed import MAGIC as COMPRESSED_MAGIC
from eventrec.log.compressed import CompressedFile
from eventrec.log.holes import has_right_checksum
from eventrec.log.index import OffsetIndex
from eventrec.log.storage import File, ReadableFile, Storage, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eventrec.log.disk import DiskStorage

MAGIC: Final = b"(ds)^2"
HEADER_SIZE: Final = 10
_CRC32C: Final = 0
_SEGMENT, _INDEX, _LOCK, _TEMPORARY = ".stdb.log", ".stdb.ofs", ".stdb.lock", ".tmp"
_DIGITS: Final = 20

MAX_INDEX_BYTES: Final = 16 << 20
"""More of an index is not read: 4 GiB of a segment, and what is behind that is found from there."""

Sync: TypeAlias = Literal["name", "content", "nothing"]
"""What of a file that is replaced survives a power cut on return: its name too, its content alone, or nothing yet."""


def segment_name(first: int) -> str:
    """The file of the segment whose first record is `first`."""
    return f"{first:0{_DIGITS}d}{_SEGMENT}"


def index_name(first: int) -> str:
    """The file of that segment's index."""
    return f"{first:0{_DIGITS}d}{_INDEX}"


def _first_in(name: str, suffix: str) -> int | None:
    stem = name.removesuffix(suffix)
    if stem == name or len(stem) != _DIGITS or not (stem.isascii() and stem.isdigit()):
        return None
    return first if (first := int(stem)) <= MAX_OFFSET else None


def list_segments(storage: Storage) -> list[int]:
    """The first offsets of the segments there, rising."""
    return list_segments_in(storage.list())


def list_segments_in(names: Iterable[str]) -> list[int]:
    """The first offsets of the segments among `names`, rising."""
    return sorted(first for name in names if (first := _first_in(name, _SEGMENT)) is not None)


def list_odd_segments(storage: DiskStorage) -> list[int]:
    """The first offsets of what is called like a segment and is not a file: a link, a folder, a pipe."""
    named = list_segments_in(entry.name for entry in storage.entries())
    return sorted(set(named) - set(list_segments(storage))) if named else []


def list_leftovers(storage: Storage) -> list[str]:
    """Files of a writer that died: half-made segments, indexes whose segment is gone."""
    names = storage.list()
    indexes = [(name, _first_in(name, _INDEX)) for name in names]
    return sorted(
        [name for name in names if name.endswith(_TEMPORARY)]
        + [name for name, first in indexes if first is not None and segment_name(first) not in names]
    )


def encode_header(version: int = VERSION) -> bytes:
    """The 10 bytes a segment begins with."""
    return MAGIC + bytes((version, _CRC32C, 0, 0))


def decode_header(header: bytes) -> int:
    """The version of the commits behind `header`.

    Raises:
        CorruptCommitError: SHORT, or HEADER: not the magic, or a version or checksum that is not known.
    """
    if len(header) < HEADER_SIZE:
        raise CorruptCommitError(Damage.SHORT)
    if header[:6] != MAGIC or header[6] not in VERSIONS or header[7] != _CRC32C:
        raise CorruptCommitError(Damage.HEADER)
    return header[6]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment opened for reading.

    Attributes:
        first: Offset of its first record, by its name.
        file: Its bytes, uncompressed.
        version: Of its commits. Where the header is damaged or lies, the version in which the first commit is valid.
        is_compressed: Then it never changes.
        damage: What is wrong with the header, which costs no commit.
    """

    first: int
    file: ReadableFile
    version: int
    is_compressed: bool
    damage: Damage | None

    @property
    def name(self) -> str:
        """Its file."""
        return segment_name(self.first)

    @classmethod
    def open(cls, storage: Storage, first: int, *, version: int | None = None) -> Segment:
        """Open the segment that begins at `first`. Its header is looked at only if its `version` is not known already.

        Raises:
            OSError: FileNotFoundError where it is gone.
            LogError: It is compressed, and zstd is not installed; or of a version that is not known here.
        """
        file: ReadableFile = (raw := storage.open(segment_name(first), "read"))
        try:
            is_compressed = raw.read(0, len(COMPRESSED_MAGIC)) == COMPRESSED_MAGIC
            if is_compressed:
                file = CompressedFile(raw)
            known = _probe(file) if version is None else (version, None)
        except BaseException:
            raw.close()
            raise
        return cls(first, file, known[0], is_compressed, known[1])

    def close(self) -> None:
        """Give the descriptor back."""
        self.file.close()


def _probe(file: ReadableFile) -> tuple[int, Damage | None]:
    """The version to read with, and what is wrong with the header. Nothing is wrong with one that is just not there."""
    try:
        version = decode_header(header := file.read(0, HEADER_SIZE))
        damage = None
    except CorruptCommitError:
        version = VERSION
        damage = Damage.HEADER if any(header) else None
    size = file.size()
    for candidate in sorted(VERSIONS, key=lambda other: other != version):
        with contextlib.suppress(CorruptCommitError):
            start = file.read(HEADER_SIZE, header_size(candidate))
            first = read_header(start, 0, size - HEADER_SIZE, candidate)
            if has_right_checksum(file, HEADER_SIZE, first):
                return candidate, damage or (Damage.HEADER if candidate != version else None)
    if header[:6] == MAGIC and len(header) == HEADER_SIZE and header[6] > max(VERSIONS) and size > HEADER_SIZE:
        raise LogError(f"a segment of format version {header[6]}: this eventrec reads {max(VERSIONS)}")
    return version, damage


def create_segment(
    storage: Storage, first: int, commits: Sequence[bytes] = (), *, is_ours: bool = False, header: bytes | None = None
) -> None:
    """Make the segment that begins at `first`, holding `commits`. On return it is synced, and so is its name.

    It begins with `header`, where one is given that another log's segment has.

    It appears whole or not at all. A segment of that name is replaced if it holds no more than a header, or if the
    caller says that it `is_ours` to replace.

    Raises:
        LogError: There is such a segment, with content.
        OSError: The disk refused. Nothing that was there is harmed.
        LogLockedError: Another writer is making this very segment.
    """
    lock = storage.lock(f"{first:0{_DIGITS}d}{_LOCK}")
    try:
        with contextlib.suppress(FileNotFoundError):
            if not is_ours and storage.size(segment_name(first)).length > HEADER_SIZE:
                raise LogError(f"{segment_name(first)} is there and is not empty")
        content = b"".join((encode_header() if header is None else header, *commits))
        replace_file(storage, segment_name(first), lambda file: write_all(file, content, 0))
    finally:
        lock.release(delete=True)


def replace_file(storage: Storage, target: str, fill: Callable[[File], object], *, sync: Sync = "name") -> None:
    """Put what `fill` writes in the place of `target`, which is old or new at any instant.

    On return it is durably new; with `sync="content"` once the directory is synced too, with "nothing" when the system
    gets to it.

    Raises:
        OSError: The disk refused. `target` is whole, old or new.
    """
    # Threads may prepare the same file at once: each its own.
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}{_TEMPORARY}"
    try:
        file = storage.open(temporary, "create")
    except FileExistsError:  # A process of the same number left it.
        storage.delete(temporary)
        file = storage.open(temporary, "create")
    try:
        try:
            fill(file)
            if sync != "nothing":
                file.sync()
        finally:
            file.close()
        storage.replace(temporary, target)
        # Without this the name can be lost, and with it what the caller is about to rely on.
        if sync == "name":
            storage.sync_directory()
    except BaseException:
        with contextlib.suppress(OSError):
            storage.delete(temporary)
        raise


def load_index(storage: Storage, first: int) -> OffsetIndex:
    """The index of a segment; an empty one if it is missing or cannot be read."""
    try:
        file = storage.open(index_name(first), "read")
        try:
            return OffsetIndex(file.read(0, MAX_INDEX_BYTES))
        finally:
            file.close()
    except OSError:
        return OffsetIndex()


def delete_segments(storage: Storage, firsts: Sequence[int]) -> None:
    """Unlink segments and their indexes, in this order. On return they are gone for good.

    Raises:
        OSError: The disk refused; some may be gone.
    """
    for first in firsts:
        delete_segment(storage, first)
    if firsts:
        storage.sync_directory()


def delete_segment(storage: Storage, first: int) -> None:
    """Unlink a segment and its index. Durable after `sync_directory`.

    Raises:
        OSError: The disk refused; the segment may be there without its index.
    """
    for name in (index_name(first), segment_name(first)):
        with contextlib.suppress(FileNotFoundError):
            storage.delete(name)
