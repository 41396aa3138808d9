"""`eventrec record`: lines into a destination. Nothing is dropped: what cannot be stored is named by its line.

read     a chunk of bytes, in a thread of its own (`input.py`), from one file after the other (`reading.py`)
decide   line to event, or why not (`sources.py`, `session_file.py`)
record   at most two halves of a window wait for delivery; then reading waits for the destination
         with a log: a window waits to be written, then reading waits for the disk; and for the destination only once
         `MAX_LOGGED_BYTES` wait for that
settle   at the end: deliver what was read, and what earlier runs left in the log; so too at Ctrl-C, without a log
report   what became of every line (`report.py`)
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
from eventrec.cli.logs.log_directory import check_not_part_of_one, refuse_url
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.record.delivery import Delivery
from eventrec.cli.record.reading import BATCH_ROWS, HALF_BYTES, HALF_ROWS, LineReader
from eventrec.cli.record.report import Outcome
from eventrec.cli.record.sources import LineNames
from eventrec.cli.terminal import counted
from eventrec.errors import LogError
from eventrec.options import Backoff, EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.runs import survey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from uuid import UUID

    from eventrec.cli.record.sources import InputSource
    from eventrec.cli.terminal import Terminal
    from eventrec.handler import EventHandler
    from eventrec.records.layout import Layout
    from eventrec.runs.survey import SeenLog

LAST_SECONDS: Final = 1.0
"""With a log, after an interruption: what is not delivered within them stays there."""

PATIENCE: Final = 10.0
"""After an interruption: seconds without anything delivered until the rest is given up."""


class Recording:
    """One run of the command, from `sources` to a destination. `dead` is a JSON Lines file: what it refuses.

    With `log`, a directory, what is read is written there first, and what earlier runs left there is delivered too.
    After `timeout` seconds it gives up, wherever it is.

    Raises:
        HandlerURLError: See `EventRecorder`.
        CommandError: `dead` cannot be written.
    """

    def __init__(
        self,
        sources: Sequence[InputSource],
        to: EventHandler | str,
        *,
        dead: Path,
        terminal: Terminal,
        log: Path | None = None,
        timeout: float | None = None,
        layouts: Sequence[Layout] = (),
    ) -> None:
        self._log = log
        self._timeout = timeout
        max_event_bytes = max((source.max_event_bytes for source in sources), default=1)
        self._terminal = terminal
        self._recorder = EventRecorder(
            to,
            log=log,
            layouts=layouts,
            environment={},  # EVENTREC_DISABLED is about applications: this one was asked to record.
            options=EventRecorderOptions(
                queue_events=8 * HALF_ROWS if log is None else None,
                queue_bytes=4 * (2 * HALF_BYTES + max_event_bytes),
                max_event_bytes=max_event_bytes,
                batch_rows=BATCH_ROWS,
                retry=Backoff(max=10, attempts=None),
                dead_letters=dead,
                # Beyond these bounds a log is deleted; here reading waits before they are reached.
                max_log_bytes=sys.maxsize,
                keep_free=0,
            ),
            new_id=self._new_log_id,
        )
        self._outcome = Outcome(kept_in=log, places=LineNames(len(sources)))
        self._delivery = Delivery(self._recorder, self._outcome, dead=dead, terminal=terminal, give_up=self._give_up)
        self._reader = LineReader(
            sources,
            recorder=self._recorder,
            delivery=self._delivery,
            outcome=self._outcome,
            terminal=terminal,
            log=log,
        )
        self._stage = anyio.CancelScope()
        """What an interruption ends: reading first, then settling."""

    async def run(self) -> Outcome:
        """Record every line; return what became of them.

        Raises:
            LogError: The log cannot be made.
            CommandError: Its directory cannot be made, or a log that is there not be read.
        """
        started = time.monotonic()
        before = await anyio.to_thread.run_sync(_made_and_seen, self._log) if self._log is not None else []
        async with self._recorder:
            if self._log is not None:
                self._delivery.add_orphans(self._log, before)
            with LiveProgress(self._terminal, self._look) as progress:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_signals)
                    tasks.start_soon(progress.keep_fresh)
                    tasks.start_soon(self._delivery.notice(self._timeout).watch)
                    if self._log is not None:
                        tasks.start_soon(self._delivery.watch)
                    if self._timeout is not None:
                        tasks.start_soon(self._watch_time, self._timeout)
                    with self._stage:
                        await self._reader.read()
                    await self._settle()
                    tasks.cancel_scope.cancel()
            self._delivery.say_refused()
            first_open = self._delivery.lines.first
            status = await self._recorder.close(self._seconds_to_close)
        await self._reader.finish_sources(is_over=True)
        await self._delivery.count_orphans()
        self._outcome.finish(status, first_open_line=first_open, seconds=time.monotonic() - started)
        return self._outcome

    @property
    def _seconds_to_close(self) -> float:
        if self._log is not None:
            return LAST_SECONDS
        return 0 if self._outcome.is_given_up else PATIENCE

    def _new_log_id(self) -> UUID:
        return self._delivery.new_log_id()

    # -- the end of it

    async def _settle(self) -> None:
        """Deliver what was read; after an interruption only as long as something moves, with a log not at all."""
        if self._outcome.is_given_up or (self._log is not None and self._outcome.interrupted_by is not None):
            return
        self._stage = anyio.CancelScope()
        with self._stage:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lose_patience)
                await self._delivery.wait()
                await self._delivery.wait_for_orphans()
                tasks.cancel_scope.cancel()

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
                left = self._delivery.part.pending
                already_read = f"{counted(left, 'event')} already read"
                what = f"delivering the {already_read}; once more stops at once" if left else "stopping"
                self._terminal.say(f"eventrec: interrupted, {what}", style="yellow")
                if self._outcome.is_at_end:
                    continue
                self._stage.cancel()

    async def _watch_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._outcome.is_out_of_time = True
        self._terminal.say(f"eventrec: {seconds:g} s are over (--timeout)", style="yellow")
        self._give_up()

    async def _lose_patience(self) -> None:
        moved = anyio.current_time()
        scanned = self._delivery.part.scanned
        while self._outcome.interrupted_by is None or anyio.current_time() - moved < PATIENCE:
            if self._delivery.part.scanned != scanned or self._outcome.interrupted_by is None:
                moved, scanned = anyio.current_time(), self._delivery.part.scanned
            await anyio.sleep(0.1)
        self._give_up()

    def _give_up(self) -> None:
        self._outcome.is_given_up = True
        self._stage.cancel()

    # -- looking

    def _look(self) -> Look:
        outcome, part = self._outcome, self._delivery.part
        words = [counted(outcome.lines, "line"), f"{part.delivered:,} delivered"]
        if self._log is not None:
            words.append(f"{part.pending:,} in the log")
        words += [f"{count:,} {word}" for word, count in outcome.wrong.items() if count]
        if not part.state.startswith(("delivering", "waiting", "opening")):
            words.append(part.state)
        return Look(outcome.bytes, self._reader.size, " · ".join(words))


def _made_and_seen(directory: Path) -> list[SeenLog]:
    """The logs in `directory`, which is made where it is not there; it may hold other things too."""
    refuse_url(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        check_not_part_of_one(directory)
        return survey.see_all(directory)
    except OSError as exc:
        raise CommandError(f"cannot write {directory}: {exc.strerror}", ExitCode.FILE) from exc
    except LogError as exc:
        raise CommandError(f"{directory}: {exc}", ExitCode.FILE) from exc
