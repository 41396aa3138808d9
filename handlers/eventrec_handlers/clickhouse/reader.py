"""Reads events back from ClickHouse, beside its writers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from eventrec import TIMESTAMP, EventPage, EventReader, StoredEvent
from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.cursors import (
    Arrival,
    RowKey,
    decoded_arrival,
    decoded_row_key,
    encoded_arrival,
    encoded_row_key,
)
from eventrec_handlers.clickhouse.layouts import read_layouts
from eventrec_handlers.clickhouse.moments import HIGHEST, LOWEST
from eventrec_handlers.clickhouse.node import OddRow
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.sql import is_utf8, readable
from eventrec_handlers.clickhouse.stored import EventTable, Selected, event_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from eventrec import Layout
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

TOGETHER: Final = 1_000
"""Events of a batch: they arrive together, in blocks, so `latest` looks at as many more to find the newest."""

MAX_FOREIGN: Final = 100_000
"""Rows of other programs that a page of `latest` or `follow` passes over in one table before it looks no further."""

AT_ONCE: Final = 10_000
"""Rows that are read at once behind those of other programs."""


class ClickHouseReader(EventReader):
    """Reads tables of the MergeTree family: those with the columns of events, or a layout with one for the time.

    Rows arrive in blocks, which a partition numbers. A table keeps these numbers for each row where it was made with
    `enable_block_number_column` and `enable_block_offset_column`, as ours are; in another one, rows that are merged
    before `follow` has read them may be missed. So may they be in a replicated table, where blocks may become visible
    in another order than they are numbered.

    Rows that a ReplacingMergeTree or a collapsing one drops when it merges are not shown before either. Of several
    nodes that are not replicas of one another, each call shows one.

    A text that is not UTF-8 makes a row foreign, but for one in an extra column, where U+FFFD stands for it; so does a
    time that no event can have. `range` counts rows of the latter kind with its first page.

    Made by `ClickHouseHandler.reader` alone: what it takes may change.
    """

    def __init__(self, target: Target, options: Options, *, layouts: Mapping[str, Layout]) -> None:
        self._target = target
        self._layouts = layouts
        self._nodes = Nodes(target, options)
        self._calls = Calls()

    def __repr__(self) -> str:
        return f"<ClickHouseReader '{self._target}'>"

    async def open(self) -> None:
        self._calls.start()
        await self._calls.ask(self._nodes, _connected)

    async def close(self) -> None:
        if self._calls.can_run:
            await self._calls.run(self._nodes.close)
        await self._calls.stop()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)

        async def read(node: Node) -> EventPage:
            foreign: Counter[str] = Counter()
            seen: Arrival = {}
            rows: list[_Row] = []
            for table in await self._tables(node, foreign):
                seen[table.name] = await table.newest(node)
                if limit and seen[table.name]:
                    part = _Part(table, foreign, wanted=limit + TOGETHER, enough=limit, max_foreign=MAX_FOREIGN)
                    await part.read(
                        node,
                        lambda part, most: part.table.select(
                            types,
                            order="_block_number DESC, _block_offset DESC, _partition_id DESC",
                            limit=most,
                            offset=part.met,
                        ),
                    )
                    rows += part.rows
            rows.sort(key=lambda row: row.event.timestamp)
            return EventPage.of((row.event for row in rows[-limit:] if limit), encoded_arrival(seen), foreign)

        return await self._calls.ask(self._nodes, read)

    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: str | None = None,
    ) -> EventPage:
        self.check_limit(limit)
        after = None if cursor is None else decoded_row_key(cursor)
        low = LOWEST if start is None else min(max(start, LOWEST), HIGHEST)
        high = None if end is None or end > HIGHEST else max(end, LOWEST)

        async def read(node: Node) -> EventPage:
            foreign: Counter[str] = Counter()
            rows: list[_Row] = []
            for table in await self._tables(node, foreign):
                if cursor is None and limit and (number := await table.without_moment(node, types)):
                    foreign[f"table {readable(table.name)!r}: {_no_moment(table)}"] += number
                part = _Part(table, foreign, wanted=limit)
                await part.read(
                    node,
                    lambda part, most: part.table.select(
                        types,
                        where=part.table.within(low, high, part.last or after),
                        order="er_moment, er_id, _partition_id, _block_number, _block_offset",
                        limit=most,
                    ),
                )
                rows += part.rows
            rows.sort(key=lambda row: row.key)
            page = rows[:limit]
            last = page[-1].key if page else after or (low, "", "", "", -1, -1)
            return EventPage(tuple(row.event for row in page), encoded_row_key(last), foreign)

        return await self._calls.ask(self._nodes, read)

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        seen = decoded_arrival(cursor)

        async def read(node: Node) -> EventPage:
            foreign: Counter[str] = Counter()
            page: list[_Row] = []
            upto: Arrival = {}
            for table in await self._tables(node, foreign):
                known = dict(seen.get(table.name, {}))
                upto[table.name] = known
                left = limit - len(page)
                if not left:
                    continue
                newest = await table.newest(node)
                part = _Part(table, foreign, wanted=left, max_foreign=MAX_FOREIGN, reached=known)
                await part.read(
                    node,
                    lambda part, most: part.table.select(
                        types,
                        where=part.table.after(part.reached),
                        order="_partition_id, _block_number, _block_offset",
                        limit=most,
                    ),
                )
                page += part.rows
                if part.is_all:  # also what `types` leaves out
                    for partition, at in newest.items():
                        known[partition] = max(at, known.get(partition, at))
            return EventPage.of((row.event for row in page), encoded_arrival(upto), foreign)

        return await self._calls.ask(self._nodes, read)

    async def _tables(self, node: Node, foreign: Counter[str]) -> Sequence[EventTable]:
        layouts = KeptLayouts(self._layouts)
        layouts.learn(await read_layouts(node))
        return await event_tables(node, layouts, foreign)


@dataclass(frozen=True, slots=True)
class _Row:
    """An event, and where it stands: moment, table, id, partition, block, row of the block."""

    event: StoredEvent
    key: RowKey


@dataclass(slots=True)
class _Part:
    """What one table has to offer to a page: events, behind as many rows of other programs as there are.

    Attributes:
        foreign: Gets why rows were passed over.
        wanted: So many events at most; with `enough` of them it reads no further.
        max_foreign: Behind so many rows that are not events it looks no further; None: it does.
        rows: The events.
        met: How many rows were looked at; `passed` are those that are not events.
        last: The key of the last one of them.
        reached: Partition to the last one of them there.
        is_all: Whether there are no more.
    """

    table: EventTable
    foreign: Counter[str]
    wanted: int
    enough: int | None = None
    max_foreign: int | None = None
    rows: list[_Row] = field(default_factory=list)
    met: int = 0
    passed: int = 0
    last: RowKey | None = None
    reached: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_all: bool = False

    async def read(self, node: Node, select: Callable[[_Part, int], Selected]) -> None:
        """Read it; `select` gives the statement for at most so many rows behind those that were met."""
        layout = self.table.known
        enough = self.wanted if self.enough is None else self.enough
        most = self.wanted
        seen: set[RowKey] = set()  # rows that are inserted meanwhile move what is behind an offset
        while len(self.rows) < enough and not self.is_all:
            if self.max_foreign is not None and self.passed >= self.max_foreign:
                return
            selected = select(self, most)
            found = await node.query(selected.sql, settings=selected.settings)
            for row in found:
                if len(self.rows) == self.wanted:
                    return
                moment, id_, partition, block, offset, *values = row
                key = (moment, self.table.name, id_, partition, block, offset)
                self.met += 1
                self.last = key
                self.reached[partition] = max((block, offset), self.reached.get(partition, (block, offset)))
                if key in seen:
                    continue
                seen.add(key)
                given = dict(zip(self.table.names, values, strict=True))
                event: StoredEvent | str
                if moment is None:
                    event = _no_moment(self.table)
                elif isinstance(row, OddRow):
                    event = _odd_event(layout, given, id_)
                else:
                    event = StoredEvent.of_row(layout, given, row=id_)
                if isinstance(event, str):
                    self.foreign[f"table {readable(self.table.name)!r}: {event}"] += 1
                    self.passed += 1
                else:
                    self.rows.append(_Row(event, key))
            self.is_all = len(found) < most
            most = max(most, AT_ONCE)


def _odd_event(layout: Layout, values: Mapping[str, Any], id_: str) -> StoredEvent | str:
    """The event of a row that holds what is not UTF-8, or why it is not one; in extra columns that is U+FFFD."""
    for column in layout.columns:
        value = values.get(column.name)
        if isinstance(value, str) and not is_utf8(value) and not column.source.path and column.source.kind in _BASE:
            return f"its {column.name} is not UTF-8"
    return StoredEvent.of_row(layout, _readable(values), row=id_)


_BASE: Final = frozenset({"id", "type", "payload", "context", "event"})


def _no_moment(table: EventTable) -> str:
    column = table.known.column_of(TIMESTAMP)
    name = "timestamp" if column is None else readable(column.name)
    return f"its {name} is not of the years 1677 to 2262"


def _readable(value: Any) -> Any:
    """`value` as it stands in a row, with U+FFFD for what is not UTF-8."""
    match value:
        case str():
            return readable(value)
        case list():
            return [_readable(each) for each in value]
        case dict():
            return {_readable(key): _readable(each) for key, each in value.items()}
        case _:
            return value


async def _connected(node: Node) -> None:
    await node.connect()
