"""`log forget | compress`: what changes logs. Those that no process holds, and each under its lock.

Of one that a process holds only the checkpoint of a subscription that is followed, under the lock of what follows.
"""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import disk_storage, followers_in, listed, logs_in, names_in, see, see_all
from eventrec.cli.terminal import Terminal, counted
from eventrec.errors import LogError, LogLockedError
from eventrec.log.compressed import load_zstd
from eventrec.log.disk import DiskStorage
from eventrec.log.maintenance import compress_below, delete_below
from eventrec.log.segment import list_segments
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import LOCK, LogDirectory
from eventrec.runs.files import file_name
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import FOLLOWING, Followers
from eventrec.runs.mirrors import Mirrors
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.runs.followers import Follower

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

    A subscription of `eventrec deliver` is forgotten in logs that a process holds, too: that deletes what no other
    subscription needs. End what delivers to it first: while that runs, nothing is changed, and the exit code is 5.

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
        logs, followers = see_all(directory), followers_in(directory)
        concerned = [each for each in logs if each.knows(name)]
        if not concerned and name not in followers:
            raise CommandError(
                f"no log in {directory} knows a subscription {name!r}; "
                f"there are: {listed(sorted({*names_in(logs), *followers}))}{_hint(directory, name)}",
                ExitCode.USAGE,
            )
        _check_readable(concerned)
        with _not_followed(directory, name, followers.get(name)) as is_followed:
            changed = [each for each in concerned if not each.is_held or (is_followed and _is_followers(each, name))]
            if (changed or is_followed) and not yes and not _is_agreed(name, changed, terminal):
                terminal.say("nothing was changed")
                return ExitCode.INCOMPLETE
            if is_followed:
                _forget_follower(directory, name)
            done = [_forget(directory, each.id, name, is_followed=is_followed) for each in concerned]
    told = [each for each in done if each is not None]
    held = [each for each in told if each["is_held"] and not each["is_released"]]
    barred = [each for each in told if each["is_barred"]]
    for each in held:
        terminal.say(f"eventrec: {each['log']}: {HELD}", style="red")
    for each in barred:
        terminal.say(f"eventrec: {directory / each['log']}: {NO_RIGHT}", style="red")
    if json:
        given_up = sum(each["given_up"] for each in told)
        terminal.show_json({"subscription": name, "was_followed": is_followed, "logs": told, "given_up": given_up})
    else:
        if is_followed:
            terminal.show(f"{name}: nothing more is kept for it")
        for each in told:
            if each not in held and each not in barred:
                terminal.show(f"{each['log']}: {counted(each['given_up'], 'record')} given up; {_fate(each)}")
    return ExitCode.FILE if barred else ExitCode.HELD if held else ExitCode.OK


def _check_readable(logs: Sequence[SeenLog]) -> None:
    """Raise CommandError where it is not known what one of `logs` holds for others."""
    for each in logs:
        if each.error:
            raise CommandError(f"{each.path}: {each.error}; it is left as it is", ExitCode.FILE)


@contextmanager
def _not_followed(directory: Path, name: str, follower: Follower | None) -> Iterator[bool]:
    """Whether live logs are followed for `name`, by no process as long as this lasts.

    Raises:
        CommandError: A process does, or that cannot be told.
    """
    if follower is None:
        yield False
        return
    locks = FollowerLocks(LogDirectory(directory), [name])
    try:
        taken = locks.take()
    except OSError as exc:
        raise CommandError(f"{directory / FOLLOWING}: {exc.strerror}", ExitCode.FILE) from exc
    if taken:
        pid = locks.holders(taken)[name]
        by = f"process {pid}" if pid is not None else "another process"
        raise CommandError(f"{name!r} is delivered to by {by}; end that first", ExitCode.HELD)
    try:
        yield True
    finally:
        locks.release()


def _forget_follower(directory: Path, name: str) -> None:
    try:
        Followers(directory).forget(name)
    except OSError as exc:
        raise CommandError(f"{directory / FOLLOWING}: {exc.strerror}", ExitCode.FILE) from exc


