"""The commands, their options, and what their errors become: one line on stderr, and an exit code."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from cyclopts import App, CycloptsError, Parameter

from eventrec.cli.analytics.analytics import analytics
from eventrec.cli.demo.demo import Demo
from eventrec.cli.doctor.doctor import doctor
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs import log as logs
from eventrec.cli.logs.dead import dead
from eventrec.cli.logs.directory import refuse_memory
from eventrec.cli.logs.drain import drain
from eventrec.cli.logs.maintenance import compress, forget
from eventrec.cli.logs.resume import resume
from eventrec.cli.logs.status import status
from eventrec.cli.new_handler import new_handler
from eventrec.cli.record.formats import Format, sources_of
from eventrec.cli.record.in_flight import dead_letter_file
from eventrec.cli.record.record import Recording
from eventrec.cli.record.report import SAID_BY_RECORD
from eventrec.cli.streams import abandon_output, prepare_streams
from eventrec.cli.tail import tail as tail_events
from eventrec.cli.terminal import Terminal
from eventrec.cli.termination import Termination
from eventrec.errors import DeliveryError, EventrecError, HandlerURLError, InvalidEventError
from eventrec.events.event import DEFAULT_TABLE
from eventrec.ingest.received import Reading
from eventrec.ingest.timestamps import Unit  # noqa: TC001 - cyclopts reads annotations
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_STDIN: Final = "<stdin>"
"""What `-` is called once it is parsed: a parser takes it for the start of an option."""

Json = Annotated[bool, Parameter(negative="")]


def _version() -> str:
    try:
        return version("eventrec")
    except PackageNotFoundError:
        return "not installed"


app: Final = App(
    name="eventrec",
    help="Record what happens in an application, and get it into a database.",
    version=_version,
    help_format="markdown",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Whatever is wrong becomes one line on stderr."""
    prepare_streams()
    with Termination() as termination:
        try:
            return _run([_STDIN if argument == "-" else argument for argument in arguments])
        except KeyboardInterrupt:
            Terminal().say(f"eventrec: {'terminated' if termination.is_asked else 'interrupted'}")
            return ExitCode.TERMINATED if termination.is_asked else ExitCode.INTERRUPTED
        finally:
            abandon_output()


def _run(arguments: Sequence[str]) -> int:
    terminal = Terminal()
    try:
        command, bound, _ = app.parse_args(arguments, console=terminal.out, print_error=False, exit_on_error=False)
        return int(command(*bound.args, **bound.kwargs) or 0)
    except Exception as exc:
        message, code = _explained(exc)
        if message is None:
            raise
    if message:
        terminal.say(f"eventrec: {' '.join(message.replace(_STDIN, '-').split())}", style="red")
    return code


def _explained(exc: BaseException) -> tuple[str | None, ExitCode]:
    """One line for the operator, and the exit code; None for an error that only a traceback explains."""
    message, code = str(exc), ExitCode.FILE
    match exc:
        case CycloptsError():
            message, code = f"{exc} (see eventrec --help)", ExitCode.USAGE
        case CommandError():
            code = exc.code
        case HandlerURLError() | DeliveryError():
            code = ExitCode.DESTINATION
        case EventrecError():
            pass
        case BrokenPipeError():
            message, code = "", ExitCode.BROKEN_PIPE
        case OSError():
            named = exc.filename if isinstance(exc.filename, str | os.PathLike) else None
            message = f"{named}: {exc.strerror}" if named else str(exc)
        case BaseExceptionGroup():
            # Of tasks that ran beside each other. Where one of them is a fault of ours, all are shown.
            explained = [_explained(each) for each in exc.exceptions]
            return (None, ExitCode.FILE) if any(each is None for each, _ in explained) else explained[0]
        case _:
            return None, ExitCode.FILE
    return message, ExitCode.MISSING if _lacks_package(exc) else code


