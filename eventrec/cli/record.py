"""`eventrec record`: lines of JSON into a destination. Nothing is dropped: what cannot be stored is named by its line.

read     a chunk of bytes, in a thread of its own (`lines.py`)
decide   line to event, or why not (`received.py`)
record   at most two halves of a window wait for delivery; then reading waits for the destination
settle   at the end, or at Ctrl-C: deliver what was read
report   what became of every line (`record_report.py`)
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import anyio
import anyio.lowlevel

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.lines import Input, Line, LineSplitter
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.received import LineError, Reading, received_event, too_large
from eventrec.cli.record_report import Outcome
from eventrec.cli.refused import RefusedRecords
from eventrec.options import Backoff, EventRecorderOptions
from eventrec.recorder import EventRecorder

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from eventrec.cli.terminal import Terminal
    from eventrec.handler import EventHandler
    from eventrec.status import SubscriptionStatus

BATCH_ROWS: Final = 1_000
HALF_ROWS: Final = 2 * BATCH_ROWS
HALF_BYTES: Final = 8 * 1024 * 1024
"""One half of the window is delivered while the other one is read: twice as much waits in memory at most."""

PATIENCE: Final = 10.0
"""After an interruption: seconds without anything delivered until the rest is given up."""

_NEEDS_SOMEBODY: Final = ("paused: over half of the last", "paused: destination changed")
"""Holds that no time ends."""


class Recording:
    """One run of the command, from `path` (None: stdin) to a destination. `dead` is a JSON Lines file: what it refuses.

    Raises:
        HandlerURLError: See `EventRecorder`.
        CommandError: `dead` cannot be written.
    """

    def __init__(
        self, path: Path | None, to: EventHandler | str, *, reading: Reading, dead: Path, terminal: Terminal
    ) -> None:
        log_id = uuid4()
        self._path = path
        self._reading = reading
        self._terminal = terminal
        self._recorder = EventRecorder(
            to,
            options=EventRecorderOptions(
                queue_events=8 * HALF_ROWS,
                queue_bytes=4 * (2 * HALF_BYTES + reading.max_event_bytes),
                max_event_bytes=reading.max_event_bytes,
                batch_rows=BATCH_ROWS,
                retry=Backoff(max=10, attempts=None),
                dead_letters=dead,
            ),
            new_id=lambda: log_id,
        )
        try:
            self._refused = RefusedRecords(dead, log_id)
        except OSError as exc:
            raise CommandError(f"cannot write {dead}: {exc.strerror}", ExitCode.FILE) from exc
        self._input: Input | None = None
        self._outcome = Outcome()
        self._waiting: deque[tuple[int, int]] = deque()
        """Offset and line of the records whose fate is not known yet, in their order."""
        self._half_rows = self._half_bytes = 0
        self._held_as: str | None = None
        self._stage = anyio.CancelScope()
        """What an interruption ends: reading first, then settling."""

    async def run(self) -> Outcome:
        """Record every line, and tell what became of them."""
        started = time.monotonic()
        async with self._recorder:
            with LiveProgress(self._terminal, self._look) as progress:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_signals)
                    tasks.start_soon(progress.keep_fresh)
                    with self._stage:
                        await self._read()
                    await self._settle()
                    tasks.cancel_scope.cancel()
            self._say_refused()
            first_open = self._waiting[0][1] if self._waiting else None
            status = await self._recorder.close(0 if self._outcome.is_given_up else PATIENCE)
        self._outcome.finish(status, first_open_line=first_open, seconds=time.monotonic() - started)
        return self._outcome

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
                    if self._half_rows >= HALF_ROWS or self._half_bytes >= HALF_BYTES:
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
        self._waiting.append((self._outcome.events, line.number))
        self._outcome.events += 1
        self._half_rows += 1
        self._half_bytes += line.size

    def _record(self, line: Line) -> None:
        if line.text is None:
            raise LineError(too_large(line.size, self._reading.max_event_bytes))
        if not self._recorder.record(received_event(line.text, self._reading)):
            raise LineError(f"the recorder refused it: {self._recorder.status().refused}")

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

    def _look_at_hold(self) -> None:
        """The destination takes nothing before somebody acts. Where nothing was ever taken, it must be a wrong URL."""
        part = self._part
        if part.healthy:
            return
        if part.state.startswith(_NEEDS_SOMEBODY) or part.acknowledged == 0:
            self._fail(f"the destination takes no more, {part.state}", ExitCode.DESTINATION)
        elif self._held_as != part.state:
            self._held_as = part.state
            self._terminal.say(f"eventrec: the destination takes nothing, {part.state}; Ctrl-C stops", style="yellow")

    def _say_refused(self) -> None:
        """Name the lines that became dead letters, and forget those whose fate is known."""
        part = self._part
        if part.dead > self._outcome.refused:
            lines = dict(self._waiting)
            for offset, reason in self._refused.fresh():
                self._outcome.refused += 1
                self._terminal.say(f"line {lines.get(offset, 0)}: refused by the destination: {reason}", style="red")
        while self._waiting and self._waiting[0][0] < part.scanned:
            self._waiting.popleft()

    async def _settle(self) -> None:
        """Deliver what was read; after an interruption only as long as something moves."""
        if self._outcome.is_given_up:
            return
        self._stage = anyio.CancelScope()
        with self._stage:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lose_patience)
                await self._deliver(anyio.Event())
                tasks.cancel_scope.cancel()

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
        words += [f"{count:,} {word}" for word, count in outcome.wrong.items() if count]
        if not part.state.startswith(("delivering", "waiting", "opening")):
            words.append(part.state)
        total = self._input.size if self._input is not None else None
        return Look(outcome.bytes, total, " · ".join(words))


def dead_letter_file(given: Path | None, stack: AsyncExitStack) -> Path:
    """Where dead letters go: `given`, or a file that goes with `stack`. Each is reported by its line in any case."""
    return given or Path(stack.enter_context(TemporaryDirectory(prefix="eventrec-"))) / "dead.jsonl"
