"""A mirror against its source: whatever both go through, they are one log, and identical once all has come."""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventrec.errors import LogClosedError, LogWriteError
from eventrec.log.log import Log, LogOptions
from eventrec.log.mirror import OnTrailing, StreamReader, StreamWriter
from eventrec.log.reader import LogReader
from eventrec.log.segment import HEADER_SIZE, Segment, list_segments, segment_name
from eventrec.log.walk import Walk
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from eventrec.log.commit import Commit

EXAMPLES = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "40"))
INTERVAL = 150
OPTIONS = LogOptions(segment_bytes=700, kept_bytes=900, index_interval=INTERVAL)
OPERATIONS = ["write", "sync", "truncate", "create", "replace", "sync_directory", "delete", "open"]


def _content(storage: FaultyStorage, first: int, upper: int | None) -> bytes:
    """What a segment holds, uncompressed, up to where the next one begins."""
    segment = Segment.open(storage, first)
    walk = Walk(segment, upper=upper)
    while walk.step():
        pass
    return segment.file.read(0, walk.position)


class MirrorAgainstSource(RuleBasedStateMachine):
    """The connection may be cut at any byte, the disks fail, either side loses power.

    EVENTREC_TEST_EXAMPLES in the environment says how many runs of up to 60 steps there are.
    """

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged = 0

    @initialize(seed=st.integers(0, 1 << 30), first=st.sampled_from([0, 5]), sync=st.booleans())
    def begin(self, seed: int, first: int, *, sync: bool) -> None:
        self.source, self.target = FaultyStorage(seed), FaultyStorage(seed + 1)
        self.log = Log.create(self.source, OPTIONS, first=first)
        self.first, self.sync = first, sync
        self.connect()

    def connect(self) -> None:
        """What both sides do when a connection begins: the mirror says what it holds, the source goes on there."""
        self.writer = StreamWriter.create(self.target, on_trailing=OnTrailing.TRIM, index_interval=INTERVAL)
        assert self.writer.next_offset >= self.acknowledged
        last = self.writer.last
        if last is None:
            self.reader = StreamReader(self.source, sync=self.sync)
        else:
            self.reader = StreamReader.resume(self.source, last, sync=self.sync)

    # -- the source ----------------------------------------------------------------------------------------------------

    @rule(
        commits=st.lists(st.tuples(st.integers(0, 120), st.integers(1, 3)), min_size=1, max_size=5), syncs=st.booleans()
    )
    def record(self, commits: list[tuple[int, int]], *, syncs: bool) -> None:
        for size, n in commits:
            with suppress(LogWriteError):
                self.log.append([bytes([self.log.appended % 251]) * size] * n)
                self.log.write()
        if syncs:
            with suppress(LogWriteError):
                self.log.sync()

    @rule(operation=st.sampled_from(OPERATIONS), after=st.integers(0, 3), is_seen=st.booleans())
    def fail_source(self, operation: str, after: int, *, is_seen: bool) -> None:
        """The source's disk fails, before or after its mirror has what was written last."""
        self.record([(50, 1)], syncs=False)
        if is_seen and not self.sync:
            self.carry(1000, [30])
        self.source.fail(operation, errno.EIO, after=after)
        with suppress(LogWriteError):
            self.log.write()
            self.log.sync()
        self.source.heal()

    @precondition(lambda self: self.sync)
    @rule()
    def fail_reader(self) -> None:
        """The source's disk fails under the process that sends, then, as Linux does, under the one that writes."""
        self.record([(50, 1)], syncs=False)
        for failing in (lambda: self.carry(1000, [30]), self.log.sync):
            self.source.fail("sync", errno.EIO)
            failing()
            self.source.heal()

    @precondition(lambda self: self.sync)
    @rule(max_bytes=st.integers(1, 400))
    def cut_power_of_the_source(self, max_bytes: int) -> None:
        """What is lost there was not given out: its records may become other ones."""
        self.log.sync()
        self.record([(70, 2), (0, 1)], syncs=False)
        self.carry(max_bytes, [30])
        self.source = self.source.crash(keep=0)
        self.log = Log.open(self.source, OPTIONS)
        self.writer.close()
        self.connect()

    @rule()
    def begin_segment(self) -> None:
        self.log.begin_segment()

    @rule()
    def compress(self) -> None:
        self.log.compress_below(self.log.synced)

    @rule()
    def delete_what_is_acknowledged(self) -> None:
        self.log.delete_below(self.acknowledged)

    # -- the way -------------------------------------------------------------------------------------------------------

    @rule(max_bytes=st.integers(1, 800), sizes=st.lists(st.integers(1, 100), min_size=1, max_size=8))
    def carry(self, max_bytes: int, sizes: list[int]) -> None:
        stream = self.read(max_bytes)
        for size in sizes:
            self.writer.write(stream[:size])
            stream = stream[size:]
        self.writer.write(stream)

    def read(self, max_bytes: int) -> bytes:
        piece = self.reader.read(max_bytes)
        if self.sync and piece:
            # A power cut now would leave the source all that was given out.
            left = LogReader(self.source.crash(keep=0), strict=True).commits()
            assert any(commit.end >= self.reader.next_offset for commit in left)
        return piece

    @rule(max_bytes=st.integers(1, 800), size=st.integers(0, 500))
    def cut_the_connection(self, max_bytes: int, size: int) -> None:
        """Some of what is on the way arrives."""
        self.writer.write(self.read(max_bytes)[:size])
        self.writer.close()
        self.connect()

    # -- the mirror ----------------------------------------------------------------------------------------------------

    @rule()
    def sync_mirror(self) -> None:
        self.acknowledged = self.writer.sync_all()

    @rule(
        operation=st.sampled_from(OPERATIONS), after=st.integers(0, 3), error=st.sampled_from([errno.EIO, errno.ENOSPC])
    )
    def fail_mirror(self, operation: str, after: int, error: int) -> None:
        self.target.fail(operation, error, after=after)
        try:
            self.writer.write(self.reader.read())
            self.acknowledged = self.writer.sync_all()
        except LogWriteError:
            try:
                self.writer.write(b"")
            except LogClosedError:
                pass
            else:
                raise AssertionError("not consumed")
        self.target.heal()
        self.writer.close()
        self.connect()

    @rule(calls=st.integers(0, 25), keep=st.sampled_from([0.0, 0.3, 0.7, 1.0]), is_kill=st.booleans())
    def crash_mirror(self, calls: int, keep: float, *, is_kill: bool) -> None:
        if is_kill:
            self.target.kill_in(calls)
        else:
            self.target.cut_power_in(calls, keep=keep)
        self.writer.write(self.reader.read())
        # What is acknowledged before the crash counts.
        if self.target.wreck is None:
            synced = self.writer.sync_all()
            if self.target.wreck is None:
                self.acknowledged = synced
        wreck = self.target.wreck
        if wreck is None:
            wreck = self.target.kill() if is_kill else self.target.crash(keep=keep)
        self.target = wreck
        self.connect()

    @invariant()
    def mirror_is_behind_its_source_and_keeps_what_it_acknowledged(self) -> None:
        if not hasattr(self, "log"):
            return
        type(self).steps += 1
        assert self.acknowledged <= self.writer.next_offset <= self.log.written

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self.log.write()
        self.log.sync()
        while piece := self.reader.read():
            self.writer.write(piece)
        self.writer.finish()
        self.writer.close()
        self.log.close()
        if self.log.appended == self.first:
            assert self.target.list() == []
            return
        assert self.writer.next_offset == self.log.appended
        firsts = [first for first in list_segments(self.source) if _size(self.source, first) > HEADER_SIZE]
        mirrored = list_segments(self.target)
        assert [first for first in mirrored if first >= min(firsts, default=self.log.appended)] == firsts
        for first, upper in itertools.pairwise([*firsts, None]):
            assert first is not None
            # What was cut off at the end of a segment may be there again after a power cut: it is superseded.
            assert _content(self.source, first, upper) == _content(self.target, first, upper)
        commits: list[Commit] = list(LogReader(self.target, strict=True).commits())
        assert [commit.offset for commit in commits[1:]] == [commit.end for commit in commits[:-1]]


def _size(storage: FaultyStorage, first: int) -> int:
    return storage.size(segment_name(first)).length


@pytest.mark.slow
def test_a_mirror_is_identical_whatever_happens() -> None:
    run_state_machine_as_test(
        MirrorAgainstSource,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
