"""The conditions of a rollup as SQL, which knows true, false and unknown as they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from eventrec.analytics import And, Comparison, IsNull, Membership, Not, Or
from eventrec_handlers.postgres.checkpoints import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.analytics import Condition, Field, Kind

Value: TypeAlias = "Callable[[Field], str]"
"""SQL for the value of a field."""

_OPERATORS: Final[Mapping[str, str]] = {"==": "=", "!=": "<>"}
_EQUALITY: Final[Mapping[str, str]] = {"=": "IS NULL", "<>": "IS NOT NULL"}
_MICROSECOND: Final = 1_000


def condition_sql(condition: Condition, value: Value) -> str:
    """`condition`, in parentheses."""
    match condition:
        case Comparison(field, operator, constant):
            said = _comparison(field, _OPERATORS.get(operator, operator), constant, value)
        case Membership(field, ()):
            said = f"CASE WHEN {value(field)} IS NOT NULL THEN false END"
        case Membership(field, constants):
            listed = ", ".join(constant_sql(constant, field.kind) for constant in constants)
            said = f"{_compared(value(field), field.kind)} IN ({listed})"
        case IsNull(field):
            said = f"{value(field)} IS NULL"
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
    """A constant of a plan as a literal: text, number, boolean, UUID."""
    match kind:
        case "text":
            return f"{literal(str(constant))}::text"
        case "uuid":
            return f"{literal(str(constant))}::uuid"
        case "boolean":
            return "true" if constant else "false"
        case "integer":
            return f"'{int(constant)}'::bigint"
        case "float":
            return f"'{float(constant)!r}'::float8"
        case _:
            return timestamp_sql(int(constant) // _MICROSECOND)


def timestamp_sql(microseconds: int) -> str:
    """A moment, in microseconds since the epoch, exactly."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"(to_timestamp({seconds}) + interval '{rest} microseconds')"


def _comparison(field: Field, operator: str, constant: str | float, value: Value) -> str:
    left = _compared(value(field), field.kind)
    if field.kind != "timestamp":
        return f"{left} {operator} {constant_sql(constant, field.kind)}"
    microseconds, rest = divmod(int(constant), _MICROSECOND)
    if rest and operator in _EQUALITY:
        return f"{left} {_EQUALITY[operator]}"  # it lies between two moments that the database can tell apart
    if rest:
        operator = "<=" if operator in {"<", "<="} else ">"
    return f"{left} {operator} {timestamp_sql(microseconds)}"


def _compared(value: str, kind: Kind) -> str:
    """Texts are compared byte by byte, whatever the collation of a column."""
    return f'{value} COLLATE "C"' if kind == "text" else value
