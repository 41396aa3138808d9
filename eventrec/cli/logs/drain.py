"""`drain`: deliver what a log directory still holds, and nothing else.

choose   the logs that no process holds, and the subscription: the one in their checkpoints that fits the URL
adopt    by a recorder that records nothing: its own log is empty, and deleted when it closes
watch    until they hold nothing for that subscription; or the destination is held, or time is up, or Ctrl-C
report   what was delivered, and what stays for whom
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import anyio.to_thread
from cyclopts import Parameter

from eventrec.cli.declared import CatalogueName, declared_layouts, layouts_beside
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import names_in, see_again, see_all
from eventrec.cli.logs.holds import how_to_end
from eventrec.cli.logs.left_out import LeftOut
from eventrec.cli.logs.letters import set_aside_before
from eventrec.cli.logs.orphans import Orphans, chosen_name, held_state, trying_state
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.record.in_flight import RefusedRecords, dead_letter_file
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.cli.waiting import WaitingNotice, end_of_wait
from eventrec.errors import LogError, SubscriptionError
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.runs.leftovers import sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog

_LOOKS_EVERY: Final = 0.1
_SAID_BY_DRAIN: Final = frozenset(
    {
        "closed with records left",
        "log cannot be written",
        "log written again",
        "logs kept for subscriptions that are not registered",
        "record refused for good",
    }
)
"""What the library logs, and the command says itself, where delivery does not wait for it."""
_GONE: Final = ("corrupt", "lost")
_LOST_TO: Final = {
    "corrupt": "damage",
    "lost": "a program that deleted files of the log, or a power cut",
    "rewound": "a destination that went back",
}
_WHY_SKIPPED: Final = {"held": "held by a process", "unknown": "this user may not open it"}


def drain(
    directory: Path,
    /,
    *,
    to: str,
    name: str | None = None,
    type_: Annotated[list[str] | None, Parameter(name="--type", negative="")] = None,
    discard_others: Annotated[bool, Parameter(negative="")] = False,
    dead: Path | None = None,
    timeout: float | None = None,
    catalogue: CatalogueName = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Deliver what a log directory still holds: every log in it that no process holds.

    It retries for as long as it has to; Ctrl-C leaves the rest where it is. Logs that a process holds are named and
    skipped: that process delivers them. The exit code is 0 only if nothing else is left and nothing was refused.

    For example:

    ```sh
    eventrec drain var/events --to sqlite:///events.db
    ```

    Args:
        directory: A log directory.
        to: The destination's URL; env:NAME takes it from the environment.
        name: The subscription's name. Default: the one in the logs that a handler of this URL has by itself.
        type_: Deliver events of this type only, as that subscription does; give it once for each type. Refused where
            no log holds one, or where events of other types would be deleted that no other subscription has had.
        discard_others: Give those up.
        dead: A file of JSON lines for a copy of what the destination refuses; the log directory keeps it in any case.
        timeout: Seconds after which it gives up; the exit code is then 1.
        catalogue: module:object, a catalogue whose layouts say how tables are made. Default: EVENTREC_CATALOGUE, else
            `catalogue` in [tool.eventrec] of pyproject.toml. Where none is named, what the destination, then the log
            directory, knows of layouts.
        json: Print JSON for a machine instead.
    """
    terminal = Terminal()
    if timeout is not None and not timeout >= 0:
        raise CommandError("--timeout is not negative", ExitCode.USAGE)
    with terminal.showing_logging(without=_SAID_BY_DRAIN):
        layouts = declared_layouts(catalogue)
        logs = see_all(directory)
        layouts_beside(directory, layouts)  # which refuses what cannot be read
        for log in logs:
            if log.state != "orphan":
                terminal.say(f"eventrec: {log.id}: {_WHY_SKIPPED[log.state]}, skipped", style="yellow")
        sweep(directory)
        orphans = [log for log in logs if log.state == "orphan"]
        chosen = chosen_name(to, name, names_in(orphans))
        with ExitStack() as stack:
            letters = dead_letter_file(dead, stack)
            left_out = LeftOut(orphans, chosen, type_, discards=discard_others) if type_ is not None else None
            draining = Draining(directory, Orphans(directory, chosen, orphans), letters, terminal, left_out)
            draining.dead_before = set_aside_before(directory, chosen, orphans)
            try:
                # The bounds on the disk are the application's: here they would delete what is to be delivered.
                options = EventRecorderOptions(dead_letters=letters, max_log_bytes=sys.maxsize, keep_free=0)
                recorder = EventRecorder(
                    log=directory,
                    options=options,
                    layouts=layouts,
                    on_drop=draining.note_lost,
                    environment={},
                )
                recorder.register(to, name=chosen, types=type_)
            except SubscriptionError as exc:
                raise CommandError(f"--name or --type: {exc}", ExitCode.USAGE) from exc
            if orphans:
                anyio.run(draining.run, recorder, timeout)
            return draining.report(json=json)


