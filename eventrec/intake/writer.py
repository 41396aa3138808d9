"""The thread that writes: from the intake into the log. It never waits for the loop, nor for the thread that syncs.

    take     everything in the intake, every `write_interval` while something comes, else as soon as something does;
             where that takes a quarter of it, or as long as the last write, what was taken is written first
    append   encoded and numbered, in commits of at most 4,096 records
    write    into the page cache: from here on it survives the end of the process
    sync     in a thread of its own (`syncer.py`); where the system gives no second one, here

It is a daemon of the system's kind, also under gevent. It starts with the first record, and makes the run; no
`record()` waits for it.
"""

from __future__ import annotations

import itertools
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from eventrec.errors import LogError, LogFullError, LogWriteError
from eventrec.intake.consumer import Consumer
from eventrec.intake.syncer import Syncer
from eventrec.intake.takes import TAKES_PER_WRITE, Takes
from eventrec.intake.tickets import Tickets
from eventrec.intake.written_log import WrittenLog
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.native import Signal, allocate_lock, start_new_thread
from eventrec.runtime.process import register_exit, register_exit_of_child, unregister_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.events.layouts import RecordedLayouts
    from eventrec.events.reasons import Reason
    from eventrec.intake.handover import Handover
    from eventrec.intake.queue import Intake
    from eventrec.log.log import Log
    from eventrec.options import ResolvedOptions
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.run import Run

_logger = get_logger("eventrec.log")

_RETRY_SECONDS: Final = 1.0
_CLOSING_TRIES: Final = 3
_CLOSING_PAUSE: Final = 0.1
_EXIT_SECONDS: Final = 5.0
_LOOK_ANYWAY: Final = 5.0
"""Seconds after which it looks without having been woken."""


