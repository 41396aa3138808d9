"""The queries of a reader: which tables hold events, and rows of them by time or by the transaction that wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec import EVENT, GENERATED, ID, TIMESTAMP, TYPE, LayoutError, StoredEvent
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.catalog import RESERVED, unquoted_type
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.columns import REQUIRED
from eventrec_handlers.postgres.layouts import spelled

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Mapping

    import asyncpg

    from eventrec import Layout
    from eventrec_handlers._sql import KeptLayouts
    from eventrec_handlers.postgres.cursor import Arrival, Reached

Query: TypeAlias = "tuple[str, list[Any]]"
"""A statement, and the values of its parameters."""

_TEXTS: Final = ("text", "character varying")
_JSON: Final = ("jsonb", "json", *_TEXTS)
_PLAIN: Final = (*_TEXTS, "boolean", "smallint", "integer", "bigint", "real", "double precision", "numeric", "bytea")


def _microseconds(time: str) -> str:
    return (
        f"extract(epoch FROM date_trunc('second', {time}))::bigint * 1000000"
        f" + extract(microseconds FROM {time})::bigint % 1000000"
    )


@dataclass(frozen=True, slots=True)
class Base:
    """SQL for what every event has, in a row `t`.

    Attributes:
        id: The id, as text.
        order: What events of one time are ordered by; a constant where nothing is.
        cast: The type of that.
        type: The type.
        time: The time.
        payload: The payload, as text.
        is_event: Whether the row is an event.
    """

    id: str = "t.id::text"
    order: str = "t.id"
    cast: str = "uuid"
    type: str = "t.type"
    time: str = "t.timestamp"
    payload: str = "t.payload::text"
    is_event: str = "t.id IS NOT NULL AND t.type IS NOT NULL AND t.payload IS NOT NULL AND isfinite(t.timestamp)"


OURS: Final = Base()

_FIRST, _LAST = -211_813_488_000_000_000, 9_223_371_331_199_999_999
"""The microseconds that a timestamptz can be."""


PLACE: Final = "t.ctid"


@dataclass(frozen=True, slots=True)
class EventTable:
    """A table that has our base columns, or those of its layout.

    Attributes:
        name: Its name.
        quoted: It in SQL, with its schema.
        extra: The columns beside the base ones, name to SQL for their value.
        has_context: Whether there is a context.
        is_indexed: Whether there is an index by type, then time.
        may_hold_foreign: Whether a base column may be NULL.
        may_be_read: Whether this user may read it.
        base: SQL for what every event has.
        layout: Where what stands; None: as in tables of ours. Then `extra` are all columns.
        place: SQL for the place of a row in its table or partition, a tid: no two of one time, and id, have the same.
    """

    name: str
    quoted: str
    extra: Mapping[str, str]
    has_context: bool
    is_indexed: bool
    may_hold_foreign: bool
    may_be_read: bool
    base: Base = OURS
    layout: Layout | None = None
    place: str = PLACE

    def columns(self, transaction: str = "0::bigint", *, place: str | None = None) -> str:
        """What is selected of a row; `transaction` is SQL for the number of the one that wrote it.

        `place` is another than that of the table.
        """
        extra = "".join(f", {sql} AS e{number}" for number, sql in enumerate(self.extra.values()))
        base = self.base
        return (
            f"{transaction} AS x, t.tableoid::bigint AS o, ({place or self.place})::text AS c, {base.id} AS id,"
            f" {base.type}::text AS type, {_microseconds(base.time)} AS us, {base.payload} AS payload,"
            f" {'t.context::text' if self.has_context else 'NULL::text'} AS context{extra}"
        )

    def event(self, row: Any) -> StoredEvent | str:
        """The event of a row that was selected so; or why it is not one."""
        values = {name: row[f"e{number}"] for number, name in enumerate(self.extra)}
        if self.layout is not None:
            time = self.layout.column_of(TIMESTAMP)
            values |= {time.name: row["us"] * 1_000} if time is not None else {}
            return StoredEvent.of_row(self.layout, values, row=row["id"])
        return StoredEvent(
            table=self.name,
            id=row["id"],
            type=row["type"],
            timestamp=row["us"] * 1_000,
            payload=row["payload"],
            context=row["context"],
            columns=values,
        )


async def event_tables(
    connection: asyncpg.Connection,
    namespace: str,
    layouts: KeptLayouts,
    faults: Counter[str],
    *,
    hypertables: Collection[str] = (),
) -> list[EventTable]:
    """The tables of events in `namespace`, by name; what has a parent that may be read is read with that.

    `faults` gets why a table that has a layout is not among them. Rows of `hypertables` may be compressed.
    """
    rows = await connection.fetch(
        "SELECT c.oid::bigint AS oid, c.relname::text AS name, a.attname::text AS column, a.attnotnull AS is_required,"
        " format_type(a.atttypid, NULL) AS declared,"
        " EXISTS (SELECT FROM pg_index i JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]"
        " JOIN pg_attribute l ON l.attrelid = c.oid AND l.attnum = i.indkey[1] WHERE i.indrelid = c.oid"
        " AND i.indisvalid AND i.indpred IS NULL AND k.attname = 'type' AND l.attname = 'timestamp') AS is_indexed,"
        " has_table_privilege(c.oid, 'SELECT') AS may_be_read,"
        " (SELECT array_agg(h.inhparent::bigint) FROM pg_inherits h WHERE h.inhrelid = c.oid) AS parents"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE n.nspname::text = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname, a.attnum",
        namespace,
    )
    columns: dict[int, list[Any]] = {}
    for row in rows:
        columns.setdefault(row["oid"], []).append(row)
    tables: dict[int, EventTable] = {}
    for oid, mine in columns.items():
        try:
            layout = layouts.of(mine[0]["name"])
            is_chunked = mine[0]["name"] in hypertables
            if layout is None:
                table = _event_table(namespace, mine, is_chunked=is_chunked)
            else:
                table = _laid_out_table(namespace, mine, layout, is_chunked=is_chunked)
        except LayoutError as exc:
            faults[f"table {mine[0]['name']!r}: {exc}"] += 1
        else:
            if table is not None:
                tables[oid] = table
    parents = {oid: mine[0]["parents"] or () for oid, mine in columns.items()}

    def has_parent(oid: int) -> bool:
        return any(
            (parent in tables and tables[parent].may_be_read) or has_parent(parent) for parent in parents.get(oid, ())
        )

    return [table for oid, table in tables.items() if not has_parent(oid)]


def _event_table(namespace: str, rows: list[Any], *, is_chunked: bool) -> EventTable | None:
    name = rows[0]["name"]
    declared = {row["column"]: unquoted_type(row["declared"]) for row in rows}
    if (
        name.startswith(RESERVED)
        or declared.get("id") != "uuid"
        or declared.get("type") not in _TEXTS
        or declared.get("timestamp") != "timestamp with time zone"
        or declared.get("payload") not in _JSON
    ):
        return None
    has_context = declared.get("context") in _JSON
    base = (*REQUIRED, "context") if has_context else REQUIRED
    return EventTable(
        name=name,
        quoted=f"{quoted(namespace)}.{quoted(name)}",
        extra={
            column: f"t.{quoted(column)}" + ("" if kind in _PLAIN or kind == "real[]" else "::text")
            for column, kind in declared.items()
            if column not in base
        },
        has_context=has_context,
        is_indexed=rows[0]["is_indexed"],
        may_hold_foreign=not all(row["is_required"] for row in rows if row["column"] in REQUIRED),
        may_be_read=rows[0]["may_be_read"],
        place=_NO_PLACE if is_chunked else PLACE,
    )


_NO_PLACE: Final = "'(0,1)'::tid"
"""Of a row that may be compressed: it has none of its own. Its id tells it from others."""


def _numbered_place(number: str) -> str:
    """A tid made of `number`, SQL for a bigint: 32 bits and 15 bits of it."""
    return f"('(' || (({number} >> 15) & 4294967295) || ',' || (({number} & 32767) + 1) || ')')::tid"


_NEEDED: Final = frozenset({"id", "type", "timestamp", "payload", "event"})


def _laid_out_table(namespace: str, rows: list[Any], layout: Layout, *, is_chunked: bool) -> EventTable:
    """The table of `layout`.

    Raises:
        LayoutError: Its rows are not events that the layout describes.
    """
    declared = {row["column"]: unquoted_type(row["declared"]) for row in rows}
    time = layout.column_of(TIMESTAMP)
    if time is None:
        raise LayoutError("its layout has no column for the time, so its rows are in no order")
    for column in layout.columns:
        if not column.source.path and column.source.kind in _NEEDED:
            found = declared.get(column.name)
            wanted = "character varying" if column.type == "varchar" else spelled(column)
            if found != wanted and not (found in _TEXTS and wanted in _TEXTS):
                raise LayoutError(f"its column {column.name!r} is {found or 'not there'}, and its layout has {column}")
    required = {column.name for column in layout.columns if not column.source.path and column.source.kind in _NEEDED}
    place = _compressible_place(layout) if is_chunked else PLACE
    return EventTable(
        name=layout.table,
        quoted=f"{quoted(namespace)}.{quoted(layout.table)}",
        extra={
            column: f"t.{quoted(column)}" + ("" if kind in _PLAIN or kind == "real[]" else "::text")
            for column, kind in declared.items()
        },
        has_context=False,
        is_indexed=False,
        may_hold_foreign=not all(row["is_required"] for row in rows if row["column"] in required),
        may_be_read=rows[0]["may_be_read"],
        base=_base_of(layout, required, place),
        layout=layout,
        place=place,
    )


def _compressible_place(layout: Layout) -> str:
    """What stands for the place of a row that may be compressed, and so has none."""
    if layout.column_of(ID) is not None:
        return _NO_PLACE
    generated = layout.column_of(GENERATED)
    return _numbered_place("hashtextextended(t::text, 0)" if generated is None else f"t.{quoted(generated.name)}")


def _base_of(layout: Layout, required: Collection[str], own_place: str) -> Base:
    """SQL for what an event of `layout` has; its payload and context are made of the columns, by the layout."""
    id_, kind, time, event = (layout.column_of(source) for source in (ID, TYPE, TIMESTAMP, EVENT))
    generated = layout.column_of(GENERATED)
    place = f"t.tableoid::text || ({own_place})::text" if generated is None else f"t.{quoted(generated.name)}::text"
    at = "" if time is None else f"t.{quoted(time.name)}"
    is_whole = kind is None and event is not None and event.word != "text"
    type_ = literal(layout.table) if kind is None else f"t.{quoted(kind.name)}"
    type_ = f"(t.{quoted(event.name)} ->> 'type')" if is_whole and event is not None else type_
    present = [f"t.{quoted(name)} IS NOT NULL" for name in sorted(required)]
    return Base(
        id=f"({literal(layout.table + ':')} || {place})" if id_ is None else f"t.{quoted(id_.name)}::text",
        order="''::text" if id_ is None else f"t.{quoted(id_.name)}" + ("" if id_.word == "uuid" else ' COLLATE "C"'),
        cast="uuid" if id_ is not None and id_.word == "uuid" else "text",
        type=type_,
        time=at,
        payload="''",
        is_event=" AND ".join([*present, f"isfinite({at})"]),
    )


class _Values(list[Any]):
    """The values of parameters, in the order in which they were named."""

    def named(self, value: Any, kind: str) -> str:
        """The name of a parameter of type `kind` that holds `value`."""
        self.append(value)
        return f"${len(self)}::{kind}"

    def time(self, microseconds: int) -> str:
        """A moment, exact over the whole range: a product with an interval is one of floats."""
        seconds, rest = divmod(min(max(microseconds, _FIRST), _LAST), 1_000_000)
        return (
            f"(timestamptz '1970-01-01 00:00:00+00' + {self.named(seconds, 'bigint')} * interval '1 second'"
            f" + {self.named(rest, 'bigint')} * interval '1 microsecond')"
        )


# -- by time


def by_timestamp(
    table: EventTable,
    *,
    types: Collection[str] | None,
    limit: int,
    newest: bool = False,
    start: int | None = None,
    end: int | None = None,
    after: Reached | None = None,
) -> Query:
    """At most `limit` events with `start` <= timestamp < `end`, in ns, behind `after`: the oldest, or the newest."""
    values = _Values()
    base = table.base
    wanted = [base.is_event, *_within(base.time, values, start, end)]
    if after is not None:
        moment = values.time(after.microseconds)
        if table.name == after.table:
            wanted.append(
                f"({base.time}, {base.order}, t.tableoid::bigint, {table.place})"
                f" > ({moment}, {values.named(after.id, 'text')}::{base.cast},"
                f" {values.named(after.oid, 'bigint')}, {values.named(after.ctid, 'text')}::tid)"
            )
        else:
            wanted.append(f"{base.time} {'>=' if table.name > after.table else '>'} {moment}")
    order = ", ".join(f"{key}{' DESC' * newest}" for key in (base.time, base.order, "t.tableoid", table.place))
    most = f" ORDER BY {order} LIMIT {limit:d}"
    selected = f"SELECT {table.columns()} FROM {table.quoted} AS t WHERE {' AND '.join(wanted)}"  # noqa: S608 - quoted
    kinds = None if types is None else values.named(list(types), "text[]")
    if not table.is_indexed:
        return selected + ("" if kinds is None else f" AND {base.type} = ANY ({kinds})") + most, values
    # The index begins with the type, so each type is looked up by itself; and the types are found by leaping from one
    # to the next in that index, not by reading it.
    known = (
        f"known AS (SELECT DISTINCT unnest({kinds}) AS type)"
        if kinds is not None
        else f"known AS ((SELECT type FROM {table.quoted} ORDER BY type LIMIT 1) UNION ALL"  # noqa: S608 - quoted
        f" SELECT (SELECT type FROM {table.quoted} WHERE type > known.type ORDER BY type LIMIT 1)"
        " FROM known WHERE known.type IS NOT NULL)"
    )
    order = ", ".join(f"{key}{' DESC' * newest}" for key in ("us", "id", "o", "c::tid"))
    sql = (
        f"WITH RECURSIVE {known} SELECT found.* FROM known CROSS JOIN LATERAL"  # noqa: S608 - quoted
        f" ({selected} AND t.type = known.type{most}) AS found ORDER BY {order} LIMIT {limit:d}"
    )
    return sql, values


def _within(time: str, values: _Values, start: int | None, end: int | None) -> list[str]:
    # Times are kept in microseconds, so the first that is not before a nanosecond is that nanosecond rounded up.
    bounds = []
    if start is not None:
        bounds.append(f"{time} >= {values.time(-(-start // 1_000))}")
    if end is not None:
        bounds.append(f"{time} < {values.time(-(-end // 1_000))}")
    return bounds


# -- by transaction: of hypertables, what is not compressed, in a transaction that has executed `UNCOMPRESSED`

UNCOMPRESSED: Final = "SET LOCAL timescaledb.enable_transparent_decompression = off"


def _number(end: int) -> str:
    """SQL for the whole number of the transaction that wrote a row, of which it carries 32 bits: below `end`."""
    return f"({end - 1}::bigint - (({end - 1}::bigint - t.xmin::text::bigint) & 4294967295))"


def _since(low: int, *, end: int) -> str:
    # The first condition says no more than the second does; it is the one that is quick.
    return f"age(t.xmin) <= age('{low & 0xFFFFFFFF}'::xid) AND {_number(end)} >= {low}"


def arrived(table: EventTable, since: Arrival, *, end: int, types: Collection[str] | None, limit: int) -> Query:
    """At most `limit` events of transactions below `end` that `since` has not seen, in the order of those."""
    values = _Values()
    wanted = [table.base.is_event, *_unseen(values, since, end=end)]
    if types is not None:
        wanted.append(f"{table.base.type} = ANY ({values.named(list(types), 'text[]')})")
    sql = (
        f"SELECT {table.columns(_number(end), place=PLACE)} FROM {table.quoted} AS t"  # noqa: S608 - quoted
        f" WHERE {' AND '.join(wanted)} ORDER BY x, o, t.ctid LIMIT {limit:d}"
    )
    return sql, values


def _unseen(values: _Values, since: Arrival, *, end: int) -> list[str]:
    wanted = [_since(since.low, end=end)] if since.low else []
    if since.seen:
        wanted.append(f"{_number(end)} <> ALL ({values.named(sorted(since.seen), 'bigint[]')})")
    if since.after is not None:
        transaction, oid, ctid = since.after
        wanted.append(
            f"NOT ({_number(end)} = {values.named(transaction, 'bigint')} AND (t.tableoid::bigint, t.ctid)"
            f" <= ({values.named(oid, 'bigint')}, {values.named(ctid, 'text')}::tid))"
        )
    return wanted


def transactions_since(table: EventTable, low: int, *, end: int) -> Query:
    """The transactions from `low` on, below `end`, that wrote rows which are there."""
    return (
        f"SELECT DISTINCT {_number(end)} AS x FROM {table.quoted} AS t WHERE {_since(low, end=end)}",  # noqa: S608 - quoted
        [],
    )


def foreign_rows(
    table: EventTable,
    *,
    end_of_transactions: int,
    start: int | None = None,
    end: int | None = None,
    since: Arrival | None = None,
) -> Query:
    """How many rows are not events: of all, of a time, or of the transactions that `since` has not seen."""
    values = _Values()
    wanted = _within(table.base.time, values, start, end)
    if since is not None:
        wanted += _unseen(values, since, end=end_of_transactions)
    wanted.append(f"({table.base.is_event}) IS NOT TRUE")
    return f"SELECT count(*) FROM {table.quoted} AS t WHERE {' AND '.join(wanted)}", values  # noqa: S608 - quoted
