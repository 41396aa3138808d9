"""The log against a plain list: every operation in any order, on a disk that fails and loses power at any instant."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
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

from eventrec.errors import Damage, LogWriteError
from eventrec.log.commit import Commit
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import list_segments, segment_name
from eventrec.log.verify import verify
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "120"))
OPTIONS = LogOptions(segment_bytes=700, kept_bytes=900, index_interval=150)
OPERATIONS = ["write", "sync", "truncate", "create", "replace", "sync_directory", "delete", "open"]
ACTIONS = ["append", "write", "sync", "write_and_sync", "delete", "compress", "open", "reset_to", "retire"]
CALLS = st.integers(0, 25)
NORMALIZERS = st.sampled_from([0.0, 0.3, 0.7, 1.0])


class LogAgainstList(RuleBasedStateMachine):
    """`records[offset]` is what was appended there, or None where a power cut may and did lose it.

    EVENTREC_TEST_EXAMPLES in the environment says how many runs of up to 60 steps there are.
    """

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.records: list[bytes | None] = []
        self.serial = 0
        self.deleted = 0
        self.is_evicted = self.is_refusing = False
        self.is_torn = self.is_failing = False
        self.last = b""

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.storage = FaultyStorage(seed)
        self.log = Log.create(self.storage, OPTIONS)
        self._read_anew()

    # -- what a program does

    @rule(n=st.integers(1, 4), size=st.integers(0, 120))
    def append(self, n: int, size: int) -> None:
        records = [self._record(size) for _ in range(n)]
        with contextlib.suppress(LogWriteError):
            assert self.log.append(records).start == len(self.records)
            self.records += records

    @rule()
    def write(self) -> None:
        with contextlib.suppress(LogWriteError):
            assert self.log.write() == len(self.records)

    @rule()
    def sync(self) -> None:
        written = self.log.written
        with contextlib.suppress(LogWriteError):
            assert self.log.sync() >= written

    @rule(start=st.integers(0, 99))
    def read(self, start: int) -> None:
        with contextlib.suppress(OSError):
            self._check(self.log.reader(start), start, self.log._readable().offset)

    @rule(max_bytes=st.integers(1, 2000))
    def follow(self, max_bytes: int) -> None:
        with contextlib.suppress(OSError):
            for commit in self.reader.read(max_bytes=max_bytes):
                self._compare(commit)

    @rule()
    def follow_from_outside(self) -> None:
        before = self.foreign.next_offset
        with contextlib.suppress(OSError):
            for commit in self.foreign.read(max_bytes=500):
                assert commit.end > before
                self._compare(commit)

    @rule()
    def rotate(self) -> None:
        self.append(3, 250)
        self.write()

    @rule(back=st.sampled_from([0, 0, 1, 20]))
    def delete(self, back: int) -> None:
        below = max(0, self.log.synced - back)
        self.deleted = max(self.deleted, below)
        with contextlib.suppress(LogWriteError):
            self.log.delete_below(below)

    @rule()
    def compress(self) -> None:
        with contextlib.suppress(LogWriteError):
            self.log.compress_below(self.log.synced)

    @rule(by=st.integers(0, 3))
    def raise_epoch(self, by: int) -> None:
        self.log.set_epoch(self.log.epoch + by)

    @rule(back=st.integers(1, 30))
    def reset(self, back: int) -> None:
        self.storage.heal()
        self.log.write()
        self.log.sync()
        target = len(self.records) - back
        if target >= self.deleted:
            self.log.reset_to(target)
            assert self.log.appended > target or self.records[target] is None
            del self.records[self.log.appended :]
            self._read_anew()

    @rule()
    def retire(self) -> None:
        self.storage.heal()
        self.log.reset()
        assert self.log.appended == 0
        self.records, self.deleted = [], 0
        self._read_anew()

    @rule()
    def open_again(self) -> None:
        self.storage.heal()
        self.log.close()
        assert self.log.synced == len(self.records)
        self._open()
        assert self.log.appended == len(self.records)

    # -- what the world does

    @rule(
        operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3, unique=True),
        after=st.integers(0, 2),
        times=st.integers(1, 4),
        full=st.booleans(),
    )
    def fail(self, operations: list[str], after: int, times: int, *, full: bool) -> None:
        self._note(operations)
        for operation in operations:
            self.storage.fail(operation, errno.ENOSPC if full else errno.EIO, after=after, times=times)

    @rule(operations=st.lists(st.sampled_from(OPERATIONS), max_size=2, unique=True), times=st.integers(1, 3))
    def sync_in_vain(self, operations: list[str], times: int) -> None:
        with contextlib.suppress(LogWriteError):
            self.log.append([self._record(50)])
            self.records.append(self.last)
            self.log.write()
        self._note(operations)
        for operation in ["sync", *operations]:
            self.storage.fail(operation, times=times)
        with contextlib.suppress(LogWriteError):
            self.log.sync()

    @rule(room=st.integers(0, 600))
    def fill_disk(self, room: int) -> None:
        self._note([])
        self.storage.capacity = sum(len(self.storage.read(name)) for name in self.storage._names) + room

    @rule()
    def heal(self) -> None:
        self.storage.heal()

    @rule()
    def drop_caches(self) -> None:
        before = self._head()
        self.storage.evict()
        if before != self._head():
            # The sync failed, then the move, then writing it again where it was: now only the process has it.
            assert self.log._failure is not None
            assert self.is_refusing
            self.is_evicted = self.is_torn = True

    @rule(is_memory_short=st.booleans())
    def kill(self, *, is_memory_short: bool) -> None:
        if is_memory_short:
            self.drop_caches()
        self._continue_on(self.storage.kill(), self._survives_a_kill())

    @rule(what=st.sampled_from(ACTIONS), calls=CALLS)
    def kill_during(self, what: str, calls: int) -> None:
        survives = self._survives_a_kill()
        self.storage.kill_in(calls)
        promised = self._act(what, survives)
        self._continue_on(self.storage.wreck or self.storage.kill(), promised)

    @rule(keep=NORMALIZERS, again=st.none() | CALLS)
    def cut_power(self, keep: float, again: int | None) -> None:
        self.is_torn = True
        storage = self.storage.crash(keep=keep)
        if again is not None:
            storage.cut_power_in(again, keep=keep)
            Log.open(storage, OPTIONS)
            storage = storage.wreck or storage.crash(keep=keep)
        self._continue_on(storage, self.log.synced)

    @rule(what=st.sampled_from(ACTIONS), calls=CALLS, keep=NORMALIZERS)
    def cut_power_during(self, what: str, calls: int, keep: float) -> None:
        synced = self.log.synced
        self.is_torn = True
        self.storage.cut_power_in(calls, keep=keep)
        promised = self._act(what, synced)
        self._continue_on(self.storage.wreck or self.storage.crash(keep=keep), promised)

    def _act(self, what: str, promised: int) -> int:
        """Do `what`, however it ends. Returns below which offset all of `promised` is still to be there."""
        target = max(self.deleted, len(self.records) - 5)
        if what == "reset_to" and target < len(self.records):
            promised = min(promised, target + 1)
        elif what == "retire":
            promised = 0
        with contextlib.suppress(LogWriteError):
            self._actions(target)[what]()
        return promised

    def _actions(self, target: int) -> dict[str, Callable[[], object]]:
        def append() -> None:
            self.log.append([self._record(300)])
            self.records.append(self.last)
            self.log.write()

        def write_and_sync() -> None:
            append()
            self.log.sync()

        def delete() -> None:
            self.deleted = max(self.deleted, self.log.synced)
            self.log.delete_below(self.log.synced)

        def reset_to() -> None:
            if target < len(self.records):
                self.log.reset_to(target)

        return {
            "append": append,
            "write": self.log.write,
            "sync": self.log.sync,
            "write_and_sync": write_and_sync,
            "delete": delete,
            "compress": lambda: self.log.compress_below(self.log.synced),
            "open": lambda: Log.open(self.storage, OPTIONS),
            "reset_to": reset_to,
            "retire": self.log.reset,
        }

    def _note(self, failing: list[str]) -> None:
        self.is_failing = True
        self.is_refusing = self.is_refusing or "write" in failing

    def _head(self) -> bytes:
        extent = self.log._extent
        return self.storage.read(segment_name(extent.first))[: extent.position]

    def _survives_a_kill(self) -> int:
        return self.log.synced if self.is_evicted and self.log._failure is not None else self.log.written

    # -- what must hold

    @invariant()
    def promises_are_ordered(self) -> None:
        if hasattr(self, "log"):
            type(self).steps += 1
            assert self.log.synced <= self.log.written <= self.log.appended == len(self.records)

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.log.unsynced_bytes <= 2 * OPTIONS.kept_bytes + 600

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.storage.heal()
            self.log.write()
            assert self.log.sync() == len(self.records)
            self._survive(len(self.records))

    def _record(self, size: int) -> bytes:
        """A record that is there but once, and says its epoch."""
        self.serial += 1
        self.last = b"<%d@%d %s>" % (self.serial, self.log.epoch, b"." * size)
        return self.last

    def _compare(self, commit: Commit) -> None:
        parts = self.records[commit.offset : commit.end]
        assert len(parts) == commit.n
        assert commit.content == b"".join(part for part in parts if part is not None)
        assert commit.content.count(b"@%d " % commit.epoch) == commit.n

    def _check(self, reader: LogReader, start: int, end: int) -> None:
        """Everything from `start` to `end` is read, in order, except what is deleted or known to be lost."""
        expected = start
        for commit in reader.commits():
            self._compare(commit)
            self._check_lost(range(expected, commit.offset))
            expected = max(expected, commit.end)
        self._check_lost(range(expected, end))

    def _check_lost(self, offsets: range) -> None:
        assert all(offset < self.deleted or self.records[offset] is None for offset in offsets)

    def _survive(self, promised: int) -> None:
        """Take over what is there: all that was promised, and of the rest nothing that was not appended."""
        self.storage.heal()
        del self.records[self.log.appended :]
        if not promised:
            # Of a log that was being retired the oldest segments may go first, or all.
            self.deleted = list_segments(self.storage)[0]
        there: set[int] = set()
        for commit in self.log.reader().commits():
            self._compare(commit)
            there.update(range(commit.offset, commit.end))
        for offset in range(self.deleted, len(self.records)):
            if offset not in there:
                assert offset >= promised or self.records[offset] is None
                self.records[offset] = None
        self._verify()

    def _verify(self) -> None:
        """No byte is at fault, but where a power cut lost what was not synced, or a disk that fails keeps an index."""
        for fault in verify(self.storage):
            if fault.reason is Damage.INDEX:
                assert self.is_torn or self.is_failing, str(fault)
            else:
                assert self.is_torn, str(fault)
                assert fault.missing, str(fault)
                self._check_lost(range(fault.offset, fault.offset + fault.missing))

    def _continue_on(self, storage: FaultyStorage, promised: int) -> None:
        self.log.abandon()
        self.storage = storage
        self._open()
        assert self.log.appended >= promised
        self._survive(promised)

    def _open(self) -> None:
        try:
            self.log = Log.open(self.storage, OPTIONS)
        except LogWriteError:
            self.storage.heal()
            self.log = Log.open(self.storage, OPTIONS)
        self.is_evicted = self.is_refusing = False
        self._read_anew()

    def _read_anew(self) -> None:
        self.reader = self.log.reader()
        self.foreign = LogReader(self.storage)


@pytest.mark.slow
@pytest.mark.timeout(240 + EXAMPLES)
def test_the_log_behaves_like_a_list_on_a_disk_that_fails() -> None:
    run_state_machine_as_test(
        LogAgainstList,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    sys.stdout.write(f"{LogAgainstList.steps} steps in {EXAMPLES} runs\n")
    assert LogAgainstList.steps > 20 * EXAMPLES