class Draining:
    """One run of the command. What the destination refuses stands in the file `dead`.

    Raises:
        CommandError: That cannot be written.
    """

    def __init__(
        self, directory: Path, orphans: Orphans, dead: Path, terminal: Terminal, left_out: LeftOut | None = None
    ) -> None:
        self._directory = directory
        self._left_out = left_out
        try:
            self._refused = RefusedRecords(dead, orphans.ids)
        except OSError as exc:
            raise CommandError(f"--dead: cannot write {dead}: {exc.strerror}", ExitCode.FILE) from exc
        self._refusals = 0
        self._orphans = orphans
        self._logs = len(orphans.left)
        self._terminal = terminal
        self._interruption = Interruption(terminal, "what is not delivered stays")
        self._failure: CommandError | None = None
        self._started = time.monotonic()
        self.dead_before: dict[UUID, list[int]] = {}
        """Records that are dead letters already, by log: they are passed, and not delivered."""
        self._lost: Counter[str] = Counter()
        """Records that cannot be delivered any more, by reason."""

    def note_lost(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`: what a recorder tells `on_drop`."""
        self._lost[reason] += count

    async def run(self, recorder: EventRecorder, seconds: float | None) -> None:
        """Deliver; at most for `seconds`.

        Raises:
            CommandError: The directory refuses the recorder's own, empty log.
        """
        try:
            async with recorder, anyio.create_task_group() as tasks:
                with LiveProgress(self._terminal, self._look) as progress:
                    tasks.start_soon(progress.keep_fresh)
                    tasks.start_soon(self._interruption.watch, tasks.cancel_scope)
                    tasks.start_soon(self._notice(recorder, seconds).watch)
                    with anyio.move_on_after(seconds):
                        await self._watch(recorder)
                    tasks.cancel_scope.cancel()
        except LogError as exc:
            raise CommandError(str(exc), ExitCode.FILE) from exc

    def _notice(self, recorder: EventRecorder, seconds: float | None) -> WaitingNotice:
        return WaitingNotice(
            self._terminal,
            moved=lambda: -self._orphans.pending,
            state=lambda: trying_state(recorder.status(), self._orphans.name),
            ends=end_of_wait(seconds),
        )

    async def _watch(self, recorder: EventRecorder) -> None:
        while self._orphans.left and not self._orphans.is_stalled:
            await anyio.sleep(_LOOKS_EVERY)
            status = recorder.status()
            await anyio.to_thread.run_sync(self._orphans.look, status)
            # Delivery goes on even where the reader of stderr is gone.
            await anyio.to_thread.run_sync(self._say_refused)
            held = held_state(status)
            if held is not None:
                advice = how_to_end(held, self._directory, self._orphans.name)
                said = f"the destination takes no more, {held}" + (f"; {advice}" if advice else "")
                self._failure = CommandError(said, ExitCode.DESTINATION)
                return

    def _say_refused(self) -> None:
        for log_id, offset, reason in self._refused.fresh():
            self._refusals += 1
            said = f"{log_id}: record {offset:,} is refused by the destination: {reason}"
            self._terminal.say(f"eventrec: {said}", style="red")

    def _look(self) -> Look:
        orphans = self._orphans
        done = orphans.records - orphans.pending
        logs = f"{self._logs - len(orphans.left):,} of {counted(self._logs, 'log')}"
        return Look(done, orphans.records, f"{logs} · {done:,} of {counted(orphans.records, 'record')}")

    # -- the end of it

    def report(self, *, json: bool) -> int:
        """Print what was delivered and what is left; the exit code.

        Raises:
            CommandError: The destination was held.
        """
        rest = [log for log in see_again(self._directory) if not log.is_held]
        records = self._orphans.records - self._orphans.look_again()
        gone = self._logs - sum(log.id in self._orphans.ids for log in rest)
        self._say_refused()
        filtered = self._left_out.count(rest) if self._left_out is not None else 0
        # Of what was pending only bytes that went bad, or were deleted, are lost: what a destination lost was sent.
        dead = self._passed_dead(rest)
        records -= filtered + sum(self._lost[reason] for reason in _GONE) + dead
        code = ExitCode.INCOMPLETE if rest or self._refusals or self._lost.total() or dead else ExitCode.OK
        if self._failure is not None:
            code = self._failure.code
        if self._interruption.number is not None:
            code = ExitCode(128 + self._interruption.number)
        if json:
            told = {"dead_before": dead, "filtered": filtered, "lost": self._lost.total(), "exit_code": int(code)}
            self._terminal.show_json(self._plain(rest, records, gone) | told)
        else:
            seconds = time.monotonic() - self._started
            refused = f", {self._refusals:,} refused" if self._refusals else ""
            refused += f", {counted(dead, 'dead letter')} from before" if dead else ""
            refused += f", {filtered:,} filtered" if filtered else ""
            refused += "".join(
                f", {count:,} lost to {_LOST_TO.get(each, each)}" for each, count in self._lost.items() if count
            )
            counts = counted(records - self._refusals, "record") + refused
            self._terminal.show(f"{gone:,} of {counted(self._logs, 'log')} delivered: {counts}, in {seconds:.1f} s")
        name = self._orphans.name
        # Where the destination takes no more, that says why they wait for it.
        for log in rest if self._failure is None else [log for log in rest if _waiting(log, name) != [name]]:
            self._terminal.say(f"eventrec: {log.id}: {_why_left(log, self._orphans.name)}", style="red")
        if self._failure is not None:
            self._terminal.say(f"eventrec: {self._failure}", style="red")
        return code

    def _passed_dead(self, rest: Sequence[SeenLog]) -> int:
        name, there = self._orphans.name, {log.id: log for log in rest}
        return sum(
            id_ not in there or offset < there[id_].end - there[id_].pending(name)
            for id_, offsets in self.dead_before.items()
            for offset in offsets
        )

    def _plain(self, rest: Sequence[SeenLog], records: int, gone: int) -> dict[str, Any]:
        return {
            "subscription": self._orphans.name,
            "logs": self._logs,
            "delivered_logs": gone,
            "records": records - self._refusals,
            "refused": self._refusals,
            "left": [
                {"log": str(log.id), "pending": {name: log.pending(name) for name in _waiting(log, self._orphans.name)}}
                for log in rest
            ],
        }


def _waiting(log: SeenLog, name: str) -> list[str]:
    return [*([name] if log.pending(name) else []), *log.holders(excluding=name)]


def _why_left(log: SeenLog, name: str) -> str:
    if log.state == "unknown":
        return "left, this user may not open it"
    if log.error:
        return f"left, {log.error}"
    if log.newer:
        return f"left, a later eventrec wrote its checkpoints: {', '.join(sorted(log.newer))}"
    waiting = _waiting(log, name)
    if waiting:
        return "left, pending for " + ", ".join(f"{each!r}: {log.pending(each):,}" for each in waiting)
    if log.mirrored:
        return f"delivered, and kept till its mirrors have all of it: {', '.join(map(repr, sorted(log.mirrored)))}"
    return "delivered, and not deleted"
