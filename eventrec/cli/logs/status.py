"""`status`: what a log directory still holds, and for whom; of each log, and of all together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.logs.directory import followers_in, see_all
from eventrec.cli.logs.letters import count_by_subscription, letters_left, unreadable_letters
from eventrec.cli.relay.bus import status as bus_status
from eventrec.cli.terminal import Terminal, counted
from eventrec.relaying import is_bus_url
from eventrec.runs.summary import accounts, follower_summary, log_summary, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.runs.followers import Follower

Json = Annotated[bool, Parameter(negative="")]


def status(
    directory: Annotated[str, Parameter(help="A log directory; or the URL of a bus.")], /, *, json: Json = False
) -> int:
    """Show what a log directory still holds, and for whom: of each log the account of each subscription, and a total.

    Of a bus, by its URL, it shows what `eventrec bus status` does.

    Of a log that a process holds it shows, too, what is wrong with each subscription, be it that of the process itself
    or of `eventrec deliver`, and its last error, as of its last checkpoint. Then the subscriptions that `eventrec
    deliver` follows it for, which process that is, and what the logs are kept for; and dead letters that wait for an
    operator.

    For example:

    ```sh
    eventrec status var/events
    ```

    Args:
        directory: A log directory; or the URL of a bus.
        json: Print JSON for a machine instead: one object with all logs, the total, and the dead letters.
    """
    scheme, colon, _ = directory.partition(":")
    if not Path(directory).exists() and is_bus_url(f"{scheme}{colon}"):
        return bus_status(directory, json=json)
    return _of_directory(Path(directory), json=json)


def _of_directory(directory: Path, *, json: bool) -> int:
    terminal = Terminal()
    with terminal.showing_logging():
        logs, letters = see_all(directory), count_by_subscription(letters_left(directory))
        unreadable, followers = unreadable_letters(directory), followers_in(directory)
    if json:
        told = {"logs": [log_summary(log) for log in logs], "total": total(logs), "dead_letters": letters}
        told["followed"] = {name: follower_summary(each, logs) for name, each in sorted(followers.items())}
        terminal.show_json(told | {"unreadable_dead_letters": unreadable})
        return ExitCode.OK
    for log in logs:
        _show_log(log, terminal)
    if logs or not (letters or unreadable or followers):
        _show_total(logs, terminal)
    for _, follower in sorted(followers.items()):
        terminal.show(_said(follower, follower_summary(follower, logs), directory))
    for name, count in letters.items():
        waits = counted(count, "dead letter waits", "dead letters wait")
        terminal.show(f"{name}: {waits}; see: eventrec dead list {directory}")
    for path, why in unreadable.items():
        terminal.show(f"{path}: not all dead letters in it can be read: {why}")
    return ExitCode.OK


def _show_log(log: SeenLog, terminal: Terminal) -> None:
    if log.state == "unknown":
        terminal.show(f"{log.id}: {_STATES[log.state]}")
        return
    records = f"records from {log.first:,} on cannot be read" if log.error else f"records {log.first:,} to {log.end:,}"
    where = f"{records}, {counted(log.size, 'byte')}"
    lost = f", {log.lost:,} more lost at its damaged end" if log.lost else ""
    terminal.show(f"{log.id}: {where}, {_STATES[log.state]}{lost}" + (f": {log.error}" if log.error else ""))
    for name, part in accounts(log).items():
        counts = ", ".join(f"{key} {part[key]:,}" for key in ("delivered", "filtered", "dead") if part[key])
        dropped = "".join(f", dropped {count:,} {reason}" for reason, count in part["dropped"].items())
        wrong = _wrong(log, name)
        pending = "not known" if log.error else f"{part['pending']:,}"
        terminal.show(f"  {name}: pending {pending}" + (f", {counts}" if counts else "") + dropped + wrong)
    for name in sorted(log.awaited.intersection(log.holders())):
        terminal.show(f"  {name}: pending {log.pending(name):,}, nothing of it delivered yet")
    for name in sorted(log.unreadable):
        why = ": a later eventrec wrote it" if name in log.newer else ""
        terminal.show(f"  {name}: this checkpoint cannot be read{why}")
    for name, lag in log.mirror_lags().items():
        terminal.show(f"  mirror {name}: " + (f"lacks {counted(lag, 'record')}" if lag else "has all of it"))


_STATES: Final = {
    "held": "held by a process",
    "orphan": "an orphan",
    "unknown": "this user may not open it, whether a process holds it is unknown",
}


def _wrong(log: SeenLog, name: str) -> str:
    """What its checkpoint says is wrong, of a log that a process holds; and the last error of any."""
    saved = log.checkpoints[name]
    state = f"; {saved.state}" if saved.state and log.is_held else ""
    return state + (f"; last error: {saved.last_error}" if saved.last_error is not None else "")


def _said(follower: Follower, told: dict[str, Any], directory: Path) -> str:
    keeps = f"{counted(told['pending'], 'record')} in {counted(told['logs'], 'log')} kept for it"
    if follower.is_alive:
        by = f"process {follower.pid}" if follower.pid is not None else "a process"
        return f"{follower.name}: followed by {by}; {keeps}"
    return (
        f"{follower.name}: no process follows now; {keeps}; "
        f"to give it up: eventrec log forget {directory} {follower.name}"
    )


def _show_total(logs: Sequence[SeenLog], terminal: Terminal) -> None:
    if not logs:
        terminal.show("nothing is left")
        return
    all_ = total(logs)
    unknown = f", {all_['unknown']:,} out of reach" if all_["unknown"] else ""
    unknown += f", {all_['unreadable']:,} that cannot be read here" if all_["unreadable"] else ""
    terminal.show(
        f"{counted(all_['logs'], 'log')}, {counted(all_['bytes'], 'byte')}: "
        f"{all_['held']:,} held by a process, {counted(all_['orphans'], 'orphan')}{unknown}"
    )
    for name, count in all_["pending"].items():
        terminal.show(f"  {name}: pending {count:,}")
    if all_["unclaimed"]:
        terminal.show(f"  no subscription yet: {all_['unclaimed']:,}")
