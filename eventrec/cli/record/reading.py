"""The lines of all sources, one after the other, into the recorder, no faster than what they are for takes them."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.record.in_flight import Backlog, lacks_room
from eventrec.cli.record.input import Input
from eventrec.cli.record.sources import LeftAloneError
from eventrec.ingest.lines import LineSplitter
from eventrec.ingest.received import EventTooLargeError, LineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

    from eventrec.cli.record.delivery import Delivery
    from eventrec.cli.record.report import Outcome
    from eventrec.cli.record.sources import InputSource
    from eventrec.cli.terminal import Terminal
    from eventrec.ingest.lines import Line
    from eventrec.recorder import EventRecorder

BATCH_ROWS: Final = 1_000
HALF_ROWS: Final = 2 * BATCH_ROWS
HALF_BYTES: Final = 8 * 1024 * 1024
"""One half of the window is delivered while the other one is read: twice as much waits in memory at most."""

LOGGED_ROWS: Final = 20_000
MAX_LOGGED_BYTES: Final = 4 << 30
"""With a log: what may wait in it for the destination, counted by the lines; less than a log takes."""

MAX_RUNS: Final = 1_000_000
"""With a log: what may be kept in memory to name the lines that a destination refuses."""

TURN_LINES: Final = 200
"""Lines that are read before delivery gets its turn: it may have an answer, and the next batch to send."""

MAX_UNFINISHED: Final = 100
"""Sources that are read and not delivered; each may hold a file open."""


class LineReader:
    """Reads `sources` into `recorder`, whose delivery is `delivery`, and counts in `outcome`."""

    def __init__(
        self,
        sources: Sequence[InputSource],
        *,
        recorder: EventRecorder,
        delivery: Delivery,
        outcome: Outcome,
        terminal: Terminal,
        log: Path | None,
    ) -> None:
        self._sources = sources
        self._recorder = recorder
        self._delivery = delivery
        self._outcome = outcome
        self._terminal = terminal
        self._log = log
        self._input: Input | None = None
        self._backlog = Backlog()
        self._half_rows = self._half_bytes = 0
        self._delivered: anyio.Event | None = None
        self._current: InputSource | None = None
        self._unfinished: deque[tuple[InputSource, int, int]] = deque()
        """What is read and not known to be delivered, each with its first offset, and the one after its last."""

    @property
    def size(self) -> int | None:
        """Bytes of all there is to read; None where that is not known."""
        return self._input.size if self._input is not None and len(self._sources) == 1 else None

    async def read(self) -> None:
        """Record every line of every source. On return all is recorded, and not yet delivered."""
        failure: CommandError | None = None
        async with anyio.create_task_group() as deliveries:
            for source in self._sources:
                self._outcome.places.begin(source.name, self._outcome.lines)
                try:
                    await self._read_and_finish(source, deliveries)
                except LeftAloneError as exc:
                    self._outcome.files_left += 1
                    self._terminal.say(f"eventrec: {source.name} is left alone: {exc}", style="yellow")
                except OSError as exc:
                    failure = CommandError(f"cannot read {source.name}: {exc.strerror}", ExitCode.FILE)
                    self._outcome.failure = self._outcome.failure or failure
                    await self._give_up_current()
            # Where one of several cannot be read, the failure says so, and the others were read to their ends.
            self._outcome.is_at_end = failure is None or len(self._sources) > 1

    async def _read_and_finish(self, source: InputSource, deliveries: TaskGroup) -> None:
        """Record what a source holds, and finish the sources that are delivered by now."""
        first = self._delivery.lines.end
        await anyio.to_thread.run_sync(source.look)
        self._current = source
        await self._read_source(source, deliveries)
        self._unfinished.append((source, first, self._delivery.lines.end))
        self._current = None
        await self.finish_sources()
        if len(self._unfinished) >= MAX_UNFINISHED:
            await self._delivery.wait()
            await self.finish_sources()

    async def finish_sources(self, *, is_over: bool = False) -> None:
        """Finish the sources that are delivered; `is_over`: all of them, since no more will be."""
        part = self._delivery.part
        self._delivery.say_refused()
        while self._unfinished and (is_over or part.scanned >= self._unfinished[0][2]):
            source, first, end = self._unfinished[0]
            is_lost = part.dropped or self._delivery.has_refused(first, end)
            await self._finish(source, is_delivered=part.scanned >= end and not is_lost)
            self._unfinished.popleft()
        if is_over:
            await self._give_up_current()

    async def _give_up_current(self) -> None:
        """The source that is being read is not read to its end."""
        source, self._current = self._current, None
        if source is not None:
            await self._finish(source, is_delivered=False)

    async def _finish(self, source: InputSource, *, is_delivered: bool) -> None:
        left = await anyio.to_thread.run_sync(partial(source.finish, is_delivered=is_delivered))
        if left is not None:
            self._outcome.files_left += 1
            self._terminal.say(f"eventrec: {left}", style="yellow")

    async def _read_source(self, source: InputSource, deliveries: TaskGroup) -> None:
        """Record what it holds. Raises OSError where it cannot be opened or read."""
        outcome, start, size = self._outcome, self._outcome.lines, 0
        self._input = given = Input(source.open)
        splitter = LineSplitter(max_bytes=source.max_event_bytes)
        rows = HALF_ROWS if self._log is None else LOGGED_ROWS
        while True:
            chunk = await given.read()
            lines, done = splitter.feed(chunk) if chunk else splitter.end(), 0
            while done < len(lines):
                part = lines[done : done + min(TURN_LINES, rows - self._half_rows)]
                done += len(part)
                self._take(source, start, part)
                if self._half_rows >= rows or self._half_bytes >= HALF_BYTES:
                    await self._wait_for_room(deliveries)
                else:
                    await anyio.lowlevel.checkpoint()
            outcome.lines = start + splitter.number
            outcome.bytes += len(chunk)
            size += len(chunk)
            if not chunk:
                source.note_end(size)
                return

    def _take(self, source: InputSource, start: int, lines: Sequence[Line]) -> None:
        """Record `lines`, numbered after `start` lines of others; some are too long to be looked at."""
        texts: list[bytes] = []
        for place, line in enumerate(lines):
            if line.text is None:
                self._record(source, start, lines[place - len(texts) : place], texts)
                texts = []
                self._refuse(source, start + line.number, EventTooLargeError(line.size, source.max_event_bytes))
            else:
                texts.append(line.text)
        self._record(source, start, lines[len(lines) - len(texts) :], texts)

    def _record(self, source: InputSource, start: int, lines: Sequence[Line], texts: Sequence[bytes]) -> None:
        """Record the events of `texts`, which are those of `lines`."""
        record: Callable[[Any], bool] = self._recorder.record
        numbers: list[int] = []
        size = 0
        for place, event in source.events(texts):
            line = lines[place]
            if isinstance(event, LineError):
                self._refuse(source, start + line.number, event)
            elif record(event):
                numbers.append(start + line.number)
                size += line.size
            else:
                why = f"the recorder refused it: {self._recorder.status().refused}"
                self._refuse(source, start + line.number, LineError(why))
        self._delivery.lines.add_all(numbers)
        self._outcome.events += len(numbers)
        self._half_rows += len(numbers)
        self._half_bytes += size
        if lines:
            self._outcome.lines = start + lines[-1].number

    def _refuse(self, source: InputSource, number: int, exc: LineError) -> None:
        """The line of that number is not an event."""
        self._outcome.lines = number
        self._outcome.malformed += 1
        source.note_refused(exc)
        hint = "; see --max-event-bytes" if isinstance(exc, EventTooLargeError) else ""
        self._terminal.say(f"{self._outcome.places.of(number)}: {exc}{hint}", style="red")

    async def _wait_for_room(self, deliveries: TaskGroup) -> None:
        """Half a window is recorded: wait until there is room for another one."""
        if self._log is not None:
            await self._wait_written()
            return
        if self._delivered is not None:
            await self._delivered.wait()
        self._delivered = anyio.Event()
        self._half_rows = self._half_bytes = 0
        deliveries.start_soon(self._wait_delivered, self._delivered)
        # It starts before the other half is recorded, which it need not wait for.
        await anyio.lowlevel.checkpoint()

    async def _wait_delivered(self, delivered: anyio.Event) -> None:
        await self._delivery.wait()
        delivered.set()

    async def _wait_written(self) -> None:
        """With a log: wait for the disk, and for the destination where too much waits for that."""
        self._backlog.add(self._delivery.lines.end, self._half_bytes)
        self._half_rows = self._half_bytes = 0
        while True:
            await anyio.sleep(0.005)
            self._backlog.settle(self._delivery.part.scanned)
            is_far_behind = self._backlog.bytes > MAX_LOGGED_BYTES or len(self._delivery.lines) > MAX_RUNS
            is_far_behind = is_far_behind or (self._backlog.bytes > 0 and lacks_room(self._log))
            if not (self._recorder.status().in_intake or is_far_behind):
                return
