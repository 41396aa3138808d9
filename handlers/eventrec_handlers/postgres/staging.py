"""Rows of a COPY by INSERT, where the server takes no COPY: into a table under row-level security, or into any.

They are brought to a temporary table first, which takes the right to make one: by COPY, so that each value is written
as in any other COPY; by INSERT of their texts, where the server takes no COPY at all. One row that is refused does not
say which, so the rows are tried in halves, under savepoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec import PauseError, PermanentError
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.errors import DENIED, brief, is_permanent, state
from eventrec_handlers.postgres.field_texts import field_texts
from eventrec_handlers.postgres.partitions import has_no_partition, lacks_one_for_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec_handlers.postgres.catalog import Table
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.copy import Copy

STAGED: Final = "eventrec_rows"
"""The temporary table. It goes with its transaction."""


class Staging:
    """Writes the rows of `copy` into `table`, in the transaction of `connection`. `where` names the database."""

    def __init__(
        self, connection: asyncpg.Connection, namespace: Namespace, copy: Copy, table: Table, *, where: str
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._copy = copy
        self._table = table
        self._where = where
        number = "row"
        while number in copy.columns:
            number += "_"
        self._number = quoted(number)
        columns = ", ".join(map(quoted, copy.columns))
        self._insert = (
            f"INSERT INTO {namespace.named(copy.table)} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608 - quoted
            f" SELECT {columns} FROM pg_temp.{STAGED}"
        )
        self._refused: dict[int, str] = {}

    async def copy(self, *, by_texts: bool = False) -> None:
        """Bring the rows to the server. `by_texts`: without a COPY, which is slower.

        Raises:
            asyncpg.PostgresError: A value is refused, there may be no temporary table, or no COPY.
        """
        await self._connection.execute(f"DROP TABLE IF EXISTS pg_temp.{STAGED}")
        types = [self._table.columns[name] for name in self._copy.columns]
        declared = "".join(f", {quoted(name)} {type_}" for name, type_ in zip(self._copy.columns, types, strict=True))
        await self._connection.execute(
            f"CREATE TEMP TABLE {STAGED} ({self._number} bigint GENERATED ALWAYS AS IDENTITY{declared}) ON COMMIT DROP"
        )
        if by_texts:
            await self._bring_texts(types)
            return
        await self._connection.copy_to_table(
            STAGED, source=self._copy, columns=self._copy.columns, schema_name="pg_temp", format="binary"
        )

    async def _bring_texts(self, types: Sequence[str]) -> None:
        columns = ", ".join(map(quoted, self._copy.columns))
        texts = ", ".join(f"c{i}::{type_}" for i, type_ in enumerate(types))
        names = ", ".join(f"c{i}" for i in range(len(types)))
        given = ", ".join(f"${i}::text[]" for i in range(1, len(types) + 1))
        insert = (
            f"INSERT INTO pg_temp.{STAGED} ({columns}) SELECT {texts}"  # noqa: S608 - quoted, and types as the server spells them
            f" FROM unnest({given}) WITH ORDINALITY AS given ({names}, number) ORDER BY number"
        )
        async for data in self._copy:
            await self._connection.execute(insert, *field_texts(data, types))

    async def insert(self, records: int) -> None:
        """Write them. `records` is how many the batch has.

        Raises:
            PermanentError: Some are refused; it names their records.
            PauseError: A policy refuses all of them.
            asyncpg.PostgresError: What else the server says.
        """
        if await self._try(f"{self._insert} ORDER BY {self._number}") is None:
            return
        (rows,) = await self._connection.fetchrow(f"SELECT count(*) FROM pg_temp.{STAGED}")  # noqa: S608 - constant
        refusal = await self._halve(1, rows)
        if refusal is None:
            return
        if state(refusal) == DENIED and len(self._refused) == rows:
            raise PauseError(f"{self._where}: {brief(refusal)}") from refusal
        if has_no_partition(refusal):
            kind = self._copy.type_at(max(self._refused))
            if await lacks_one_for_now(
                self._connection, self._namespace, self._copy.table, refusal, kind=kind, layout=self._copy.layout
            ):
                raise PauseError(f"{self._where}: {brief(refusal)}, nor for one of now") from refusal
        named = {
            offset: f"table {self._copy.table!r} refuses it: {why}"
            for row, why in self._refused.items()
            if (offset := self._copy.offset(row)) is not None
        }
        offset, reason = next(iter(named.items()))
        raise PermanentError(
            f"{len(named)} of {records} records cannot be stored; at offset {offset}: {reason}", records=named
        ) from refusal

    async def _halve(self, first: int, last: int) -> asyncpg.PostgresError | None:
        """Insert what is not refused of the rows `first` to `last`; why the last one of the others is."""
        exc = await self._try(f"{self._insert} WHERE {self._number} BETWEEN {first} AND {last} ORDER BY {self._number}")
        if exc is None or first == last:
            if exc is not None:
                self._refused[first] = brief(exc)
            return exc
        middle = (first + last) // 2
        left = await self._halve(first, middle)
        right = await self._halve(middle + 1, last)
        return right or left

    async def _try(self, insert: str) -> asyncpg.PostgresError | None:
        """Run `insert`; the error where it is about what was to be written, and then nothing was."""
        await self._connection.execute("SAVEPOINT eventrec")
        try:
            await self._connection.execute(insert)
        except asyncpg.PostgresError as exc:
            if not is_permanent(exc) and state(exc) != DENIED:
                raise
            await self._connection.execute("ROLLBACK TO eventrec")
            if state(exc) == DENIED and not await self._may_insert():
                raise
            return exc
        await self._connection.execute("RELEASE eventrec")
        return None

    async def _may_insert(self) -> bool:
        """Whether it is a policy that denies a row, and not the lack of a right."""
        may = await self._connection.fetchval(f"SELECT has_any_column_privilege({self._table.oid}::oid, 'INSERT')")
        return bool(may)