def _lacks_package(exc: BaseException) -> bool:
    """Whether what is wrong comes from a package that is not installed: a driver, zstd."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    return cause is not None


@app.command
def demo(
    *,
    directory: Annotated[Path, Parameter(name="--dir")] = Path("eventrec-demo"),
    events: int = 20_000,
    seconds: float = 5.0,
    json: Json = False,
) -> int:
    """Watch the events of a small shop being recorded, batched and stored in SQLite, with a SIGKILL halfway.

    The process that records the first half is killed; the next process delivers what the first one left in its log,
    and records the other half. Then the command prints the account of the recorder, and for each type how many events
    the shop made and how many the database holds. The exit code is 0 only if they are equal.

    For example:

    ```sh
    eventrec demo --events 50000
    ```

    Args:
        directory: Where the database goes: each run makes a new directory inside this one.
        events: How many events the shop makes.
        seconds: How long it takes to make them.
        json: Print JSON for a machine instead.
    """
    if events < 0 or not 0 <= seconds <= 3_600:  # noqa: PLR2004 - an hour is long enough for a demo
        raise CommandError("--events is not negative, and --seconds is 0 to 3600", ExitCode.USAGE)
    terminal = Terminal()
    with terminal.showing_logging():
        return anyio.run(Demo(directory, events=events, seconds=seconds, terminal=terminal).run_and_tell, json)


@app.command
def record(
    files: Annotated[list[str], Parameter(help="Files of JSON lines or CloudEvents; - is stdin.")],
    /,
    *,
    to: str,
    format_: Annotated[Format, Parameter(name="--format")] = "json",
    log: Annotated[Path | None, Parameter(name="--log")] = None,
    type_field: str | None = None,
    timestamp_field: str | None = None,
    timestamp_unit: Unit = "auto",
    id_field: str | None = None,
    table: str | None = None,
    distinct_id: str | None = None,
    remove: Json = False,
    dead: Path | None = None,
    max_event_bytes: int = 1 << 20,
    timeout: float | None = None,
    json: Json = False,
) -> int:
    """Record lines of JSON, each an event, into a destination.

    A line is an object: one of yours, a CloudEvent, or one that eventrec wrote (a JSON Lines file, `tail --json`,
    `log cat`, `dead list --json`), which is taken back with its own type, table, time and id.

    It reads no faster than the destination takes, and retries for as long as it has to. A malformed line is reported
    by its number and the others are recorded; the exit code is then 1. Ctrl-C stops reading, and delivers what was
    read.

    With `--log` it reads as fast as the disk takes it, until 4 GiB wait, and what it has read survives `kill -9`: the
    next run with that directory delivers it too, and so does `eventrec drain`. Ctrl-C then leaves what is not delivered
    in the log. It does not remember how far it has read: the same file given again is recorded again from its first
    line, as other events, unless `--id-field` gives each line the id it had before, so that readers of the destination
    can recognise it. Give it a directory of its own: everything that waits in there is delivered.

    With `--format posthog-wal` it reads the session files of Rerun's analytics, each under the session that its name
    says. Lines get the ids they had before, half-written ones are skipped and counted. A file that a process holds a
    lock on, or writes, is left alone.

    For example:

    ```sh
    git log --pretty='{"type":"commit","sha":"%H","at":%ct}' |
        eventrec record - --to sqlite:///commits.db --timestamp-field at
    ```

    Args:
        to: The destination's URL, for example sqlite:///events.db; env:NAME takes it from the environment.
        log: A directory for a crash-safe log of what is read and not delivered yet. Default: it waits in memory.
        type_field: The field with the event's type. Default: "type", and where there is none, the type is "event".
        timestamp_field: The field with its time. Default: "time" of a CloudEvent, else the time of reading.
        timestamp_unit: How times are written; auto takes ISO 8601 (UTC where it names no zone), and numbers by size.
        id_field: The field with its id: a UUID as it is; any other value gives an id that is the same each time.
        table: The table for the rows. Default: the one that a line of ours names, else "events".
        format_: What the lines are.
        distinct_id: Of posthog-wal: whose events these are, the analytics_id of the program's configuration.
        remove: Of posthog-wal: delete each file once all of its events are delivered.
        dead: A file of JSON lines to keep what the destination refuses.
        max_event_bytes: Larger events are reported like malformed lines.
        timeout: Seconds after which it gives up; the exit code is then 3, or 1 where only lines are left unread.
        json: Print JSON for a machine instead.
    """
    try:
        check_name("--table", DEFAULT_TABLE if table is None else table)
    except InvalidEventError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
    if max_event_bytes < 1 or _STDIN in {str(dead), str(log)}:
        raise CommandError(
            "--max-event-bytes is at least 1, --dead a file and --log a directory, not -", ExitCode.USAGE
        )
    if timeout is not None and not timeout >= 0:
        raise CommandError("--timeout is not negative", ExitCode.USAGE)
    refuse_memory(to)
    reading = Reading(
        type_field=type_field,
        timestamp_field=timestamp_field,
        timestamp_unit=timestamp_unit,
        id_field=id_field,
        table=table,
        max_event_bytes=max_event_bytes,
    )
    sources = sources_of(files, stdin=_STDIN, format_=format_, reading=reading, distinct_id=distinct_id, removes=remove)
    terminal = Terminal()

    async def run() -> int:
        async with AsyncExitStack() as stack:
            recording = Recording(
                sources,
                to,
                dead=dead_letter_file(dead, stack),
                terminal=terminal,
                log=log,
                timeout=timeout,
            )
            outcome = await recording.run()
        outcome.tell(terminal, json=json)
        return outcome.exit_code

    with terminal.showing_logging(without=SAID_BY_RECORD):
        return anyio.run(run)


@app.command
def tail(
    url: Annotated[str, Parameter(help="The destination's URL, for example sqlite:///events.db.")],
    /,
    *,
    last: Annotated[int, Parameter(name=["--last", "-n"])] = 10,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    kind: Annotated[str | None, Parameter(name="--type")] = None,
    json: Json = False,
) -> None:
    """Show the newest events of a destination.

    For example:

    ```sh
    eventrec tail sqlite:///events.db -n 20 --type order_placed --follow
    ```

    Args:
        last: How many.
        follow: Then show new ones as they arrive, until Ctrl-C.
        kind: Only events of this type.
        json: Print JSON for a machine instead: one object a line.
    """
    if last < 0:
        raise CommandError("-n is not negative", ExitCode.USAGE)
    anyio.run(lambda: tail_events(url, last=last, follow=follow, kind=kind, json=json, terminal=Terminal()))


app.command(new_handler)
app.command(drain)
logs.log.command(forget)
logs.log.command(compress)
app.command(logs.log)
app.command(status)
app.command(resume)
app.command(dead)
app.command(doctor)
app.command(analytics)
