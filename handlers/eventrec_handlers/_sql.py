"""What handlers for SQL databases share: names, what a table lacks, and which records cannot be stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from eventrec import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from eventrec import ColumnSchema

SchemaMode: TypeAlias = Literal["evolve", "strict"]
"""`evolve`: tables and missing columns are made; `strict`: what is missing is refused."""

Wanted: TypeAlias = "Sequence[tuple[str, str]]"
"""Columns as (name, declared type), the base ones first."""


# -- names ------------------------------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """`name` as a delimited identifier of standard SQL, whatever it holds (NUL is refused long before)."""
    return '"' + name.replace('"', '""') + '"'


def fold_ascii(name: str) -> str:
    """`name` with A to Z in lower case and nothing else: how SQLite compares names."""
    return name.encode().lower().decode()


# -- shape conflicts, decided without a database ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What one table needs before rows of some shape fit, and what will never fit.

    `create` is None, or every column to create the table with; `add` are columns to add to it. `refused` maps a column
    to the reason why it takes no value (NULL is fine: the column is left out); `refused_table` is why nothing fits.
    """

    create: tuple[tuple[str, str], ...] | None = None
    add: tuple[tuple[str, str], ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_table: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether rows can be written as the table stands."""
        return self.create is None and not self.add


def plan_table(
    existing: Mapping[str, str] | None,
    wanted: Wanted,
    *,
    required: Collection[str],
    schema: SchemaMode,
    max_columns: int,
    fold: Callable[[str], str] = str,
) -> TablePlan:
    """Compare the columns of a table (name to declared type; None: there is no table) with the wanted ones.

    `required` are the columns without which a table that exists is not ours, `max_columns` bounds all columns together,
    `fold` maps names that the database takes for the same to one. Types are compared without regard to case and space.
    Missing columns are added all or not at all: some of them would help no record.
    """
    if existing is None and schema == "strict":
        return TablePlan(refused_table="there is no such table, and schema is 'strict'")
    columns = dict(existing) if existing is not None else {name: kind for name, kind in wanted if name in required}
    lacking = [name for name in required if name not in columns]
    if lacking:
        return TablePlan(refused_table=f"it is not one of ours: it lacks {', '.join(map(repr, lacking))}")

    missing, refused = _diff(columns, wanted, fold)
    whole = len(columns) + len(missing)
    if missing and (schema == "strict" or whole > max_columns):
        why = (
            "the table has no such column, and schema is 'strict'"
            if schema == "strict"
            else f"the table would have {whole} columns, and max_columns is {max_columns}"
        )
        refused.update((name, why) for name, _ in missing)
        missing = ()
    if existing is None:
        return TablePlan(create=(*columns.items(), *missing), refused=refused)
    return TablePlan(add=missing, refused=refused)


def _diff(
    columns: Mapping[str, str], wanted: Wanted, fold: Callable[[str], str]
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """The wanted columns that are missing, and why others conflict."""
    known = {fold(name): (name, kind) for name, kind in columns.items()}
    missing: list[tuple[str, str]] = []
    refused: dict[str, str] = {}
    for name, kind in wanted:
        there, declared = known.get(fold(name), (None, ""))
        if there is None:
            known[fold(name)] = (name, kind)
            missing.append((name, kind))
        elif there != name:
            refused[name] = f"only the case of its name differs from that of column {there!r}"
        elif _plain(declared) != _plain(kind):
            refused[name] = f"the table declares it {declared or 'without a type'}"
    return tuple(missing), refused


def _plain(declared: str) -> str:
    return " ".join(declared.upper().split())


# -- values, converted a column at a time -----------------------------------------------------------------------------

Convert: TypeAlias = "Callable[[Any], Any]"
"""A kept value, never None, to what the driver is given; ValueError says in words why it cannot be."""


def text(value: str) -> str:
    """`value`, where it is one that a text column can hold."""
    if "\0" in value:
        raise ValueError("it holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds a lone surrogate, which no UTF-8 text can") from None
    return value


def json_text(value: bytes) -> str:
    """JSON bytes as text."""
    try:
        decoded = value.decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"it is not UTF-8 at byte {exc.start}: {exc.reason}") from exc
    if "\0" in decoded:
        raise ValueError("it holds a NUL character that is not escaped")
    return decoded


@dataclass(slots=True)
class Refusals:
    """Why records of a batch cannot be stored: offset to reason, the first one of each."""

    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, offset: int, reason: str) -> None:
        """The record at `offset` cannot be stored."""
        self.reasons.setdefault(offset, reason)

    def add_value(
        self, offset: int, table: str, column: ColumnSchema, value: object, *, declared: str, why: str
    ) -> None:
        """The record at `offset` cannot be stored because of a value that `column` would take as `declared`."""
        self.add(
            offset,
            f"column {column.name!r} of table {table!r} cannot take a value of kind {type(value).__name__} "
            f"({column.type.name} as {declared}): {why}",
        )

    def raise_if_any(self, records: int) -> None:
        """Raise one PermanentError that names every refused record, out of `records`."""
        if self.reasons:
            offset, reason = next(iter(self.reasons.items()))
            raise PermanentError(
                f"{len(self.reasons)} of {records} records cannot be stored; at offset {offset}: {reason}",
                records=self.reasons,
            )


def converted(values: Sequence[Any], convert: Convert) -> tuple[Sequence[Any], dict[int, tuple[Any, str]]]:
    """Every value converted, None kept; and those that cannot be: index to value and reason, None in their places."""
    try:
        return [None if value is None else convert(value) for value in values], {}
    except ValueError:
        pass  # which is rare, so only now one by one
    kept: list[Any] = []
    failed: dict[int, tuple[Any, str]] = {}
    for index, value in enumerate(values):
        try:
            kept.append(None if value is None else convert(value))
        except ValueError as exc:
            failed[index] = value, str(exc)
            kept.append(None)
    return kept, failed
