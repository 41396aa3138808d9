"""Migrations: numbered steps that take a database from what it holds to what a catalogue declares.

phase   made before or after the new version of an application is deployed
PRE     tables, partitions, indexes, policies of raw tables: what a new version cannot do without
POST    rollups and their policies: what only reads the tables
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from eventrec.errors import MigrationError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,99}")
MAX_VERSION: Final = 9_999_999

_MARKER: Final = re.compile(r"^--[ \t]*(eventrec|phase|dialect|declares|statement|down|no down)\b", re.MULTILINE)


class Phase(StrEnum):
    """When a migration is applied; in the order in which both are."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of SQL.

    Attributes:
        sql: Its text, without a semicolon at its end.
        in_transaction: Whether it runs in the transaction that also notes that it ran. Where the database demands that
            it does not, a process that is killed behind it runs it again: it must then do no harm.

    Raises:
        MigrationError: It is empty, or a file could not hold it: see `migration_text`.
    """

    sql: str
    in_transaction: bool = True

    def __post_init__(self) -> None:
        text = self.sql.strip().removesuffix(";").rstrip()
        object.__setattr__(self, "sql", text)
        if not text:
            raise MigrationError("a statement of a migration is empty")
        if "\0" in text or "\r" in text:
            raise MigrationError(f"a statement of a migration holds NUL or a carriage return: {text[:60]!r}")
        if _MARKER.search(text) is not None:
            raise MigrationError(f"a line in a statement looks like one that stands between statements: {text[:60]!r}")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the history of a database.

    Attributes:
        version: Its number: from 1, without gaps.
        name: What it is called: a to z, 0 to 9 and _.
        phase: When it is applied.
        up: What it does, in order.
        down: What undoes it, in order; None: it cannot be undone.
        dialect: The kind of database that its SQL is for.
        declares: What the catalogue declares, as far as this migration makes it true: key to canonical_json JSON.
        text: The file; what is given for a migration that was read from one, else made.

    Raises:
        MigrationError: A part is not what it may be.
    """

    version: int
    name: str
    phase: Phase
    up: tuple[Statement, ...]
    down: tuple[Statement, ...] | None = None
    dialect: str = ""
    declares: tuple[tuple[str, str], ...] = ()
    text: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.version <= MAX_VERSION:
            raise MigrationError(f"the version of a migration is 1 to {MAX_VERSION}, got {self.version}")
        if NAME.fullmatch(self.name) is None:
            raise MigrationError(f"a migration is named with a to z, 0 to 9 and _, got {self.name[:100]!r}")
        if not self.up:
            raise MigrationError(f"migration {self.version} has no statement")

    def __str__(self) -> str:
        return f"{self.version:04d} {self.phase} {self.name}"

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return f"{self.version:04d}_{self.phase}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        """SHA-256 of its text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()
