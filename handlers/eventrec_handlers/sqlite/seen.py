"""Records that came with an id, told apart in tables that do not do so themselves: their ids are kept beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import SEEN, new_rows, remembered_ids
from eventrec_handlers.sqlite.own_tables import make_own_table

if TYPE_CHECKING:
    import sqlite3

    from eventrec_handlers.sqlite.columns import Rows

SWEEP_EVERY: Final = 60 * 1_000_000_000
"""Nanoseconds between two sweeps."""

SWEPT_AT_ONCE: Final = 1_000


class Seen:
    """Remembers ids for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._nanoseconds = round(seconds * 1e9)
        self._next_sweep = 0

    def new(self, connection: sqlite3.Connection, part: Rows, now: int) -> Rows:
        """The rows of `part` whose records were not stored before, and each once; in the transaction that stores them.

        Ids are kept only of records that brought one with them, and only where the table does not tell them apart.
        """
        first = remembered_ids(part)
        if not first:
            return part
        make_own_table(connection, SEEN)
        new = {id_ for id_ in first if self._is_new(connection, part.table, id_, now)}
        self._sweep(connection, now)
        return part.only(new_rows(part, first, new))

    def _is_new(self, connection: sqlite3.Connection, table: str, id_: bytes, now: int) -> bool:
        insert = f"INSERT OR IGNORE INTO {SEEN} (table_name, id, seen_at) VALUES (?, ?, ?)"  # noqa: S608 - constant
        return connection.execute(insert, (table, id_.hex(), now)).rowcount == 1

    def _sweep(self, connection: sqlite3.Connection, now: int) -> None:
        if now < self._next_sweep:
            return
        before = now - self._nanoseconds
        swept = connection.execute(
            f"DELETE FROM {SEEN} WHERE (table_name, id) IN"  # noqa: S608 - constant
            f" (SELECT table_name, id FROM {SEEN} WHERE seen_at < ? ORDER BY seen_at LIMIT ?)",
            (before, SWEPT_AT_ONCE),
        ).rowcount
        if swept < SWEPT_AT_ONCE:
            self._next_sweep = now + SWEEP_EVERY
