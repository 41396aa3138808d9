"""The conditions of a rollup as SQL, which knows true, false and unknown as they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from eventrec.analytics import And, Comparison, IsNull, Membership, Not, Or

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.analytics import Condition, Field

Value: TypeAlias = "Callable[[Field], str]"
"""SQL for the value of a field."""

_OPERATORS: Final[Mapping[str, str]] = {"==": "=", "!=": "<>"}


def condition_sql(condition: Condition, value: Value) -> str:
    """`condition`, in parentheses. What `value` gives is compared byte by byte: it is not a bare column."""
    match condition:
        case Comparison(field, operator, constant):
            return f"({value(field)} {_OPERATORS.get(operator, operator)} {constant_sql(constant)})"
        case Membership(field, constants):
            return f"({value(field)} IN ({', '.join(map(constant_sql, constants))}))"
        case IsNull(field):
            return f"({value(field)} IS NULL)"
        case And(parts):
            return f"({' AND '.join(condition_sql(part, value) for part in parts) or '1'})"
        case Or(parts):
            return f"({' OR '.join(condition_sql(part, value) for part in parts) or '0'})"
        case Not(part):
            return f"(NOT {condition_sql(part, value)})"
    assert_never(condition)


def constant_sql(constant: str | float) -> str:
    """A constant of a plan as a literal."""
    match constant:
        case bool():
            return str(int(constant))
        case str():
            return "'" + constant.replace("'", "''") + "'"
        case _:
            return repr(constant)
