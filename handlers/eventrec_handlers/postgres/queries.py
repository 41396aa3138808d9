"""The queries of a reader: rows of tables of events, by time or by the transaction that wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec_handlers.postgres.event_tables import PLACE

if TYPE_CHECKING:
    from collections.abc import Collection

    from eventrec_handlers.postgres.cursor import Arrival, Reached
    from eventrec_handlers.postgres.event_tables import EventTable

Query: TypeAlias = "tuple[str, list[Any]]"
"""A statement, and the values of its parameters."""

_FIRST: Final = -211_813_488_000_000_000
_LAST: Final = 9_223_371_331_199_999_999
"""The microseconds that a timestamptz can be, from `_FIRST` on."""


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
