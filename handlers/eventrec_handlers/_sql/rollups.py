"""What the SQL of a rollup is made of in every database: its conditions, and names for the fields that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, assert_never

from eventrec.analytics import And, Comparison, IsNull, Membership, Not, Or, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from eventrec.analytics import Condition, Field, Kind, RollupPlan

FieldSql: TypeAlias = "Callable[[Field], str]"
"""SQL for the value of a field."""

_OPERATORS: Final[Mapping[str, str]] = {"==": "=", "!=": "<>"}


class Words(Protocol):
    """What a database says in its own words."""

    def constant(self, constant: str | float, kind: Kind) -> str:
        """A constant of a plan as a literal."""

    def compared(self, value: str, kind: Kind) -> str:
        """A value as it is compared with a constant: texts byte by byte."""

    def comparison(self, value: str, kind: Kind, operator: str, constant: str | float) -> str:
        """A value compared with a constant, by an operator of SQL; NULL where it is NULL."""


def condition_sql(condition: Condition, value: FieldSql, words: Words) -> str:
    """`condition`, in parentheses: true, false, or NULL where it cannot be said."""
    match condition:
        case Comparison(field, operator, constant):
            said = words.comparison(value(field), field.kind, _OPERATORS.get(operator, operator), constant)
        case Membership(field, ()):
            said = f"CASE WHEN {value(field)} IS NOT NULL THEN 1 = 0 END"
        case Membership(field, constants):
            listed = ", ".join(words.constant(constant, field.kind) for constant in constants)
            said = f"{words.compared(value(field), field.kind)} IN ({listed})"
        case IsNull(field):
            said = f"{value(field)} IS NULL"
        case And(parts):
            said = " AND ".join(condition_sql(part, value, words) for part in parts) or "1 = 1"
        case Or(parts):
            said = " OR ".join(condition_sql(part, value, words) for part in parts) or "1 = 0"
        case Not(part):
            said = f"NOT {condition_sql(part, value, words)}"
        case _:
            assert_never(condition)
    return f"({said})"


def field_aliases(plan: RollupPlan, groups: Collection[str] | None = None) -> dict[Field, str]:
    """The fields that measures and `groups` read, each once, and what a statement calls them; None: all groups."""
    found = [group.field for group in plan.groups if groups is None or group.name in groups]
    for measure in plan.measures:
        if measure.field is not None:
            found.append(measure.field)
        if measure.where is not None:
            found += fields_of(measure.where)
    return {field: f"er_{number}" for number, field in enumerate(dict.fromkeys(found))}
