"""A reader of the format that shares no code with the log: written from the description of the files alone."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = []
for byte in range(256):
    value = byte
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    TABLE.append(value)


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def commits(content: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(offset, epoch, n, records) of every commit of a segment up to the first that is not whole."""
    assert content[:6] == b"(ds)^2"
    version, algorithm = content[6], content[7]
    assert version in (0, 1)
    assert algorithm == 0
    layout = struct.Struct("<QQHI" if version else "<QHI")
    at = 10
    while at + layout.size <= len(content) and any(content[at : at + layout.size]):
        offset, *epoch, n, length = layout.unpack_from(content, at)
        end = at + layout.size + length
        if end + 4 > len(content) or crc32c(content[at:end]) != int.from_bytes(content[end : end + 4], "little"):
            return
        yield offset, epoch[0] if epoch else 0, n, content[at + layout.size : end]
        at = end + 4


def read(directory: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """The commits of a log, in order, until one does not follow the last."""
    expected = None
    for path in sorted(directory.glob("*.stdb.log")):
        for commit in commits(path.read_bytes()):
            if expected is None or commit[0] == expected:
                yield commit
                expected = commit[0] + commit[2]


if __name__ == "__main__":
    for line in read(Path(sys.argv[1])):
        sys.stdout.write(f"{line}\n")
