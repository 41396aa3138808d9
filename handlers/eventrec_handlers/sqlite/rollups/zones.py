"""Rollups whose table was filled by other rules of its zone than this machine has: one machine fills them again.

What begins before the floor of their table stays as it was counted: its events may be gone. It ends where the last such
bucket ended by the rules that counted it (`kept_to`). There the next bucket begins, whatever the present rules say: no
event is counted twice, and none is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.zone_rules import held_remark, refilled_remark
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.marks import EARLIEST, row_number
from eventrec_handlers.sqlite.own_tables import PENDING, ROLLUPS, ZONES, has_own_table, make_own_table
from eventrec_handlers.sqlite.rollups.registry import floor_of, recount, registered, registered_of
from eventrec_handlers.sqlite.transactions import reading, writing

if TYPE_CHECKING:
    import sqlite3

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.sqlite.rollups.registry import Registered

SLICE: Final = 1_000
"""Rows deleted in one transaction."""


def can_note(connection: sqlite3.Connection, plan: RollupPlan) -> bool:
    """Whether there is where the rules of its zone are noted, if it has any."""
    return plan.bucket.rules is None or has_own_table(connection, ZONES)


def take_over(connection: sqlite3.Connection, plan: RollupPlan, *, seconds: float, now: int) -> str | None:
    """Have `plan` counted by the rules of its zone that this machine has, unless others refresh it by theirs.

    `seconds` are waited for a lock. What an operator is told; None: nothing has changed.
    """
    remark: str | None = None
    while True:
        check_cancelled()
        with reading(connection):
            found = registered(connection, plan.name)
        if found is None or found.is_ours:
            return remark
        if not found.filled_by.may_fill(found.bucket, rested=found.rested(now)):
            return held_remark(plan)
        if found.filled_to > EARLIEST:
            remark = refilled_remark(plan, found.filled_by)
        with writing(connection, seconds):
            found = registered(connection, plan.name)
            if found is not None and not found.is_ours:
                _clear_slice(connection, plan, found)


def _clear_slice(connection: sqlite3.Connection, plan: RollupPlan, found: Registered) -> None:
    """Delete some rows that other rules have made; once there are none, it is ours. Meanwhile no row is believed."""
    floor = floor_of(connection, plan.table)
    recount(connection, "name", plan.name)
    own, number = quoted(plan.name), row_number(list(plan.column_names))
    some = "" if number is None else f" AND {number} IN (SELECT {number} FROM {own} WHERE {{0}} LIMIT {SLICE})"  # noqa: S608 - quoted
    later = f"{quoted(plan.bucket_name)} >= {floor}"
    if connection.execute(f"DELETE FROM {own} WHERE {later}{some.format(later)}").rowcount >= SLICE:  # noqa: S608 - likewise
        return
    connection.execute(
        f"UPDATE {ROLLUPS} SET late_rows = late_rows + (SELECT coalesce(sum(rows), 0) FROM {PENDING}"  # noqa: S608 - constants
        " WHERE rollup = ? AND bucket < ?) WHERE name = ?",
        (plan.name, found.floor(floor), plan.name),
    )
    connection.execute(f"DELETE FROM {PENDING} WHERE rollup = ?", (plan.name,))  # noqa: S608 - a constant
    make_own_table(connection, ZONES)
    kept_to = plan.bucket.ceiling(floor) if found.kept_to is None and floor > EARLIEST else found.kept_to
    connection.execute(
        f"INSERT OR REPLACE INTO {ZONES} (rollup, fingerprint, rules, kept_to) VALUES (?, ?, ?, ?)",  # noqa: S608 - a constant
        (plan.name, plan.fingerprint, found.filled_by.replaced(plan.bucket), kept_to),
    )


def note_floor(connection: sqlite3.Connection, table: str, floor: int) -> None:
    """Note where the buckets end that begin before `floor`, that of `table`; in a transaction."""
    for rollup in registered_of(connection, table):
        if rollup.bucket.rules is not None and rollup.is_ours:
            connection.execute(
                f"UPDATE {ZONES} SET kept_to = max(coalesce(kept_to, :end), :end) WHERE rollup = :rollup",  # noqa: S608 - a constant
                {"end": rollup.bucket.ceiling(floor), "rollup": rollup.name},
            )