class Writer:
    """Writes what `intake` takes into a log of its own, a new run in `directory`.

    `on_change` is called from its threads when the log was made, or more is written or synced, or the disk refused.
    `on_take` is called now and then, also when nothing was taken.
    """

    def __init__(
        self,
        directory: LogDirectory,
        intake: Intake,
        options: ResolvedOptions,
        *,
        new_id: Callable[[], UUID],
        now: Callable[[], int],
        static_context: bytes | None,
        layouts: RecordedLayouts,
        on_take: Callable[[], object],
    ) -> None:
        self.directory = directory
        self.static_context = static_context
        self.failure: LogError | None = None
        """Why the disk refuses, while it does."""
        self.defect: BaseException | None = None
        """What ended the writer, if that was not a request."""
        self.is_ended = False
        self.tries = 0
        """How often it began to write, whatever became of it."""
        self.on_change: Callable[[], object] = lambda: None
        self.beginning: Callable[[Run], AbstractContextManager[object]] = nullcontext
        """Around the making of the log, in the writing thread: see `OwnLog`."""
        self.fork_guard = allocate_lock()
        """Held while the lock of a run is taken: until it stands where a forked child finds it, no fork may begin."""
        self.tickets = Tickets()
        self.consumer = Consumer(intake, write_interval=options.write_interval)
        self._intake = intake
        self._takes = Takes(intake, self.consumer, self.tickets, now=now, static_context=static_context)
        self._new_id = new_id
        self._written = WrittenLog(
            directory,
            new_id=new_id,
            segment_bytes=options.segment_bytes,
            guard=self.fork_guard,
            beginning=self._begin,
            layouts=layouts,
        )
        self._on_take = on_take
        self._syncer = Syncer(
            policy=options.sync, interval=options.sync_interval, on_sync=self._changed, on_refusal=self._sync_refused
        )
        self._is_started = False
        self._threads = itertools.count()
        self._restart_at = 0.0
        self._write_interval = options.write_interval
        self._has_emptied = True
        self._spent = self._write_seconds = 0.0
        self._signal, self._end_signal = Signal(), Signal()
        self._is_closing = self._gives_up = False
        self._is_left = False
        self._is_given_back = False
        self._giving_back = allocate_lock()
        self._held: str | None = None
        self._ending = register_exit(self._at_exit)

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else f"refused: {self.failure}" if self.failure else "writing"
        return f"<Writer {state} appended={self.consumer.appended} {self.log!r}>"

    def _begin(self, run: Run) -> AbstractContextManager[object]:
        return self.beginning(run)

    # -- from any thread

    @property
    def run(self) -> Run | None:
        """The run that is written; None before it is made."""
        return self._written.run

    @property
    def log(self) -> Log | None:
        """The log that is written; None before it is made."""
        return self._written.log

    def hand_over_to(self, handover: Handover) -> None:
        """From here on, give `handover` what is written too: those who deliver in this process need not read it."""
        self._written.handover = handover

    @property
    def unwritable(self) -> int:
        """Records that were lost, one by one, because no log can hold them."""
        return self._takes.unwritable

    def run_id(self) -> UUID:
        """The id of the run that is written, or of another one where none could be made."""
        return self.run.id if self.run is not None else self._new_id()

    def wake(self) -> Reason | None:
        """Take what is there at once. The first call starts the threads; "no_writer": there are none to be had."""
        if not self._is_started and not self._start():
            return "no_writer"
        self._signal.set()
        return None

    def _start(self) -> bool:
        """Start the writing thread; for a while after a failure, do not even try."""
        if not self.is_ended and time.monotonic() >= self._restart_at:
            try:
                start_new_thread(self._write_until_closed)
            except RecursionError:
                raise
            except RuntimeError as exc:
                self._restart_at = time.monotonic() + _RETRY_SECONDS
                self.failure = LogError(f"no thread to write the log: {exc}")
            else:
                self._is_started = True
                register_exit_of_child(self._ending)
                return True
        self._changed()
        return False

    def hold(self, reason: str | None) -> None:
        """Take nothing more while there is a `reason`: the intake's own bound refuses then. What is taken stays."""
        if self._held != reason:
            self._held = reason
            self._signal.set()

    @property
    def is_held(self) -> bool:
        """Whether `failure` is that of `hold`, and not the disk's."""
        return isinstance(self.failure, _HeldError)

    def want_synced(self, offset: int) -> None:
        """Sync at once, if what lies below `offset` is not."""
        self._syncer.want(offset)
        if not self._syncer.has_thread:
            self._signal.set()

    def close(self, *, waits_for_room: bool = False) -> None:
        """Write and sync what is in the intake, and end. Returns at once; the intake must take nothing any more.

        Where the disk refuses for good, it ends without; but with `waits_for_room` only once it was called without it.
        """
        self._is_closing = True
        self._gives_up |= not waits_for_room
        self._restart_at = 0.0
        if self._is_started or (len(self._intake) and self._start()):
            self._signal.set()
        else:
            self._intake.refuse_rest("no_writer")
            self._ended()

    def wait_ended(self, timeout: float) -> bool:
        """Wait for the end that `close` asked for; False: it takes longer than `timeout` seconds. One waiter only."""
        return self.is_ended or self._end_signal.wait(timeout)

    def end(self, timeout: float) -> None:
        """Close, wait at most `timeout` seconds, leave the log to the next run: for a recorder that is not open."""
        self.close()
        self.wait_ended(timeout)
        self._is_left = True
        if self.is_ended:
            self.give_back()

    def close_and_release(self) -> None:
        """Close it, and leave its log to the next run as soon as it has ended. Returns at once."""
        self._is_left = True
        self.close()
        if self.is_ended:
            self.give_back()

    def settle(self) -> int:
        """Once it has ended and its log is closed: count what the log has not, and say it. How many records."""
        count = self.consumer.lose_rest(beyond=0 if self.log is None else self.log.written)
        if count:
            _logger.error(
                "records lost: the disk has not taken them",
                log=str(self.directory),
                records=count,
                error=str(self.failure or self.defect or "unknown"),
            )
        return count

    def give_back(self) -> int:
        """Once it has ended: close its log, and leave it to the next run. How many records are lost; see `settle`."""
        with self._giving_back:
            if self._is_given_back:
                return 0
            self._is_given_back = True
            self._written.close()
            count = self.settle()
            self._written.leave(is_empty=not self.consumer.appended)
            return count

    def _ended(self) -> None:
        unregister_exit(self._ending)
        self.is_ended = True
        self._end_signal.set()
        self._syncer.end()
        self._changed()

    def _at_exit(self) -> None:
        """The program forgot to close."""
        if not self.is_ended:
            self._intake.close("closed")
            self.end(_EXIT_SECONDS)

    def abandon(self) -> None:
        """In the child of a fork, where the threads are not: close what was inherited, and touch nothing."""
        self.is_ended = True
        unregister_exit(self._ending)
        self._written.abandon()

    # -- the writing thread

    def _write_until_closed(self) -> None:
        if next(self._threads):
            return  # Two records started one each: the other thread has it.
        self._is_started = True
        tries = 0
        try:
            while True:
                is_closing, gives_up = self._is_closing, self._gives_up
                is_written = self._move_contained()
                pause = self._sync_by_itself()
                self._on_take()
                if is_closing:
                    has_more = len(self._intake) > 0
                    if is_written and not has_more and self._sync_rest():
                        self._written.keep_refused()
                        return
                    tries = 0 if is_written and has_more else tries + 1
                    if tries > _CLOSING_TRIES and gives_up:
                        self._write_elsewhere()
                        return
                self._rest(pause, is_written=is_written)
        finally:
            self._ended()
            if self._is_left:
                self.give_back()

    def _move_contained(self) -> bool:
        """Make the log and move; False: the disk refused, or an error came that nothing below contains."""
        self.tries += 1
        try:
            is_written = self._is_made() and self._move()
        except Exception as exc:
            error = described(exc)
            if self.defect is None or described(self.defect) != error:
                _logger.exception("writing interrupted", log=str(self.directory), error=error)
            self.defect = exc
            self.failure = LogError(f"writing was interrupted: {error}")
            self._changed()
            return False
        self.defect = None
        return is_written

    def _rest(self, pause: float | None, *, is_written: bool) -> None:
        if self._is_closing and is_written:
            return
        if not is_written:
            self._signal.wait(_CLOSING_PAUSE if self._is_closing else _RETRY_SECONDS)
        elif self._has_emptied:
            for seconds in self.consumer.pauses(spent=self._spent):
                self._signal.wait((_LOOK_ANYWAY if pause is None else pause) if seconds is None else seconds)
                if self._is_closing:
                    return

    def _is_made(self) -> bool:
        if self.log is None:
            try:
                log = self._written.make()
            except (OSError, LogError) as exc:
                self._refused(exc if isinstance(exc, LogError) else LogWriteError(f"make a log: {exc}"))
                return False
            self._syncer.start(log)
            self._changed()
        return True

    def _move(self) -> bool:
        """Take, append and write what there is time for; False: the disk refused, and what is left stays."""
        assert self.log is not None  # noqa: S101 - see `_is_made`
        began = time.monotonic()
        if self._held is not None and not self._is_closing:
            self._refused(_HeldError(self._held))
            return False
        before, lost_before = self.log.written, self.unwritable
        try:
            self._written.spare_the_rest(is_last=self._gives_up)
            if self._written.look():
                self._changed()
            self._written.append(self._takes)
            offered = self.tickets.offered()
            waiting, numbered = len(self._intake), self.consumer.appended
            # Where writing itself takes long, as much again is taken at once: that halves the rate at most.
            seconds = max(self._write_interval / 4, self._write_seconds)
            self._has_emptied = self._append_taken(until=began + seconds)
            if not self._has_emptied and self.consumer.appended - numbered < waiting:
                offered = []
            writes = time.monotonic()
            self._written.write()
            self._write_seconds = time.monotonic() - writes
        except LogWriteError as exc:
            self._written.note_refused()
            if self.failure is None:
                self._signal.set()  # Perhaps it is only that the directory is gone: try again at once, the first time.
            self._refused(exc)
            return False
        if self.failure is not None:
            self.failure = None
            _logger.info("log written again", log=str(self.directory))
        has_lost = self.tickets.lose(offered) or self.unwritable > lost_before
        if self.log.written > before:
            self._syncer.look()
        if has_lost or self.log.written > before:
            self._changed()
        self._spent = time.monotonic() - began
        return True

    def _append_taken(self, *, until: float) -> bool:
        """Take and append till nothing is left; False: it is time to write, by the clock or by their number."""
        for _ in range(TAKES_PER_WRITE):
            if not self._written.append_next(self._takes):
                return True
            if time.monotonic() >= until:
                return not len(self._intake)
        return False

    def _write_elsewhere(self) -> None:
        """At the end, where our directory's place is taken."""
        try:
            self._written.write_elsewhere(self._takes)
        except (OSError, LogError) as exc:
            self._refused(exc if isinstance(exc, LogError) else LogWriteError(f"make another log: {exc}"))

    def _refused(self, error: LogError) -> None:
        if self.failure is None:
            _logger.error("log cannot be written", log=str(self.directory), error=str(error))
        self.failure = error
        self._changed()

    def _sync_refused(self, error: LogError) -> None:
        """From the thread that syncs: have this one look at once whether the directory is gone, and make it again."""
        self._refused(error)
        self._written.look_soon()
        self._signal.set()

    def _changed(self) -> None:
        self.on_change()

    def _sync_rest(self) -> bool:
        """At the end: sync all; False: the disk refuses."""
        assert self.log is not None  # noqa: S101 - see `_is_made`
        try:
            self.log.sync()
        except LogError as exc:
            self._refused(exc)
            return False
        return True

    def _sync_by_itself(self) -> float | None:
        """Where there is no thread for it: seconds until it is to look again; None: no need."""
        return None if self._syncer.has_thread or self.log is None else self._syncer.sync_if_due(self.log)


class _HeldError(LogFullError):
    """Nothing is taken: see `Writer.hold`."""
