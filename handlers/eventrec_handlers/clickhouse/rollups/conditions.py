"""The conditions of a rollup as SQL, which knows true, false and unknown as they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from eventrec.analytics import And, Comparison, IsNull, Membership, Not, Or
from eventrec_handlers.clickhouse.rollups.fields import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.analytics import Condition, Field, Kind

Value: TypeAlias = "Callable[[Field], str]"
"""SQL for the value of a field."""

_OPERATORS: Final[Mapping[str, str]] = {"==": "="}


def condition_sql(condition: Condition, value: Value) -> str:
    """`condition`, in parentheses."""
    match condition:
        case Comparison(field, operator, constant):
            said = f"{value(field)} {_OPERATORS.get(operator, operator)} {constant_sql(constant, field.kind)}"
        case Membership(field, ()):
            said = f"if(isNotNull({value(field)}), false, NULL)"
        case Membership(field, constants):
            said = f"{value(field)} IN ({', '.join(constant_sql(each, field.kind) for each in constants)})"
        case IsNull(field):
            said = f"isNull({value(field)})"
        case And(parts):
            said = " AND ".join(condition_sql(part, value) for part in parts) or "true"
        case Or(parts):
            said = " OR ".join(condition_sql(part, value) for part in parts) or "false"
        case Not(part):
            said = f"NOT {condition_sql(part, value)}"
        case _:
            assert_never(condition)
    return f"({said})"


def constant_sql(constant: str | float, kind: Kind) -> str:
    """A constant of a plan as a literal."""
    match kind:
        case "text" | "uuid":
            return literal(str(constant))
        case "boolean":
            return "true" if constant else "false"
        case "float":
            return f"toFloat64('{float(constant)!r}')"
        case _:
            return f"toInt64('{int(constant)}')"
