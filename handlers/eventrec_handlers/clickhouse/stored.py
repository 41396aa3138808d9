"""Tables of events as a reader finds them, and the statements that select from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec import ID, TIMESTAMP, TYPE, LayoutError, default_layout
from eventrec_handlers.clickhouse.ddl import is_reserved
from eventrec_handlers.clickhouse.rows import REQUIRED
from eventrec_handlers.clickhouse.sql import literal, quoted
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
        """Of the columns that are read."""
        return tuple(self.types)

    @property
    def _known(self) -> Layout:
        return self.layout or default_layout(self.name)

    def select(self, types: Collection[str] | None, *, order: str, limit: int, where: str = "true") -> Selected:
        """The statement for at most `limit` rows, of `types` alone where they are given."""
        id_ = self._known.column_of(ID)
        shown = [self._shown(name, type_) for name, type_ in self.types.items()]
        place = "concat(_partition_id, '-', toString(_block_number), '-', toString(_block_offset))"
        listed = ", ".join(
            (
                f"{self._moment()} AS er_moment",
                f"{place if id_ is None else f'toString({quoted(id_.name)})'} AS er_id",
                "_partition_id",
                "_block_number",
                "_block_offset",
                *shown,
            )
        )
        sql = (
            f"SELECT {listed} FROM {quoted(self.name)} WHERE {where} AND {self._of_types(types)}"  # noqa: S608 - quoted
            f" ORDER BY {order} LIMIT {limit}"
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
        moment = self._moment()
        parts = [f"{moment} >= toInt64('{low}')"]
        if high is not None:
            parts.append(f"{moment} < toInt64('{high}')")
        if after is not None:
            at, table, id_, partition, block, offset = after
            if table > self.name:
                parts.append(f"{moment} > toInt64('{at}')")
            elif table < self.name:
                parts.append(f"{moment} >= toInt64('{at}')")
            else:
                behind = f"(er_id, _partition_id, _block_number, _block_offset) > ({literal(id_)}, {literal(partition)}, toInt64({block}), toInt64({offset}))"  # noqa: E501 - one piece
                parts.append(f"({moment} > toInt64('{at}') OR ({moment} = toInt64('{at}') AND {behind}))")
        return " AND ".join(parts)

    def _moment(self) -> str:
        time = self._known.column_of(TIMESTAMP)
        return moment_sql(time.name, self.types[time.name]) if time is not None else "0"

    def _of_types(self, types: Collection[str] | None) -> str:
        if types is None:
            return "true"
        column = self._known.column_of(TYPE)
        if column is None:
            return "true" if self.name in types else "false"
        listed = ", ".join(map(literal, types)) or "''"
        return f"{quoted(column.name)} IN ({listed})" if types else "false"

    def _shown(self, name: str, declared: str) -> str:
        column = _column(self._known, name)
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


def _column(layout: Layout, name: str) -> LayoutColumn | None:
    return next((column for column in layout.columns if column.name == name), None)


def moment_sql(name: str, declared: str) -> str:
    """The moment that a column holds, in nanoseconds."""
    if parsed(declared).name == "DateTime":
        return f"(toInt64({quoted(name)}) * 1000000000)"
    return f"toUnixTimestamp64Nano({quoted(name)})"


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
            foreign[f"table {name!r}: {exc}"] += 1
            continue
        made = _event_table(name, layout, there, engines[name])
        if made is not None:
            found.append(made)
    return found


def _event_table(name: str, layout: Layout | None, there: Mapping[str, str], engine: str) -> EventTable | None:
    if layout is None:
        if not all(column in there for column in REQUIRED) or not _is_moment(there["timestamp"]):
            return None
        return EventTable(name, None, there, engine)
    time = layout.column_of(TIMESTAMP)
    if time is None or not _is_moment(there.get(time.name, "")):
        return None
    read = {column.name: there[column.name] for column in layout.columns if column.name in there}
    return EventTable(name, layout, read, engine)


def _is_moment(declared: str) -> bool:
    return bool(declared) and parsed(declared).name in {"DateTime64", "DateTime"}
