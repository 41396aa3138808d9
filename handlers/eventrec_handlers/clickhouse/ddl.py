"""The statements that make and change tables: each may be run again, and by several programs at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import GENERATED, ID, TIMESTAMP, TYPE
from eventrec_handlers.clickhouse.declared import declared_as
from eventrec_handlers.clickhouse.rollups.fields import expiry
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.state import BLOCK_NUMBERS, BLOCK_OFFSETS, REPLICATED_WINDOW, WINDOW
from eventrec_handlers.clickhouse.table import ClickHouseTable
from eventrec_handlers.clickhouse.types import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import ColumnSchema, Layout, LayoutColumn
    from eventrec_handlers.clickhouse.options import Options

REPLICATED_SECONDS: Final = "replicated_deduplication_window_seconds"
_WEEK: Final = 7 * 86_400
NUMBERED: Final[Mapping[str, int]] = {BLOCK_NUMBERS: 1, BLOCK_OFFSETS: 1}
"""By which a reader knows in which order rows arrived, also once their parts are merged."""

LAYOUTS_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS eventrec_layouts{cluster} (table_name String, layout String,"
    " kept_at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = ReplacingMergeTree(kept_at) ORDER BY table_name"
)

_PARTITIONS: Final = {"day": "toDate", "week": "toMonday", "month": "toStartOfMonth"}


class Ddl:
    """Writes them, by the options of a handler and what the application says of its tables."""

    def __init__(self, options: Options, tables: Mapping[str, ClickHouseTable], *, ttl: float | None) -> None:
        self._options = options
        self._tables = tables
        self.ttl = ttl

    @property
    def cluster(self) -> str:
        """What stands behind the name of a table."""
        return "" if self._options.cluster is None else f" ON CLUSTER {quoted(self._options.cluster)}"

    def declared(self, layout: Layout, column: LayoutColumn, schema: ColumnSchema | None = None) -> str:
        """What a column is made as."""
        given = self._tables.get(layout.table)
        return (
            declared_as(column, schema) if given is None else given.types.get(column.name, declared_as(column, schema))
        )

    def create(self, layout: Layout, schemas: Mapping[str, ColumnSchema]) -> str:
        """The statement that makes the table of `layout`; `schemas` are the columns that events declare, by name."""
        table = self._tables.get(layout.table) or self._usual(layout)
        columns = [column for column in layout.columns if column.source != GENERATED]
        lines = [self._column(layout, table, column, schemas.get(column.name)) for column in columns]
        lines += [
            f"INDEX {quoted(index.name)} {index.expression} TYPE {index.type} GRANULARITY {index.granularity}"
            for index in table.indexes
        ]
        order = table.order_by if table.order_by is not None else self._order(layout)
        settings = {**self._settings(table), **self._keys_setting(layout, table, schemas), **table.settings}
        parts = [
            f"CREATE TABLE IF NOT EXISTS {quoted(layout.table)}{self.cluster} ({', '.join(lines)})",
            f"ENGINE = {table.engine}",
            *self._partition(layout, table),
            f"ORDER BY ({', '.join(order)})" if order else "ORDER BY tuple()",
            *([f"PRIMARY KEY ({', '.join(table.primary_key)})"] if table.primary_key else ()),
            *self._ttl(layout, table),
            *([f"SETTINGS {_settings(settings)}"] if settings else ()),
        ]
        return " ".join(parts)

    def add(self, layout: Layout, missing: Sequence[LayoutColumn], schemas: Mapping[str, ColumnSchema]) -> str:
        """The statement that adds columns."""
        table = self._tables.get(layout.table) or ClickHouseTable()
        added = (
            f"ADD COLUMN IF NOT EXISTS {self._column(layout, table, column, schemas.get(column.name))}"
            for column in missing
        )
        return f"ALTER TABLE {quoted(layout.table)}{self.cluster} {', '.join(added)}"

    def set(self, table: str, database: str, settings: Mapping[str, int]) -> str:
        """The statement that changes settings of a table that others made; in our own database where none is named."""
        named = f"{quoted(database)}.{quoted(table)}" if database else quoted(table)
        return f"ALTER TABLE {named}{self.cluster} MODIFY SETTING {_settings(settings)}"

    def expire(self, layout: Layout) -> str | None:
        """The statement that gives a table the handler's ttl; None: there is none, or no column for the time."""
        time = layout.column_of(TIMESTAMP)
        if self.ttl is None or time is None:
            return None
        return f"ALTER TABLE {quoted(layout.table)}{self.cluster} MODIFY TTL {expiry(quoted(time.name), self.ttl)}"

    def engine(self, layout: Layout) -> str:
        """What the table of `layout` is made with, without arguments."""
        return (self._tables.get(layout.table) or self._usual(layout)).engine.partition("(")[0]

    def column(self, layout: Layout, column: LayoutColumn) -> str:
        """How a column of `layout` is declared, with its name."""
        return self._column(layout, self._tables.get(layout.table) or ClickHouseTable(), column, None)

    def retain(self, layout: Layout) -> str | None:
        """When rows of the table of `layout` are dropped; None: never."""
        said = next(self._ttl(layout, self._tables.get(layout.table) or ClickHouseTable()), None)
        return None if said is None else said.removeprefix("TTL ")

    def make_layouts(self) -> str:
        """The statement that makes our own table of layouts."""
        return LAYOUTS_TABLE.format(cluster=self.cluster)

    def _usual(self, layout: Layout) -> ClickHouseTable:
        """Of a table about which the application says nothing more."""
        if self._options.unique_ids and layout.column_of(ID) is not None:
            return ClickHouseTable(
                engine="ReplacingMergeTree", order_by=[*self._order(layout), quoted(self._id(layout))]
            )
        return ClickHouseTable()

    def _id(self, layout: Layout) -> str:
        column = layout.column_of(ID)
        return "" if column is None else column.name

    def _order(self, layout: Layout) -> list[str]:
        if layout.primary_key:
            generated = layout.column_of(GENERATED)
            return [quoted(name) for name in layout.primary_key if generated is None or name != generated.name]
        return [quoted(column.name) for source in (TYPE, TIMESTAMP) if (column := layout.column_of(source)) is not None]

    def _column(self, layout: Layout, table: ClickHouseTable, column: LayoutColumn, schema: ColumnSchema | None) -> str:
        parts = [quoted(column.name), self.declared(layout, column, schema)]
        if column.name in table.defaults:
            parts.append(f"DEFAULT {table.defaults[column.name]}")
        elif (default := _default(column)) is not None:
            parts.append(f"DEFAULT {default}")
        if column.name in table.codecs:
            parts.append(f"CODEC({table.codecs[column.name]})")
        return " ".join(parts)

    def _partition(self, layout: Layout, table: ClickHouseTable) -> Iterator[str]:
        time = layout.column_of(TIMESTAMP)
        if table.partition_by is not None:
            yield f"PARTITION BY {table.partition_by}"
        elif layout.partition is not None and time is not None:
            yield f"PARTITION BY {_PARTITIONS[layout.partition]}({quoted(time.name)})"

    def _ttl(self, layout: Layout, table: ClickHouseTable) -> Iterator[str]:
        time = layout.column_of(TIMESTAMP)
        seconds = self.ttl if layout.retention_seconds is None else layout.retention_seconds
        if table.ttl is not None:
            yield f"TTL {table.ttl}"
        elif seconds is not None and time is not None:
            yield f"TTL {expiry(quoted(time.name), seconds)}"

    def _keys_setting(
        self, layout: Layout, table: ClickHouseTable, schemas: Mapping[str, ColumnSchema]
    ) -> dict[str, int]:
        """What lets keys have columns that may be NULL, as those of events are, where these keys name one."""
        keys = " ".join((*(table.order_by or ()), *table.primary_key, table.partition_by or ""))
        named = (column for column in layout.columns if keys and column.name in keys)
        has_null = any("Nullable(" in self.declared(layout, column, schemas.get(column.name)) for column in named)
        return {"allow_nullable_key": 1} if has_null else {}

    def _settings(self, table: ClickHouseTable) -> dict[str, int]:
        name = table.engine.partition("(")[0]
        if not name.endswith("MergeTree"):
            return {}
        if name.startswith(("Replicated", "Shared")):
            return {REPLICATED_WINDOW: self._options.dedup_window, REPLICATED_SECONDS: _WEEK, **NUMBERED}
        return {WINDOW: self._options.dedup_window, **NUMBERED}


def is_reserved(table: str) -> bool:
    """Whether a table of this name is not one of events."""
    return table.lower().startswith(("eventrec_", ".inner"))


def _default(column: LayoutColumn) -> str | None:
    if column.default is None:
        return None
    if parsed(declared_as(column)).name == "DateTime64":
        return "now64(9)"
    if isinstance(column.default, bool):
        return "true" if column.default else "false"
    return literal(column.default) if isinstance(column.default, str) else repr(column.default)


def _settings(settings: Mapping[str, str | int | float]) -> str:
    return ", ".join(
        f"{name} = {literal(value) if isinstance(value, str) else value!r}" for name, value in settings.items()
    )
