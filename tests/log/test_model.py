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

from eventrec.errors import LogWriteError
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = LogOptions(segment_bytes=700, kept_bytes=900, index_interval=150)
OPERATIONS = ["write", "sync", "truncate", "create", "replace", "sync_directory", "delete", "open"]
KEEP = st.sampled_from([0.0, 0.3, 0.7, 1.0])


class LogAgainstList(RuleBasedStateMachine):
    """`records[offset]` is what was appended there, or None where a power cut may and did lose it."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.records: list[bytes | None] = []
        self.serial = 0
        self.deleted = 0

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.storage = FaultyStorage(seed)
        self.log = Log.create(self.storage, OPTIONS)
        self.reader = self.log.reader()
        self.foreign = LogReader(self.storage)

    # -- what a program does

    @rule(n=st.integers(1, 4), size=st.integers(0, 120))
    def append(self, n: int, size: int) -> None:
        records = [b"<%d %s>" % (self.serial + i, b"." * size) for i in range(n)]
        self.serial += n
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
                assert commit.content == self._content(commit.offset, commit.end)

    @rule()
    def follow_from_outside(self) -> None:
        before = self.foreign.next_offset
        with contextlib.suppress(OSError):
            for commit in self.foreign.read(max_bytes=500):
                assert commit.end > before
                assert commit.content == self._content(commit.offset, commit.end)

    @rule(back=st.integers(0, 20))
    def delete(self, back: int) -> None:
        below = max(0, self.log.synced - back)
        self.deleted = max(self.deleted, below)
        with contextlib.suppress(LogWriteError):
            self.log.delete_below(below)

    @rule()
    def compress(self) -> None:
        with contextlib.suppress(LogWriteError):
            self.log.compress_below(self.log.synced)

    @rule(back=st.integers(1, 30))
    def reset(self, back: int) -> None:
        self.storage.heal()
        self.log.write()
        self.log.sync()
        target = len(self.records) - back
        if target >= self.deleted:
            self.log.reset_to(target)
            assert self.log.taken > target or self.records[target] is None
            del self.records[self.log.taken :]
            self._read_anew()

    @rule()
    def open_again(self) -> None:
        self.storage.heal()
        self.log.close()
        assert self.log.synced == len(self.records)
        self._open()
        assert self.log.taken == len(self.records)

    # -- what the world does

    @rule(operation=st.sampled_from(OPERATIONS), after=st.integers(0, 2), times=st.integers(1, 2), full=st.booleans())
    def fail(self, operation: str, after: int, times: int, *, full: bool) -> None:
        self.storage.fail(operation, errno.ENOSPC if full else errno.EIO, after=after, times=times)

    @rule(room=st.integers(0, 600))
    def fill_disk(self, room: int) -> None:
        self.storage.capacity = sum(len(self.storage.read(name)) for name in self.storage._names) + room

    @rule()
    def heal(self) -> None:
        self.storage.heal()

    @rule()
    def drop_caches(self) -> None:
        # While a failed sync is not mended, other processes see what the disk made of it: the mirror's trouble.
        if self.log._failure is None:
            self.storage.evict()

    @rule()
    def kill(self) -> None:
        written = self.log.written
        self.log.abandon()
        self._open()
        assert self.log.taken >= written
        self._survive(written)

    @rule(keep=KEEP)
    def cut_power(self, keep: float) -> None:
        synced = self.log.synced
        self._continue_on(self.storage.crash(keep=keep), synced)

    @rule(what=st.sampled_from(["append", "write", "sync", "write_and_sync", "delete", "compress", "open"]), keep=KEEP)
    def cut_power_during(self, what: str, keep: float, calls: int = 0) -> None:
        synced = self.log.synced
        calls = self.serial % 23
        self.storage.cut_power_in(calls, keep=keep)
        with contextlib.suppress(LogWriteError):
            self._actions()[what]()
        self._continue_on(self.storage.wreck or self.storage.crash(keep=keep), synced)

    def _actions(self) -> dict[str, Callable[[], object]]:
        def append() -> None:
            record = b"<%d during>" % self.serial + bytes(300)
            self.serial += 1
            self.log.append([record])
            self.records.append(record)
            self.log.write()

        def write_and_sync() -> None:
            append()
            self.log.sync()

        def delete() -> None:
            self.deleted = max(self.deleted, self.log.synced)
            self.log.delete_below(self.log.synced)

        return {
            "append": append,
            "write": self.log.write,
            "sync": self.log.sync,
            "write_and_sync": write_and_sync,
            "delete": delete,
            "compress": lambda: self.log.compress_below(self.log.synced),
            "open": lambda: Log.open(self.storage, OPTIONS),
        }

    # -- what must hold

    @invariant()
    def promises_are_ordered(self) -> None:
        if hasattr(self, "log"):
            type(self).steps += 1
            assert self.log.synced <= self.log.written <= self.log.taken == len(self.records)

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

    def _content(self, start: int, end: int) -> bytes:
        parts = self.records[start:end]
        assert None not in parts
        return b"".join(part for part in parts if part is not None)

    def _check(self, reader: LogReader, start: int, end: int) -> None:
        """Everything from `start` to `end` is read, in order, except what is deleted or known to be lost."""
        expected = start
        for commit in reader.commits():
            assert commit.content == self._content(commit.offset, commit.end)
            lost = range(expected, commit.offset)
            assert all(offset < self.deleted or self.records[offset] is None for offset in lost)
            expected = max(expected, commit.end)
        assert all(offset < self.deleted or self.records[offset] is None for offset in range(expected, end))

    def _survive(self, promised: int) -> None:
        """Take over what is there: all that was promised, and of the rest nothing that was not appended."""
        self.storage.heal()
        del self.records[self.log.taken :]
        there: set[int] = set()
        for commit in self.log.reader().commits():
            assert commit.content == self._content(commit.offset, commit.end)
            there.update(range(commit.offset, commit.end))
        for offset in range(self.deleted, len(self.records)):
            if offset not in there:
                assert offset >= promised or self.records[offset] is None
                self.records[offset] = None

    def _continue_on(self, storage: FaultyStorage, synced: int) -> None:
        self.log.abandon()
        self.storage = storage
        self._open()
        assert self.log.taken >= synced
        self._survive(synced)

    def _open(self) -> None:
        try:
            self.log = Log.open(self.storage, OPTIONS)
        except LogWriteError:
            self.storage.heal()
            self.log = Log.open(self.storage, OPTIONS)
        self._read_anew()

    def _read_anew(self) -> None:
        self.reader = self.log.reader()
        self.foreign = LogReader(self.storage)


@pytest.mark.timeout(1_200)
def test_the_log_behaves_like_a_list_on_a_disk_that_fails() -> None:
    run_state_machine_as_test(
        LogAgainstList,
        settings=settings(
            max_examples=int(os.environ.get("EVENTREC_TEST_EXAMPLES", "250")),
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    sys.stdout.write(f"{LogAgainstList.steps:,} steps\n")
    assert LogAgainstList.steps > 5000
