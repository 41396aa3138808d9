"""Which tables of a database hold events, ours and those of layouts, and what is selected of a row of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec import EVENT, GENERATED, ID, TIMESTAMP, TYPE, LayoutError, StoredEvent
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.catalog import RESERVED, can_be_read, unquoted_type
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.columns import REQUIRED
from eventrec_handlers.postgres.layouts import spelled

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Mapping

    import asyncpg

    from eventrec import Layout
    from eventrec_handlers._sql import KeptLayouts

_TEXTS: Final = ("text", "character varying")
_JSON: Final = ("jsonb", "json", *_TEXTS)
_PLAIN: Final = (*_TEXTS, "boolean", "smallint", "integer", "bigint", "real", "double precision", "numeric", "bytea")

_NEEDED: Final = frozenset({"id", "type", "timestamp", "payload", "event"})
"""What a column of a layout may hold that an event cannot do without."""


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

PLACE: Final = "t.ctid"
"""SQL for the place of a row."""

_NO_PLACE: Final = "'(0,1)'::tid"
"""Of a row that may be compressed: it has none of its own. Its id tells it from others."""


@dataclass(frozen=True, slots=True)
class EventTable:
    """A table that has our base columns, or those of its layout.

    Attributes:
        oid: What the server calls it, whatever its name becomes.
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

    oid: int
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


def _microseconds(time: str) -> str:
    return (
        f"extract(epoch FROM date_trunc('second', {time}))::bigint * 1000000"
        f" + extract(microseconds FROM {time})::bigint % 1000000"
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
        "SELECT c.oid::bigint AS oid, c.relname::text AS name, a.attname::text AS column, a.attnotnull AS is_required,"  # noqa: S608 - constants
        " format_type(a.atttypid, NULL) AS declared,"
        " EXISTS (SELECT FROM pg_index i JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]"
        " JOIN pg_attribute l ON l.attrelid = c.oid AND l.attnum = i.indkey[1] WHERE i.indrelid = c.oid"
        " AND i.indisvalid AND i.indpred IS NULL AND k.attname = 'type' AND l.attname = 'timestamp') AS is_indexed,"
        " has_table_privilege(c.oid, 'SELECT') AS may_be_read,"
        " (SELECT array_agg(h.inhparent::bigint) FROM pg_inherits h WHERE h.inhrelid = c.oid) AS parents"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        f" WHERE n.nspname::text = $1 AND c.relkind IN ('r', 'p') AND {can_be_read('c.relname')}"
        f" AND {can_be_read('a.attname')} AND"
        f" {can_be_read('format_type(a.atttypid, NULL)')} ORDER BY c.relname, a.attnum",
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
        oid=rows[0]["oid"],
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


def _numbered_place(number: str) -> str:
    """A tid made of `number`, SQL for a bigint: 32 bits and 15 bits of it."""
    return f"('(' || (({number} >> 15) & 4294967295) || ',' || (({number} & 32767) + 1) || ')')::tid"


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
        oid=rows[0]["oid"],
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
