"""Columns and rows: what each column type is stored as, and the rows of a request, a column at a time.

    column type                     declared               holds
    BOOLEAN                         BOOLEAN                0 or 1
    INT8 … INT64, UINT8 … UINT64    INTEGER                UINT64: up to 63 bits, a larger value is refused
    FLOAT32, FLOAT64                REAL
    STRING, DICTIONARY              TEXT                   without NUL
    BINARY                          BLOB
    DECIMAL128                      TEXT DECIMAL           its digits: SQLite has no exact decimals
    JSON, LIST, STRUCT              TEXT JSON              JSON text
    VECTOR                          TEXT VECTOR            a JSON array of numbers
    DATE                            INTEGER DATE_DAYS      days since 1970-01-01
    DATETIME                        INTEGER DATETIME_US    microseconds since the epoch, UTC
    TIMESTAMP_SECOND …              INTEGER TIMESTAMP_S    … _MS, _US, _NS: that unit since the epoch, UTC
    TIME_SECOND …                   INTEGER TIME_S         … _MS, _US, _NS: that unit since midnight
    INTERVAL_YEAR_MONTH             INTEGER MONTHS
    INTERVAL_DAY_TIME               INTEGER DURATION_MS    milliseconds
    INTERVAL_MONTH_DAY_NANO         TEXT INTERVAL          a JSON array: months, days, nanoseconds

The first word of a declared type is what SQLite and other tools go by; the second tells apart what must not be mixed in
one column. The base columns are plain: id, type, payload, context TEXT, timestamp INTEGER in nanoseconds.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from itertools import chain, compress, islice
from typing import TYPE_CHECKING, Any, Final

from eventrec import ColumnType
from eventrec_handlers._sql import converted, fold_ascii, json_text, quoted, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import ColumnSchema, RowInsertRequest
    from eventrec_handlers._sql import Convert, Refusals, TablePlan

BASE_DECLARED: Final = {"id": "TEXT", "type": "TEXT", "timestamp": "INTEGER", "payload": "TEXT", "context": "TEXT"}
REQUIRED: Final = ("id", "type", "timestamp", "payload")


def base_name(column: str) -> str:
    """What we call a `column` of a table: for SQLite, `ID` is our `id`. Another one has the name that it has."""
    folded = fold_ascii(column)
    return folded if folded in BASE_DECLARED else column


def _up_to_63_bits(value: int) -> int:
    if value > 2**63 - 1:
        raise ValueError(f"{value} has more than 63 bits")
    return value


def _array(value: Sequence[float]) -> str:
    return json.dumps(value, separators=(",", ":"))


STORED: Final[Mapping[ColumnType, tuple[str, Convert | None]]] = {
    ColumnType.BOOLEAN: ("BOOLEAN", None),
    ColumnType.INT8: ("INTEGER", None),
    ColumnType.INT16: ("INTEGER", None),
    ColumnType.INT32: ("INTEGER", None),
    ColumnType.INT64: ("INTEGER", None),
    ColumnType.UINT8: ("INTEGER", None),
    ColumnType.UINT16: ("INTEGER", None),
    ColumnType.UINT32: ("INTEGER", None),
    ColumnType.UINT64: ("INTEGER", _up_to_63_bits),
    ColumnType.FLOAT32: ("REAL", None),
    ColumnType.FLOAT64: ("REAL", None),
    ColumnType.BINARY: ("BLOB", None),
    ColumnType.STRING: ("TEXT", text),
    ColumnType.DICTIONARY: ("TEXT", text),
    ColumnType.DECIMAL128: ("TEXT DECIMAL", None),
    ColumnType.JSON: ("TEXT JSON", json_text),
    ColumnType.LIST: ("TEXT JSON", json_text),
    ColumnType.STRUCT: ("TEXT JSON", json_text),
    ColumnType.VECTOR: ("TEXT VECTOR", _array),
    ColumnType.DATE: ("INTEGER DATE_DAYS", None),
    ColumnType.DATETIME: ("INTEGER DATETIME_US", None),
    ColumnType.TIMESTAMP_SECOND: ("INTEGER TIMESTAMP_S", None),
    ColumnType.TIMESTAMP_MILLISECOND: ("INTEGER TIMESTAMP_MS", None),
    ColumnType.TIMESTAMP_MICROSECOND: ("INTEGER TIMESTAMP_US", None),
    ColumnType.TIMESTAMP_NANOSECOND: ("INTEGER TIMESTAMP_NS", None),
    ColumnType.TIME_SECOND: ("INTEGER TIME_S", None),
    ColumnType.TIME_MILLISECOND: ("INTEGER TIME_MS", None),
    ColumnType.TIME_MICROSECOND: ("INTEGER TIME_US", None),
    ColumnType.TIME_NANOSECOND: ("INTEGER TIME_NS", None),
    ColumnType.INTERVAL_YEAR_MONTH: ("INTEGER MONTHS", None),
    ColumnType.INTERVAL_DAY_TIME: ("INTEGER DURATION_MS", None),
    ColumnType.INTERVAL_MONTH_DAY_NANO: ("TEXT INTERVAL", _array),
}
"""Declared type, and how a kept value becomes one that SQLite takes (None: it does as it is)."""

STRICT_TYPES: Final = ("INTEGER", "REAL", "TEXT", "BLOB")


def strict_type(declared: str) -> str:
    """What a STRICT table can declare a column as: it knows the first word alone, and no BOOLEAN."""
    first = declared.split(maxsplit=1)[0]
    return first if first in STRICT_TYPES else "INTEGER"


_CHECKED: Final = frozenset({"id", "type"})
"""Texts that are checked when an event is recorded."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one request: a sequence of converted values for each column. `wanted` are (name, declared type).

    `kept_ids` are for each row the id that its record brought with it, where rows of one id are to be told apart, and
    the table does not do it itself.
    """

    table: str
    schema: tuple[ColumnSchema, ...]
    wanted: tuple[tuple[str, str], ...]
    values: list[Sequence[Any]]
    offsets: Sequence[int]
    kept_ids: Sequence[bytes | None]

    @classmethod
    def of(cls, request: RowInsertRequest, refusals: Refusals, *, tells_apart: bool = False) -> Rows:
        """The rows of `request`; a value that SQLite cannot hold is noted in `refusals`."""
        wanted = tuple(
            (column.name, BASE_DECLARED.get(column.name, STORED[column.type][0])) for column in request.schema
        )
        # Column by column, so that what needs no conversion costs nothing.
        values = list(request.columns)
        kept_ids = request.explicit_ids if tells_apart else ()
        rows = cls(request.table, request.schema, wanted, values, request.offsets, kept_ids)
        for i, column in enumerate(request.schema):
            convert = STORED[column.type][1]
            if convert is not None and column.name not in _CHECKED:
                values[i], failed = converted(values[i], convert)
                for row, (value, why) in failed.items():
                    rows.refuse_value(refusals, row, i, value, why)
        return rows

    def refuse(self, plan: TablePlan, refusals: Refusals) -> None:
        """Note the records for which `plan` has no room."""
        if plan.refused_table is not None:
            for offset in self.offsets:
                refusals.add(offset, f"table {self.table!r}: {plan.refused_table}")
        if plan.refused:
            for i, (name, _) in enumerate(self.wanted):
                if (why := plan.refused.get(name)) is not None:
                    for row, value in enumerate(self.values[i]):
                        if value is not None:
                            self.refuse_value(refusals, row, i, value, why)

    def refuse_value(self, refusals: Refusals, row: int, i: int, value: object, why: str) -> None:
        """Note that the column `i` cannot take the `value` of a row."""
        refusals.add_value(self.offsets[row], self.table, self.schema[i], value, declared=self.wanted[i][1], why=why)

    def only(self, kept: Sequence[bool]) -> Rows:
        """Those rows for which `kept` is true."""
        return Rows(
            self.table,
            self.schema,
            self.wanted,
            [list(compress(values, kept)) for values in self.values],
            list(compress(self.offsets, kept)),
            list(compress(self.kept_ids, kept)),
        )

    def insert(self, connection: sqlite3.Connection, plan: TablePlan) -> None:
        """Write every row. A column that `plan` refuses holds nothing but NULL, and is left out."""
        taken = [i for i, (name, _) in enumerate(self.wanted) if name not in plan.refused]
        names = ", ".join(quoted(self.wanted[i][0]) for i in taken)
        insert = f"INSERT INTO {quoted(self.table)} ({names}) VALUES "  # noqa: S608 - identifiers are quoted
        marks = f"({', '.join('?' * len(taken))})"
        rows = zip(*(self.values[i] for i in taken), strict=True)
        # Measured: a statement of 50 rows takes 0.85 of the time of 50 statements, and gives up the GIL less often.
        several = min(50, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(taken))
        for _ in range(len(self.offsets) // several):
            connection.execute(insert + ", ".join([marks] * several), tuple(chain.from_iterable(islice(rows, several))))
        connection.executemany(insert + marks, rows)

    def insert_row(self, connection: sqlite3.Connection, plan: TablePlan, row: int) -> None:
        """Write one row, to find out whether the table takes it."""
        taken = [i for i, (name, _) in enumerate(self.wanted) if name not in plan.refused]
        names, marks = ", ".join(quoted(self.wanted[i][0]) for i in taken), ", ".join("?" * len(taken))
        insert = f"INSERT INTO {quoted(self.table)} ({names}) VALUES ({marks})"  # noqa: S608 - identifiers are quoted
        connection.execute(insert, [self.values[i][row] for i in taken])
