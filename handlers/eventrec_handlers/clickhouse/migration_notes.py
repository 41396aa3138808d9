"""What a ClickHouse notes of its migrations.

    eventrec_migrations   version, name, phase, checksum, text, done, undone, adopted, state, noted_at,
                          sent: the number, from 1 on, of a statement that was sent and may have run; below 0, of the
                          rollback; 0: none

A note is a row that is added; the newest of a version holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec import PauseError
from eventrec.analytics import MigrationRecord
from eventrec_handlers.clickhouse.lease import OWNER
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from eventrec.analytics import Migration
    from eventrec_handlers.clickhouse.node import Node

TABLE: Final = "eventrec_migrations"

_RECORD: Final = ("version", "name", "phase", "checksum", "text", "done", "undone", "adopted")
"""The columns that are a record's."""

_MAKE: Final = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (version UInt32, name String, phase String, checksum String, text String,"
    " done UInt32, undone UInt32, adopted String, state Enum8('begun' = 0, 'applied' = 1, 'gone' = 2),"
    " noted_at DateTime64(9, 'UTC') DEFAULT now64(9), sent Int32 DEFAULT 0)"
    " ENGINE = MergeTree ORDER BY (version, noted_at)"
)
_ADD_SENT: Final = f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS sent Int32 DEFAULT 0"
"""What a table of an earlier eventrec lacks."""


class Note(NamedTuple):
    """The newest note of a version, and the `owner` of the lock when it was read."""

    version: int
    name: str
    phase: str
    checksum: str
    text: str
    done: int
    undone: int
    adopted: str
    state: str
    sent: int
    owner: str

    @property
    def record(self) -> MigrationRecord:
        """What it says of the migration.

        Raises:
            MigrationError: Another program has stored something else there.
        """
        kept = {name: getattr(self, name) for name in _RECORD}
        return MigrationRecord.of(kept, is_applied=self.state == "applied")


class MigrationNotes:
    """Reads and adds notes on `node`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def prepare(self) -> None:
        """Make the table, or what it lacks.

        Raises:
            PauseError: Something else has its name.
        """
        names = await self._columns()
        if not names:  # else it would need the right to make tables, for nothing
            await self._node.run(_MAKE)
        elif "sent" not in names:
            await self._node.run(_ADD_SENT)

    async def newest(self) -> list[Note]:
        """The newest note of each version that is not gone, by version; none where there is no table.

        Raises:
            PauseError: Something else has its name.
        """
        names = await self._columns()
        if not names:
            return []
        sent = "sent" if "sent" in names else "toInt32(0)"
        newest = ", ".join(f"argMax({name}, noted_at)" for name in (*_RECORD[1:], "toString(state)", sent))
        rows = await self._node.query(
            f"SELECT version, {newest}, ({OWNER}) FROM {TABLE} GROUP BY version ORDER BY version"  # noqa: S608 - constants
        )
        return [note for note in map(Note._make, rows) if note.state != "gone"]

    async def of(self, version: int) -> Note | None:
        """The newest one of that version; None: there is none, or it is gone."""
        return next((note for note in await self.newest() if note.version == version), None)

    async def add(
        self, migration: Migration, *, done: int, undone: int, adopted: str, state: str, sent: int = 0
    ) -> None:
        """Note where `migration` is."""
        texts = (migration.name, migration.phase.value, migration.checksum, migration.text)
        values = f"{migration.version:d}, {', '.join(map(literal, texts))}, {done:d}, {undone:d}, {literal(adopted)}"
        columns = f"{', '.join(_RECORD)}, state, sent"
        await self._node.run(f"INSERT INTO {TABLE} ({columns}) VALUES ({values}, {literal(state)}, {sent:d})")  # noqa: S608 - literals

    async def _columns(self) -> set[str]:
        """Those of the table; none: there is no such table."""
        there = await self._node.query(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{TABLE}'"  # noqa: S608 - a constant
        )
        names = {str(name) for (name,) in there}
        if names and not {*_RECORD, "state", "noted_at"} <= names:
            raise PauseError(f"{TABLE} is another program's: rename it")
        return names
