"""`status`: what a log directory still holds, and for whom; of each log, and of all together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.logs.directory import see_all
from eventrec.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.cli.logs.directory import SeenLog

Json = Annotated[bool, Parameter(negative="")]


def status(directory: Path, /, *, json: Json = False) -> int:
    """Show what a log directory still holds, and for whom: of each log the account of each subscription, and a total.

    For example:

    ```sh
    eventrec status var/events
    ```

    Args:
        directory: A log directory.
        json: Print JSON for a machine instead: one object with all logs and the total.
    """
    terminal = Terminal()
    with terminal.showing_logging():
        logs = see_all(directory)
    if json:
        terminal.show_json({"logs": [_plain(log) for log in logs], "total": total(logs)})
        return ExitCode.OK
    for log in logs:
        held = "held by a process" if log.is_held else "an orphan"
        terminal.show(f"{log.id}: records {log.first:,} to {log.end:,}, {log.size:,} bytes, {held}")
        for name, part in _accounts(log).items():
            counts = ", ".join(f"{key} {part[key]:,}" for key in ("delivered", "filtered", "dead") if part[key])
            dropped = "".join(f", dropped {count:,} {reason}" for reason, count in part["dropped"].items())
            terminal.show(f"  {name}: pending {part['pending']:,}" + (f", {counts}" if counts else "") + dropped)
        for name in sorted(log.unreadable):
            terminal.show(f"  {name}: this checkpoint cannot be read")
    _show_total(logs, terminal)
    return ExitCode.OK


def total(logs: Sequence[SeenLog]) -> dict[str, Any]:
    """All of `logs` together. `unclaimed` are the records of logs in which no subscription has a checkpoint."""
    pending: Counter[str] = Counter()
    for log in logs:
        pending.update({name: log.pending(name) for name in log.checkpoints})
    return {
        "logs": len(logs),
        "held": sum(log.is_held for log in logs),
        "orphans": sum(not log.is_held for log in logs),
        "bytes": sum(log.size for log in logs),
        "pending": dict(sorted(pending.items())),
        "unclaimed": sum(log.end - log.first for log in logs if not log.checkpoints),
    }


def _show_total(logs: Sequence[SeenLog], terminal: Terminal) -> None:
    if not logs:
        terminal.show("nothing is left")
        return
    all_ = total(logs)
    terminal.show(
        f"{all_['logs']:,} logs, {all_['bytes']:,} bytes: "
        f"{all_['held']:,} held by a process, {all_['orphans']:,} orphans"
    )
    for name, count in all_["pending"].items():
        terminal.show(f"  {name}: pending {count:,}")
    if all_["unclaimed"]:
        terminal.show(f"  no subscription yet: {all_['unclaimed']:,}")


def _plain(log: SeenLog) -> dict[str, Any]:
    return {
        "log": str(log.id),
        "is_held": log.is_held,
        "first": log.first,
        "end": log.end,
        "bytes": log.size,
        "subscriptions": _accounts(log),
        "unreadable": sorted(log.unreadable),
    }


def _accounts(log: SeenLog) -> dict[str, dict[str, Any]]:
    return {
        name: {**msgspec.to_builtins(each.progress), "pending": log.pending(name)}
        for name, each in sorted(log.checkpoints.items())
    }
