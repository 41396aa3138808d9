"""Where a rollup finds its fields in a table of ClickHouse: by its layout, else by the types that its columns have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import TIMESTAMP, ColumnSchema, ColumnType, default_layout
from eventrec_handlers.clickhouse.moments import is_moment
from eventrec_handlers.clickhouse.rollups import Columns
from eventrec_handlers.clickhouse.rows import told_apart
from eventrec_handlers.clickhouse.types import INTEGERS, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec import Layout

_TYPES: Final[Mapping[str, ColumnType]] = {
    "Bool": ColumnType.BOOLEAN,
    "Float32": ColumnType.FLOAT32,
    "Float64": ColumnType.FLOAT64,
    "String": ColumnType.STRING,
    "FixedString": ColumnType.STRING,
}


def columns_of(table: str, types: Mapping[str, str], layout: Layout | None) -> Columns:
    """Those of `table`, which has columns of these `types`; `layout`: the one that it was made by, if there is one."""
    known = told_apart(_schema(name, declared) for name, declared in types.items())
    layout = layout or default_layout(table, known)
    time = layout.column_of(TIMESTAMP)
    declared = "" if time is None else types.get(time.name, "")
    return Columns(layout, declared) if is_moment(declared) else Columns(layout)


def _schema(name: str, declared: str) -> ColumnSchema:
    """A column of a table of events, as far as rollups can look into it."""
    type_ = parsed(declared).name
    if type_ in INTEGERS:
        return ColumnSchema(name, ColumnType.UINT64 if type_.startswith("U") else ColumnType.INT64)
    return ColumnSchema(name, _TYPES.get(type_, ColumnType.BINARY))
