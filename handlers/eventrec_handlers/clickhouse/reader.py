"""Reads events back from ClickHouse, beside its writers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from eventrec import EventPage, EventReader, PauseError, StoredEvent, default_layout
from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.cursors import (
    Arrival,
    Place,
    decoded_arrival,
    decoded_place,
    encoded_arrival,
    encoded_place,
)
from eventrec_handlers.clickhouse.errors import UnknownCodeError
from eventrec_handlers.clickhouse.layouts import read_layouts
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.stored import EventTable, Selected, event_tables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from eventrec import Layout
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

TOGETHER: Final = 1_000
"""Events of a batch: they arrive together, in blocks, so `latest` looks at as many more to find the newest."""

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1


class ClickHouseReader(EventReader):
    """Reads tables of the MergeTree family: those with the columns of events, or a layout with one for the time.

    Rows arrive in blocks, which a partition numbers. A table keeps these numbers for each row where it was made with
    `enable_block_number_column` and `enable_block_offset_column`, as ours are; in another one, rows that are merged
    before `follow` has read them may be missed. So may they be in a replicated table, where blocks may become visible
    in another order than they are numbered.

    Rows that a ReplacingMergeTree or a collapsing one drops when it merges are not shown before either. Of several
    nodes that are no replicas of one another, each call shows one.
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
        await self._ask(_connected)

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
                    found = table.select(types, order="_block_number DESC, _block_offset DESC", limit=limit + TOGETHER)
                    rows += await _rows(node, table, found, foreign)
            rows.sort(key=lambda row: row.event.timestamp)
            return EventPage.of((row.event for row in rows[-limit:] if limit), encoded_arrival(seen), foreign)

        return await self._ask(read)

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
        after = None if cursor is None else decoded_place(cursor)
        low = LOWEST if start is None else min(max(start, LOWEST), HIGHEST)
        high = None if end is None or end > HIGHEST else max(end, LOWEST)

        async def read(node: Node) -> EventPage:
            foreign: Counter[str] = Counter()
            rows: list[_Row] = []
            for table in await self._tables(node, foreign):
                found = table.select(
                    types,
                    where=table.within(low, high, after),
                    order="er_moment, er_id, _partition_id, _block_number, _block_offset",
                    limit=limit,
                )
                rows += await _rows(node, table, found, foreign)
            rows.sort(key=lambda row: row.place)
            page = rows[:limit]
            last = page[-1].place if page else after or (low, "", "", "", -1, -1)
            return EventPage(tuple(row.event for row in page), encoded_place(last), foreign)

        return await self._ask(read)

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
                found = table.select(
                    types,
                    where=table.after(known),
                    order="_partition_id, _block_number, _block_offset",
                    limit=left,
                )
                rows = await _rows(node, table, found, foreign)
                page += rows
                if len(rows) < left:  # all of it, also what `types` leaves out
                    for partition, place in newest.items():
                        known[partition] = max(place, known.get(partition, place))
                for row in rows:
                    place = (row.place[4], row.place[5])
                    known[row.place[3]] = max(place, known.get(row.place[3], place))
            return EventPage.of((row.event for row in page), encoded_arrival(upto), foreign)

        return await self._ask(read)

    async def _tables(self, node: Node, foreign: Counter[str]) -> Sequence[EventTable]:
        layouts = KeptLayouts(self._layouts)
        layouts.learn(await read_layouts(node))
        return await event_tables(node, layouts, foreign)

    async def _ask(self, job: Callable[[Node], Awaitable[T]]) -> T:
        try:
            return await self._calls.run(lambda: self._nodes.call(job))
        except UnknownCodeError as exc:
            raise PauseError(str(exc)) from exc


@dataclass(frozen=True, slots=True)
class _Row:
    """An event, and where it stands: moment, table, id, partition, block, row of the block."""

    event: StoredEvent
    place: Place


async def _rows(node: Node, table: EventTable, selected: Selected, foreign: Counter[str]) -> list[_Row]:
    found = []
    for moment, id_, partition, block, offset, *values in await node.query(selected.sql, settings=selected.settings):
        given: dict[str, Any] = dict(zip(table.names, values, strict=True))
        layout = table.layout or default_layout(table.name)
        event = StoredEvent.of_row(layout, given, row=id_)
        if isinstance(event, str):
            foreign[f"table {table.name!r}: {event}"] += 1
        else:
            found.append(_Row(event, (moment, table.name, id_, partition, block, offset)))
    return found


async def _connected(node: Node) -> None:
    await node.connect()
