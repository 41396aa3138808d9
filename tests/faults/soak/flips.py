"""Bytes flipped and cut by the ten thousand: of whole logs in memory, and of each kind of small file.

Of a log: recovery starts, the commits that were hit are lost and no other, none is read that was not written, and the
log goes on. Of a small file: it says what it said, or that it is damaged.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

from damaging import HEADER_BYTES, VERSION, Placed, commits_of
from eventrec.errors import UnreadableFileError
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.records.content import encode_take, is_ours
from eventrec.records.entry import OVERHEAD_BYTES, Entry
from eventrec.records.schema import Shape
from eventrec.runs import files
from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress
from eventrec.runs.requests import OperatorRequest
from eventrec.testing.storage import MemoryStorage
from eventrec_handlers.jsonl import sidecar

SHAPE: Final = Shape("events", "sold")
IDS: Final = 1 << 60
SUFFIX: Final = ".stdb.log"


class SoundLog:
    """A log of some thirty records in several segments, with the commits of each, and the bytes of its files."""

    def __init__(self, rng: random.Random) -> None:
        self.id = UUID(int=rng.randrange(IDS))
        storage = MemoryStorage()
        with Log.create(storage, LogOptions(segment_bytes=500, index_interval=200)) as log:
            number = 0
            while number < 30:
                take = [self.entry(rng, each) for each in range(number, number + rng.randint(1, 4))]
                number += len(take)
                for content, count in encode_take(take, self.id, written=number):
                    log.append_encoded(content, count)
                log.write()
        self.files = {name: storage.read(name) for name in storage.list()}
        self.segments = [name for name in sorted(self.files) if name.endswith(SUFFIX)]
        self.commits: dict[str, list[Placed]] = {name: list(commits_of(self.files[name])) for name in self.segments}
        self.content = {commit.offset: commit for each in self.commits.values() for commit in each}
        self.is_ours = partial(is_ours, log_id=self.id)

    @staticmethod
    def entry(rng: random.Random, number: int) -> Entry:
        """One event, in one of several sizes."""
        payload = b'{"number":%d,"note":"%b"}' % (number, b"x" * rng.choice([0, 0, 40, 120]))
        return SHAPE, number, payload, None, None, None, len(payload) + OVERHEAD_BYTES

    def spoilt(self, rng: random.Random) -> tuple[MemoryStorage, set[int], str]:
        """A copy with one to three faults, the offsets of commits that were hit, and what was done."""
        contents = {name: bytearray(content) for name, content in self.files.items()}
        hit: set[int] = set()
        done: list[str] = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            name = rng.choice(list(contents))
            content = contents[name]
            if not content:
                continue
            at = rng.randrange(len(content))
            if rng.random() < 0.7:
                while at in VERSION and name in self.commits:
                    at = rng.randrange(len(content))
                content[at] ^= 1 << rng.randrange(8)
                # In the header of a segment it may hide where the first commit begins, no other.
                hit |= {each.offset for each in self.commits.get(name, []) if each.start <= at < each.end}
                done.append(f"{name}: a bit of byte {at}")
            else:
                del content[at:]
                hit |= {each.offset for each in self.commits.get(name, []) if each.end > at}
                done.append(f"{name}: cut at {at}")
        storage = MemoryStorage()
        for name, content in contents.items():
            storage.put(name, bytes(content))
        return storage, hit, "; ".join(done)


def check_log(rng: random.Random, sound: SoundLog, counts: Counter[str]) -> None:
    """Spoil a copy of it, read it, recover it, read it again, and go on with it."""
    storage, hit, done = sound.spoilt(rng)
    counts["flips and cuts of logs"] += done.count(":")
    for how in ("as it was found", "after recovery"):
        with LogReader(storage, is_ours=sound.is_ours) as reader:
            found = {commit.offset: commit for commit in reader.commits()}
        for offset, commit in found.items():
            written = sound.content.get(offset)
            assert written is not None, f"{done}: {how}: a commit at {offset} that was never written"
            assert bytes(commit.content) == written.content, f"{done}: {how}: another content at {offset}"
            assert commit.n == written.n, f"{done}: {how}: {commit.n} records at {offset}, {written.n} were written"
        lost = set(sound.content) - set(found) - hit
        assert not lost, f"{done}: {how}: the commits at {sorted(lost)} are lost, only {sorted(hit)} were hit"
        if how == "as it was found":
            goes_on(storage, sound, done)


def goes_on(storage: MemoryStorage, sound: SoundLog, done: str) -> None:
    """Open it as its owner does, and write one more commit into it."""
    (content, count), *_ = encode_take([sound.entry(random.Random(0), 99)], sound.id, written=99)
    with Log.open(storage, LogOptions(segment_bytes=500), is_ours=sound.is_ours, at_least=1_000) as log:
        positions = log.append_encoded(content, count)
        log.write()
        log.sync()
        with log.reader(positions.start, is_ours=sound.is_ours) as reader:
            (commit,) = reader.commits()
    assert bytes(commit.content) == content, f"{done}: what was written after recovery is not there"
    sound.content[positions.start] = Placed(HEADER_BYTES, HEADER_BYTES, positions.start, count, content)


def some_checkpoint(rng: random.Random) -> Checkpoint:
    """Anything that one may say."""
    acknowledged = rng.randrange(IDS)
    scanned = acknowledged + rng.randrange(100)
    progress = Progress(start=0, acknowledged=acknowledged, scanned=scanned, delivered=acknowledged)
    attempt = Attempt(start=acknowledged, end=scanned + 9, generation=3, offsets=[scanned + 1, scanned + 3])
    return Checkpoint(
        subscription=rng.choice(["sqlite", "postgres", "ünïcode", "a/b"]),
        progress=progress,
        destination=rng.choice([None, "d" * 20]),
        attempt=rng.choice([None, attempt]),
        saved=rng.random() * 1e9,
        state=rng.choice(["", "retrying in 2.0 s"]),
    )


def some_request(rng: random.Random) -> list[OperatorRequest]:
    """What an operator may have asked."""
    return [
        OperatorRequest(
            subscription="sqlite", asked=rng.random() * 1e9, start=rng.choice(["earliest", "latest", None])
        ),
        OperatorRequest(subscription="sqlite", asked=rng.random() * 1e9, skip=rng.randrange(IDS), log=UUID(int=1)),
    ]


def some_sidecar(rng: random.Random) -> sidecar.Next:
    """Where the lines of a folder end."""
    start = rng.randrange(1_000)
    return sidecar.Next(
        subscription="jsonl", file=sidecar.file_name(start), length=rng.randrange(IDS), next=start + rng.randrange(99)
    )


Decode = Callable[[bytes], Any]
SMALL: Final[dict[str, tuple[Callable[[random.Random], Any], Callable[[Any], bytes], Decode]]] = {
    "checkpoint": (some_checkpoint, files.encode, lambda content: files.decode(content, Checkpoint)[0]),
    "request": (some_request, files.encode, lambda content: files.decode(content, list[OperatorRequest])[0]),
    "sidecar": (some_sidecar, sidecar.encoded, sidecar.decoded),
}


def check_small_file(rng: random.Random, counts: Counter[str]) -> None:
    """Flip a bit of one, or cut it, and read it: the value that was written, or an error of ours."""
    kind = rng.choice(list(SMALL))
    make, encode, decode = SMALL[kind]
    value = make(rng)
    content = bytearray(encode(value))
    at = rng.randrange(len(content))
    if rng.random() < 0.7:
        content[at] ^= 1 << rng.randrange(8)
    else:
        del content[at:]
    counts["flips and cuts of small files"] += 1
    try:
        read = decode(bytes(content))
    except (UnreadableFileError, sidecar.UnreadableError):
        counts["small files that said they are damaged"] += 1
        return
    assert read == value, f"a damaged {kind} is believed: {bytes(content)!r} for {value}"


def check_some(rng: random.Random, counts: Counter[str], *, count: int) -> None:
    """So many faults: three of four of them in logs.

    Raises:
        AssertionError: A wrong record, one that was lost without having been hit, a number that was believed.
    """
    sound = SoundLog(rng)
    for number in range(count):
        if number % 4 == 3:
            check_small_file(rng, counts)
        else:
            if number % 50 == 0:
                sound = SoundLog(rng)
            check_log(rng, sound, counts)
            sound.content = {offset: each for offset, each in sound.content.items() if offset < 1_000}
