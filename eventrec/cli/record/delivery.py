"""What `record` waits for while the destination takes what it read, and what it says meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.orphans import Orphans, held_state, trying_state
from eventrec.cli.record.in_flight import LineNumbers, RefusedRecords
from eventrec.cli.terminal import counted
from eventrec.cli.waiting import WaitingNotice, end_of_wait
from eventrec.runs.holds import ends_by_operator
from eventrec.runs.run import new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.cli.record.report import Outcome
    from eventrec.cli.terminal import Terminal
    from eventrec.recorder import EventRecorder
    from eventrec.status import SubscriptionStatus


class Delivery:
    """The one subscription of `recorder`: waits for it, and counts in `outcome` what it refuses.

    `dead` is the file of dead letters that `recorder` writes; `give_up` is called once the destination will not take
    what is left.

    Raises:
        CommandError: `dead` cannot be written.
    """

    def __init__(
        self, recorder: EventRecorder, outcome: Outcome, *, dead: Path, terminal: Terminal, give_up: Callable[[], None]
    ) -> None:
        self.lines = LineNumbers()
        """Of the records whose fate is not known yet."""
        self._recorder = recorder
        self._outcome = outcome
        self._terminal = terminal
        self._give_up = give_up
        self._log_id: UUID | None = None
        self._log_ids: set[UUID] = set()
        """That one, and those of earlier runs."""
        try:
            self._refused = RefusedRecords(dead, self._log_ids)
        except OSError as exc:
            raise CommandError(f"--dead: cannot write {dead}: {exc.strerror}", ExitCode.FILE) from exc
        self._refused_offsets: list[int] = []
        self._orphans: Orphans | None = None
        self._held_as: str | None = None

    def new_log_id(self) -> UUID:
        """An id for the recorder's next log, which is this run's from then on."""
        self._log_id = new_run_id()
        self._log_ids.add(self._log_id)
        return self._log_id

    def add_orphans(self, directory: Path, logs: Sequence[SeenLog]) -> None:
        """What earlier runs left among `logs` of `directory` is delivered too; says how much that is."""
        self._orphans = Orphans(directory, self.part.name, logs)
        self._log_ids |= self._orphans.ids
        if self._orphans.records:
            left = f"{counted(self._orphans.records, 'record')} that earlier runs left in {directory}"
            self._terminal.say(f"eventrec: delivering {left} too", style="yellow")

    def notice(self, timeout: float | None) -> WaitingNotice:
        """What says that it waits for a destination that takes nothing; `timeout` as the command has it."""
        name = self.part.name

        def moved() -> int:
            return self.part.scanned - (self._orphans.pending if self._orphans is not None else 0)

        return WaitingNotice(
            self._terminal,
            moved=moved,
            state=lambda: trying_state(self._recorder.status(), name),
            ends=end_of_wait(timeout),
        )

    @property
    def part(self) -> SubscriptionStatus:
        """How far the subscription is in the log of this run."""
        return next(iter(self._recorder.status().subscriptions.values()))

    async def wait(self) -> None:
        """Return once everything recorded so far is settled, however long it takes."""
        while not await self._recorder.flush():
            self.say_refused()
            self._look_at_hold()
            await anyio.sleep(0.2)
        self._held_as = None
        self.say_refused()

    async def wait_for_orphans(self) -> None:
        """Return once what earlier runs left is delivered, or is not being delivered any more."""
        while self._orphans is not None and self._orphans.left and not self._orphans.is_stalled:
            await anyio.to_thread.run_sync(self._orphans.look, self._recorder.status())
            self._look_at_hold()
            await anyio.sleep(0.1)

    async def watch(self) -> None:
        """Say what is refused and held while lines are still read, for which no reader waits where there is a log."""
        while True:
            await anyio.sleep(0.2)
            self.say_refused()
            if not self._outcome.is_at_end:
                self._say_hold(self.part.state if self.part.held else None)

    async def count_orphans(self) -> None:
        """Enter into the outcome what became of the earlier runs' records. The recorder is closed."""
        if self._orphans is not None:
            left = await anyio.to_thread.run_sync(self._orphans.look_again)
            self._outcome.earlier, self._outcome.earlier_left = self._orphans.records - left, left

    def say_refused(self) -> None:
        """Name the lines that became dead letters, and forget those whose fate is known."""
        part = self.part
        for log_id, offset, reason in self._refused.fresh():
            if log_id == self._log_id:
                self._outcome.refused += 1
                self._refused_offsets.append(offset)
                where = self._outcome.places.of(self.lines.line_of(offset) or 0)
            else:
                self._outcome.earlier_refused += 1
                where = f"record {offset:,} of an earlier run"
            self._terminal.say(f"{where}: refused by the destination: {reason}", style="red")
        self.lines.forget_below(part.scanned)

    def has_refused(self, start: int, end: int) -> bool:
        """Whether one of the records `[start, end)` of this run was refused, as far as was said."""
        return any(start <= offset < end for offset in self._refused_offsets)

    def _look_at_hold(self) -> None:
        """Give up where only an operator ends the hold, or nothing was ever taken: then the URL must be wrong."""
        part = self.part
        state = part.state if part.held else held_state(self._recorder.status())
        if state is not None and (ends_by_operator(state) or part.acknowledged == 0):
            self._outcome.failure = CommandError(f"the destination takes no more, {state}", ExitCode.DESTINATION)
            self._give_up()
        else:
            self._say_hold(state)

    def _say_hold(self, state: str | None) -> None:
        if state is not None and self._held_as != state:
            log = self._outcome.kept_in
            what = "; Ctrl-C stops" if log is None else f"; what is read waits in {log}, Ctrl-C stops"
            self._terminal.say(f"eventrec: the destination takes nothing, {state}{what}", style="yellow")
        self._held_as = state
