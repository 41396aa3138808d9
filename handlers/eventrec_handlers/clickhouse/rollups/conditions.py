"""How ClickHouse says what conditions of a rollup compare: it knows true, false and unknown as others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql.rollups import condition_sql as shared
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from eventrec.analytics import Condition, Kind
    from eventrec_handlers._sql.rollups import FieldSql


def condition_sql(condition: Condition, value: FieldSql) -> str:
    """`condition`, in parentheses."""
    return shared(condition, value, _Words())


class _Words:
    def constant(self, constant: str | float, kind: Kind) -> str:
        return constant_sql(constant, kind)

    def compared(self, value: str, _kind: Kind) -> str:
        return value  # texts are bytes

    def comparison(self, value: str, kind: Kind, operator: str, constant: str | float) -> str:
        return f"{value} {operator} {constant_sql(constant, kind)}"


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
