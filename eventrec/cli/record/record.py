"""`eventrec record`: lines of JSON into a destination. Nothing is dropped: what cannot be stored is named by its line.

read     a chunk of bytes, in a thread of its own (`lines.py`)
decide   line to event, or why not (`received.py`)
record   at most two halves of a window wait for delivery; then reading waits for the destination
         with a log: a window waits to be written, then reading waits for the disk; and for the destination only once
         `MAX_LOGGED_BYTES` wait for that
settle   at the end: deliver what was read, and what earlier runs left in the log; so too at Ctrl-C, without a log
report   what became of every line (`record_report.py`)
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import see_all
from eventrec.cli.logs.orphans import Orphans, held_state
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.record.in_flight import Backlog, LineNumbers, RefusedRecords
from eventrec.cli.record.report import Outcome
from eventrec.ingest.lines import Input, Line, LineSplitter
from eventrec.ingest.received import LineError, Reading, received_event, too_large
from eventrec.options import Backoff, EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.runs.run import new_run_id

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.cli.terminal import Terminal
    from eventrec.handler import EventHandler
    from eventrec.status import SubscriptionStatus

BATCH_ROWS: Final = 1_000
HALF_ROWS: Final = 2 * BATCH_ROWS
HALF_BYTES: Final = 8 * 1024 * 1024
"""One half of the window is delivered while the other one is read: twice as much waits in memory at most."""

LOGGED_ROWS: Final = 20_000
MAX_LOGGED_BYTES: Final = 4 << 30
"""With a log: what may wait in it for the destination, counted by the lines; less than a log takes."""

MAX_RUNS: Final = 1_000_000
"""With a log: what may be kept in memory to name the lines that a destination refuses."""

LAST_SECONDS: Final = 1.0
"""With a log, after an interruption: what is not delivered within them stays there."""

PATIENCE: Final = 10.0
"""After an interruption: seconds without anything delivered until the rest is given up."""

_NEEDS_SOMEBODY: Final = ("paused: over half of the last", "paused: destination changed")
"""Holds that no time ends."""


class Recording:
    """One run of the command, from `path` (None: stdin) to a destination. `dead` is a JSON Lines file: what it refuses.

    With `log`, a directory, what is read is written there first, and what earlier runs left there is delivered too.

    Raises:
        HandlerURLError: See `EventRecorder`.
        CommandError: `dead` cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        to: EventHandler | str,
        *,
        reading: Reading,
        dead: Path,
        terminal: Terminal,
        log: Path | None = None,
    ) -> None:
        self._path = path
        self._log = log
        self._reading = reading
        self._terminal = terminal
        self._recorder = EventRecorder(
            to,
            log=log,
            options=EventRecorderOptions(
                queue_events=8 * HALF_ROWS if log is None else None,
                queue_bytes=4 * (2 * HALF_BYTES + reading.max_event_bytes),
                max_event_bytes=reading.max_event_bytes,
                batch_rows=BATCH_ROWS,
                retry=Backoff(max=10, attempts=None),
                dead_letters=dead,
            ),
            new_id=self._new_id,
        )
        self._log_id: UUID | None = None
        self._log_ids: set[UUID] = set()
        """That one, and those of earlier runs."""
        try:
            self._refused = RefusedRecords(dead, self._log_ids)
        except OSError as exc:
            raise CommandError(f"cannot write {dead}: {exc.strerror}", ExitCode.FILE) from exc
        self._input: Input | None = None
        self._outcome = Outcome(kept_in=log)
        self._lines = LineNumbers()
        self._orphans: Orphans | None = None
        self._backlog = Backlog()
        self._half_rows = self._half_bytes = 0
        self._held_as: str | None = None
        self._stage = anyio.CancelScope()
        """What an interruption ends: reading first, then settling."""

    async def run(self) -> Outcome:
        """Record every line, and tell what became of them.

        Raises:
            LogError: The log cannot be made.
            CommandError: Its directory cannot be made, or a log that is there not be read.
        """
        started = time.monotonic()
        before = await anyio.to_thread.run_sync(_made_and_seen, self._log) if self._log is not None else []
        async with self._recorder:
            if self._log is not None:
                self._orphans = Orphans(self._log, self._part.name, before)
                self._log_ids |= self._orphans.ids
                if self._orphans.records:
                    left = f"{self._orphans.records:,} records that earlier runs left in {self._log}"
                    self._terminal.say(f"eventrec: delivering {left} too", style="yellow")
            with LiveProgress(self._terminal, self._look) as progress:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_signals)
                    tasks.start_soon(progress.keep_fresh)
                    if self._log is not None:
                        tasks.start_soon(self._watch_deliveries)
                    with self._stage:
                        await self._read()
                    await self._settle()
                    tasks.cancel_scope.cancel()
            self._say_refused()
            first_open = self._lines.first
            status = await self._recorder.close(self._seconds_to_close)
        if self._orphans is not None:
            left_over = await anyio.to_thread.run_sync(self._orphans.look_again)
            self._outcome.earlier, self._outcome.earlier_left = self._orphans.records - left_over, left_over
        self._outcome.finish(status, first_open_line=first_open, seconds=time.monotonic() - started)
        return self._outcome

    @property
    def _seconds_to_close(self) -> float:
        if self._log is not None:
            return LAST_SECONDS
        return 0 if self._outcome.is_given_up else PATIENCE

    def _new_id(self) -> UUID:
        self._log_id = new_run_id()
        self._log_ids.add(self._log_id)
        return self._log_id

    # -- reading

    async def _read(self) -> None:
        self._input = source = Input(self._path)
        splitter = LineSplitter(max_bytes=self._reading.max_event_bytes)
        async with anyio.create_task_group() as deliveries:
            delivered: anyio.Event | None = None
            while True:
                try:
                    chunk = await source.read()
                except OSError as exc:
                    name = "stdin" if self._path is None else self._path
                    self._fail(f"cannot read {name}: {exc.strerror}", ExitCode.FILE)
                    return
                for line in splitter.feed(chunk) if chunk else splitter.end():
                    self._take(line)
                    if self._log is not None:
                        if self._half_rows >= LOGGED_ROWS or self._half_bytes >= HALF_BYTES:
                            await self._wait_written()
                    elif self._half_rows >= HALF_ROWS or self._half_bytes >= HALF_BYTES:
                        if delivered is not None:
                            await delivered.wait()
                        delivered = anyio.Event()
                        self._half_rows = self._half_bytes = 0
                        deliveries.start_soon(self._deliver, delivered)
                        # It starts before the other half is recorded, which it need not wait for.
                        await anyio.lowlevel.checkpoint()
                self._outcome.lines = splitter.number
                self._outcome.bytes += len(chunk)
                if not chunk:
                    self._outcome.is_at_end = True
                    return

    def _take(self, line: Line) -> None:
        self._outcome.lines = line.number
        try:
            self._record(line)
        except LineError as exc:
            self._outcome.malformed += 1
            self._terminal.say(f"line {line.number}: {exc}", style="red")
            return
        self._lines.add(line.number)
        self._outcome.events += 1
        self._half_rows += 1
        self._half_bytes += line.size

    def _record(self, line: Line) -> None:
        if line.text is None:
            raise LineError(too_large(line.size, self._reading.max_event_bytes))
        if not self._recorder.record(received_event(line.text, self._reading)):
            raise LineError(f"the recorder refused it: {self._recorder.status().refused}")

    async def _wait_written(self) -> None:
        """With a log: wait for the disk, and for the destination where too much waits for that."""
        self._backlog.add(self._lines.end, self._half_bytes)
        self._half_rows = self._half_bytes = 0
        while True:
            await anyio.sleep(0.005)
            self._backlog.settle(self._part.scanned)
            is_far_behind = self._backlog.bytes > MAX_LOGGED_BYTES or len(self._lines) > MAX_RUNS
            if not (self._recorder.status().in_intake or is_far_behind):
                return

    # -- delivering

    async def _deliver(self, delivered: anyio.Event) -> None:
        """Wait until everything recorded so far is settled, however long it takes; then set `delivered`."""
        while not await self._recorder.flush():
            self._say_refused()
            self._look_at_hold()
            await anyio.sleep(0.2)
        self._held_as = None
        self._say_refused()
        delivered.set()

    async def _watch_deliveries(self) -> None:
        """With a log nobody waits for deliveries while reading: see to them now and then."""
        while True:
            await anyio.sleep(0.2)
            self._say_refused()
            if not self._outcome.is_at_end:
                self._say_hold(self._part.state if not self._part.healthy else None)

    def _look_at_hold(self) -> None:
        """The destination takes nothing before somebody acts. Where nothing was ever taken, it must be a wrong URL."""
        part = self._part
        state = part.state if not part.healthy else held_state(self._recorder.status())
        if state is not None and (state.startswith(_NEEDS_SOMEBODY) or part.acknowledged == 0):
            self._fail(f"the destination takes no more, {state}", ExitCode.DESTINATION)
        else:
            self._say_hold(state)

    def _say_hold(self, state: str | None) -> None:
        if state is not None and self._held_as != state:
            what = "; Ctrl-C stops" if self._log is None else f"; what is read waits in {self._log}, Ctrl-C stops"
            self._terminal.say(f"eventrec: the destination takes nothing, {state}{what}", style="yellow")
        self._held_as = state

    def _say_refused(self) -> None:
        """Name the lines that became dead letters, and forget those whose fate is known."""
        part = self._part
        for log_id, offset, reason in self._refused.fresh():
            if log_id == self._log_id:
                self._outcome.refused += 1
                where = f"line {self._lines.line_of(offset) or 0}"
            else:
                self._outcome.earlier_refused += 1
                where = f"record {offset:,} of an earlier run"
            self._terminal.say(f"{where}: refused by the destination: {reason}", style="red")
        self._lines.forget_below(part.scanned)

    async def _settle(self) -> None:
        """Deliver what was read; after an interruption only as long as something moves, with a log not at all."""
        if self._outcome.is_given_up or (self._log is not None and self._outcome.interrupted_by is not None):
            return
        self._stage = anyio.CancelScope()
        with self._stage:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lose_patience)
                await self._deliver(anyio.Event())
                await self._deliver_orphans()
                tasks.cancel_scope.cancel()

    async def _deliver_orphans(self) -> None:
        """With a log: wait until what earlier runs left is delivered, too."""
        while self._orphans is not None and self._orphans.left and not self._orphans.is_stalled:
            await anyio.to_thread.run_sync(self._orphans.look, self._recorder.status())
            self._look_at_hold()
            await anyio.sleep(0.1)

    # -- the end of it

    async def _watch_signals(self) -> None:
        if sys.platform == "win32":
            return  # It has no such receiver: there Ctrl-C cancels everything at once, and the recorder flushes.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                if self._outcome.interrupted_by is not None:
                    self._give_up()
                    continue
                self._outcome.interrupted_by = number
                if self._log is not None:
                    self._terminal.say(f"eventrec: interrupted, what is read stays in {self._log}", style="yellow")
                    self._stage.cancel()
                    continue
                left = self._part.pending
                what = f"delivering the {left:,} events already read; once more stops at once" if left else "stopping"
                self._terminal.say(f"eventrec: interrupted, {what}", style="yellow")
                if self._outcome.is_at_end:
                    continue
                self._stage.cancel()

    async def _lose_patience(self) -> None:
        moved = anyio.current_time()
        scanned = self._part.scanned
        while self._outcome.interrupted_by is None or anyio.current_time() - moved < PATIENCE:
            if self._part.scanned != scanned or self._outcome.interrupted_by is None:
                moved, scanned = anyio.current_time(), self._part.scanned
            await anyio.sleep(0.1)
        self._give_up()

    def _fail(self, message: str, code: ExitCode) -> None:
        self._outcome.failure = CommandError(message, code)
        if code is ExitCode.DESTINATION:
            self._give_up()

    def _give_up(self) -> None:
        self._outcome.is_given_up = True
        self._stage.cancel()

    # -- looking

    @property
    def _part(self) -> SubscriptionStatus:
        return next(iter(self._recorder.status().subscriptions.values()))

    def _look(self) -> Look:
        outcome, part = self._outcome, self._part
        words = [f"{outcome.lines:,} lines", f"{part.delivered:,} delivered"]
        if self._log is not None:
            words.append(f"{part.pending:,} in the log")
        words += [f"{count:,} {word}" for word, count in outcome.wrong.items() if count]
        if not part.state.startswith(("delivering", "waiting", "opening")):
            words.append(part.state)
        total = self._input.size if self._input is not None else None
        return Look(outcome.bytes, total, " · ".join(words))


def _made_and_seen(directory: Path) -> list[SeenLog]:
    """The logs in `directory`, which is made where it is not there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot write {directory}: {exc.strerror}", ExitCode.FILE) from exc
    return see_all(directory)
