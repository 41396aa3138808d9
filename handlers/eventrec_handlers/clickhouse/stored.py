"""Tables of events as a reader finds them, and the statements that select from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec import ID, TIMESTAMP, TYPE, LayoutError, default_layout
from eventrec_handlers.clickhouse.ddl import is_reserved
from eventrec_handlers.clickhouse.moments import (
    HIGHEST,
    LOWEST,
    bounds_sql,
    is_moment,
    may_lack_moment,
    moment_sql,
)
from eventrec_handlers.clickhouse.rows import REQUIRED
from eventrec_handlers.clickhouse.sql import literal, quoted, readable
from eventrec_handlers.clickhouse.types import parsed

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Mapping, Sequence

    from eventrec import Layout, LayoutColumn
    from eventrec_handlers._sql import KeptLayouts
    from eventrec_handlers.clickhouse.node import Node

_SETTINGS: Final[Mapping[str, Any]] = {"output_format_json_quote_64bit_integers": 0}
_FINAL: Final[Mapping[str, Any]] = {**_SETTINGS, "final": 1}
_NESTED: Final = frozenset({"Array", "Map", "Tuple"})


@dataclass(frozen=True, slots=True)
class Selected:
    """A statement, with its settings. Its rows: moment, id, partition, block, row of the block, then the columns."""

    sql: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventTable:
    """A table of events.

    Attributes:
        layout: The one that it has; None: it has the columns of ours.
        types: Its columns that are read: name to type.
        engine: Its engine, without arguments.
    """

    name: str
    layout: Layout | None
    types: Mapping[str, str]
    engine: str

    @property
    def names(self) -> Sequence[str]:
        """Of the columns that are read, as they are shown."""
        return tuple(map(readable, self.types))

    @property
    def known(self) -> Layout:
        """Its layout, or ours."""
        return self.layout or default_layout(readable(self.name))

    def select(
        self, types: Collection[str] | None, *, order: str, limit: int, where: str = "true", offset: int = 0
    ) -> Selected:
        """The statement for at most `limit` rows behind the first `offset`, of `types` alone where they are given."""
        id_ = self.known.column_of(ID)
        shown = [self._shown(name, type_) for name, type_ in self.types.items()]
        place = "concat(_partition_id, '-', toString(_block_number), '-', toString(_block_offset))"
        listed = ", ".join(
            (
                f"{self._moment()} AS er_moment",
                f"{place if id_ is None else _id(id_.name)} AS er_id",
                "_partition_id",
                "_block_number",
                "_block_offset",
                *shown,
            )
        )
        sql = (
            f"SELECT {listed} FROM {quoted(self.name)} WHERE {where} AND {self._of_types(types)}"  # noqa: S608 - quoted
            f" ORDER BY {order} LIMIT {limit} OFFSET {offset}"
        )
        return Selected(sql, settings_of(self.engine))

    async def newest(self, node: Node) -> dict[str, tuple[int, int]]:
        """The last row of each partition: number of its block, and its own in it."""
        sql = (
            "SELECT _partition_id, max((_block_number, _block_offset)) AS last"  # noqa: S608 - quoted
            f" FROM {quoted(self.name)} GROUP BY _partition_id"
        )
        return {partition: (last[0], last[1]) for partition, last in await node.query(sql, settings=_SETTINGS)}

    def after(self, known: Mapping[str, tuple[int, int]]) -> str:
        """The condition for rows that arrived after those."""
        if not known:
            return "true"
        parts = [f"_partition_id NOT IN ({', '.join(map(literal, known))})"]
        parts += [
            f"(_partition_id = {literal(partition)} AND (_block_number, _block_offset) > ({block}, {offset}))"
            for partition, (block, offset) in known.items()
        ]
        return f"({' OR '.join(parts)})"

    def within(self, low: int, high: int | None, after: tuple[Any, ...] | None) -> str:
        """The condition for rows of [`low`, `high`), and behind the place `after` of another row."""
        time = self.known.column_of(TIMESTAMP)
        end = HIGHEST + 1 if high is None else high
        parts = []
        if after is not None:
            at, table, id_, partition, block, offset = after
            low, moment = max(low, at), self._moment()
            if table > self.name:
                parts.append(f"{moment} > toInt64('{at}')")
            elif table == self.name:
                behind = f"(er_id, _partition_id, _block_number, _block_offset) > ({literal(id_)}, {literal(partition)}, toInt64({block}), toInt64({offset}))"  # noqa: E501 - one piece
                parts.append(f"({moment} > toInt64('{at}') OR ({moment} = toInt64('{at}') AND {behind}))")
        if time is not None:
            parts.insert(0, bounds_sql(time.name, self.types[time.name], max(low, LOWEST), end))
        return " AND ".join(parts) or "true"

    async def without_moment(self, node: Node, types: Collection[str] | None) -> int:
        """How many rows, of `types` alone where they are given, are of no time that an event can have."""
        time = self.known.column_of(TIMESTAMP)
        if time is None or not may_lack_moment(self.types[time.name]):
            return 0
        sql = (
            f"SELECT count() FROM {quoted(self.name)}"  # noqa: S608 - quoted
            f" WHERE isNull({self._moment()}) AND {self._of_types(types)}"
        )
        ((number,),) = await node.query(sql, settings=settings_of(self.engine))
        return int(number)

    def _moment(self) -> str:
        time = self.known.column_of(TIMESTAMP)
        return moment_sql(time.name, self.types[time.name]) if time is not None else "0"

    def _of_types(self, types: Collection[str] | None) -> str:
        if types is None:
            return "true"
        column = self.known.column_of(TYPE)
        if column is None:
            return "true" if self.name in types else "false"
        listed = ", ".join(map(literal, types)) or "''"
        return f"{quoted(column.name)} IN ({listed})" if types else "false"

    def _shown(self, name: str, declared: str) -> str:
        column = _column(self.known, name)
        type_ = parsed(declared)
        if column is not None and column.word == "timestamptz":
            return moment_sql(name, declared)
        if column is not None and column.word == "uuid":
            return f"toString({quoted(name)})"
        if type_.name in _NESTED:
            is_json = column is not None and column.word in {"json", "jsonb"}
            return f"toJSONString({quoted(name)})" if is_json else quoted(name)
        if type_.name == "FixedString":
            return f"toStringCutToZero({quoted(name)})"
        return quoted(name)


def _id(name: str) -> str:
    """The id that a column holds, as a text that is there and can be sent back, whatever the column holds."""
    return f"toValidUTF8(ifNull(toString({quoted(name)}), ''))"


def _column(layout: Layout, name: str) -> LayoutColumn | None:
    return next((column for column in layout.columns if column.name == name), None)


def settings_of(engine: str) -> Mapping[str, Any]:
    """With which settings a table is read: what it drops when it merges is not shown before either."""
    return _SETTINGS if engine.removeprefix("Replicated").removeprefix("Shared") == "MergeTree" else _FINAL


async def event_tables(node: Node, layouts: KeptLayouts, foreign: Counter[str]) -> list[EventTable]:
    """The tables of events that a node has, by name. One whose layout cannot be read is counted in `foreign`.

    Raises:
        Failure: The node does not tell.
    """
    engines = {
        str(name): str(engine)
        for name, engine in await node.query(
            "SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
            " ORDER BY name"
        )
        if not is_reserved(str(name))
    }
    columns: dict[str, dict[str, str]] = {name: {} for name in engines}
    for table, name, type_ in await node.query(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position"
    ):
        if table in columns:
            columns[table][name] = type_
    found = []
    for name, there in columns.items():
        try:
            layout = layouts.of(name)
        except LayoutError as exc:
            foreign[f"table {readable(name)!r}: {exc}"] += 1
            continue
        made = _event_table(name, layout, there, engines[name])
        if made is not None:
            found.append(made)
    return found


def _event_table(name: str, layout: Layout | None, there: Mapping[str, str], engine: str) -> EventTable | None:
    if layout is None:
        if not all(column in there for column in REQUIRED) or not is_moment(there["timestamp"]):
            return None
        return EventTable(name, None, there, engine)
    time = layout.column_of(TIMESTAMP)
    if time is None or not is_moment(there.get(time.name, "")):
        return None
    read = {column.name: there[column.name] for column in layout.columns if column.name in there}
    return EventTable(name, layout, read, engine)
