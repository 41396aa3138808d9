"""What a destination holds, compared with what it should hold, in words that say what went wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.testing.conformance.harness import Delivered, HandlerHarness
    from eventrec.testing.conformance.log import Log


async def assert_holds(
    harness: HandlerHarness, *logs: Log, end: int | None = None, copies: int = 1, may_double: bool = False
) -> None:
    """Assert that the destination holds `[0, end)` of each log `copies` times, whole, in order, and nothing else.

    `may_double`: more copies will do, as long as they carry the same id.
    """
    expected = [row for log in logs for row in log.rows(0, end)]
    others = [] if end is None else [row for log in logs for row in log.rows(end)]
    compare(
        await harness.delivered(),
        expected,
        harness=harness,
        copies=copies,
        may_double=may_double,
        unwritten=others,
    )


def compare(
    found: Sequence[Delivered],
    expected: Sequence[Delivered],
    *,
    harness: HandlerHarness,
    copies: int = 1,
    may_double: bool = False,
    unwritten: Sequence[Delivered] = (),
    because: str = "`handle` failed with them, or was not given them",
) -> None:
    """Assert that `found` is `expected`, each row `copies` times.

    `unwritten` are other records of the log, of which none may be there, and `because` says why.
    """
    counts = Counter(row.id for row in found)
    wanted = {row.id: row for row in expected}
    missing = [row for row in expected if counts[row.id] < copies]
    doubled = [row for row in expected if counts[row.id] > copies]
    others = {row.id for row in unwritten}
    left = [row for row in found if row.id in others and row.id not in wanted]
    foreign = [row for row in found if row.id not in wanted and row.id not in others]
    assert not (missing and foreign), (
        f"lost: {_brief(missing)} of {len(expected)} records did not arrive, while {len(foreign)} rows arrived with "
        "ids that no record has; a row keeps `record.id`"
    )
    assert not missing, f"lost: {_brief(missing)} of {len(expected)} records did not arrive ({_where(missing, counts)})"
    assert may_double or not doubled, f"doubled: {_brief(doubled)} of {len(expected)} arrived more often than once"
    assert not left, f"left behind: {_brief(left)} are there, and must not be: {because}"
    assert not foreign, f"made up: {_brief(foreign)} carry ids that no record has; ids must be those of the batch"
    for row in found:
        _assert_same(row, wanted[row.id], harness)
    if "order" not in harness.lacks and copies == 1 and not may_double:
        _assert_in_order(found, expected)


def assert_every_row(found: Sequence[Delivered], log: Log, *, harness: HandlerHarness) -> None:
    """Assert that each row of the records of `log` was found once, with what its record says.

    First rows have the id of their record; how a destination tells the further ones apart is its own affair. No two
    rows of `log` have the same columns.
    """
    expected = {_key(row): row for row in log.every_row()}
    counts = Counter(_key(row) for row in found)
    missing = [row for key, row in expected.items() if not counts[key]]
    assert not missing, (
        f"lost: {len(missing)} of {len(expected)} rows did not arrive (the first: {missing[0].columns}), {len(found)} "
        "are there: an event may have several rows, and each of `record.rows` is written"
    )
    assert len(found) == len(expected), f"doubled: of {len(expected)} rows, {len(found)} arrived"
    without = {row.id for row in log.rows()} - {row.id for row in found}
    assert not without, (
        f"{len(without)} of {log.end} records have no row with their id; the first row keeps `record.id`"
    )
    for row in found:
        record = expected[_key(row)]
        _assert_same(replace(row, id=record.id), record, harness)


def _key(row: Delivered) -> str:
    return repr(sorted(_columns(row).items()))


def _columns(row: Delivered) -> dict[str, object]:
    return {name: value for name, value in row.columns.items() if value is not None}


def _assert_same(row: Delivered, record: Delivered, harness: HandlerHarness) -> None:
    assert row.type == record.type, f"record {row.id}: its type is {record.type!r}, it arrived as {row.type!r}"
    assert row.table == record.table, f"record {row.id}: its table is {record.table!r}, it arrived in {row.table!r}"
    unit = harness.timestamp_unit
    assert row.timestamp // unit == record.timestamp // unit, (
        f"record {row.id}: its timestamp is {record.timestamp} ns, it arrived as {row.timestamp} ns"
    )
    if row.payload != record.payload:
        assert harness.payloads == "value", f"payload changed from {record.payload!r:.200} to {row.payload!r:.200}"
        assert _value(row.payload) == _value(record.payload), (
            f"payload changed from {record.payload!r:.200} to {row.payload!r:.200}"
        )
    if "columns" not in harness.lacks:
        there = _columns(row)
        assert there == record.columns, (
            f"record {row.id}: its columns are {record.columns}, they arrived as {there}; they are not in the payload: "
            "write `record.rows`, by the names in `record.columns`, or say why not in lacks['columns']"
        )


def _assert_in_order(found: Sequence[Delivered], expected: Sequence[Delivered]) -> None:
    for table, kind in {(row.table, row.type) for row in expected}:
        arrived = [row.id for row in found if (row.table, row.type) == (table, kind)]
        in_order = [row.id for row in expected if (row.table, row.type) == (table, kind)]
        assert arrived == in_order, f"out of order: in {table!r}, records of type {kind!r} arrived in another order"


def numbers(found: Sequence[Delivered]) -> list[int]:
    """The numbers in the payloads of `numbered` events, as they arrived."""
    return [json.loads(row.payload)["n"] for row in found]


def _value(payload: bytes) -> Any:
    """What the payload says; numbers are exact, however they are written."""
    return json.loads(payload, parse_int=Decimal, parse_float=Decimal)


def _brief(rows: Sequence[Delivered]) -> str:
    return f"{len(rows)} (the first: {rows[0].type!r} {rows[0].payload!r:.60})" if rows else "none"


def _where(missing: Sequence[Delivered], counts: Counter[str]) -> str:
    return f"they were there {sorted({counts[row.id] for row in missing})} times" if missing else ""
