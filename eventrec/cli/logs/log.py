"""`log verify | list | cat`: what a log directory holds, or any directory of segments; nothing is changed."""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import described, disk_storage, logs_in
from eventrec.cli.terminal import Terminal, counted
from eventrec.errors import ContentError, LogError
from eventrec.log.reader import LogReader
from eventrec.log.segment import list_segments
from eventrec.log.verify import verify as faults_of
from eventrec.records.content import ContentDecoder
from eventrec.records.context import merged_context
from eventrec.records.extra_rows import rows_document
from eventrec.records.json import json_or_text
from eventrec.runs.directory import LOCK, LogDirectory, id_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventrec.log.disk import DiskStorage
    from eventrec.log.verify import Fault

log = App(name="log", help="Look into a log directory, or any directory of commit log segments, and maintain it.")

Directory = Annotated[Path, Parameter(help="A log directory, or a directory of .stdb.log segments.")]
_OPENING: Final = 64

Json = Annotated[bool, Parameter(negative="")]


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
    terminal, found, is_empty, refused = Terminal(), 0, True, _Refused()
    for path in logs_in(directory):
        is_empty = False
        with refused.told(path, directory, terminal), _opened(path, directory) as storage:
            is_empty = path == directory and not list_segments(storage)
            for fault in faults_of(storage, is_ours=_is_of(path), is_live=_is_held(storage)):
                found += 1
                if json:
                    terminal.show_json({"log": str(path), **_plain(fault)})
                else:
                    terminal.show(str(fault) if path == directory else f"{path.name}: {fault}")
    if not found and not json and not refused.is_any:
        terminal.show(f"there is no log in {directory}" if is_empty else "no fault found")
    return refused.code(ExitCode.INCOMPLETE if found else ExitCode.OK)


def _plain(fault: Fault) -> dict[str, object]:
    return {**fault._asdict(), "reason": str(fault.reason)}


def _is_of(path: Path) -> Callable[[bytes], bool] | None:
    """What tells of a commit behind damage whether it is of the run at `path`; None where that is not one of ours."""
    id_ = id_in(path.name)
    if id_ is None or not LogDirectory(path.parent).is_ours(id_):
        return None
    # Records and dead letters have it in other places, both near the beginning.
    return lambda opening: id_.bytes in opening[:_OPENING]


def _is_held(storage: DiskStorage) -> bool:
    try:
        return storage.is_locked(LOCK)
    except OSError:
        return False


class _Refused:
    """Logs of a log directory that cannot be read here: each is said, and costs no other one."""

    def __init__(self) -> None:
        self.is_any = False

    def code(self, otherwise: ExitCode) -> ExitCode:
        """The exit code, which is `otherwise` where all could be read."""
        return ExitCode.FILE if self.is_any else otherwise

    @contextmanager
    def told(self, path: Path, directory: Path, terminal: Terminal) -> Iterator[None]:
        """An error about the log at `path` ends here in a line; but where that is `directory`, or zstd is missing."""
        try:
            yield
        except CommandError as exc:
            if path == directory or (exc.__cause__ is not None and isinstance(exc.__cause__.__cause__, ImportError)):
                raise
            self.is_any = True
            terminal.say(f"eventrec: {exc}", style="red")


@contextmanager
def _opened(path: Path, directory: Path) -> Iterator[DiskStorage]:
    """The files of a log; its errors in one line. One that is delivered and deleted meanwhile is not an error."""
    with closing(disk_storage(path)) as storage:
        try:
            yield storage
        except (LogError, OSError) as exc:
            if isinstance(exc, BrokenPipeError):
                raise
            if path == directory or path.exists():
                raise CommandError(f"{path}: {exc}", ExitCode.FILE) from exc


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
    terminal, refused = Terminal(), _Refused()
    for path in logs_in(directory):
        with refused.told(path, directory, terminal):
            found = described(path)
            if json:
                terminal.show_json(found)
                continue
            segments = found["segments"]
            terminal.show(f"{path.name}: {counted(len(segments), 'segment')}; the next record is {found['end']:,}")
            for each in segments:
                terminal.show(f"  {each['file']}  from record {each['first']:,}  {counted(each['bytes'], 'byte')}")
    return refused.code(ExitCode.OK)


@log.command
def cat(directory: Directory, /) -> int:
    """Print every record as a JSON line, in the order of logs and offsets.

    What cannot be read is passed over, and said on stderr: content of another version, or of another program's log,
    and bytes that went bad. The exit code is then 1.

    For example:

    ```sh
    eventrec log cat var/events | grep order_placed
    ```

    Args:
        directory: A log directory, or one log in it.
    """
    terminal, is_whole, refused = Terminal(), True, _Refused()
    with terminal.showing_logging():
        for path in logs_in(directory):
            with (
                refused.told(path, directory, terminal),
                _opened(path, directory) as storage,
                LogReader(storage, is_ours=_is_of(path)) as reader,
            ):
                unreadable = _Unreadable()
                for line in _lines(reader, unreadable):
                    terminal.show_json(line)
                if unreadable.first:
                    terminal.say(f"eventrec: {path}: {unreadable}", style="red")
                is_whole = is_whole and not (reader.gaps or unreadable.first)
    return refused.code(ExitCode.OK if is_whole else ExitCode.INCOMPLETE)


class _Unreadable:
    """Commits that are whole, and hold what this version cannot read."""

    def __init__(self) -> None:
        self.commits = self.records = 0
        self.first = ""

    def __str__(self) -> str:
        records, commits = counted(self.records, "record"), counted(self.commits, "commit")
        return f"{records} in {commits} cannot be read; the first is {self.first}"

    def note(self, offset: int, n: int, exc: ContentError) -> None:
        self.commits += 1
        self.records += n
        self.first = self.first or f"record {offset:,}: {exc}"


def _lines(reader: LogReader, unreadable: _Unreadable) -> Iterator[dict[str, Any]]:
    decoder = ContentDecoder()
    for commit in reader.commits():
        try:
            content = decoder.decode(commit.content)
        except ContentError as exc:
            unreadable.note(commit.offset, commit.n, exc)
            continue
        for offset, entry in enumerate(content.entries, commit.offset):
            shape, timestamp, payload, context, extra_rows, explicit_id, _ = entry
            line = {
                "log": str(content.log_id),
                "offset": offset,
                "type": shape.type,
                "table": shape.table,
                "timestamp": timestamp,
                "payload": json_or_text(payload),
            }
            context = merged_context(content.static_context, context)
            if context is not None:
                line["context"] = json_or_text(context)
            if extra_rows is not None:
                line |= rows_document(shape, extra_rows)
            if explicit_id is not None:
                line["id"] = explicit_id.hex()
            yield line
