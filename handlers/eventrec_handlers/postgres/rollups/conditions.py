"""How PostgreSQL says what conditions of a rollup compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql.rollups import condition_sql as shared
from eventrec_handlers.postgres.checkpoints import literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.analytics import Condition, Kind
    from eventrec_handlers._sql.rollups import FieldSql

_EQUALITY: Final[Mapping[str, str]] = {"=": "IS NULL", "<>": "IS NOT NULL"}
_MICROSECOND: Final = 1_000


def condition_sql(condition: Condition, value: FieldSql) -> str:
    """`condition`, in parentheses."""
    return shared(condition, value, _Words())


class _Words:
    def constant(self, constant: str | float, kind: Kind) -> str:
        return constant_sql(constant, kind)

    def compared(self, value: str, kind: Kind) -> str:
        return f'{value} COLLATE "C"' if kind == "text" else value

    def comparison(self, value: str, kind: Kind, operator: str, constant: str | float) -> str:
        left = self.compared(value, kind)
        if kind != "timestamp":
            return f"{left} {operator} {constant_sql(constant, kind)}"
        microseconds, rest = divmod(int(constant), _MICROSECOND)
        if rest and operator in _EQUALITY:
            # It lies between two moments that the database can tell apart.
            return f"CASE WHEN {left} IS NOT NULL THEN {str(operator == '<>').lower()} END"
        if rest:
            operator = "<=" if operator in {"<", "<="} else ">"
        return f"{left} {operator} {timestamp_sql(microseconds)}"


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