def _is_followers(log: SeenLog, name: str) -> bool:
    """Whether what the log holds for `name` is for one that follows it, and not for its holder."""
    return name in log.awaited or (name in log.checkpoints and not log.checkpoints[name].by_holder)


def _hint(directory: Path, name: str) -> str:
    """What to do where `name` is not a subscription's but a mirror's; else nothing."""
    if name not in Mirrors(directory).names():
        return ""
    return f". It is a mirror: eventrec log forget-mirror {directory} {name}, also while recorders go on"


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
    if told["is_released"]:
        return "its process deletes what no other subscription needs"
    if told["is_deleted"]:
        return "no subscription needs this log any more: deleted"
    if told["is_unclaimed"]:
        return "kept: no subscription has begun it"
    for_whom = f"kept for {listed(told['kept_for'])}" if told["kept_for"] else "kept: a checkpoint cannot be read"
    return for_whom + (f", {counted(told['freed_segments'], 'segment')} deleted" if told["freed_segments"] else "")


def _forget(directory: Path, id_: UUID, name: str, *, is_followed: bool) -> dict[str, Any] | None:
    """Release the hold of `name` on one log; what became of it, None where it is gone."""
    told: dict[str, Any] = {"log": str(id_), "is_held": False, "is_barred": False, "given_up": 0, "is_deleted": False}
    told |= {"is_released": False, "is_unclaimed": False}
    run = Run.adopt(directory, id_)
    if run is None:
        there = see(directory, id_)
        if there is not None and there.is_held and is_followed:
            return told | {"is_held": True} | _release(there, name)
        return told | {"is_held": there.is_held, "is_barred": not there.is_held} if there is not None else None
    try:
        seen = see(directory, id_)
        if seen is None or not (seen.knows(name) or is_followed):
            return None
        _check_readable([seen])
        told |= {"given_up": seen.pending(name), "kept_for": seen.holders(excluding=name), "freed_segments": 0}
        return told | _give_up(run, seen, name)
    except (OSError, LogError) as exc:
        raise CommandError(f"{run.path}: {exc}", ExitCode.FILE) from exc
    finally:
        run.release()


def _give_up(run: Run, seen: SeenLog, name: str) -> dict[str, Any]:
    """Delete the checkpoint of `name`, and what no other subscription needs."""
    others = {other: each for other, each in seen.checkpoints.items() if other != name}
    files = CheckpointFiles(run.path / CHECKPOINTS)
    files.remove(name)
    if seen.unreadable - {file_name(name)}:
        return {}
    if not (others or seen.knows_by_checkpoint(name)):
        return {"is_unclaimed": True}
    needed = [each.progress.scanned for each in others.values()] + [seen.first] * bool(seen.awaited - {name})
    lowest = min(needed, default=seen.end)
    # What the others have durably behind them, and nothing else, may be deleted.
    for each in others.values():
        files.save(each, sync=True)
    files.sync_names()
    if lowest >= seen.end:
        run.retire()
        return {"is_deleted": True}
    firsts = list_segments(run.storage)
    return {"freed_segments": delete_below(run.storage, lowest, head=firsts[-1])}


def _release(log: SeenLog, name: str) -> dict[str, Any]:
    """Release the hold of `name`, which is followed, on a log that a process holds."""
    if name not in log.checkpoints:
        is_unreadable = file_name(name) in log.unreadable
        return {"is_released": not is_unreadable, "given_up": 0 if is_unreadable else log.pending(name)}
    if log.checkpoints[name].by_holder:
        return {}
    try:
        with closing(DiskStorage(log.path)) as storage:
            CheckpointFiles(storage).remove(name)
    except OSError as exc:
        raise CommandError(f"{log.path}: {exc.strerror}", ExitCode.FILE) from exc
    return {"is_released": True, "given_up": log.pending(name)}


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
