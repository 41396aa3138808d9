"""A rollup as databases are given it."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.analytics.conditions import And, Membership, Not, Or
from eventrec.analytics.fields import TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.analytics.buckets import Bucket
    from eventrec.analytics.conditions import Condition
    from eventrec.analytics.fields import Field, Kind
    from eventrec.analytics.measures import Measure


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """When a rollup that is kept in a table is brought up to date, in seconds.

    Attributes:
        window: How far back buckets are looked at, where the database does not know which ones have changed.
        lag: How old a bucket is before it is looked at.
        every: How often.
    """

    window: float = 3 * 86_400.0
    lag: float = 3_600.0
    every: float = 3_600.0


@dataclass(frozen=True, slots=True)
class RollupPlan:
    """A rollup as databases are given it: frozen, hashable, and the same for the same declaration.

    Attributes:
        name: Of the rollup: its table or view.
        table: Of the events.
        types: Of the events; None: any.
        where: Which of them count; None: all.
        bucket_name: The column of the bucket's start.
        bucket: How time is parted.
        groups: The columns by which events are parted.
        measures: The columns that are computed.
        column_names: All of them, in the order of the declaration.
        refresh: When it is brought up to date, where it is kept in a table.
        retention: After how many seconds its own rows may go; None: never.
        version: Of the declaration, as its author counts.
        index: What the index of its own table is called; None: as the database's dialect has it.
    """

    name: str
    table: str
    types: tuple[str, ...] | None
    where: Condition | None
    bucket_name: str
    bucket: Bucket
    groups: tuple[Group, ...]
    measures: tuple[Measure, ...]
    column_names: tuple[str, ...]
    refresh: RefreshPlan = RefreshPlan()
    retention: float | None = None
    version: int = 1
    index: str | None = None

    @property
    def fingerprint(self) -> str:
        """A text that differs where what the rollup tells differs: refreshing, retention and the index do not count."""
        said = dataclasses.replace(self, refresh=RefreshPlan(), retention=None)
        return hashlib.sha256(msgspec.json.encode(_tagged(said), order="sorted")).hexdigest()[:32]

    @property
    def condition(self) -> Condition | None:
        """Which events count, by type and by `where`."""
        parts = [] if self.types is None else [Membership(TYPE, self.types)]
        if self.where is None:
            return parts[0] if parts else None
        return And((*parts, self.where)) if parts else self.where

    def kind_of(self, column: str) -> Kind:
        """The kind of what a column holds.

        Raises:
            KeyError: There is no such column.
        """
        return self._kinds()[column]

    def fields(self) -> Iterator[Field]:
        """Every field that the rollup reads, some of them several times."""
        for group_ in self.groups:
            yield group_.field
        conditions = [self.where]
        for measure in self.measures:
            if measure.field is not None:
                yield measure.field
            conditions.append(measure.where)
        for condition in conditions:
            if condition is not None:
                yield from fields_of(condition)

    def _kinds(self) -> Mapping[str, Kind]:
        return {
            self.bucket_name: "timestamp",
            **{group_.name: group_.field.kind for group_ in self.groups},
            **{measure.name: measure.kind for measure in self.measures},
        }


def fields_of(condition: Condition) -> Iterator[Field]:
    """Every field that `condition` reads."""
    match condition:
        case And(parts) | Or(parts):
            for part in parts:
                yield from fields_of(part)
        case Not(part):
            yield from fields_of(part)
        case _:
            yield condition.field


@dataclass(frozen=True, slots=True)
class Group:
    """A column by whose values the events of a bucket are parted; an event without one is in the group None."""

    name: str
    field: Field


_UNTOLD: Final = "index"
"""Left out of the text: what an index is called changes nothing that a rollup tells."""


def _tagged(value: object) -> object:
    """A plan in JSON values, each dataclass under its name: two kinds of condition may have the same attributes."""
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value) if field.name != _UNTOLD)
        return [type(value).__name__, {name: _tagged(getattr(value, name)) for name in names}]
    if isinstance(value, tuple):
        return [_tagged(part) for part in value]
    # 1 and 1.0, and true, are not the same constant.
    return value if value is None or isinstance(value, str) else [type(value).__name__, value]
