"""What `eventrec demo` says at its end: the account, both counts per type with a chart, and how to check it by hand."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from eventrec.cli.demo.rollups import PaymentsByMethod
from eventrec.cli.query.showing import answer_json, show_table
from eventrec.cli.terminal import counted

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from eventrec.analytics import Answer
    from eventrec.cli.terminal import Terminal
    from eventrec.status import Status

BAR_WIDTH: Final = 30
CATALOGUE: Final = "eventrec.cli.demo.rollups:catalogue"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one demo."""

    database: Path
    made: Counter[str]
    """By type, as the shop counts."""
    stored: Counter[str]
    """By type, as the database counts: rows with different ids."""
    rows: int
    batches: int
    seconds: float
    status: Status
    """The account of the second recorder: the first one was killed, and its counts with it."""
    killed_at: int
    """Events the first process had written when it was killed."""
    stored_at_kill: int
    """Of these, what the database held then."""
    payments: Answer
    """What the rollup of the payments tells."""

    @property
    def is_complete(self) -> bool:
        """Whether the database holds each event once, and the account adds up."""
        return self.made == self.stored and self.rows == self.made.total() and self.status.is_balanced

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "database": str(self.database),
            "made": dict(self.made),
            "stored": dict(self.stored),
            "rows": self.rows,
            "batches": self.batches,
            "seconds": round(self.seconds, 3),
            "killed_at": self.killed_at,
            "stored_at_kill": self.stored_at_kill,
            "is_complete": self.is_complete,
            "account": self.status.to_dict(),
            "rollup": answer_json(self.payments, PaymentsByMethod.rollup_plan.bucket),
        }


def tell(result: Result, terminal: Terminal) -> None:
    """Print everything on stdout."""
    rows, batches = result.rows, result.batches
    terminal.show(f"{counted(rows, 'row')} stored in {counted(batches, 'batch', 'batches')}, in {result.seconds:.1f} s")
    if result.killed_at:
        left = result.killed_at - result.stored_at_kill
        terminal.show(
            f"The first process was killed with SIGKILL after {result.killed_at:,} events, while a batch was on its"
            f" way: {left:,} of them were not in the database yet, and came out of its log."
        )
    terminal.show()
    terminal.out.print(_account(result.status))
    terminal.show()
    terminal.out.print(_counts(result))
    terminal.show()
    same = "equal" if result.is_complete else "NOT equal"
    terminal.show(f"The shop's own counts and the database's are {same}; the account {_balance(result.status)}.")
    terminal.show()
    terminal.show("What a rollup tells of the payments, computed from the events:")
    show_table(result.payments, PaymentsByMethod.rollup_plan.bucket, terminal)
    terminal.show()
    terminal.show("Look for yourself:")
    query = "SELECT type, count(*) FROM page_views GROUP BY type"
    url = shlex.quote(f"sqlite:///{quote(os.fsencode(result.database))}")
    terminal.show(f"  eventrec tail {url}")
    terminal.show(f"  eventrec query {result.payments.rollup} --to {url} --catalogue {CATALOGUE} --chart")
    terminal.show(f"  sqlite3 {shlex.quote(str(result.database))} '{query}'")


def _balance(status: Status) -> str:
    return "balances" if status.is_balanced else "does NOT balance"


def _account(status: Status) -> Table:
    table = _table("Account of the recorder after the kill")
    table.add_column("")
    table.add_column("events", justify="right")
    table.add_row("offered", f"{status.offered:,}")
    for reason, count in sorted(status.refused.items()):
        table.add_row(f"refused ({reason})", f"{count:,}")
    for part in status.subscriptions.values():
        table.add_row(f"delivered to {part.name}", f"{part.delivered:,}")
        table.add_row("set aside as dead letters", f"{part.dead:,}")
        for reason, dropped in sorted(part.dropped.items()):
            table.add_row(f"dropped ({reason})", f"{dropped:,}")
        table.add_row("still waiting", f"{part.pending + status.in_intake:,}")
    return table


def _counts(result: Result) -> Table:
    table = _table("Events by type")
    table.add_column("type")
    table.add_column("made", justify="right")
    table.add_column("stored", justify="right")
    table.add_column("", width=BAR_WIDTH)
    kinds = sorted({*result.made, *result.stored}, key=lambda kind: (-result.made[kind], kind))
    largest = max([*result.stored.values(), 1])
    for kind in kinds:
        made, stored = result.made[kind], result.stored[kind]
        bar = Bar(largest, 0, stored, width=BAR_WIDTH, color="cyan")
        table.add_row(Text(kind), f"{made:,}", Text(f"{stored:,}", style="" if made == stored else "bold red"), bar)
    table.add_section()
    table.add_row("all", f"{result.made.total():,}", f"{result.stored.total():,}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
