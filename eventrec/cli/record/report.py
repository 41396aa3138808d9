"""What became of every line that `eventrec record` read: counted, told, and made an exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.record.sources import LineNames
from eventrec.cli.terminal import counted

if TYPE_CHECKING:
    from pathlib import Path
    from signal import Signals

    from eventrec.cli.exit_codes import CommandError
    from eventrec.cli.terminal import Terminal
    from eventrec.status import Status


SAID_BY_RECORD: Final = frozenset({"closed with records left", "log cannot be written"})
"""What the library logs, and the report says itself."""


@dataclass(slots=True)
class Outcome:
    """The account of one run, by lines."""

    lines: int = 0
    """Number of the last line that was looked at, counted through all files."""
    places: LineNames = field(default_factory=lambda: LineNames(1))
    """What an operator calls a line."""
    bytes: int = 0
    events: int = 0
    """Recorded: delivered, refused, or undelivered."""
    malformed: int = 0
    files_left: int = 0
    """Files that were not read, or were to be removed and are still there."""
    refused: int = 0
    """The destination will never take them."""
    is_at_end: bool = False
    """Whether the input was read to its end."""
    is_given_up: bool = False
    is_out_of_time: bool = False
    interrupted_by: Signals | None = None
    failure: CommandError | None = None
    status: Status | None = None
    first_open_line: int | None = None
    seconds: float = 0.0
    kept_in: Path | None = None
    """The log directory: what is not delivered waits there."""
    earlier: int = 0
    """Records of earlier runs that were dealt with, and of these what the destination refused; and those left."""
    earlier_refused: int = 0
    earlier_left: int = 0

    def finish(self, status: Status, *, first_open_line: int | None, seconds: float) -> None:
        """The account is closed. `first_open_line`: what became of every line before it is known."""
        self.status, self.seconds = status, seconds
        if self.undelivered:
            self.first_open_line = first_open_line

    @property
    def wrong(self) -> dict[str, int]:
        """What did not arrive, by what went wrong."""
        return {"malformed": self.malformed, "refused": self.refused, "undelivered": self.undelivered}

    @property
    def delivered(self) -> int:
        """Events that are safe at the destination."""
        return sum(part.delivered for part in self.status.subscriptions.values()) if self.status is not None else 0

    @property
    def undelivered(self) -> int:
        """Events that were read and are not at the destination, nor refused by it."""
        parts = self.status.subscriptions.values() if self.status is not None else ()
        return sum(part.pending + sum(part.dropped.values()) for part in parts) + self.unwritten

    @property
    def unwritten(self) -> int:
        """Of these, those that not even the log took: the disk refused."""
        return 0 if self.status is None else self.status.in_intake + self.status.refused.get("not_written", 0)

    @property
    def exit_code(self) -> ExitCode:
        """See the table in `eventrec.cli`; what is worse comes first."""
        if self.interrupted_by is not None:
            return ExitCode(128 + self.interrupted_by)
        if self.failure is not None:
            return self.failure.code
        if self.undelivered:
            return ExitCode.DESTINATION
        is_cut = self.is_out_of_time and not self.is_at_end
        is_incomplete = any((self.malformed, self.refused, self.earlier_refused, self.earlier_left, self.files_left))
        return ExitCode.INCOMPLETE if is_incomplete or is_cut else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        log = {
            "log": str(self.kept_in),
            "earlier": self.earlier,
            "earlier_refused": self.earlier_refused,
            "earlier_left": self.earlier_left,
        }
        return {
            "lines": self.lines,
            "delivered": self.delivered,
            **self.wrong,
            **({"files_left": self.files_left} if self.files_left else {}),
            **(log if self.kept_in is not None else {}),
            "is_at_end": self.is_at_end,
            "first_open_line": self.first_open_line,
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
            "account": self.status.to_dict() if self.status is not None else None,
        }

    def tell(self, terminal: Terminal, *, json: bool) -> None:
        """Say it: problems on stderr, the result on stdout."""
        if problems := self._problems():
            terminal.say(f"eventrec: {'; '.join(problems)}", style="red")
        if json:
            terminal.show_json(self.to_dict())
            return
        if self.failure is not None and not self.delivered:
            return
        wrong = "".join(f", {count:,} {word}" for word, count in self.wrong.items() if count)
        earlier = f", {self.earlier:,} more of earlier runs" if self.earlier else ""
        told = f"{counted(self.delivered, 'event')} delivered{wrong}{earlier}"
        terminal.show(f"{counted(self.lines, 'line')}: {told}, in {self.seconds:.1f} s")

    def _problems(self) -> list[str]:
        """What an operator has to know, in the order of its weight: one line, whatever came together."""
        said = [str(self.failure)] if self.failure is not None else []
        if self.unwritten:
            said.append(f"the disk refused the log: {counted(self.unwritten, 'event is', 'events are')} lost")
        if self.kept_in is not None:
            waiting = self.undelivered - self.unwritten + self.earlier_left
            if waiting:
                said.append(
                    f"not delivered yet: {counted(waiting, 'event')}, kept in {self.kept_in}: the next run with this "
                    f"--log delivers them, or eventrec drain {self.kept_in} --to the same destination"
                )
        elif self.first_open_line is not None:
            said.append(
                f"read but not delivered: {counted(self.undelivered, 'event')}; every line before "
                f"{self.places.of(self.first_open_line)} is dealt with"
            )
        if not self.is_at_end and self.lines:
            said.append(f"stopped after {self.places.of(self.lines)}: what follows was not recorded")
        return said
