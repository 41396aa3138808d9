"""From the intake into the log: one thread appends and writes, another one syncs; neither ever waits for the loop.

    take     everything in the intake, every `write_interval` while something comes, else as soon as something does
    append   encoded and numbered, in commits of at most 4,096 records
    write    into the page cache: from here on it survives the end of the process
    sync     by policy, or because somebody waits for it

Both threads are daemons of the system's kind, also under gevent. The first one starts with the first record, and makes
the run; no `record()` waits for either. Where the system gives no second thread, the first one syncs too.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from eventrec.errors import LogClosedError, LogError, LogFullError, LogWriteError
from eventrec.log.log import Log, LogOptions
from eventrec.records.content import encode_take
from eventrec.records.entry import SIZE
from eventrec.runs.mounts import local_directory
from eventrec.runs.run import Run
from eventrec.runtime.logging import get_logger
from eventrec.runtime.native import allocate_lock, start_new_thread
from eventrec.runtime.process import register_exit, register_exit_of_child, unregister_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from eventrec.events.encoder import Reason
    from eventrec.intake.queue import Intake
    from eventrec.records.entry import Entry

_logger = get_logger("eventrec.log")

_TAKE: Final = 4_096
_TAKES_PER_WRITE: Final = 8
_RETRY_SECONDS: Final = 1.0
_CLOSING_TRIES: Final = 3
_EXIT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0

Sync = Literal["interval", "never", "take"]


class Signal:
    """Wakes one waiting thread; sticks until somebody waits. Setting it never waits, in a signal handler neither."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the next `wait`, or the one that is on, return."""
        with suppress(RuntimeError):  # It is set already.
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """False: it was not set within `timeout` seconds."""
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


@dataclass(slots=True, eq=False)
class Ticket:
    """A record somebody waits for. `offset` once it is appended; `is_lost` where it was dropped before that."""

    entry: Entry
    offset: int | None = None
    is_offered: bool = False
    is_lost: bool = False


