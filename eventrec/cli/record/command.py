"""The command `record`: its options, and what they may be."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter

from eventrec.cli.declared import CatalogueName, declared_layouts
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import refuse_memory
from eventrec.cli.record.formats import Format, sources_of
from eventrec.cli.record.in_flight import dead_letter_file
from eventrec.cli.record.record import Recording
from eventrec.cli.record.report import SAID_BY_RECORD
from eventrec.cli.root import STDIN, Json
from eventrec.cli.starting import start
from eventrec.cli.terminal import Terminal
from eventrec.errors import InvalidEventError
from eventrec.events.event import DEFAULT_TABLE
from eventrec.ingest.received import Reading
from eventrec.ingest.timestamps import Unit  # noqa: TC001 - cyclopts reads annotations
from eventrec.records.schema import check_name


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
    catalogue: CatalogueName = None,
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
    can recognize it. Give it a directory of its own: everything that waits in there is delivered.

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
        catalogue: module:object, a catalogue whose layouts say how tables are made. Default: EVENTREC_CATALOGUE, else
            `catalogue` in [tool.eventrec] of pyproject.toml. Where none is named, what the destination knows.
        json: Print JSON for a machine instead.
    """
    try:
        check_name("--table", DEFAULT_TABLE if table is None else table)
    except InvalidEventError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
    if max_event_bytes < 1 or STDIN in {str(dead), str(log)}:
        raise CommandError(
            "--max-event-bytes is at least 1, --dead a file and --log a directory, not -", ExitCode.USAGE
        )
    if dead is not None and _is_among(dead, files):
        raise CommandError(f"--dead: {dead} is read: name another file", ExitCode.USAGE)
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
    sources = sources_of(files, stdin=STDIN, format_=format_, reading=reading, distinct_id=distinct_id, removes=remove)
    terminal = Terminal()
    layouts = declared_layouts(catalogue)

    async def run() -> int:
        async with AsyncExitStack() as stack:
            recording = Recording(
                sources,
                to,
                dead=dead_letter_file(dead, stack),
                terminal=terminal,
                log=log,
                timeout=timeout,
                layouts=layouts,
            )
            start.end()
            outcome = await recording.run()
        outcome.tell(terminal, json=json)
        return outcome.exit_code

    with terminal.showing_logging(without=SAID_BY_RECORD):
        return anyio.run(run)


def _is_among(path: Path, files: list[str]) -> bool:
    """Whether `path` is one of the `files`, by whatever name: what is written there would be read."""
    for file in files:
        with suppress(OSError, ValueError):  # neither is there, or none can be: who reads or writes it says so
            if os.path.samestat(path.stat(), os.fstat(0) if file == STDIN else Path(file).stat()):
                return True
    return False
