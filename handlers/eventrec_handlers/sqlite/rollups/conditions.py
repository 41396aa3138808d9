"""How SQLite says what conditions of a rollup compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql.rollups import condition_sql as shared

if TYPE_CHECKING:
    from eventrec.analytics import Condition, Kind
    from eventrec_handlers._sql.rollups import FieldSql


def condition_sql(condition: Condition, value: FieldSql) -> str:
    """`condition`, in parentheses. What `value` gives is compared byte by byte: it is not a bare column."""
    return shared(condition, value, _Words())


class _Words:
    def constant(self, constant: str | float, _kind: Kind) -> str:
        return constant_sql(constant)

    def compared(self, value: str, _kind: Kind) -> str:
        return value

    def comparison(self, value: str, _kind: Kind, operator: str, constant: str | float) -> str:
        return f"{value} {operator} {constant_sql(constant)}"


def constant_sql(constant: str | float) -> str:
    """A constant of a plan as a literal."""
    match constant:
        case bool():
            return str(int(constant))
        case str():
            return "'" + constant.replace("'", "''") + "'"
        case _:
            return repr(constant)
