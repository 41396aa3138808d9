"""What stands at the path of the database and beside it: which files, and whether another program wrote them.

Files are asked about by name, never opened: closing a descriptor of one would give up the locks that SQLite holds on it
in this process.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

from eventrec_handlers.sqlite.file import true_path

if TYPE_CHECKING:
    import os


Doubt: TypeAlias = Literal["shrunk", "touched"] | None
"""Of the database: it may lack pages. Of it or its WAL: what was acknowledged may not be there."""


class Standing(NamedTuple):
    """The database, its WAL, and the index of that: device and inode of each; None: there is none to be seen.

    `size` and `wal_size` are in bytes; `written` is when the database was written last, in nanoseconds.
    """

    database: tuple[int, int] | None
    wal: tuple[int, int] | None
    wal_index: tuple[int, int] | None
    size: int = 0
    written: int = 0
    wal_size: int = 0

    @classmethod
    def at(cls, path: Path) -> Self:
        """What stands there now."""
        true = true_path(path)
        database, wal, index = (_stat(Path(f"{true}{suffix}")) for suffix in ("", "-wal", "-shm"))
        return cls(
            _identity(database),
            _identity(wal),
            _identity(index),
            0 if database is None else database.st_size,
            0 if database is None else database.st_mtime_ns,
            0 if wal is None else wal.st_size,
        )

    def is_same(self, other: Self) -> bool:
        """Whether they are the same files."""
        return self[:3] == other[:3]

    def doubt(self, earlier: Self) -> Doubt:
        """What another program may have done to them since they stood as `earlier`, after our commit.

        A WAL grows until a connection begins it again, and the database is written when the WAL goes into it: by us in
        our own commits, which are seen, and by others. It shrinks where it is cut, and where one has vacuumed it.
        """
        if self.size < earlier.size:
            return "shrunk"
        return "touched" if self.wal_size < earlier.wal_size or self.written != earlier.written else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)


def close_as_it_is(connection: sqlite3.Connection, path: Path) -> None:
    """Close it and leave the files alone, where what the connection knows of its WAL may not be so any more.

    The last one of a file copies the WAL into the database when it is closed; cut, that would be half of a transaction.
    It does not where another is open; and one that may only read cannot.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        with suppress(sqlite3.Error):
            reader.execute("SELECT 1 FROM sqlite_master").fetchall()
        connection.close()
    connection.close()
