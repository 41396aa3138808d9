"""What the file knows of rollups: which it has, up to where each is filled, and when it was refreshed.

So many processes refresh each of them once in its time.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec import PauseError
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._sql.refreshing import bucket_of_row
from eventrec_handlers._sql.zone_rules import FilledBy
from eventrec_handlers.sqlite.file import is_about_statement, is_reserved, read_table
from eventrec_handlers.sqlite.marks import EARLIEST, Arrivals, row_number
from eventrec_handlers.sqlite.own_tables import (
    FLOORS,
    OF_ROLLUPS,
    ROLLUPS,
    ZONES,
    check_own_tables,
    has_own_table,
    make_own_table,
)
from eventrec_handlers.sqlite.rollups.computing import index_wanted
from eventrec_handlers.sqlite.rollups.tables import rollup_statements, trigger_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.analytics import Bucket, RollupPlan
    from eventrec_handlers.sqlite.rollups.fields import Columns


@dataclass(frozen=True, slots=True)
class Registered:
    """A rollup that the file has: its row in `eventrec_rollups`. Times are in seconds, moments in nanoseconds.

    Attributes:
        bucket: How time is parted from `kept_to` on.
        filled_by: By which rules of its zone its table is filled.
        kept_to: Where the last bucket ends that begins before the floor of the table; None: it is not noted.
    """

    name: str
    fingerprint: str
    version: int
    bucket: Bucket
    lag: float
    filled_by: FilledBy
    kept_to: int | None
    filled_to: int
    late_rows: int
    refreshed_at: int

    @property
    def is_ours(self) -> bool:
        """Whether it is filled by the rules of its zone that this machine has."""
        return self.filled_by.is_ours(self.bucket)

    def rested(self, now: int) -> float:
        """How many seconds ago it was refreshed."""
        return abs(now - self.refreshed_at) / 1_000_000_000

    def floor(self, floor: int) -> int:
        """The moment before which none of its buckets begins that may be computed; `floor` is that of its table."""
        return floor if self.kept_to is None else max(floor, self.kept_to)

    @property
    def is_filled(self) -> bool:
        """Whether the last refresh came to its end."""
        return self.filled_to >= self.bucket.floor(self.refreshed_at - round(self.lag * 1_000_000_000))


def has_rollups(connection: sqlite3.Connection) -> bool:
    """Whether any rollup was ever refreshed here."""
    return has_own_table(connection, ROLLUPS)


def registered(connection: sqlite3.Connection, name: str) -> Registered | None:
    """The rollup `name`; None: the file does not have it."""
    found = _registered(connection, "name = ?", name) if has_rollups(connection) else []
    return found[0] if found else None


def registered_of(connection: sqlite3.Connection, table: str) -> list[Registered]:
    """All rollups of the events in `table`, by name."""
    return _registered(connection, "table_name = ? ORDER BY name", fold_ascii(table)) if has_rollups(connection) else []


def _registered(connection: sqlite3.Connection, where: str, value: str) -> list[Registered]:
    zones = f"LEFT JOIN {ZONES} AS zoned ON zoned.rollup = name AND zoned.fingerprint = known.fingerprint"
    is_noted = has_own_table(connection, ZONES)
    rows = connection.execute(
        "SELECT name, known.fingerprint, version, unit, every, zone, lag, refresh_every,"  # noqa: S608 - constants
        f" {'rules, kept_to' if is_noted else 'NULL, NULL'}, filled_to, late_rows, refreshed_at"
        f" FROM {ROLLUPS} AS known {zones if is_noted else ''} WHERE {where}",
        (value,),
    ).fetchall()
    return [
        Registered(
            *(name, fingerprint, version),
            bucket_of_row(unit, every, zone, kept_to),
            lag,
            FilledBy.of(rules, refresh_every=refresh_every),
            kept_to,
            *moments,
        )
        for name, fingerprint, version, unit, every, zone, lag, refresh_every, rules, kept_to, *moments in rows
    ]


def has_table(connection: sqlite3.Connection, plan: RollupPlan) -> bool:
    """Whether a rollup that is registered has its table."""
    own = read_table(connection, plan.name)
    return own.kind == "table" and set(plan.column_names) <= set(own.columns or ())


def is_marked(connection: sqlite3.Connection, table: str) -> bool:
    """Whether what arrives in `table` is noticed: triggers go with a table, and do not come back with the next."""
    _, *needed = trigger_names(table)
    (count,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN (?, ?) AND tbl_name = ? COLLATE NOCASE",
        (*needed, table),
    ).fetchone()
    return bool(count == len(needed)) and Arrivals.of(connection, table) is not None


def check_declared(plan: RollupPlan, found: Registered) -> None:
    """Raise PauseError where `plan` is declared otherwise than what the file has."""
    if found.fingerprint != plan.fingerprint:
        raise PauseError(
            f"rollup {plan.name!r} is declared otherwise here than in the file: migrate it first,"
            " with refresh=true in the URL"
        )


def make_rollup(connection: sqlite3.Connection, plan: RollupPlan, columns: Columns) -> None:
    """Make what is missing of the tables of `plan`; in a transaction.

    Raises:
        PauseError: Something else has the name of one of them.
    """
    check_own_tables(connection)
    for name in OF_ROLLUPS:
        make_own_table(connection, name)
    found, own = registered(connection, plan.name), read_table(connection, plan.name)
    if is_reserved(plan.name):
        raise PauseError(f"rollup {plan.name!r}: names that start with sqlite_ or eventrec_ are reserved")
    if own.kind is not None and (found is None or own.kind != "table"):
        raise PauseError(
            f"rollup {plan.name!r}: the file has a {own.kind} {plan.name!r} that is not ours, and it is not touched:"
            " rename one of them"
        )
    if own.columns is not None and not set(plan.column_names) <= set(own.columns):
        raise PauseError(f"rollup {plan.name!r}: another program has changed its table, which lacks columns")
    if found is not None:
        check_declared(plan, found)
    if own.kind is None:
        recount(connection, "name", plan.name)
    number, chosen = _numbers(connection, plan.table)
    was_marked = is_marked(connection, plan.table)
    _drop_moved_triggers(connection, plan.table)
    for sql in rollup_statements(plan, columns.time, number=number, chosen=chosen):
        connection.execute(sql)
    arrivals = Arrivals.of(connection, plan.table)
    if not was_marked and arrivals is not None:
        recount(connection, "table_name", arrivals.key)
        arrivals.note_all(connection)
    wanted = index_wanted(connection, plan, columns)
    if wanted is not None:
        name = quoted(f"eventrec_{'_'.join((plan.table, *wanted))}")
        by = ", ".join(map(quoted, wanted))
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {quoted(plan.table)} ({by})")


def _drop_moved_triggers(connection: sqlite3.Connection, table: str) -> None:
    """Drop what marks for `table` and is at another one: it went along when that was renamed, and has the names."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name IN (?, ?, ?) AND tbl_name <> ? COLLATE NOCASE",
        (*trigger_names(table), table),
    ).fetchall()
    for (name,) in rows:
        connection.execute(f"DROP TRIGGER {quoted(name)}")


