"""What has arrived in a table of events since it was last looked at: rows with higher numbers, and marks.

    rows    with a number above the last one that was noted: what any program stores, at no cost of its own
    marks   made by triggers where the numbers do not tell: what is updated, and what is stored under a number that the
            program has chosen; each is the start of a quarter of an hour, in nanoseconds since the epoch, plus the
            number of the table, which is less than a quarter has nanoseconds and follows from its name in lower case

SQLite gives the numbers of deleted rows again: a trigger lowers what was noted when the row that has it is deleted, to
the row before. That row is known by its time; where it is not there, the file was restored or its rows were numbered
again, and all is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._sql.refreshing import QUARTER
from eventrec_handlers.sqlite.own_tables import DIRTY, FLOORS, has_own_table

if TYPE_CHECKING:
    import sqlite3

NONE_NOTED: Final = -(2**63)
"""Below every number of a row."""

LATEST: Final = 9_090_000_000 * 1_000_000_000
EARLIEST: Final = -LATEST
"""Buckets that begin before 1681 or after 2258 are in no table: nanoseconds of 64 bits end soon."""


def table_number(table: str) -> int:
    """What marks of `table` have beyond the start of their quarter."""
    return int.from_bytes(blake2b(fold_ascii(table).encode(), digest_size=4).digest(), "big")


def row_number(columns: list[str]) -> str | None:
    """What the numbers of rows are called in SQL, in a table with these columns; None: they have no name left."""
    names = set(map(fold_ascii, columns))
    return next((number for number in ("rowid", "oid", "_rowid_") if number not in names), None)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What arrives in `table`: its row in `eventrec_floors`.

    Attributes:
        table: Its name, quoted.
        key: Its name, A to Z in lower case.
        number: What the numbers of its rows are called.
        time: The column of the timestamp, quoted.
        noted: The number of the last row that was looked at.
        noted_time: The time of that row.
    """

    table: str
    key: str
    number: str
    time: str
    noted: int
    noted_time: Any

    @classmethod
    def of(cls, connection: sqlite3.Connection, table: str) -> Arrivals | None:
        """Those of `table`; None: it has no rollup that is refreshed."""
        if not has_own_table(connection, FLOORS):
            return None
        row = connection.execute(
            f"SELECT number, time, noted, noted_time FROM {FLOORS} WHERE table_name = ?",  # noqa: S608 - a constant
            (fold_ascii(table),),
        ).fetchone()
        if row is None:
            return None
        number, time, noted, noted_time = row
        return cls(quoted(table), fold_ascii(table), number, quoted(time), noted, noted_time)

    def is_intact(self, connection: sqlite3.Connection) -> bool:
        """Whether the numbers tell what has arrived."""
        if self.noted == NONE_NOTED:
            return True
        row = connection.execute(f"SELECT {self.time} FROM {self.table} WHERE {self.number} = ?", (self.noted,))  # noqa: S608 - quoted
        return bool(row.fetchone() == (self.noted_time,))

    def has_any(self, connection: sqlite3.Connection) -> bool:
        """Whether anything has arrived."""
        rows = f"SELECT 1 FROM {self.table} WHERE {self.number} > ? LIMIT 1"  # noqa: S608 - quoted
        is_new = connection.execute(rows, (self.noted,)).fetchone() is not None
        return is_new or bool(self._marks(connection, 1)) or not self.is_intact(connection)

    def quarters(self, connection: sqlite3.Connection, before: int) -> set[int]:
        """The starts of the quarters of an hour for which something has arrived, of rows those before `before`."""
        start = f"{self.time} - ({self.time} % {QUARTER} + {QUARTER}) % {QUARTER}"
        rows = connection.execute(
            f"SELECT DISTINCT {start} FROM {self.table} WHERE {self.number} > ? AND {self.time} BETWEEN ? AND ?"  # noqa: S608 - quoted
            f" AND typeof({self.time}) = 'integer'",
            (self.noted, EARLIEST, min(before, LATEST + 1) - 1),
        )
        return {since for (since,) in rows} | {since for since, _ in self._marks(connection)}

    def take(self, connection: sqlite3.Connection, limit: int) -> dict[int, int]:
        """Note at most so many rows, and take as many marks away: quarters, and how many rows they are for.

        In a transaction that has the write lock.
        """
        marks = self._marks(connection, limit)
        number = table_number(self.key)
        connection.executemany(f"DELETE FROM {DIRTY} WHERE mark = ?", [(since + number,) for since, _ in marks])  # noqa: S608 - a constant
        found = dict(marks)
        rows = connection.execute(
            f"SELECT {self.number}, {self.time} FROM {self.table} WHERE {self.number} > ?"  # noqa: S608 - quoted
            f" ORDER BY {self.number} LIMIT {limit}",
            (self.noted,),
        ).fetchall()
        for _, at in rows:
            if isinstance(at, int) and EARLIEST <= at <= LATEST:
                since = at - at % QUARTER
                found[since] = found.get(since, 0) + 1
        if rows:
            self._note(connection, *rows[-1])
        return found

    def note_all(self, connection: sqlite3.Connection) -> None:
        """What is there is looked at; in a transaction that has the write lock."""
        newest = f"SELECT {self.number}, {self.time} FROM {self.table} ORDER BY {self.number} DESC LIMIT 1"  # noqa: S608 - quoted
        self._note(connection, *(connection.execute(newest).fetchone() or (NONE_NOTED, None)))

    def _note(self, connection: sqlite3.Connection, noted: int, noted_time: Any) -> None:
        connection.execute(
            f"UPDATE {FLOORS} SET noted = ?, noted_time = ? WHERE table_name = ?",  # noqa: S608 - a constant
            (noted, noted_time, self.key),
        )

    def _marks(self, connection: sqlite3.Connection, limit: int = -1) -> list[tuple[int, int]]:
        number = table_number(self.key)
        return connection.execute(
            f"SELECT mark - {number}, rows FROM {DIRTY} WHERE (mark - {number}) % {QUARTER} = 0"  # noqa: S608 - numbers
            f" ORDER BY mark LIMIT {limit}"
        ).fetchall()


def has_arrived(connection: sqlite3.Connection, table: str) -> bool:
    """Whether anything has arrived in `table` that its rollups have not heard of."""
    arrivals = Arrivals.of(connection, table)
    return arrivals is not None and arrivals.has_any(connection)
