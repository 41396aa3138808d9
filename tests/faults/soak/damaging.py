"""Files of a log directory, damaged: which of its records may then be lost, by a reading of the format of its own."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import LOCK

HEADER_BYTES: Final = 10
VERSION: Final = range(6, 8)
"""Where a segment says which version of the format it is in: a newer one is left as it is, and waits for a newer us."""

_COMMIT: Final = struct.Struct("<QQHI")
_CRC_BYTES: Final = 4


class Placed(NamedTuple):
    """A commit of a segment's bytes: where it stands, its first offset, how many records, and its content."""

    start: int
    end: int
    offset: int
    n: int
    content: bytes


def commits_of(segment: bytes) -> Iterator[Placed]:
    """Those of a sound segment, up to an incomplete last one."""
    at = HEADER_BYTES
    while at + _COMMIT.size <= len(segment):
        offset, _, n, length = _COMMIT.unpack_from(segment, at)
        end = at + _COMMIT.size + length + _CRC_BYTES
        if not n or end > len(segment):
            return
        yield Placed(at, end, offset, n, segment[at + _COMMIT.size : end - _CRC_BYTES])
        at = end


def numbers_of(commit: Placed) -> set[int]:
    """The numbers of its events."""
    return {json.loads(entry[PAYLOAD])["number"] for entry in ContentDecoder().decode(commit.content).entries}


class Damage(NamedTuple):
    """What was done to which file, and the numbers that may be lost by it."""

    kind: str
    path: Path
    at: int
    lost: frozenset[int]


def damage_segment(rng: random.Random, path: Path) -> Damage:
    """Flip a bit of the sound segment at `path`, or cut it."""
    content = bytearray(path.read_bytes())
    commits = list(commits_of(bytes(content)))
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        while at in VERSION:
            at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        hit = [commit for commit in commits if commit.start <= at < commit.end]
        kind = "bits of a segment flipped"
    else:
        del content[at:]
        hit = [commit for commit in commits if commit.end > at]
        kind = "segments cut"
    path.write_bytes(content)
    return Damage(kind, path, at, frozenset().union(*map(numbers_of, hit)))


def damage_small_file(rng: random.Random, path: Path) -> Damage:
    """Flip a bit of it, cut it, or fill it with something else: nothing may be lost by it."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content)) if content else 0
    match rng.randrange(3):
        case 0 if content:
            content[at] ^= 1 << rng.randrange(8)
        case 1:
            del content[at:]
        case _:
            content = bytearray(rng.randbytes(rng.randint(0, 2 * len(content) + 1)))
    path.write_bytes(content)
    return Damage("small files damaged", path, at, frozenset())


def small_files(run: Path) -> list[Path]:
    """Checkpoints, indexes and what else lies beside the segments of a log.

    Not its lock: that says whose log it is, and without it nothing is ours.
    """
    return sorted(
        path
        for path in run.rglob("*")
        if path.is_file() and path.name != LOCK and not path.name.endswith((".stdb.log", ".tmp"))
    )
