"""`catalogue export | check`: a catalogue as a document, and what a change of it breaks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from eventrec.analytics.compatibility import compare
from eventrec.analytics.schema_export import Format, encoded, export
from eventrec.cli.declared import load_declared
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.output_file import write_output
from eventrec.cli.root import STDIN, Json
from eventrec.cli.terminal import Terminal, counted, safe_json
from eventrec.errors import CatalogueError

if TYPE_CHECKING:
    from eventrec.analytics.catalogue import Catalogue

catalogue = App(name="catalogue", help="What an application declares about its events, as a document.")

_MODULE: Final = re.compile(r"[\w.]+:[\w.]+")


@catalogue.command(name="export")
def export_catalogue(
    *,
    named: Annotated[str | None, Parameter(name="--catalogue")] = None,
    format: Annotated[Format, Parameter(name="--format")] = "json-schema",  # noqa: A002 - the option's name
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Write a catalogue as JSON Schema, AsyncAPI 3.0, or a JSON Schema of CloudEvents.

    The same catalogue gives the same bytes, so the document can be kept beside the code, and compared.

    For example:

    ```sh
    eventrec catalogue export --catalogue shop.events:catalogue --output catalogue.json
    ```

    Args:
        named: module:object; by default what EVENTREC_CATALOGUE names, or [tool.eventrec] of pyproject.toml.
        format: What to write.
        output: Where to; by default to the standard output.
    """
    text = encoded(export(_load(named), format))
    if output is None:
        terminal = Terminal()
        for line in text.splitlines():
            terminal.show(safe_json(line, encoding=getattr(sys.stdout, "encoding", None) or "utf-8"))
    else:
        write_output(output, text)


@catalogue.command
def check(
    old: Annotated[str, Parameter(help="What there was: a file of `catalogue export`, - or module:object.")],
    new: Annotated[str | None, Parameter(help="What there is; by default the catalogue of this project.")] = None,
    /,
    *,
    json: Json = False,
) -> int:
    """Compare two catalogues, and refuse a change that breaks events that are stored, or what reads them.

    Each change is a line; the exit code is 1 where one breaks. Files are those that `catalogue export` writes in its
    default format.

    For example:

    ```sh
    git show main:catalogue.json | eventrec catalogue check - shop.events:catalogue
    ```

    Args:
        json: Print JSON for a machine instead: one object.
    """
    changes = compare(_document(old), _document(new))
    broken = sum(change.is_breaking for change in changes)
    terminal = Terminal()
    if json:
        terminal.show_json({"breaking": broken, "changes": [change.to_dict() for change in changes]})
        return ExitCode.INCOMPLETE if broken else ExitCode.OK
    for change in changes:
        terminal.show(f"{'breaks' if change.is_breaking else 'ok    '}  {change}", style="red" * change.is_breaking)
    if broken:
        terminal.say(f"eventrec: {counted(broken, 'change')} of {len(changes):,} would break something", style="red")
        return ExitCode.INCOMPLETE
    terminal.say(f"eventrec: {counted(len(changes), 'change')}, none of which breaks anything")
    return ExitCode.OK


def _load(spec: str | None) -> Catalogue:
    try:
        return load_declared(spec)
    except CatalogueError as exc:
        # With its cause: a package that is missing has an exit code of its own.
        raise CommandError(str(exc), ExitCode.USAGE) from exc.__cause__


def _document(said: str | None) -> dict[str, Any]:
    """The document that a file holds, or that of a catalogue."""
    if said is None or (said != STDIN and not Path(said).exists() and _MODULE.fullmatch(said)):
        return export(_load(said))
    try:
        text = sys.stdin.buffer.read() if said == STDIN else Path(said).read_bytes()
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CommandError(f"{said}: not JSON: {exc}", ExitCode.FILE) from exc
    if not isinstance(document, dict):
        raise CommandError(f"{said}: not a catalogue: {type(document).__name__}", ExitCode.FILE)
    try:
        compare(document, document)  # which says what is wrong with it
    except CatalogueError as exc:
        raise CommandError(f"{said}: {exc}", ExitCode.FILE) from exc
    return document
