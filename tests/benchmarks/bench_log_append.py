"""What appending costs beside the disk, and reading beside slicing: medians of interleaved rounds.

    python tests/benchmarks/bench_log_append.py [directory] [rounds]

Each way appends records of 250 bytes, 100 a commit, with a CRC-32C and one fdatasync each. Ratios are taken within a
round, since the disk's speed drifts between them.
"""

from __future__ import annotations

import os
import random
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c

from eventrec.log.commit import decode_commit, encode_commit
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = [os.urandom(250) for _ in range(100)]
CONTENT = b"".join(RECORDS)
COMMITS = 400
HEADER = struct.Struct("<QQHI")


def by_hand(directory: Path) -> float:
    """The loop one writes instead: join, checksum, write, fdatasync."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        fd = os.open(Path(folder, "by_hand"), os.O_CREAT | os.O_WRONLY)
        os.fsync(fd)
        started = time.perf_counter()
        for i in range(COMMITS):
            content = b"".join(RECORDS)
            body = HEADER.pack(i * 100, 0, 100, len(content)) + content
            os.write(fd, body + google_crc32c.value(body).to_bytes(4, "little"))
            os.fdatasync(fd)
        seconds = time.perf_counter() - started
        os.close(fd)
        return seconds


def with_log(directory: Path, *, sync: bool = True, encoded: bool = False) -> float:
    """The log, given a list of records or their concatenation."""
    with tempfile.TemporaryDirectory(dir=directory) as folder, Log.create(DiskStorage(folder)) as log:
        started = time.perf_counter()
        for _ in range(COMMITS):
            if encoded:
                log.append_encoded(CONTENT, 100)
            else:
                log.append(RECORDS)
            log.write()
            if sync:
                log.sync()
        return time.perf_counter() - started


def read_back(directory: Path) -> float:
    """Read what was just written, every checksum verified."""
    with tempfile.TemporaryDirectory(dir=directory) as folder, Log.create(DiskStorage(folder)) as log:
        for _ in range(COMMITS):
            log.append_encoded(CONTENT, 100)
        log.write()
        started = time.perf_counter()
        n = sum(commit.n for commit in log.reader().commits())
        seconds = time.perf_counter() - started
        assert n == COMMITS * 100
        return seconds


def decoding(_: Path) -> float:
    """Decode one commit, many times."""
    buffer = encode_commit(0, CONTENT, 100)
    started = time.perf_counter()
    for _i in range(COMMITS):
        decode_commit(buffer)
    return time.perf_counter() - started


def slicing(_: Path) -> float:
    """What decoding cannot avoid: one slice and one checksum."""
    buffer = encode_commit(0, CONTENT, 100)
    started = time.perf_counter()
    for _i in range(COMMITS):
        google_crc32c.value(buffer[:-4])
        buffer[22:-4]
    return time.perf_counter() - started


def main() -> None:
    """Print the median of each way, and of its ratio to what it is compared with."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    ways: dict[str, tuple[Callable[[Path], float], str]] = {
        "crc + write + fdatasync by hand": (by_hand, "crc + write + fdatasync by hand"),
        "append a list, write, sync": (with_log, "crc + write + fdatasync by hand"),
        "append concatenated, write, sync": (lambda d: with_log(d, encoded=True), "crc + write + fdatasync by hand"),
        "append a list, write": (lambda d: with_log(d, sync=False), "append a list, write"),
        "read back": (read_back, "read back"),
        "slice + crc": (slicing, "slice + crc"),
        "decode": (decoding, "slice + crc"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        for _ in range(rounds):
            for name, (run, _base) in random.sample(list(ways.items()), len(ways)):
                seconds[name].append(run(Path(folder)))
    for name, (_run, base) in ways.items():
        speed = COMMITS * 100 / statistics.median(seconds[name])
        ratio = statistics.median(b / s for b, s in zip(seconds[base], seconds[name], strict=True))
        sys.stdout.write(f"{name:34} {speed:14,.0f} records/s   {ratio:5.2f} x {base}\n")


if __name__ == "__main__":
    main()
