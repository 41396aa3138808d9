"""What the doctor looks at in a log directory's logs: who holds them, what waits, what is damaged or out of reach."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from eventrec.cli.doctor.findings import Finding, ok, problem, warning
from eventrec.cli.doctor.python import has_zstd
from eventrec.cli.exit_codes import CommandError
from eventrec.cli.logs.directory import see_again
from eventrec.cli.logs.holds import how_to_end
from eventrec.cli.logs.letters import count_by_subscription, letters_left, unreadable_letters
from eventrec.cli.terminal import counted
from eventrec.errors import LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.segment import index_name, list_segments, segment_name
from eventrec.log.verify import verify
from eventrec.runs.directory import list_runs
from eventrec.runs.holds import held_in
from eventrec.runs.summary import total

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.log.verify import Fault


def newest_log(directory: Path) -> int | None:
    """When the newest log was made, in nanoseconds since the epoch: its id says so. None where there is none."""
    try:
        runs = [id_ for id_ in list_runs(directory) if id_.version == 7]  # noqa: PLR2004 - the version with a time
    except OSError:
        return None
    return (runs[-1].int >> 80) * 1_000_000 if runs else None


def look_at_logs(directory: Path) -> Iterator[Finding]:
    """Every log in `directory`, which is a log directory, or was one just now."""
    try:
        logs, letters = see_again(directory), count_by_subscription(letters_left(directory))
        unreadable = unreadable_letters(directory)
    except (CommandError, OSError) as exc:
        advice = "chown it, or run as its owner" if has_zstd() else "pip install 'eventrec[zstd]'"
        yield problem("logs", str(exc), advice)
        return
    yield _waiting(directory, logs)
    for name, count in letters.items():
        yield warning(
            "dead letters",
            f"{counted(count, 'record')} that the destination of {name!r} refused {'waits' if count == 1 else 'wait'}",
            f"see: eventrec dead list {directory}; then replay or purge",
        )
    for path, why in unreadable.items():
        yield problem(
            "dead letters",
            f"{path}: not all of them can be read: {why}",
            "keep that directory; another version of eventrec may have written it: see eventrec log verify",
        )
    for log in logs:
        yield from _out_of_reach(log)
        if log.state == "unknown":
            continue
        for name in sorted(log.newer):
            yield problem(
                "checkpoint",
                f"{log.path.name}/checkpoints/{name} is of a later eventrec: this one leaves the log alone",
                "update eventrec",
            )
        for name in sorted(log.unreadable - log.newer):
            yield problem(
                "checkpoint",
                f"{log.path.name}/checkpoints/{name} cannot be read: its subscription would start there again",
                "restore that file; deleting it accepts that records come twice",
            )
        yield from _faults(log)


def _waiting(directory: Path, logs: Sequence[SeenLog]) -> Finding:
    if not logs:
        return ok("logs", "none: no record waits for delivery")
    sums = total(logs)
    waits = [f"{name!r} {count:,}" for name, count in sums["pending"].items() if count]
    if sums["unclaimed"]:
        waits.append(f"no subscription yet {sums['unclaimed']:,}")
    held = f"{sums['held']:,} held by a process, {counted(sums['orphans'], 'orphan')}"
    said = f"{held}; pending: {', '.join(waits) or 'nothing'}"
    if held_as := held_in(logs):
        name, state = next(iter(sorted(held_as.items())))
        said += "".join(f"; {each!r} is {why}" for each, why in sorted(held_as.items()))
        return warning("logs", said, how_to_end(state, directory, name))
    if sums["orphans"] and not sums["held"]:
        return warning("logs", said, f"start the application, or: eventrec drain {directory} --to URL")
    return ok("logs", said)


def _out_of_reach(log: SeenLog) -> Iterator[Finding]:
    """Files that we cannot adopt, by the rights of this user."""
    if log.state == "unknown":
        yield problem(
            "permissions",
            f"{log.path.name} cannot be opened by this user, whether a process holds it is unknown",
            "chown it, or run as its owner: no other user can deliver it",
        )
        return
    paths = [log.path, *log.path.rglob("*")]
    closed = [path for path in paths if not os.access(path, os.R_OK | os.W_OK) and path.exists()]
    if closed:
        yield problem(
            "permissions",
            f"{log.path.name}: this user cannot read and write {counted(len(closed), 'file')}, first {closed[0].name}",
            "chown them, or run as their owner: no other user can deliver them",
        )


def _faults(log: SeenLog) -> Iterator[Finding]:
    try:
        with closing(DiskStorage(log.path)) as storage:
            firsts = list_segments(storage)
            found = list(verify(storage))
    except (OSError, LogError) as exc:
        if log.path.exists():
            yield problem("bytes", f"{log.path.name}: {exc}", "run it where they can be read, as by a later eventrec")
        return
    last = {segment_name(firsts[-1]), index_name(firsts[-1])} if firsts else set()
    tail = [fault for fault in found if fault.file in last and not fault.missing]
    worse = [fault for fault in found if fault not in tail]
    if worse:
        missing = f"{counted(_missing(worse), 'record')} missing"
        yield problem(
            "bytes",
            f"{log.path.name}: {counted(len(worse), 'fault')}, {missing}; first {worse[0]}",
            "the rest is delivered; see the disk, and: eventrec log verify",
        )
    # The end of a log that is being written may be looked at while a commit is half written.
    if tail and not log.is_held:
        yield warning(
            "bytes",
            f"{log.path.name}: its end is torn, as a crash leaves it: {tail[0]}",
            "the process that adopts it cuts it off",
        )


def _missing(faults: Sequence[Fault]) -> int:
    return sum(fault.missing for fault in faults)
