"""`log forget | compress`: what changes logs. Only those that no process holds, and each under its lock."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import disk_storage, listed, logs_in, names_in, see, see_all
from eventrec.cli.terminal import Terminal, counted
from eventrec.errors import LogError, LogLockedError
from eventrec.log.compressed import load_zstd
from eventrec.log.maintenance import compress_below, delete_below
from eventrec.log.segment import list_segments
from eventrec.runs.checkpoint import CheckpointFiles
from eventrec.runs.files import file_name
from eventrec.runs.run import CHECKPOINTS, LOCK, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.log.disk import DiskStorage

Json = Annotated[bool, Parameter(negative="")]

HELD: Final = "held by a process; end that first"
NO_RIGHT: Final = "this user may not change it"


def forget(
    directory: Annotated[Path, Parameter(help="A log directory.")],
    name: Annotated[str, Parameter(help="The subscription that was removed.")],
    /,
    *,
    yes: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Stop keeping records for a subscription that was removed: what it has not delivered is given up.

    Its checkpoint is deleted in every log that no process holds, and so is a log that no other subscription needs. Logs
    that a process holds are left alone and named; the exit code is then 5. So are those that this user may not change:
    then it is 4.

    For example:

    ```sh
    eventrec log forget var/events old_warehouse --yes
    ```

    Args:
        directory: A log directory.
        name: The subscription.
        yes: Do not ask. Without a terminal to ask on, it is needed.
        json: Print JSON for a machine instead.
    """
    terminal = Terminal()
    with terminal.showing_logging():
        logs = see_all(directory)
        concerned = [each for each in logs if each.knows(name)]
        if not concerned:
            raise CommandError(
                f"no log in {directory} knows a subscription {name!r}; there are: {listed(names_in(logs))}",
                ExitCode.USAGE,
            )
        free = [each for each in concerned if not each.is_held]
        if free and not yes and not _is_agreed(name, free, terminal):
            terminal.say("nothing was changed")
            return ExitCode.INCOMPLETE
        done = [_forget(directory, each.id, name) for each in concerned]
    told = [each for each in done if each is not None]
    held = [each for each in told if each["is_held"]]
    barred = [each for each in told if each["is_barred"]]
    for each in held:
        terminal.say(f"eventrec: {each['log']}: {HELD}", style="red")
    for each in barred:
        terminal.say(f"eventrec: {directory / each['log']}: {NO_RIGHT}", style="red")
    if json:
        terminal.show_json({"subscription": name, "logs": told, "given_up": sum(each["given_up"] for each in told)})
    else:
        for each in told:
            if each not in held and each not in barred:
                terminal.show(f"{each['log']}: {counted(each['given_up'], 'record')} given up; {_fate(each)}")
    return ExitCode.FILE if barred else ExitCode.HELD if held else ExitCode.OK


def _is_agreed(name: str, logs: Sequence[SeenLog], terminal: Terminal) -> bool:
    """Whether the operator at the terminal agrees.

    Raises:
        CommandError: There is no terminal to ask on.
    """
    records = counted(sum(log.pending(name) for log in logs), "record")
    gives_up = f"{name!r} gives up {records} in {counted(len(logs), 'log')}"
    if not (sys.stdin is not None and sys.stdin.isatty() and terminal.is_live):
        raise CommandError(f"{gives_up}: say --yes, there is no terminal to ask on", ExitCode.USAGE)
    terminal.say(f"{gives_up}. Go on? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _fate(told: dict[str, Any]) -> str:
    if told["is_deleted"]:
        return "no subscription needs this log any more: deleted"
    for_whom = f"kept for {listed(told['kept_for'])}" if told["kept_for"] else "kept: a checkpoint cannot be read"
    return for_whom + (f", {counted(told['freed_segments'], 'segment')} deleted" if told["freed_segments"] else "")


def _forget(directory: Path, id_: UUID, name: str) -> dict[str, Any] | None:
    """Release the hold of `name` on one log; what became of it, None where it is gone."""
    told: dict[str, Any] = {"log": str(id_), "is_held": False, "is_barred": False, "given_up": 0, "is_deleted": False}
    run = Run.adopt(directory, id_)
    if run is None:
        there = see(directory, id_)
        return told | {"is_held": there.is_held, "is_barred": not there.is_held} if there is not None else None
    try:
        seen = see(directory, id_)
        if seen is None or not seen.knows(name):
            return None
        others = {other: each for other, each in seen.checkpoints.items() if other != name}
        lowest = min((each.progress.scanned for each in others.values()), default=seen.end)
        unknown = bool(seen.unreadable - {file_name(name)})
        told |= {"given_up": seen.pending(name), "kept_for": seen.holders(excluding=name), "freed_segments": 0}
        files = CheckpointFiles(run.path / CHECKPOINTS)
        files.remove(name)
        if unknown:
            return told
        # What the others have durably behind them, and nothing else, may be deleted.
        for each in others.values():
            files.save(each, sync=True)
        files.sync_names()
        if lowest >= seen.end:
            run.retire()
            return told | {"is_deleted": True}
        firsts = list_segments(run.storage)
        return told | {"freed_segments": delete_below(run.storage, lowest, head=firsts[-1])}
    except (OSError, LogError) as exc:
        raise CommandError(f"{run.path}: {exc}", ExitCode.FILE) from exc
    finally:
        run.release()


def compress(
    directory: Annotated[Path, Parameter(help="A log directory, or a directory of .stdb.log segments.")],
    /,
    *,
    json: Json = False,
) -> int:
    """Compress what is written to its end: every segment but the last one, in logs that no process holds.

    It stays deliverable, and readable for any reader of the format; where it is read, `eventrec[zstd]` is needed. Logs
    that a process holds are left alone and named; the exit code is then 5.

    For example:

    ```sh
    eventrec log compress var/events
    ```

    Args:
        directory: A log directory, or a directory of segments.
        json: Print JSON for a machine instead: one object a log.
    """
    terminal, code, sums = Terminal(), ExitCode.OK, [0, 0]
    paths = logs_in(directory)
    try:
        load_zstd()
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.MISSING) from exc
    for path in paths:
        try:
            with _locked(path) as storage:
                firsts = list_segments(storage)
                sizes = compress_below(storage, firsts[-1], head=firsts[-1]) if firsts else (0, 0)
        except LogLockedError:
            terminal.say(f"eventrec: {path.name}: {HELD}", style="red")
            code = ExitCode.HELD
            continue
        except (OSError, LogError) as exc:
            if path != directory and not path.exists():
                continue
            raise CommandError(f"{path}: {exc}", ExitCode.FILE) from exc
        sums = [sums[0] + sizes[0], sums[1] + sizes[1]]
        if json:
            terminal.show_json({"log": path.name, "before": sizes[0], "after": sizes[1]})
        else:
            terminal.show(f"{path.name}: {_said(*sizes)}")
    if len(paths) > 1 and not json:
        terminal.show(f"all: {_said(*sums)}")
    return code


def _said(before: int, after: int) -> str:
    return f"{counted(before, 'byte')} before, {after:,} after" if before else "nothing to compress"


@contextmanager
def _locked(path: Path) -> Iterator[DiskStorage]:
    """The files of a run under its lock; those of another directory as they are: sealed segments never change."""
    storage = disk_storage(path)
    try:
        lock = storage.lock(LOCK) if LOCK in storage.list() else None
        try:
            yield storage
        finally:
            if lock is not None:
                lock.release()
    finally:
        storage.close()