class Writer:
    """Writes what `intake` takes into a log of its own, a new run in `directory`.

    `on_change` is called from its threads when the log was made, or more is written or synced, or the disk refused.
    `on_take` is called now and then, also when nothing was taken.
    """

    def __init__(
        self,
        directory: Path,
        intake: Intake,
        *,
        new_id: Callable[[], UUID],
        now: Callable[[], int],
        static_context: bytes | None,
        segment_bytes: int,
        write_interval: float,
        sync: Sync,
        sync_interval: float,
        on_take: Callable[[], object],
    ) -> None:
        self.directory = directory
        self.static_context = static_context
        self.run: Run | None = None
        self.log: Log | None = None
        self.appended = 0
        self.in_hand = 0
        """Records taken from the intake and not yet appended: the disk refuses."""
        self.moves = 0
        """Odd while records are on their way from one of these counters to the next."""
        self.failure: LogError | None = None
        """Why the disk refuses, while it does."""
        self.defect: BaseException | None = None
        """What ended the writer, if that was no request."""
        self.is_ended = False
        self.on_change: Callable[[], object] = lambda: None
        self._intake = intake
        self._new_id = new_id
        self._now = now
        self._options = LogOptions(segment_bytes=segment_bytes)
        self._write_interval = write_interval
        self._sync = sync
        self._sync_interval = sync_interval
        self._on_take = on_take
        self.fork_guard = allocate_lock()
        """Held while the lock of a run is taken: until it stands where a forked child finds it, nobody may fork."""
        self._starts = itertools.count()
        self._start_again_at = 0.0
        self._has_syncer = False
        self._synced_at = 0.0
        self._signal, self._sync_signal, self._end_signal = Signal(), Signal(), Signal()
        self._is_closing = False
        self._sync_wanted = 0
        self._held: str | None = None
        self._look_at = 0.0
        self._hand: deque[tuple[bytes, int, int]] = deque()
        """Contents not yet appended, with their records and the bytes these count."""
        self._tickets: dict[int, Ticket] = {}
        self._ending = register_exit(self._at_exit)

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else f"refused: {self.failure}" if self.failure else "writing"
        return f"<Writer {state} appended={self.appended} {self.log!r}>"

    # -- from any thread

    def run_id(self) -> UUID:
        """The id of the run that is written, or of another one where none could be made."""
        return self.run.id if self.run is not None else self._new_id()

    def wake(self) -> Reason | None:
        """Take what is there at once. The first call starts the threads; "no_writer": there are none to be had."""
        if next(self._starts) == 0 and not self._start():
            return "no_writer"
        self._signal.set()
        return None

    def _start(self) -> bool:
        """Start the writing thread; for a while after a failure, do not even try."""
        if not self.is_ended and time.monotonic() >= self._start_again_at:
            try:
                start_new_thread(self._write_until_closed)
            except RuntimeError as exc:
                self._start_again_at = time.monotonic() + _RETRY_SECONDS
                self.failure = LogError(f"no thread to write the log: {exc}")
            else:
                register_exit_of_child(self._ending)
                return True
        self._starts = itertools.count()
        self.on_change()
        return False

    def expect(self, ticket: Ticket) -> None:
        """Tell `ticket` its offset once its record is appended. Call it before the record is offered."""
        self._tickets[id(ticket.entry)] = ticket

    def hold(self, reason: str | None) -> None:
        """Take nothing more while there is a `reason`: the intake's own bound refuses then. What is taken stays."""
        if self._held != reason:
            self._held = reason
            self._signal.set()

    def dismiss(self, ticket: Ticket) -> None:
        """It was not taken after all."""
        self._tickets.pop(id(ticket.entry), None)

    def want_synced(self, offset: int) -> None:
        """Sync at once, if what lies below `offset` is not."""
        self._sync_wanted = max(self._sync_wanted, offset)
        (self._sync_signal if self._has_syncer else self._signal).set()

    def close(self) -> None:
        """Write and sync what is in the intake, and end. Returns at once; the intake must take nothing any more."""
        self._is_closing = True
        self._start_again_at = 0.0
        is_started = next(self._starts) > 0
        if is_started or (len(self._intake) and self._start()):
            self._signal.set()
        else:
            self._intake.refuse_rest("no_writer")
            self._ended()

    def wait_ended(self, timeout: float) -> bool:
        """Wait for the end that `close` asked for; False: it takes longer than `timeout` seconds. One waiter only."""
        return self.is_ended or self._end_signal.wait(timeout)

    def end(self, timeout: float) -> None:
        """Close, wait at most `timeout` seconds, leave the log to whoever comes: for a recorder that is not open."""
        self.close()
        if not self.wait_ended(timeout):
            return
        if self.log is not None:
            with suppress(LogError):
                self.log.close()
        if self.run is not None:
            if self.appended:
                self.run.release()
            else:
                with suppress(OSError):
                    self.run.retire()

    def _ended(self) -> None:
        unregister_exit(self._ending)
        self.is_ended = True
        self._end_signal.set()
        self._sync_signal.set()
        self.on_change()

    def _at_exit(self) -> None:
        """The program forgot to close."""
        if not self.is_ended:
            self._intake.close("closed")
            self.end(_EXIT_SECONDS)

    def abandon(self) -> None:
        """In the child of a fork, where the threads are not: close what was inherited, and touch nothing."""
        log, run, self.log, self.run = self.log, self.run, None, None
        self.is_ended = True
        unregister_exit(self._ending)
        # Whoever closed every descriptor after the fork has closed these too.
        with suppress(OSError):
            if run is not None:
                run.forget()
        with suppress(OSError):
            if log is not None:
                log.abandon()

    # -- the writing thread

    def _write_until_closed(self) -> None:
        tries = 0
        try:
            while True:
                is_closing = self._is_closing
                is_written = self._is_made() and self._move()
                pause = self._sync_by_itself()
                self._on_take()
                tries = tries + 1 if is_closing else 0
                if is_closing and (tries > _CLOSING_TRIES or (is_written and self._settle())):
                    return
                self._rest(pause, is_written=is_written)
        except Exception as exc:
            self.defect = exc
            self.failure = LogError(f"the writer ended by a defect: {exc!r}")
            _logger.exception("writer ended by a defect", error=repr(exc))
        finally:
            self._ended()

    def _rest(self, pause: float | None, *, is_written: bool) -> None:
        if self._is_closing and is_written:
            return
        if not is_written:
            self._signal.wait(0.1 if self._is_closing else _RETRY_SECONDS)
        elif len(self._intake) < _TAKE * _TAKES_PER_WRITE:
            # A wake-up per record would cost more than the record: after a take, look again in a little while, and
            # only when nothing came meanwhile ask to be woken.
            self._signal.wait(self._write_interval)
            if not len(self._intake) and not self._is_closing and self._intake.arm():
                self._signal.wait(pause)

    def _is_made(self) -> bool:
        if self.log is None:
            try:
                if self.run is None:
                    with self.fork_guard:
                        self.run = Run.create(local_directory(self.directory), self._new_id())
                self.log = Log.create(self.run.storage, self._options)
            except (OSError, LogError) as exc:
                self._refused(exc if isinstance(exc, LogError) else LogWriteError(f"make a log: {exc}"))
                return False
            self._has_syncer = True
            try:
                start_new_thread(self._sync_until_closed, self.log)
            except RuntimeError:
                self._has_syncer = False
            self.on_change()
        return True

    def _move(self) -> bool:
        """Take, append and write everything, a few takes at a time; False: the disk refused, and what is left stays."""
        assert self.log is not None  # noqa: S101 - see `_is_made`
        if self._held is not None and not self._is_closing:
            self._refused(LogFullError(self._held))
            return False
        before = self.log.written
        try:
            self._look_for_directory()
            self._append_hand()
            offered = [ticket for ticket in list(self._tickets.values()) if ticket.is_offered]
            for _ in range(_TAKES_PER_WRITE):
                if not self._take():
                    break
                self._append_hand()
            else:
                offered = []
            self.log.write()
        except LogWriteError as exc:
            self._refused(exc)
            return False
        if self.failure is not None:
            self.failure = None
            _logger.info("log written again", log=str(self.directory))
        self._note_lost(offered)
        if self.log.written > before:
            self._sync_signal.set()
            self.on_change()
        return True

    def _look_for_directory(self) -> None:
        """Once a second: somebody may have deleted it, or put another one in its place."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        run, log = self.run, self.log
        if run is None or log is None or run.storage.is_in_place():
            return
        _logger.error("log directory gone", log=str(run.path), lost_below=log.synced)
        try:
            with self.fork_guard:
                run.make_again()
        except (OSError, LogError) as exc:
            raise LogWriteError(f"make the log again: {exc}") from exc
        log.move_to(run.storage)
        self.on_change()

    def _take(self) -> bool:
        self.moves += 1
        entries = self._intake.take(_TAKE)
        self.in_hand += len(entries)
        self._intake.held_events = self.in_hand
        self.moves += 1
        if not entries:
            return False
        if self._tickets:
            for offset, entry in enumerate(entries, self.appended):
                ticket = self._tickets.pop(id(entry), None)
                if ticket is not None:
                    ticket.offset = offset
        assert self.run is not None  # noqa: S101 - see `_is_made`
        contents = encode_take(entries, self.run.id, written=self._now(), static_context=self.static_context)
        start = 0
        for content, n in contents:
            self._hand.append((content, n, sum(entry[SIZE] for entry in entries[start : start + n])))
            start += n
        return True

    def _append_hand(self) -> None:
        assert self.log is not None  # noqa: S101 - see `_is_made`
        while self._hand:
            content, n, size = self._hand[0]
            self.log.append_encoded(content, n)
            self._hand.popleft()
            self.moves += 1
            self.appended += n
            self.in_hand -= n
            self._intake.held_events = self.in_hand
            self._intake.freed_bytes += size
            self.moves += 1

    def _note_lost(self, offered: list[Ticket]) -> None:
        """The intake was emptied, and these had been in it: a newer record pushed them out."""
        lost = [ticket for ticket in offered if ticket.offset is None and id(ticket.entry) in self._tickets]
        for ticket in lost:
            self.dismiss(ticket)
            ticket.is_lost = True
        if lost:
            self.on_change()

    def _refused(self, error: LogError) -> None:
        if self.failure is None:
            _logger.error("log cannot be written", log=str(self.directory), error=str(error))
        self.failure = error
        self.on_change()

    def _settle(self) -> bool:
        """At the end: nothing is left, and all of it is synced."""
        if len(self._intake) or self._hand or self.log is None:
            return False
        try:
            self.log.sync()
        except LogError as exc:
            self._refused(exc)
            return False
        return True

    # -- the syncing thread

    def _sync_until_closed(self, log: Log) -> None:
        while not self.is_ended:
            try:
                pause = self._sync_if_due(log)
            except LogClosedError:
                return
            self._sync_signal.wait(pause)

    def _sync_by_itself(self) -> float | None:
        """In the writing thread, where there is no other: seconds until it is to look again; None: no need."""
        return None if self._has_syncer or self.log is None else self._sync_if_due(self.log)

    def _sync_if_due(self, log: Log) -> float | None:
        """Sync what policy or somebody who waits asks for; seconds until the next look, None: when there is more."""
        while log.written > log.synced:
            now = time.monotonic()
            left = 0.0 if self._sync == "take" else self._synced_at + self._sync_interval - now
            is_due = self._sync != "never" and left <= 0
            if not is_due and self._sync_wanted <= log.synced:
                return left if self._sync == "interval" else None
            try:
                log.sync()
            except LogClosedError:
                raise
            except LogError as exc:
                self._refused(exc)
                return _RETRY_SECONDS
            self._synced_at = now
            self.on_change()
        return None


def not_written(writer: Writer, ticket: Ticket) -> LogError | None:
    """Why `ticket`'s record is not, or may never be, written; None: nothing speaks against it."""
    if ticket.is_lost:
        return LogFullError("dropped before it was written: the intake overflowed")
    if writer.failure is not None:
        return writer.failure
    if writer.is_ended and (ticket.offset is None or writer.log is None or writer.log.written <= ticket.offset):
        return LogClosedError("the writer ended before it was written")
    return None
