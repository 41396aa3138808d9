"""`log verify | list | cat` and `status`: what a log directory holds, or any one of segments; nothing is changed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal
from eventrec.content import ContentDecoder
from eventrec.delivery.checkpoint import CheckpointFiles
from eventrec.errors import ContentError, LogError
from eventrec.log.reader import LogReader
from eventrec.log.runs import CHECKPOINTS, is_locked, list_runs
from eventrec.log.segment import list_segments, segment_name
from eventrec.log.storage import DiskStorage
from eventrec.log.verify import describe
from eventrec.log.verify import verify as faults_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from eventrec.log.verify import Fault

log = App(name="log", help="Look into a log directory, or any directory of commit log segments.")

Directory = Annotated[Path, Parameter(help="A log directory, or a directory of .stdb.log segments.")]
Json = Annotated[bool, Parameter(negative="")]


def existing(directory: Path) -> Path:
    """`directory`.

    Raises:
        CommandError: It is none.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is no directory", ExitCode.FILE)
    return directory


def _logs_in(directory: Path) -> list[Path]:
    """The directories of segments: those of its runs; `directory` itself where it has none."""
    return [directory / str(id_) for id_ in list_runs(existing(directory))] or [directory]


def _storage(directory: Path) -> DiskStorage:
    try:
        return DiskStorage(directory)
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc


@log.command
def verify(directory: Directory, /, *, json: Json = False) -> int:
    """Check every byte, and name each fault with its file and byte. The exit code is 0 only where there is none.

    For example:

    ```sh
    eventrec log verify var/events
    ```

    Args:
        directory: A log directory, or a directory of segments.
        json: Print JSON for a machine instead: one object a fault.
    """
    terminal, found = Terminal(), 0
    logs = _logs_in(directory)
    for path in logs:
        with closing(_storage(path)) as storage:
            for fault in faults_of(storage):
                found += 1
                if json:
                    terminal.show_json({"log": str(path), **_plain(fault)})
                else:
                    terminal.show(str(fault) if path == directory else f"{path.name}: {fault}")
    if not found and not json:
        terminal.show("no fault found")
    return ExitCode.INCOMPLETE if found else ExitCode.OK


def _plain(fault: Fault) -> dict[str, object]:
    return {**fault._asdict(), "reason": str(fault.reason)}


@log.command(name="list")
def list_(directory: Directory, /, *, json: Json = False) -> int:
    """List each log with its segments: the record each begins at, its size, and where the log ends.

    For example:

    ```sh
    eventrec log list var/events
    ```

    Args:
        directory: A log directory, or a directory of segments.
        json: Print JSON for a machine instead: one object a log.
    """
    terminal = Terminal()
    for path in _logs_in(directory):
        described = _described(path)
        if json:
            terminal.show_json(described)
            continue
        terminal.show(f"{path.name}: {len(described['segments'])} segments; the next record is {described['end']:,}")
        for segment in described["segments"]:
            terminal.show(f"  {segment['file']}  from record {segment['first']:,}  {segment['bytes']:,} bytes")
    return ExitCode.OK


def _described(path: Path) -> dict[str, Any]:
    with closing(_storage(path)) as storage:
        found, firsts = describe(storage), list_segments(storage)
        names = [segment_name(first) for first in firsts]
        sizes = dict(_sizes(path))
        return {
            "log": path.name,
            "segments": [
                {"file": name, "first": first, "bytes": sizes[name]}
                for first, name in zip(firsts, names, strict=True)
                if name in sizes
            ],
            "first": firsts[0] if firsts else 0,
            "end": found.end if found is not None else firsts[-1] if firsts else 0,
            "bytes": sum(sizes.values()),
        }


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Of the files that are there: its owner may delete one at any time."""
    for file in path.iterdir():
        try:
            yield file.name, file.stat().st_size
        except FileNotFoundError:
            continue


@log.command
def cat(directory: Directory, /) -> int:
    """Print every record as a JSON line, in the order of logs and offsets. The exit code is 1 where some are lost.

    For example:

    ```sh
    eventrec log cat var/events | grep order_placed
    ```

    Args:
        directory: A log directory, or one log in it.
    """
    terminal, is_whole = Terminal(), True
    for path in _logs_in(directory):
        with closing(_storage(path)) as storage, LogReader(storage) as reader:
            for line in _lines(reader):
                terminal.show_json(line)
            is_whole = is_whole and not reader.gaps
    return ExitCode.OK if is_whole else ExitCode.INCOMPLETE


def _lines(reader: LogReader) -> Iterator[dict[str, Any]]:
    decoder = ContentDecoder()
    for commit in reader.commits():
        try:
            content = decoder.decode(commit.content)
        except ContentError as exc:
            raise CommandError(f"record {commit.offset}: {exc}", ExitCode.FILE) from exc
        for offset, (shape, timestamp, payload, context, *_) in enumerate(content.entries, commit.offset):
            line = {
                "log": str(content.log_id),
                "offset": offset,
                "type": shape.type,
                "table": shape.table,
                "timestamp": timestamp,
                "payload": msgspec.Raw(payload),
            }
            if context is not None:
                line["context"] = msgspec.Raw(context)
            yield line


def status(directory: Directory, /, *, json: Json = False) -> int:
    """Show what a log directory still holds, and for whom: of each log the account of each subscription.

    For example:

    ```sh
    eventrec status var/events
    ```

    Args:
        directory: A log directory.
        json: Print JSON for a machine instead: one object a log.
    """
    terminal = Terminal()
    runs = list_runs(existing(directory))
    for id_ in runs:
        told = _account(directory, id_)
        if json:
            terminal.show_json(told)
            continue
        held = "held by a process" if told["is_locked"] else "an orphan"
        terminal.show(f"{id_}: records {told['first']:,} to {told['end']:,}, {told['bytes']:,} bytes, {held}")
        for name, part in told["subscriptions"].items():
            counts = ", ".join(f"{key} {part[key]:,}" for key in ("delivered", "filtered", "dead") if part[key])
            dropped = "".join(f", dropped {count:,} {reason}" for reason, count in part["dropped"].items())
            terminal.show(f"  {name}: lag {part['lag']:,}" + (f", {counts}" if counts else "") + dropped)
    if not runs and not json:
        terminal.show("nothing is left")
    return ExitCode.OK


def _account(directory: Path, id_: UUID) -> dict[str, Any]:
    path = directory / str(id_)
    try:
        described = _described(path)
        saved = CheckpointFiles(path / CHECKPOINTS).load()
    except (OSError, LogError) as exc:
        raise CommandError(f"{path}: {exc}", ExitCode.FILE) from exc
    return {
        "log": str(id_),
        "is_locked": is_locked(directory, id_),
        "first": described["first"],
        "end": described["end"],
        "bytes": described["bytes"],
        "subscriptions": {
            name: {**msgspec.to_builtins(each.progress), "lag": max(0, described["end"] - each.progress.scanned)}
            for name, each in saved.items()
        },
    }
