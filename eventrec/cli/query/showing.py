"""An answer as a table, as a chart, and as JSON. Buckets are shown in the time of their zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventrec.analytics import zone_of
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import counted, safe

if TYPE_CHECKING:
    from rich.table import Table

    from eventrec.analytics import Answer, AnswerColumn, AnswerRow, Bucket, Value
    from eventrec.cli.terminal import Terminal

BAR_WIDTH: Final = 30

WIDEST: Final = 10_000
"""Characters of a line that is not for a terminal."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = 1_000
_DATES: Final = frozenset({"day", "week", "month"})
_NUMBERS: Final = frozenset({"integer", "float"})
_MAX_64: Final = 2**63
_PLAIN_BELOW: Final = 10**24
"""Numbers from there on are shown with an exponent."""


def show_table(answer: Answer, bucket: Bucket, terminal: Terminal) -> None:
    """A row for each row, and below how far the answer goes."""
    table = _table()
    for column in answer.columns:
        table.add_column(_plain(column.name), justify=_justified(column), overflow="fold")
    for row in answer.rows:
        table.add_row(
            *(_plain(_said(value, column, bucket)) for value, column in zip(row, answer.columns, strict=True))
        )
    _print(answer.rollup, table, terminal)
    _show_end(answer, terminal)


def show_chart(answer: Answer, bucket: Bucket, terminal: Terminal, *, measure: str | None = None) -> None:
    """A bar for each row, as long as its `measure`: by default the first one that is a number.

    Raises:
        CommandError: The rollup has no such measure, or it is not a number.
    """
    from rich.bar import Bar  # noqa: PLC0415 - what prints JSON needs no rich

    shown = _measured(answer, measure)
    place = answer.columns.index(shown)
    keys = [each for each in answer.columns if each.role != "measure"]
    values = [float(row[place] or 0) for row in answer.rows]
    largest = max([*map(abs, values), 0.0]) or 1.0
    table = _table()
    for column in keys:
        table.add_column(_plain(column.name), justify=_justified(column), overflow="fold")
    table.add_column(_plain(shown.name), justify="right")
    table.add_column("", width=BAR_WIDTH)
    for row, value in zip(answer.rows, values, strict=True):
        said = dict(zip(answer.columns, row, strict=True))
        bar = Bar(largest, 0, abs(value), width=BAR_WIDTH, color="cyan" if value >= 0 else "red")
        table.add_row(*(_plain(_said(said[column], column, bucket)) for column in (*keys, shown)), bar)
    _print(answer.rollup, table, terminal)
    _show_end(answer, terminal)


def answer_json(answer: Answer, bucket: Bucket) -> dict[str, Any]:
    """The answer in values of JSON: moments as ISO 8601, a row as an object."""
    return {
        "rollup": answer.rollup,
        "zone": bucket.zone,
        "columns": [{"name": each.name, "kind": each.kind, "role": each.role} for each in answer.columns],
        "rows": [_row_json(row, answer.columns, bucket) for row in answer.rows],
        "complete_to": None if answer.complete_to is None else moment_text(answer.complete_to),
        "pending": answer.pending,
        "has_more": answer.cursor is not None,
        "remarks": list(answer.remarks),
    }


def bucket_text(start: int, bucket: Bucket) -> str:
    """The start of a bucket as an operator reads it: a date, or a time with its offset."""
    local = moment_text(start, bucket.zone)
    if bucket.unit in _DATES:
        return local[:10]
    return f"{local[:10]} {local[11:16]}{'' if bucket.zone == 'UTC' else local[19:]}"


def moment_text(moment: int, zone: str = "UTC") -> str:
    """ISO 8601; to the microsecond, where it has a fraction of a second."""
    try:
        at = (_EPOCH + timedelta(microseconds=moment // _MICROSECOND)).astimezone(zone_of(zone))
    except OverflowError:
        return f"{moment} ns"
    return at.isoformat().replace("+00:00", "Z") if zone == "UTC" else at.isoformat()


def _row_json(row: AnswerRow, columns: tuple[AnswerColumn, ...], bucket: Bucket) -> dict[str, Any]:
    return {column.name: _json(value, column, bucket) for value, column in zip(row, columns, strict=True)}


def _json(value: Value, column: AnswerColumn, bucket: Bucket) -> Any:
    if column.kind == "timestamp" and isinstance(value, int):
        return moment_text(value, bucket.zone if column.role == "bucket" else "UTC")
    if isinstance(value, int) and abs(value) >= _MAX_64:
        return msgspec.Raw(str(value).encode())
    return value


def _measured(answer: Answer, name: str | None) -> AnswerColumn:
    measures = [each for each in answer.columns if each.role == "measure" and each.kind in _NUMBERS]
    for column in measures:
        if name in {None, column.name}:
            return column
    listed = ", ".join(column.name for column in measures) or "none"
    raise CommandError(
        f"rollup {answer.rollup!r} has no measure {name!r} that is a number; it has {listed}"
        if name is not None
        else f"rollup {answer.rollup!r} has no measure that is a number, so there is nothing to draw",
        ExitCode.USAGE,
    )


def _said(value: Value, column: AnswerColumn, bucket: Bucket) -> str:
    if value is None:
        return ""
    if column.role == "bucket":
        return bucket_text(int(value), bucket)
    if column.kind == "timestamp":
        return moment_text(int(value), bucket.zone)
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return number_text(value)


def number_text(value: float) -> str:
    """A number as an operator reads it, in a bounded number of characters; JSON has it exact."""
    is_whole = type(value) is int
    if abs(value) < _PLAIN_BELOW:
        return f"{value:,}" if is_whole else f"{value:,.2f}"
    return f"{Decimal(value) if is_whole else value:.15g}"  # a whole one may be larger than any float


def _show_end(answer: Answer, terminal: Terminal) -> None:
    terminal.show()
    to = answer.complete_to
    far = "no event of it is stored" if to is None else f"complete to {moment_text(to)}"
    waiting = "" if not answer.pending else f", {answer.pending:,} pending"
    terminal.show(f"{counted(len(answer.rows), 'row')}; {far}{waiting}")
    if answer.cursor is not None:
        terminal.show("There are more: see --limit.")
    for remark in answer.remarks:
        terminal.say(f"eventrec: {remark}", style="yellow")


def _table() -> Table:
    from rich.table import Table  # noqa: PLC0415 - likewise

    return Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _justified(column: AnswerColumn) -> Literal["left", "right"]:
    return "right" if column.kind in _NUMBERS else "left"


def _print(title: str, table: Table, terminal: Terminal) -> None:
    console = terminal.out
    # Not as the table's own: that is broken where the table is narrower.
    terminal.show(title, style="bold")
    if console.is_terminal:
        console.print(table)
        return
    # A program that reads it has no width: nothing is cut.
    before, console.width = console.width, WIDEST
    try:
        console.print(table)
    finally:
        console.width = before


def _plain(text: str) -> Any:
    from rich.text import Text  # noqa: PLC0415 - likewise

    return Text(safe(text))