def recount(connection: sqlite3.Connection, column: str, value: str) -> None:
    """Have all that is stored counted again, in the rollups with `value` in `column`; in a transaction."""
    connection.execute(f"UPDATE {ROLLUPS} SET filled_to = ? WHERE {column} = ?", (EARLIEST, value))  # noqa: S608 - constants


def _numbers(connection: sqlite3.Connection, table: str) -> tuple[str, str | None]:
    """What the numbers of the rows of `table` are called, and the column in which a program may choose one.

    Raises:
        PauseError: Its rows have none.
    """
    columns = connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
    number = row_number([name for _, name, *_ in columns])
    try:
        connection.execute(f"SELECT {number} FROM {quoted(table)} LIMIT 0")  # noqa: S608 - quoted
    except sqlite3.OperationalError as exc:
        if not is_about_statement(exc):
            raise
        number = None
    if number is None:
        raise PauseError(f"table {table!r}: its rows have no numbers, so what arrives there is not noticed")
    keys = [(name, declared) for _, name, declared, _, _, place in columns if place]
    # https://www.sqlite.org/lang_createtable.html#rowid: then it is the number.
    return number, keys[0][0] if len(keys) == 1 and keys[0][1].upper() == "INTEGER" else None


def note_refreshed(connection: sqlite3.Connection, plans: Sequence[RollupPlan], now: int) -> None:
    """A refresh of `plans` begins; in a transaction. Those that other rules of their zone fill are passed over."""
    ours = [plan for plan in plans if (found := registered(connection, plan.name)) is not None and found.is_ours]
    connection.executemany(
        f"UPDATE {ROLLUPS} SET refreshed_at = ?, refresh_every = ?, lag = ? WHERE name = ?",  # noqa: S608 - a constant
        [(now, float(plan.refresh.every), float(plan.refresh.lag), plan.name) for plan in ours],
    )


def claim_due(connection: sqlite3.Connection, plans: Sequence[RollupPlan], now: int) -> list[RollupPlan]:
    """Those of `plans` that no process has refreshed within their time: noted as refreshed now; in a transaction.

    Also those that are new, or not filled yet.
    """
    due: list[RollupPlan] = []
    claimed: list[RollupPlan] = []
    for plan in plans:
        found = registered(connection, plan.name)
        if found is not None and not found.is_ours:
            due.append(plan)  # whether others refresh it, the refresh finds out
            continue
        waits = found is not None and found.is_filled
        # A claim from a time that has not come holds no process either: the clock was ahead.
        if found is None or not waits or abs(now - found.refreshed_at) >= round(plan.refresh.every * 1_000_000_000):
            due.append(plan)
            claimed.append(plan)
    if has_rollups(connection):
        note_refreshed(connection, claimed, now)
    return due


def floor_of(connection: sqlite3.Connection, table: str) -> int:
    """The moment before which events of `table` may have been removed."""
    if not has_own_table(connection, FLOORS):
        return EARLIEST
    found = connection.execute(
        f"SELECT kept_from FROM {FLOORS} WHERE table_name = ?",  # noqa: S608 - a constant
        (fold_ascii(table),),
    ).fetchone()
    return EARLIEST if found is None else max(EARLIEST, found[0])


def drop_idle_triggers(connection: sqlite3.Connection) -> None:
    """Drop triggers of ours of tables that have no rollup any more; in a transaction."""
    if not has_rollups(connection):
        return
    rows = connection.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, table in rows:
        if name in trigger_names(table) and not registered_of(connection, table):
            connection.execute(f"DROP TRIGGER {quoted(name)}")
