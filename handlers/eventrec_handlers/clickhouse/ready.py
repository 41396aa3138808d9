"""The rows of a part as a table takes them, a column at a time; which records it does not take, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventrec_handlers._sql import Refusals, converted
from eventrec_handlers.clickhouse.converting import conversion, nothing
from eventrec_handlers.clickhouse.rows import REQUIRED
from eventrec_handlers.clickhouse.scalars import json_bytes
from eventrec_handlers.clickhouse.types import UnfitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec_handlers._sql import Convert
    from eventrec_handlers.clickhouse.rows import Column, Part


@dataclass(frozen=True, slots=True)
class Ready:
    """A part as a table of a node takes it: the columns that are written, converted.

    `refused` are the records that it does not take, with reasons; their rows mean nothing.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    values: tuple[Sequence[Any], ...]
    refused: Mapping[int, str]


def none_of(part: Part, why: str) -> Ready:
    """`part` for a table that takes none of it."""
    return Ready((), (), (), dict.fromkeys(part.offsets, f"table {part.table!r}: {why}"))


def ready_of(part: Part, columns: Mapping[str, str], refused: Mapping[str, str]) -> Ready:
    """`part` for a table of these `columns`, name to type; `refused` are those that are not to be written, and why."""
    refusals = Refusals()
    written: dict[str, Sequence[Any]] = {}
    for column in part.columns:
        values = _converted(part, column, columns.get(column.name), refused.get(column.name), refusals)
        if values is None:
            continue
        before = written.get(column.name)
        if before is not None:  # another way in which events declare it, that fits too
            values = [one if two is None else two for one, two in zip(before, values, strict=True)]
        written[column.name] = values
    for name, values in written.items():
        written[name] = _filled(values, columns[name])
    return Ready(tuple(written), tuple(columns[name] for name in written), tuple(written.values()), refusals.reasons)


def _converted(
    part: Part, column: Column, declared: str | None, why: str | None, refusals: Refusals
) -> Sequence[Any] | None:
    """The values of a column as the client takes them; None: it is not written. What does not fit is refused."""
    convert: Convert | None = None
    if why is None and declared is not None:
        try:
            convert = conversion(column.layout, declared, column.schema)
        except UnfitError as exc:
            why = str(exc)
    if why is not None or declared is None:
        for row, value in enumerate(() if column.is_empty else column.values):
            if value is not None:
                _refuse(refusals, part, row, column, why or "the table has no such column")
        return None
    if column.is_empty and column.name not in REQUIRED:
        return None
    if convert is None or (convert is json_bytes and _is_ascii(column.values)):
        return column.values
    values, failed = converted(column.values, convert)
    for row, (_, reason) in failed.items():
        _refuse(refusals, part, row, column, reason)
    return values


def _is_ascii(values: Sequence[Any]) -> bool:
    """Whether all are bytes of ASCII: measured, this takes a tenth of a look at each."""
    try:
        return b"".join(values).isascii()
    except TypeError:  # some are missing
        return False


def _filled(values: Sequence[Any], declared: str) -> Sequence[Any]:
    """`values` with the type's own nothing for those that are missing, where it takes no NULL."""
    instead = nothing(declared) if None in values else None
    if instead is None:
        return values
    if instead == "" and any(isinstance(value, bytes) for value in values):
        instead = b""
    return [instead if value is None else value for value in values]


def _refuse(refusals: Refusals, part: Part, row: int, column: Column, why: str) -> None:
    kind = column.schema.type.name if column.schema is not None else str(column.layout.source)
    said = type(column.values[row]).__name__
    refusals.add(
        part.offsets[row],
        f"column {column.name!r} of table {part.table!r} cannot take a value of kind {said} ({kind}): {why}",
    )
