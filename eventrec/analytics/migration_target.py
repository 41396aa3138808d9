"""What a database must be able to do so that migrations can be made for it and applied to it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from eventrec.analytics.migration_text import parsed
from eventrec.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from eventrec.analytics.migration import Migration, Phase, Statement


class Declarations(Protocol):
    """What is read of a catalogue."""

    @property
    def events(self) -> Sequence[Any]:
        """Its event classes, each with `type`, `table` and `columns`."""

    @property
    def layouts(self) -> Sequence[Any]:
        """Its layouts."""

    @property
    def rollups(self) -> Sequence[Any]:
        """Its rollups."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One thing that a database is to hold.

    Attributes:
        key: What it is, the same for ever: "table orders", "rollup revenue", "own eventrec_checkpoints".
        phase: When it is made.
        content: Canonical JSON of how it is declared: where it changes, the thing is changed.
        source: The object that declares it, for the target that made this declaration.
    """

    key: str
    phase: Phase
    content: str
    source: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Steps:
    """What makes a declaration true, and what undoes that (None: it cannot be undone)."""

    up: tuple[Statement, ...]
    down: tuple[Statement, ...] | None = None


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """What a database keeps of one migration.

    Attributes:
        version: Its number; `name`, `phase` and `checksum` are its own too.
        text: Its file, as it was when it began: what was begun is ended as it began.
        done: How many of its statements have run.
        undone: How many statements of its rollback have run.
        adopted: The keys of what was there before it: a rollback would delete what it did not make.
        is_applied: Whether all of it has run.
    """

    version: int
    name: str
    phase: str
    checksum: str
    text: str
    done: int = 0
    undone: int = 0
    adopted: tuple[str, ...] = ()
    is_applied: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any], *, is_applied: bool) -> Self:
        """A record as a table holds it: `adopted` is a JSON array.

        Raises:
            MigrationError: Another program has stored something else there.
        """
        version = row["version"]
        try:
            adopted = json.loads(row["adopted"])
            migration = parsed(row["text"])
        except (ValueError, TypeError, RecursionError, MigrationError) as exc:
            raise MigrationError(f"what is noted of migration {version!r:.20} cannot be read: {exc}") from exc
        counts = (row["done"], len(migration.up)), (row["undone"], len(migration.down or ()))
        is_counted = all(isinstance(done, int) and 0 <= done <= most for done, most in counts)
        if not is_counted or migration.version != version or not _are_texts(adopted):
            raise MigrationError(f"what is noted of migration {version!r:.20} is not what eventrec notes")
        return cls(**{**row, "adopted": tuple(adopted)}, is_applied=is_applied)

    @property
    def migration(self) -> Migration:
        """The migration as it began."""
        return parsed(self.text)


def _are_texts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


@dataclass(frozen=True, slots=True)
class EarlierMigrations:
    """What another program has noted of its own migrations in the table `_migrations`.

    Attributes:
        applied: The number and name of each, by number; None: the table is of a kind that is not known.
    """

    applied: tuple[tuple[int, str], ...] | None

    TABLE: ClassVar[str] = "_migrations"
    COLUMNS: ClassVar[frozenset[str]] = frozenset({"version", "name", "applied_at"})
    """What a table of the known kind consists of."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What stands among the adopted of our first migration."""
        return tuple(f"{self.TABLE} {version} {name}" for version, name in self.applied or ())

    @property
    def remark(self) -> str | None:
        """A sentence for the operator; None: there is nothing to say."""
        if self.applied is None:
            return f"the table {self.TABLE} is another program's, of a kind that is not known: it is left alone"
        if not self.applied:
            return None
        listed = ", ".join(f"{version} {name!r}" for version, name in self.applied)
        return f"{self.TABLE} says that {listed:.400} ran here: what these made is adopted as it is, and not run again"


class MigrationTarget(ABC):
    """One database: what is to be made there, and making it. It belongs to one task; `async with` opens and closes it.

    Every method that asks the database raises:
        MigrationError: It refuses. The message is one line, without secrets.
        DeliveryError: It cannot be reached, or not be used.
    """

    dialect: ClassVar[str]
    """What its SQL is called in files: "postgresql", "sqlite" …"""

    # -- what is to be there: decided without the database

    @abstractmethod
    def declared(self, catalogue: Declarations) -> Sequence[Declaration]:
        """Everything that `catalogue` declares, our own tables first, in the order in which it is made.

        Raises:
            MigrationError: This database cannot hold it as it is declared.
        """

    @abstractmethod
    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        """What makes `declaration` true where `before` (None: nothing) was declared. The same text, whenever asked.

        Raises:
            MigrationError: That change cannot be made: what an operator has to do instead.
        """

    # -- the database

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Connect. Changes nothing, and makes nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. May be called twice, and without `open`."""

    @abstractmethod
    def lock(self, on_wait: Callable[[], object]) -> AbstractAsyncContextManager[None]:
        """Holds off other processes that migrate this database; `on_wait` is called once where it has to be waited for.

        The lock ends with the process that holds it.
        """

    @abstractmethod
    async def records(self) -> Sequence[MigrationRecord]:
        """What is kept of the migrations so far, by version. Changes nothing."""

    @abstractmethod
    async def found(self, declarations: Sequence[Declaration]) -> Mapping[str, Sequence[str]]:
        """Those of `declarations` that are there already: key to how each differs from what is declared, in words."""

    async def earlier(self) -> EarlierMigrations | None:
        """What another program has noted of its migrations here; None: nothing. Changes nothing."""
        return None

    async def unsure(self) -> str | None:
        """A sentence about a statement that was sent, of which it is not known whether it ran; None: there is none.

        A database without transactions has such, where a process was killed in the middle of a statement that must not
        run twice. `apply` and `undo` refuse it. Changes nothing.
        """
        return None

    async def settle_unsure(self, how: Literal["ran", "again"]) -> None:
        """An operator has looked: that statement, if there is one, ran, or it is to run again. Under the lock."""
        del how

    @abstractmethod
    async def prepare(self) -> None:
        """Make the table of records where it is missing, or what one of an earlier version lacks. Under the lock."""

    @abstractmethod
    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        """Store a record of `migration`, with nothing done. Under the lock."""

    @abstractmethod
    async def apply(self, migration: Migration, number: int) -> None:
        """Run the statement `number` of `migration`, counted from 0, and note it; the last one makes it applied.

        In one transaction, where the statement may be in one. A statement that was run before, whose note was lost,
        does no harm. Under the lock.
        """

    @abstractmethod
    async def undo(self, migration: Migration, number: int) -> None:
        """Likewise, the statement `number` of its rollback; the last one deletes the record. Under the lock."""
