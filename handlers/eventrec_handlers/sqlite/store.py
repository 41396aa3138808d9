"""One batch into the tables, in one transaction; and which of its records they do not take."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from eventrec import FencedError, PauseError, TransientError
from eventrec_handlers._sql import Refusals, SchemaMode, TablePlan, fold_ascii, plan_layout, plan_table
from eventrec_handlers.sqlite.columns import REQUIRED, Rows, base_name, strict_type
from eventrec_handlers.sqlite.file import (
    RESERVED,
    Table,
    is_about_rows,
    is_about_schema,
    is_about_statement,
    is_permanent,
    is_reserved,
    read_table,
    statements,
)
from eventrec_handlers.sqlite.kept_layouts import keep_layout, read_layouts
from eventrec_handlers.sqlite.layouts import LaidOut, conflict, declared_as, layout_changes
from eventrec_handlers.sqlite.own_tables import next_of
from eventrec_handlers.sqlite.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from eventrec import Batch
    from eventrec_handlers._sql import KeptLayouts

SCHEMA_ROUNDS: Final = 20
"""How often a batch starts again because other programs have changed the tables meanwhile."""


class Store:
    """Writes batches. `transaction` begins one with the write lock: committed at its end, rolled back on an error."""

    def __init__(
        self,
        path: Path,
        *,
        schema: SchemaMode,
        max_columns: int,
        layouts: KeptLayouts,
        seen_for: float,
        unique_ids: bool,
        now: Callable[[], int],
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._path = path
        self._schema = schema
        self._max_columns = max_columns
        self._layouts = layouts
        self._seen = Seen(seen_for)
        self._unique_ids = unique_ids
        self._now = now
        self._transaction = transaction
        self._tables: dict[str, Table] = {}
        self._tables_version: int | None = None
        self._layouts_version: int | None = None

    def forget_tables(self) -> None:
        """What was read of the schema may be wrong: it was rolled back, or the file is another one."""
        self._layouts.note_rolled_back()
        self._tables_version = self._layouts_version = None

    def store(self, batch: Batch) -> None:
        """Write every row of `batch`, and move its checkpoint: all or nothing.

        Raises:
            PermanentError: Tables do not take some of its records: it names them.
            FencedError: The checkpoint does not stand where the batch starts.
            PauseError: A table cannot be made as events need it.
            TransientError: Other programs change the tables all the time.
        """
        parts, refusals = self._parts(batch)
        for _ in range(SCHEMA_ROUNDS):
            try:
                if self._attempt(batch, parts, refusals):
                    self._layouts.note_committed()
                    return
            except _RowsRefusedError as exc:
                self._name_rows(parts, len(batch), exc.cause)
            except _LayoutsChangedError:
                parts, refusals = self._parts(batch)
        raise TransientError(f"{self._path}: others have changed the tables {SCHEMA_ROUNDS} times meanwhile")

    def _parts(self, batch: Batch) -> tuple[list[Rows], Refusals]:
        """The rows of `batch`, by the layouts of their tables where these have one; and what cannot be written."""
        refusals = Refusals()
        layouts = self._layouts.among(batch.tables) if self._layouts.has_any else {}
        requests = batch.row_inserts(excluding=layouts) if layouts else batch.row_inserts()
        parts = [Rows.of(request, refusals, tells_apart=self._unique_ids) for request in requests if request.offsets]
        if layouts:
            parts += [LaidOut.of_layout(rows, refusals) for rows in batch.layout_rows(layouts)]
        return parts, refusals

    def _attempt(self, batch: Batch, parts: Sequence[Rows], refusals: Refusals) -> bool:
        """Whether the batch is written; False: the tables were changed for it first."""
        with self._transaction() as connection:
            self._look(connection)
            plans = [(part, self._plan(connection, part)) for part in parts]
            for part, plan in plans:
                part.refuse(plan, refusals)
            refusals.raise_if_any(len(batch))
            if all(plan.is_ready for _, plan in plans):
                try:
                    for part, plan in plans:
                        new = self._new(connection, part)
                        with self._holding_for_triggers():
                            new.insert(connection, plan)
                except sqlite3.Error as exc:
                    if is_about_rows(exc):
                        raise _RowsRefusedError(exc) from exc
                    raise
                self._acknowledge(connection, batch)
                return True
            # A transaction of its own, since other writers may wait for the same table. Each part is planned again: two
            # of them may share one.
            for part in parts:
                plan = self._plan(connection, part)
                for statement in (
                    layout_changes(connection, part.layout, plan)
                    if isinstance(part, LaidOut)
                    else statements(connection, part.table, plan)
                ):
                    self._change_table(connection, part.table, statement)
        return False

    @contextmanager
    def _holding_for_triggers(self) -> Iterator[None]:
        """Raise PauseError where rows need a table or column that is not there: those of the batch are."""
        try:
            yield
        except sqlite3.Error as exc:
            if not is_about_schema(exc):
                raise
            raise PauseError(f"{self._path}: a trigger needs what is not there: {exc}") from exc

    def _change_table(self, connection: sqlite3.Connection, table: str, statement: str) -> None:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as exc:
            if not is_about_statement(exc):
                raise
            # Never a record's fault.
            raise PauseError(f"{self._path}: table {table!r} cannot be made as events need it: {exc}") from exc

    def _acknowledge(self, connection: sqlite3.Connection, batch: Batch) -> None:
        try:
            moved = connection.execute(
                "UPDATE eventrec_checkpoints SET next = ?, retired_at = NULL"
                " WHERE log_id = ? AND subscription = ? AND next = ?",
                (batch.end, str(batch.log_id), batch.subscription, batch.start),
            )
        except sqlite3.Error as exc:
            if is_permanent(exc):  # and no record's fault
                raise PauseError(f"{self._path}: the checkpoint cannot be moved: {exc}") from exc
            raise
        if moved.rowcount == 0:
            stands = next_of(connection, batch.log_id, batch.subscription)
            if stands == batch.start:
                raise PauseError(f"{self._path}: a trigger keeps the checkpoint from moving")
            raise FencedError(f"{self._path}: the checkpoint stands at {stands}, the batch starts at {batch.start}")

    def _look(self, connection: sqlite3.Connection) -> None:
        """Read the layouts that the file keeps, if its schema is another one by now.

        Raises:
            _LayoutsChangedError: They are others than before.
        """
        if self._note_version(connection) != self._layouts_version:
            self._layouts_version = self._tables_version
            if self._layouts.learn(read_layouts(connection)):
                raise _LayoutsChangedError

    def _note_version(self, connection: sqlite3.Connection) -> int | None:
        """The version of the schema; what was read of another one is forgotten."""
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        if version != self._tables_version:
            self._tables.clear()
            self._tables_version = version
        return self._tables_version

    def _new(self, connection: sqlite3.Connection, part: Rows) -> Rows:
        """The rows of `part` that were not stored before; its layout is kept beside them."""
        if isinstance(part, LaidOut):
            keep_layout(connection, self._layouts, part.layout)
        return self._seen.new(connection, part, self._now())

    def _plan(self, connection: sqlite3.Connection, part: Rows) -> TablePlan:
        """What the table of `part` needs. It holds until the transaction ends: nothing can change a table before."""
        if is_reserved(part.table):
            return TablePlan(refused_table=f"names that start with {' or '.join(RESERVED)} are reserved")
        self._note_version(connection)
        key = fold_ascii(part.table)
        if key not in self._tables:
            self._tables[key] = read_table(connection, part.table)
        table = self._tables[key]
        if table.kind not in (None, "table"):
            return TablePlan(refused_table=f"its name is taken: {table.kind}")
        if isinstance(part, LaidOut):
            return plan_layout(
                table.columns,
                part.layout,
                declared=declared_as,
                conflict=conflict,
                schema=self._schema,
                max_columns=self._max_columns,
                fold=fold_ascii,
                computed=table.computed,
            )
        return plan_table(
            None if table.columns is None else {base_name(name): kind for name, kind in table.columns.items()},
            [(name, strict_type(kind)) for name, kind in part.wanted] if table.is_strict else part.wanted,
            required=REQUIRED,
            schema=self._schema,
            max_columns=self._max_columns,
            fold=fold_ascii,
            computed=frozenset(map(base_name, table.computed)),
        )

    def _name_rows(self, parts: Sequence[Rows], records: int, cause: sqlite3.Error) -> NoReturn:
        """Try each row, keep none, and raise one PermanentError that names the records which the tables do not take.

        Where each passes alone, `cause` is raised as it is: a constraint between them is found by bisecting.
        """
        refusals = Refusals()
        with self._transaction() as connection:
            for each in parts:
                plan, part = self._plan(connection, each), self._new(connection, each)
                for row, offset in enumerate(part.offsets):
                    connection.execute("SAVEPOINT one_row")
                    try:
                        with self._holding_for_triggers():
                            part.insert_row(connection, plan, row)
                    except sqlite3.Error as exc:
                        if not is_about_rows(exc):
                            raise
                        refusals.add(offset, f"table {part.table!r}: {exc}")
                        if not connection.in_transaction:  # a trigger has rolled all of it back
                            refusals.raise_if_any(records)
                        connection.execute("ROLLBACK TO one_row")
            refusals.raise_if_any(records)
            raise cause


class _LayoutsChangedError(Exception):
    """The file keeps other layouts than those by which the rows were made."""


class _RowsRefusedError(Exception):
    """Rows may be at fault that SQLite did not take."""

    def __init__(self, cause: sqlite3.Error) -> None:
        super().__init__(str(cause))
        self.cause = cause
