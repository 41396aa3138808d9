"""What a layout says of its table beside the columns: indexes, partitions, compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from eventrec.durations import duration_seconds
from eventrec.errors import InvalidEventError, LayoutError, OptionsError
from eventrec.records.schema import check_name, exact_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.durations import Duration

PartitionUnit: TypeAlias = Literal["day", "week", "month"]
"""How much time one partition holds, in UTC; weeks begin on Monday."""


@dataclass(frozen=True, slots=True)
class LayoutIndex:
    """An index. `kind="json"` finds rows by what their JSON holds, where the database can.

    Attributes:
        name: What it is called.
        columns: What it orders by.
        descending: Those of `columns` that it orders downwards.
        where_not_null: It holds only rows in which these columns have a value.

    Raises:
        LayoutError: It has no name or no columns, or `descending` names others.
    """

    name: str
    columns: Sequence[str]
    descending: Sequence[str] = ()
    where_not_null: Sequence[str] = ()
    kind: Literal["ordered", "json"] = "ordered"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", named("the name of an index", self.name))
        for attribute in ("columns", "descending", "where_not_null"):
            object.__setattr__(self, attribute, names(f"{attribute} of index {self.name!r}", getattr(self, attribute)))
        if not self.columns or not set(self.descending) <= set(self.columns):
            raise LayoutError(f"index {self.name!r} has columns, and those that descend are among them")
        if self.kind not in {"ordered", "json"}:
            raise LayoutError(f"index {self.name!r}: a kind is 'ordered' or 'json', got {self.kind!r}")


@dataclass(frozen=True, slots=True)
class LayoutCompression:
    """Old rows are compressed, where the database can: those older than `after`, in groups of equal `segment_by`.

    Raises:
        LayoutError: `after` is not a duration.
    """

    after: Duration
    segment_by: Sequence[str] = ()
    order_by: Sequence[str] = ()
    descending: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", span("compression", self.after))
        for attribute in ("segment_by", "order_by", "descending"):
            object.__setattr__(self, attribute, names(f"{attribute} of a compression", getattr(self, attribute)))
        if not set(self.descending) <= set(self.order_by):
            raise LayoutError("what descends in a compression is among its order_by")


def named(what: str, name: str) -> str:
    """`name` as it is kept; LayoutError, which calls it `what`, where it is not a name."""
    try:
        check_name(what, name)
    except InvalidEventError as exc:
        raise LayoutError(str(exc)) from exc
    return exact_text(name)


def names(what: str, names: object) -> tuple[str, ...]:
    """`names` as they are kept; LayoutError where they are not a tuple or list of different texts."""
    if not isinstance(names, (tuple, list)) or any(not isinstance(name, str) for name in names):
        raise LayoutError(f"{what}: a tuple of names, got {names!r:.60}")
    if len(set(names)) != len(names):
        raise LayoutError(f"{what}: a name stands there twice")
    return tuple(map(exact_text, names))


def span(what: str, span: object) -> float:
    """`span` in seconds; LayoutError where it is not a time longer than 0."""
    try:
        seconds = duration_seconds(span)  # type: ignore[arg-type]
    except OptionsError as exc:
        raise LayoutError(f"{what}: {exc}") from exc
    if not seconds > 0:
        raise LayoutError(f"{what}: a time that is longer than 0, got {span!r}")
    return seconds
