"""Which events count, as a plan holds it: comparisons of fields, and what they are combined to.

As in SQL: a comparison with a value that is absent is neither true nor false, nor is its negation, and an event counts
only where its condition is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from eventrec.analytics.fields import Field

Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]
Constant: TypeAlias = str | int | float | bool
"""What a field is compared with: of the field's kind; a UUID as its text, a moment as nanoseconds."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field` compared with a constant; unknown where the field is absent."""

    field: Field
    operator: Operator
    value: Constant


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether `field` is one of `values`; unknown where the field is absent."""

    field: Field
    values: tuple[Constant, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether `field` is absent: not there, null, or of another kind. Never unknown."""

    field: Field


@dataclass(frozen=True, slots=True)
class And:
    """False where one of `parts` is, else unknown where one of them is, else true."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True where one of `parts` is, else unknown where one of them is, else false."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of `part`; unknown where that is."""

    part: Condition


Condition: TypeAlias = Comparison | Membership | IsNull | And | Or | Not
