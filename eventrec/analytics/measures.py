"""What a rollup tells of the events of a bucket.

function            of what                                      where no value is there
count()             events; with a field, those that have it     0
distinct(x)         different values                             0
sum_of(x)           numbers; whole ones exactly, of any size     None
min_of, max_of      numbers, texts byte by byte, moments         None
avg(x)              numbers, as a float                          None
percentile(x, p)    numbers, interpolated between two, a float   None
first(x), last(x)   the value of the earliest, the latest event  None

Each counts only events for which its `where` is true. `first` and `last` go by timestamp; of equal ones, `first` gives
the lowest value and `last` the highest, so that it does not matter how events arrived, or how often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from eventrec.analytics.expressions import referred, resolved_condition
from eventrec.analytics.fields import KEYS, KINDS, NUMERIC, ORDERED
from eventrec.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.analytics.conditions import Condition
    from eventrec.analytics.expressions import Expression, Reference, Resolver
    from eventrec.analytics.fields import Field, Kind

Function: TypeAlias = Literal["count", "distinct", "sum", "min", "max", "avg", "percentile", "first", "last"]

FUNCTIONS: Final[tuple[Function, ...]] = get_args(Function)

ADDITIVE: Final[frozenset[Function]] = frozenset({"count", "sum", "min", "max"})
"""Functions whose value for several groups, or buckets, follows exactly from the value of each."""

_ALLOWED: Final[Mapping[Function, frozenset[Kind]]] = {
    "count": frozenset(KINDS),
    "distinct": KEYS,
    "sum": NUMERIC,
    "min": ORDERED,
    "max": ORDERED,
    "avg": NUMERIC,
    "percentile": NUMERIC,
    "first": frozenset(KINDS) - {"json"},
    "last": frozenset(KINDS) - {"json"},
}


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of a rollup that is computed.

    Attributes:
        name: The column.
        function: See the module.
        field: What is measured; None for `count` alone: events.
        where: Which events count; None: all.
        fraction: For `percentile` alone: 0 to 1.
    """

    name: str
    function: Function
    field: Field | None = None
    where: Condition | None = None
    fraction: float | None = None

    @property
    def kind(self) -> Kind:
        """The kind of its values."""
        match self.function:
            case "count" | "distinct":
                return "integer"
            case "avg" | "percentile":
                return "float"
            case _:
                return "integer" if self.field is None else self.field.kind

    @property
    def is_count(self) -> bool:
        """Whether it is 0 where there is nothing to measure."""
        return self.function in {"count", "distinct"}


class MeasureDeclaration:
    """A measure whose fields have still to be looked up."""

    __slots__ = ("field", "fraction", "function", "where")

    def __init__(
        self,
        function: Function,
        field: Reference | str | None = None,
        *,
        where: Expression | None = None,
        fraction: float | None = None,
    ) -> None:
        self.function: Final = function
        self.field: Final = None if field is None else referred(field)
        self.where: Final = where
        self.fraction: Final = fraction

    def __repr__(self) -> str:
        return f"{self.function}({'' if self.field is None else repr(self.field)})"

    def resolve(self, name: str, resolver: Resolver) -> Measure:
        """The measure for the column `name`.

        Raises:
            CatalogueError: A field is unknown, or of a kind that the function does not take.
        """
        field = None if self.field is None else resolver.field(self.field)
        if field is not None and field.kind not in _ALLOWED[self.function]:
            allowed = ", ".join(kind for kind in KINDS if kind in _ALLOWED[self.function])
            raise CatalogueError(f"{field} is of kind {field.kind}, but {self.function} takes: {allowed}")
        fraction = self.fraction
        if self.function == "percentile":
            fraction = _checked(fraction)
        return Measure(name, self.function, field, resolved_condition(self.where, resolver), fraction)


def _checked(fraction: object) -> float:
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise CatalogueError(f"a percentile's fraction is 0 to 1, got {fraction!r}")
    return float(fraction)


def count(field: Reference | str | None = None, *, where: Expression | None = None) -> MeasureDeclaration:
    """How many events; with a field, how many that have it."""
    return MeasureDeclaration("count", field, where=where)


def distinct(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """How many different values."""
    return MeasureDeclaration("distinct", field, where=where)


def sum_of(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The sum. Of whole numbers it is exact, and may have more than 64 bits."""
    return MeasureDeclaration("sum", field, where=where)


def min_of(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The lowest value."""
    return MeasureDeclaration("min", field, where=where)


def max_of(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The highest value."""
    return MeasureDeclaration("max", field, where=where)


def avg(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The mean."""
    return MeasureDeclaration("avg", field, where=where)


def percentile(field: Reference | str, fraction: float, *, where: Expression | None = None) -> MeasureDeclaration:
    """The value below which that fraction of the values lies, interpolated: `percentile_cont` of SQL."""
    return MeasureDeclaration("percentile", field, where=where, fraction=fraction)


def first(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The value of the earliest event that has one."""
    return MeasureDeclaration("first", field, where=where)


def last(field: Reference | str, *, where: Expression | None = None) -> MeasureDeclaration:
    """The value of the latest event that has one."""
    return MeasureDeclaration("last", field, where=where)
