"""What a table lacks before rows fit, and what will never fit: decided without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

SchemaMode: TypeAlias = Literal["evolve", "strict"]
"""`evolve`: tables and missing columns are made; `strict`: what is missing is refused."""

Wanted: TypeAlias = "Sequence[tuple[str, str]]"
"""Columns as (name, declared type), the base ones first."""


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
    computed: Collection[str] = (),
) -> TablePlan:
    """Compare the columns of a table (name to declared type; None: there is no table) with the wanted ones.

    `required` are the columns without which a table that exists is not ours, `max_columns` bounds all columns together,
    `fold` maps names that the database takes for the same to one. Types are compared without regard to case and space.
    `computed` are existing columns that the table fills by itself: they take no value.
    Missing columns are added all or not at all: some of them would help no record.
    """
    if existing is None and schema == "strict":
        return TablePlan(refused_table="there is no such table, and schema is 'strict'")
    columns = dict(existing) if existing is not None else {name: kind for name, kind in wanted if name in required}
    lacking = [name for name in required if name not in columns]
    if lacking:
        return TablePlan(refused_table=f"it is not one of ours: it lacks {', '.join(map(repr, lacking))}")
    filled = [name for name in required if name in computed]
    if filled:
        return TablePlan(refused_table=f"it is not one of ours: it computes {', '.join(map(repr, filled))} itself")

    missing, refused = _diff(columns, wanted, fold)
    refused.update((name, "the table computes it itself") for name, _ in wanted if name in computed)
    if (why := refused_growth(len(columns), len(missing), schema=schema, max_columns=max_columns)) is not None:
        refused.update((name, why) for name, _ in missing)
        missing = ()
    if existing is None:
        return TablePlan(create=(*columns.items(), *missing), refused=refused)
    return TablePlan(add=missing, refused=refused)


def refused_growth(columns: int, missing: int, *, schema: SchemaMode, max_columns: int) -> str | None:
    """Why a table of so many `columns` is not given the `missing` ones; None: it is."""
    if not missing:
        return None
    if schema == "strict":
        return "the table has no such column, and schema is 'strict'"
    if columns + missing > max_columns:
        return f"the table would have {columns + missing} columns, and max_columns is {max_columns}"
    return None


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
