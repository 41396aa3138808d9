"""The extension: whether the database has it, which version, and the schema that its functions are in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec import PauseError
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.hook import literal

if TYPE_CHECKING:
    import asyncpg

NEEDED: Final = (2, 15)
"""The oldest version whose policies and aggregates are known to be those that we ask for."""


@dataclass(frozen=True, slots=True)
class Extension:
    """The extension of one database.

    Attributes:
        version: As it says itself.
        schema: What its functions are in: not always on the search path.
    """

    version: str
    schema: str

    @property
    def why_not(self) -> str | None:
        """Why it cannot be worked with, in words."""
        numbers = tuple(map(int, re.findall(r"\d+", self.version)[:2]))
        if numbers >= NEEDED:
            return None
        return f"TimescaleDB {self.version} is there, and {'.'.join(map(str, NEEDED))} is needed: update the extension"

    def function(self, name: str) -> str:
        """`name` in SQL, with its schema."""
        return f"{quoted(self.schema)}.{quoted(name)}"

    async def reach(self, connection: asyncpg.Connection) -> None:
        """Have its functions found without their schema until the transaction ends."""
        await connection.execute(
            "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''),"
            f" {literal(quoted(self.schema))}), true)"
        )


async def find_extension(connection: asyncpg.Connection) -> Extension | None:
    """The extension of the database, inside a transaction; None: there is none."""
    found = await connection.fetchrow(
        "SELECT e.extversion, n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'timescaledb'"
    )
    return None if found is None else Extension(found[0], found[1])


async def needed_extension(connection: asyncpg.Connection, where: str) -> Extension:
    """The extension of the database, inside a transaction.

    Raises:
        PauseError: It is missing, or too old.
    """
    found = await find_extension(connection)
    if found is None:
        raise PauseError(f"{where}: the extension timescaledb is not there: migrate first, or CREATE EXTENSION")
    if found.why_not is not None:
        raise PauseError(f"{where}: {found.why_not}")
    return found
