"""The tables that batches go to, as they were read last: which columns they have, and what rows lack there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers.postgres.catalog import Table, make, plan, read_tables
from eventrec_handlers.postgres.errors import errors_translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from eventrec_handlers._sql import SchemaMode, TablePlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.copy import Part

MAX_KNOWN: Final = 10_000
"""Remembered at once: types and tables made from user input must not fill the memory."""


class KnownTables:
    """Remembers tables and plans until they may have changed. `where` is how errors call the database.

    `divides`: tables are made with native partitions, where their layouts have some.
    """

    def __init__(self, where: str, *, schema: SchemaMode, max_columns: int, divides: bool) -> None:
        self._where = where
        self._schema: SchemaMode = schema
        self._max_columns = max_columns
        self._divides = divides
        self._tables: dict[str, Table] = {}
        self._plans: dict[tuple[str, object], TablePlan] = {}

    def __repr__(self) -> str:
        return f"<KnownTables {len(self._tables)} of {self._where}>"

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    @property
    def is_full(self) -> bool:
        """Whether as many are known as may be."""
        return max(len(self._tables), len(self._plans)) >= MAX_KNOWN

    def forget(self) -> None:
        """The tables may have changed: read them again."""
        self._tables = {}
        self._plans = {}

    def forget_plans(self) -> None:
        """The layouts may have changed, and with them what rows need of their tables."""
        self._plans = {}

    async def read(self, connection: asyncpg.Connection, namespace: Namespace, names: set[str]) -> dict[str, Table]:
        """The tables `names`, read where they are not known."""
        unknown = names - self._tables.keys()
        known = {name: self._tables[name] for name in names - unknown}
        if unknown:
            async with connection.transaction(isolation="read_committed"):
                found = await read_tables(connection, namespace, unknown)
            self._learn(found)
            known |= found
        return known

    def _learn(self, tables: Mapping[str, Table]) -> None:
        self._tables.update(tables)
        self._plans = {key: known for key, known in self._plans.items() if key[0] not in tables}

    def plan(self, namespace: Namespace, part: Part, table: Table) -> TablePlan:
        """What the rows of `part` lack in `table`."""
        key = part.key
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = plan(
                table,
                part.table,
                part.wanted,
                namespace,
                schema=self._schema,
                max_columns=self._max_columns,
                layout=part.layout,
            )
        return found

    async def make(self, connection: asyncpg.Connection, namespace: Namespace, parts: Sequence[Part]) -> None:
        """Make what the tables of `parts` lack. What goes wrong here is never a record's fault.

        Raises:
            DeliveryError: What the server's refusal means; see `errors_translated`.
        """
        with errors_translated(self._where, makes_tables=True):
            for table in dict.fromkeys(part.table for part in parts):
                shapes = [part.wanted for part in parts if part.table == table]
                made = await make(
                    connection,
                    namespace,
                    table,
                    shapes,
                    schema=self._schema,
                    max_columns=self._max_columns,
                    layout=next(part.layout for part in parts if part.table == table),
                    divides=self._divides,
                )
                self._learn({table: made})
