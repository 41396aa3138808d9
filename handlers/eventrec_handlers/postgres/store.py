"""One batch into the database: what its tables lack, then its rows and the checkpoint in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg
from anyio.lowlevel import checkpoint

from eventrec import BatchTooLargeError, PauseError, PermanentError
from eventrec_handlers._sql import Refusals
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.copy import Copy, Rows
from eventrec_handlers.postgres.ending import RefusedAtEndError, end
from eventrec_handlers.postgres.errors import (
    LIMITED,
    UNSUPPORTED,
    brief,
    errors_translated,
    is_about_functions,
    is_permanent,
    is_stale,
    line_of,
    state,
    too_slow,
)
from eventrec_handlers.postgres.kept_layouts import keep_layout, read_layouts
from eventrec_handlers.postgres.known_tables import KnownTables
from eventrec_handlers.postgres.layouts import LaidOut
from eventrec_handlers.postgres.partitions import has_no_partition, lacks_one_for_now
from eventrec_handlers.postgres.staging import STAGED, Staging
from eventrec_handlers.postgres.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Batch, DeliveryError
    from eventrec_handlers._sql import KeptLayouts, SchemaMode, TablePlan
    from eventrec_handlers.postgres.catalog import Table
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.copy import Part
    from eventrec_handlers.postgres.seen import Seen

ROUNDS: Final = 5
"""How often a batch starts again because other programs have changed the tables meanwhile."""

_SLICE: Final = 1_000
"""Records of which rows are made without giving the loop a turn: 0.6 ms where they are plain."""


class Store:
    """Writes batches, and remembers the tables it writes to. `where` is how errors call the database."""

    def __init__(
        self,
        where: str,
        *,
        schema: SchemaMode,
        max_columns: int,
        layouts: KeptLayouts,
        seen: Seen,
        unique_ids: bool = False,
        divides: bool = True,
    ) -> None:
        """`divides`: tables are made with native partitions, where their layouts have some.

        `unique_ids`: a record that came with an id is stored once in tables without a layout too.
        """
        self.written: set[str] = set()
        """The tables of ours that rows have gone to."""
        self._layouts = layouts
        self._seen = seen
        self._unique_ids = unique_ids
        self._where = where
        self._tables = KnownTables(where, schema=schema, max_columns=max_columns, divides=divides)
        self._prepared: tuple[Batch, list[Part]] | None = None
        self._without_copy: set[str] = set()
        """The tables for which the server refused a COPY."""
        self._takes_copy = True
        """Whether it takes one into a temporary table of ours at least; else it takes none."""

    def forget(self) -> None:
        """The tables may have changed: read them again."""
        self.written = set()
        self._tables.forget()
        self._seen.forget()

    async def learn_layouts(self, connection: asyncpg.Connection, namespace: Namespace) -> None:
        """Read which layouts the database keeps."""
        self._learn_layouts(await read_layouts(connection, namespace))

    def _learn_layouts(self, kept: Mapping[str, str]) -> bool:
        if not self._layouts.learn(kept):
            return False
        self._prepared = None
        self._tables.forget_plans()
        return True

    async def prepare(self, batch: Batch) -> None:
        """Encode the rows of `batch` before it is its turn; from any loop."""
        parts = await self._parts(batch)
        turns = Turns()
        for part in parts:
            await part.encode_ahead(turns)
        self._prepared = (batch, parts)

    async def store(self, connection: asyncpg.Connection, namespace: Namespace, batch: Batch) -> bool:
        """Write `batch` whole, or nothing of it; False: other programs have changed the tables all the time.

        Raises:
            PermanentError: Records cannot be stored; it names those that are known to be at fault.
            BatchTooLargeError: The server gives it less time than it takes.
            PauseError: A table takes neither COPY nor INSERT, or cannot be given a column.
            FencedError: The checkpoint is not where the batch starts.
            asyncpg.PostgresError: What else the server says. Nothing was written, but the transaction may be open.
        """
        if self._tables.is_full:
            self.forget()
            self._without_copy.clear()
        prepared, self._prepared = self._prepared, None
        parts = prepared[1] if prepared is not None and prepared[0] is batch else await self._parts(batch)
        is_checked = False
        is_cached = any(part.table in self._tables for part in parts)
        for rounds_left in reversed(range(ROUNDS)):
            tables = await self._tables.read(connection, namespace, {part.table for part in parts})
            plans = [self._tables.plan(namespace, part, tables[part.table]) for part in parts]
            refusals = _refusals(parts, plans, tables)
            if refusals.reasons:
                parts = await self._look_again(connection, namespace, batch, refusals, is_cached=is_cached)
                is_cached = False
                continue
            await self._prepare_beside(connection, namespace, parts)
            lacking = {part.table for part, needs in zip(parts, plans, strict=True) if not needs.is_ready}
            if lacking:
                await self._tables.make(connection, namespace, [part for part in parts if part.table in lacking])
                continue
            try:
                if await self._write(
                    connection, namespace, batch, parts, plans, tables=tables, refusals=refusals, is_checked=is_checked
                ):
                    self.written |= {part.table for part in parts if part.layout is None}
                    return True
            except RefusedAtEndError:
                is_checked = True
            except asyncpg.PostgresError as exc:
                if not (is_stale(exc) and rounds_left):
                    if (meant := self._meaning(exc, len(batch))) is None:
                        raise
                    raise meant from exc
            await connection.execute("ROLLBACK")
            self.forget()
        return False

    async def _look_again(
        self,
        connection: asyncpg.Connection,
        namespace: Namespace,
        batch: Batch,
        refusals: Refusals,
        *,
        is_cached: bool,
    ) -> list[Part]:
        """The rows of `batch`, to try once more: what they were refused for may be older than what is there now.

        An operator may have mended a table that `is_cached`, or another process declared its layout.

        Raises:
            PermanentError: It is not.
        """
        if not self._learn_layouts(await read_layouts(connection, namespace)) and not is_cached:
            refusals.raise_if_any(len(batch))
        self.forget()
        return await self._parts(batch)

    def _meaning(self, exc: asyncpg.PostgresError, records: int) -> DeliveryError | None:
        """What `exc` means while rows are written, where it means something else than at other times."""
        if records > 1 and (slow := too_slow(exc)) is not None:
            return BatchTooLargeError(f"{self._where}: {records} records: {brief(slow)}")
        if state(exc) == LIMITED:
            # Of rows decompressed for one statement, say: fewer records may need fewer.
            kind = BatchTooLargeError if records > 1 else PauseError
            return kind(f"{self._where}: {brief(exc)}")
        holds = state(exc) == UNSUPPORTED or is_about_functions(exc)
        return PauseError(f"{self._where}: {brief(exc)}") if holds else None

    # -- what is to be written

    async def _parts(self, batch: Batch) -> list[Part]:
        """The rows of `batch`, by the layouts of their tables where these have one.

        Raises:
            PauseError: The layout that is kept of a table cannot be read.
        """
        layouts = self._layouts.among(batch.tables) if self._layouts.has_any else {}
        parts: list[Part] = []
        for some in batch.slices(_SLICE):
            requests = some.row_inserts(id_form="bytes", excluding=layouts)
            parts += [Rows.of(each, tells_apart=self._unique_ids) for each in requests if each.offsets]
            if layouts:
                parts += [LaidOut.of(rows) for rows in some.layout_rows(layouts) if rows.offsets]
            await checkpoint()
        return parts

    async def _prepare_beside(
        self, connection: asyncpg.Connection, namespace: Namespace, parts: Sequence[Part]
    ) -> None:
        """What is kept beside the rows: their layouts, and the table of ids."""
        for part in parts:
            with errors_translated(self._where, makes_tables=True):
                if isinstance(part, LaidOut) and not self._layouts.is_kept(part.layout):
                    await keep_layout(connection, namespace, part.layout)
                    self._layouts.note_kept(part.layout)
                    self._layouts.note_committed()
                if part.kept_ids:
                    await self._seen.prepare(connection, namespace, part)

    # -- rows

    async def _write(
        self,
        connection: asyncpg.Connection,
        namespace: Namespace,
        batch: Batch,
        parts: Sequence[Part],
        plans: Sequence[TablePlan],
        *,
        tables: Mapping[str, Table],
        refusals: Refusals,
        is_checked: bool,
    ) -> bool:
        """The transaction; False, and it is still open: a table is not what we took it for. See `end`."""
        await connection.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = {namespace.commit};"
            f" SET LOCAL lock_timeout = {namespace.lock_timeout}"
        )
        new = await self._seen.new(connection, namespace, parts)
        copies = _copies(new, plans, refusals)
        for number, copy in enumerate(copies, 1):
            await self._write_rows(
                connection, namespace, copy, tables[copy.table], refusals=refusals, records=len(batch)
            )
            if refusals.reasons:
                for rest in copies[number:]:
                    await rest.look_through()
                refusals.raise_if_any(len(batch))
        guard = _guard(namespace, copies, tables)
        return await end(connection, namespace, batch, guard, where=self._where, is_checked=is_checked)

    async def _write_rows(
        self,
        connection: asyncpg.Connection,
        namespace: Namespace,
        copy: Copy,
        table: Table,
        *,
        refusals: Refusals,
        records: int,
    ) -> None:
        """The rows of one table; where values are refused before they are sent, `refusals` says which."""
        by_insert = table.has_row_security or copy.table in self._without_copy or not self._takes_copy
        staging = Staging(connection, namespace, copy, table, where=self._where)
        try:
            if by_insert:
                await staging.copy(by_texts=not self._takes_copy)
            else:
                await connection.copy_to_table(
                    copy.table, source=copy, columns=copy.columns, schema_name=namespace.namespace, format="binary"
                )
        except asyncpg.PostgresError as exc:
            if refusals.reasons:
                return
            if state(exc) == UNSUPPORTED:
                if by_insert:
                    self._takes_copy = False
                self._without_copy.add(copy.table)
            into = STAGED if by_insert else copy.table
            if has_no_partition(exc):
                kind = copy.type_at(line_of(exc, into))
                if await lacks_one_for_now(connection, namespace, copy.table, exc, kind=kind, layout=copy.layout):
                    raise PauseError(f"{self._where}: {brief(exc)}, nor for one of now") from exc
            if is_permanent(exc):
                raise self._refusal(exc, copy, records, into=into) from exc
            raise
        if by_insert and not refusals.reasons:
            await self._insert(staging, copy.table, records)

    async def _insert(self, staging: Staging, table: str, records: int) -> None:
        try:
            await staging.insert(records)
        except asyncpg.FeatureNotSupportedError:
            self._without_copy.discard(table)  # it was not the COPY that was not supported
            raise

    def _refusal(self, exc: asyncpg.PostgresError, copy: Copy, records: int, *, into: str) -> PermanentError:
        line = line_of(exc, into)
        offset = None if line is None else copy.offset(line)
        reason = f"table {copy.table!r} refuses it: {brief(exc)}"
        if offset is None:
            return PermanentError(f"{self._where}: {reason}")
        return PermanentError(
            f"1 of {records} records cannot be stored; at offset {offset}: {reason}", records={offset: reason}
        )


def _refusals(parts: Sequence[Part], plans: Sequence[TablePlan], tables: Mapping[str, Table]) -> Refusals:
    """The records for which there is no room, as far as that is known before anything is sent."""
    refusals = Refusals()
    for part, needs in zip(parts, plans, strict=True):
        part.refuse(needs, refusals)
        part.refuse_cut(tables[part.table].limits, refusals)
    return refusals


def _copies(parts: Sequence[Part], plans: Sequence[TablePlan], refusals: Refusals) -> list[Copy]:
    """As few as there are tables and sets of columns: types that differ in nothing else are written together."""
    copies: dict[tuple[str, ...], Copy] = {}
    for part, needs in zip(parts, plans, strict=True):
        if not part.offsets:
            continue  # all of them were stored before
        taken = part.taken(needs)
        key = (part.table, *(part.wanted[i][0] for i in taken))
        if key in copies:
            copies[key].join(part, taken)
        else:
            copies[key] = Copy(part, taken, refusals)
    return list(copies.values())


def _guard(namespace: Namespace, copies: Sequence[Copy], tables: Mapping[str, Table]) -> str:
    """A condition: the tables are still those that we know, and every column of the type that its fields were made for.

    A binary COPY does not notice a column that has become another type of the same length: 1 as a bigint is a moment of
    the year 2000 as a timestamptz; and it rounds to a precision that has become less. Once a COPY has begun, no other
    session can change its table any more, nor give its name to another one.
    """
    if not copies:
        return "true"  # all rows were stored before
    known = {f"({a},{b},{c},{d})" for copy in copies for a, b, c, d in tables[copy.table].identities(copy.columns)}
    named = {f"to_regclass({literal(namespace.named(copy.table))}) = {tables[copy.table].oid}" for copy in copies}
    unchanged = (
        f"{len(known)} = (SELECT count(*) FROM pg_attribute WHERE NOT attisdropped"  # noqa: S608 - numbers
        f" AND (attrelid, attnum, atttypid, atttypmod) IN ({','.join(sorted(known))}))"
    )
    return " AND ".join((*sorted(named), unchanged))
