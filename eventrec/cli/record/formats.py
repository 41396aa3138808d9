"""The formats that `record` reads, and which options each of them takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.record.session_file import SessionFile
from eventrec.cli.record.sources import JsonLines
from eventrec.events.event import DEFAULT_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.cli.record.sources import InputSource
    from eventrec.ingest.received import Reading

Format: TypeAlias = Literal["json", "posthog-wal"]


def sources_of(
    files: Sequence[str], *, stdin: str, format_: Format, reading: Reading, distinct_id: str | None, removes: bool
) -> list[InputSource]:
    """What is to be read from `files`, of which `stdin` is standard input.

    Raises:
        CommandError: An option is of the other format, or stdin cannot be read so.
    """
    if format_ == "json":
        if removes or distinct_id is not None:
            raise CommandError("--remove and --distinct-id are for --format posthog-wal", ExitCode.USAGE)
        if files.count(stdin) > 1:
            raise CommandError("stdin can be read once", ExitCode.USAGE)
        return [JsonLines(None if file == stdin else Path(file), reading) for file in files]
    if reading.names_fields or reading.timestamp_unit != "auto":
        raise CommandError("--format posthog-wal knows its fields: none can be named", ExitCode.USAGE)
    if stdin in files:
        raise CommandError("--format posthog-wal reads files: their names say which session they are", ExitCode.USAGE)
    if distinct_id == "":
        raise CommandError("--distinct-id is not empty", ExitCode.USAGE)
    return [
        SessionFile(
            Path(file),
            distinct_id=distinct_id,
            table=reading.table or DEFAULT_TABLE,
            max_event_bytes=reading.max_event_bytes,
            removes=removes,
        )
        for file in files
    ]
