"""`log verify`, `log list`: what a directory of segments holds, ours or SpacetimeDB's; nothing in it is changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal
from eventrec.log.segment import list_segments, segment_name
from eventrec.log.storage import DiskStorage
from eventrec.log.verify import describe
from eventrec.log.verify import verify as faults_of

if TYPE_CHECKING:
    from eventrec.log.verify import Fault

log = App(name="log", help="Look into a directory of log segments.")

Directory = Annotated[Path, Parameter(help="A directory of .stdb.log segments.")]
Json = Annotated[bool, Parameter(negative="")]


def _storage(directory: Path) -> DiskStorage:
    if not directory.is_dir():
        raise CommandError(f"{directory} is no directory", ExitCode.FILE)
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
        directory: A directory of segments.
        json: Print JSON for a machine instead: one object a fault.
    """
    terminal, found = Terminal(), 0
    for fault in faults_of(_storage(directory)):
        found += 1
        if json:
            terminal.show_json(_plain(fault))
        else:
            terminal.show(str(fault))
    if not found and not json:
        terminal.show("no fault found")
    return ExitCode.INCOMPLETE if found else ExitCode.OK


def _plain(fault: Fault) -> dict[str, object]:
    return {**fault._asdict(), "reason": str(fault.reason)}


@log.command(name="list")
def list_(directory: Directory, /, *, json: Json = False) -> int:
    """List the segments, with the record each begins at and its size, and where the log ends.

    For example:

    ```sh
    eventrec log list var/events
    ```

    Args:
        directory: A directory of segments.
        json: Print JSON for a machine instead.
    """
    storage, terminal = _storage(directory), Terminal()
    segments = [
        {"file": name, "first": first, "bytes": (directory / name).stat().st_size}
        for first in list_segments(storage)
        for name in [segment_name(first)]
    ]
    described = describe(storage)
    end = described.end if described is not None else 0
    if json:
        terminal.show_json({"segments": segments, "end": end})
        return ExitCode.OK
    for segment in segments:
        terminal.show(f"{segment['file']}  from record {segment['first']:,}  {segment['bytes']:,} bytes")
    terminal.show(f"{len(segments)} segments; the next record is {end:,}")
    return ExitCode.OK
