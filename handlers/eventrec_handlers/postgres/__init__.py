"""Stores records in tables of a PostgreSQL database, by binary COPY.

Effectively once: rows and checkpoint are one transaction, and the checkpoint moves only from where the batch starts.
Any number of processes may share a database. A table has the columns id, type, timestamp, payload and, where there is
any, context, then the extra ones: `columns.py` has the table of types. Names are taken as they are, whatever they hold:
a dot in the name of a table is a dot, not the end of a schema's name. Names longer than PostgreSQL's 63 bytes are
refused, never cut off. Works through PgBouncer in transaction mode.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote_plus

from anyio import CancelScope

from eventrec import BatchTooLargeError, DestinationCheckpoints, EventHandler, HandlerURLError, TransientError
from eventrec_handlers._sql import SEEN_FOR, KeptLayouts, SchemaMode
from eventrec_handlers._sql.refresher import Refresher
from eventrec_handlers.postgres import checkpoints as checkpoint_rows
from eventrec_handlers.postgres.calls import Calls
from eventrec_handlers.postgres.connections import Connections
from eventrec_handlers.postgres.expiry import Expiry
from eventrec_handlers.postgres.layouts import check_names
from eventrec_handlers.postgres.options import (
    CONNECT_TIMEOUT,
    DEFAULT_MAX_COLUMNS,
    LOCK_TIMEOUT,
    NAMES,
    POOL_SIZE,
    TIMEOUT,
    Options,
)
from eventrec_handlers.postgres.reader import PostgresReader
from eventrec_handlers.postgres.rollups import PostgresRollups
from eventrec_handlers.postgres.rollups.overdue import OverdueRollups
from eventrec_handlers.postgres.seen import Seen
from eventrec_handlers.postgres.store import Store
from eventrec_handlers.postgres.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self
    from uuid import UUID

    from eventrec import Batch, Layout
    from eventrec.analytics import Catalogue, MigrationTarget

__all__ = ["PostgresHandler", "PostgresReader", "PostgresRollups", "SchemaMode", "from_url"]


def from_url(url: str) -> PostgresHandler:
    """The handler for `postgresql://user:password@host:port/database?option=value`.

    Options are the keyword arguments of `PostgresHandler`, and libpq's for the connection: `sslmode`, `sslrootcert` ….

    Raises:
        HandlerURLError: An option is unknown or cannot be had, or a value is not allowed.
    """
    options = Options.of(Target(url, others=NAMES).url)
    place, _, query = url.partition("?")
    rest = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) not in NAMES]
    return PostgresHandler(f"{place}?{'&'.join(rest)}", **asdict(options))


class PostgresHandler(EventHandler, DestinationCheckpoints):
    """Stores batches in the database `dsn`, effectively once.

    `schema="evolve"` makes tables and missing columns, up to `max_columns` a table; `"strict"` makes only its own two
    tables, `eventrec_checkpoints` and `eventrec_destination`. Nothing is ever dropped or retyped. All tables are in the
    PostgreSQL schema `namespace`; None: where the server puts what has no schema, mostly `public`.

    `ttl`, in seconds, else the recorder's option: events whose timestamp is older are deleted from the tables that this
    handler writes to, a slice at a time after a batch; that is never a batch's failure. A table with a layout has the
    retention of that instead. `timeout` is how many seconds
    one call may take, `connect_timeout` connecting, `lock_timeout` waiting for a lock of another program. At most
    `pool_size` connections.

    A table with a layout is written as that says, and its layout is kept in `eventrec_layouts`, so that other programs
    find it. Where it has no column for the id, a record that came with one is stored once: for `seen_for` seconds its
    id is kept in `eventrec_seen`. In other tables it is stored again, under the same id; with `unique_ids` once, too.

    `refresh`: while it is open, the handler brings the rollups of `catalogue` up to date, each as often as its
    `Refresh(every=…)` says, makes the partitions of the days to come, and removes what is beyond its retention, as
    `eventrec refresh` does. `catalogue` is one, or `module:object`; None: EVENTREC_CATALOGUE, else `[tool.eventrec]` of
    pyproject.toml. Batches do not wait for that; it has a connection more. Processes share it. Where nothing refreshes
    rollups for which events wait, the `remarks` say so.

    A batch is stored whole or not at all, also when it is cancelled or its connection is cut. Records that do not fit
    are named with their reasons in one PermanentError.

    Raises:
        HandlerURLError: `dsn` is not a URL of PostgreSQL, or `refresh` is not to be had there.
        ValueError: An argument is not one of those allowed.
    """

    _divides_tables: ClassVar[bool] = True
    """Whether a table is made with native partitions, where its layout has some."""

    _refreshes: ClassVar[bool] = True
    """Whether rollups are refreshed by us."""

    takes_unique_ids = True

    def __init__(
        self,
        dsn: str,
        *,
        schema: SchemaMode = "evolve",
        max_columns: int = DEFAULT_MAX_COLUMNS,
        ttl: float | None = None,
        namespace: str | None = None,
        pool_size: int = POOL_SIZE,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        lock_timeout: float = LOCK_TIMEOUT,
        seen_for: float = SEEN_FOR,
        unique_ids: bool = False,
        refresh: bool = False,
        catalogue: Catalogue | str | None = None,
    ) -> None:
        self._target = Target(dsn)
        self._options = Options(
            schema=schema,
            max_columns=max_columns,
            ttl=ttl,
            namespace=namespace,
            pool_size=pool_size,
            timeout=timeout,
            connect_timeout=connect_timeout,
            lock_timeout=lock_timeout,
            seen_for=seen_for,
            unique_ids=unique_ids,
            refresh=refresh,
            catalogue=catalogue if isinstance(catalogue, str) else None,
        )
        if refresh and not self._refreshes:
            raise HandlerURLError("refresh=true: TimescaleDB refreshes its continuous aggregates itself, by policies")
        where = str(self._target)
        self._expiry = Expiry(ttl)
        self._layouts = KeptLayouts()
        self._seen = Seen(seen_for)
        self._overdue = OverdueRollups()
        self._refresher = Refresher(catalogue, self._rollups_of, database="postgres") if refresh else None
        self._store = Store(
            where,
            schema=schema,
            max_columns=max_columns,
            layouts=self._layouts,
            seen=self._seen,
            unique_ids=unique_ids,
            divides=self._divides_tables,
        )
        self._calls = Calls(where, timeout=timeout)
        self._writing: tuple[UUID, int, int] | None = None
        """What is being written: log, start and end of a batch."""
        self._timed_out: tuple[UUID, int, int] | None = None
        self._connections = Connections(
            self._target, self._options, on_doubt=self._store.forget, on_found=self._store.learn_layouts
        )

    def __repr__(self) -> str:
        return f"<PostgresHandler '{self._target}' {'open' if self._connections.is_open else 'closed'}>"

    @property
    def checkpoints(self) -> Self:
        return self

    def inherit_ttl(self, seconds: float) -> None:
        self._expiry.inherit(seconds)

    @property
    def remarks(self) -> Sequence[str]:
        refresher = () if self._refresher is None else self._refresher.remarks
        return (*self._expiry.remarks, *self._seen.remarks, *refresher, *self._overdue.remarks)

    def reader(self) -> PostgresReader:
        return PostgresReader(self._target, self._options, layouts=self._layouts.declared)

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        for layout in layouts.values():
            check_names(layout)
        self._layouts.declare(layouts)

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        for layout in layouts.values():
            check_names(layout)
        self._layouts.assume(layouts)

    def rollups(self) -> PostgresRollups:
        return PostgresRollups(self._target, self._options, layouts=self._layouts.declared)

    def _rollups_of(self, catalogue: Catalogue) -> PostgresRollups:
        """What refreshes the rollups of `catalogue`."""
        layouts = {layout.table: layout for layout in catalogue.layouts}
        return PostgresRollups(self._target, self._options, layouts={**layouts, **self._layouts.declared})

    def migrations(self) -> MigrationTarget:
        from eventrec_handlers.postgres.migrations import PostgresMigrations  # noqa: PLC0415 - for those who migrate

        return PostgresMigrations(self._target, self._options)

    async def open(self) -> None:
        """Connect, and make our own two tables.

        Raises:
            PauseError: Credentials or rights are refused, there is no such database or schema, or TLS cannot be had.
            TransientError: The server cannot be reached, or is not ready.
        """
        self._calls.start()
        try:
            await self._calls.run(self._connections.open)
            if self._refresher is not None:
                await self._calls.run(self._refresher.start)
        except BaseException:
            await self.close()
            raise

    async def prepare(self, batch: Batch) -> None:
        await self._store.prepare(batch)

    async def handle(self, batch: Batch) -> None:
        place = (batch.log_id, batch.start, batch.end)
        self._writing = None
        try:
            await self._calls.run(lambda: self._handle(batch))
        except TransientError as exc:
            if isinstance(exc.__cause__, TimeoutError) and self._is_writing(place):
                # Once it may be the server that hangs; twice it is the batch.
                if self._timed_out == place and len(batch) > 1:
                    raise BatchTooLargeError(f"{exc}, twice, for {len(batch)} records") from exc
                self._timed_out = place
            raise

    def _is_writing(self, place: tuple[UUID, int, int]) -> bool:
        return self._writing == place

    async def close(self) -> None:
        with CancelScope(shield=True):
            if self._refresher is not None and self._refresher.is_started:
                await self._calls.run(self._refresher.stop)
            if self._connections.is_open:
                await self._calls.run(self._connections.close)
            await self._calls.stop()

    async def destination_id(self) -> str:
        async def find() -> str:
            async with self._connections.connected() as (connection, namespace):
                return await checkpoint_rows.destination_id(connection, namespace)

        return await self._calls.run(find)

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        async def find() -> int:
            async with self._connections.connected() as (connection, namespace):
                return await checkpoint_rows.resume(connection, namespace, log_id, subscription, start)

        return await self._calls.run(find)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        async def stamp() -> None:
            async with self._connections.connected() as (connection, namespace):
                await checkpoint_rows.retire(connection, namespace, log_id, subscription, end)

        await self._calls.run(stamp)

    async def _handle(self, batch: Batch) -> None:
        async with self._connections.connected() as (connection, namespace):
            self._writing = (batch.log_id, batch.start, batch.end)
            if not await self._store.store(connection, namespace, batch):
                self._connections.forget()
                raise TransientError(f"{self._target}: other programs change the tables all the time")
            self._writing = None
            self._connections.note_stored()
            try:
                if self._expiry.is_due:
                    await self._expiry.sweep(connection, namespace, self._store.written)
                if self._seen.is_due:
                    await self._seen.sweep(connection, namespace)
                if self._overdue.is_due:
                    await self._overdue.look(connection, namespace)
            except Exception as exc:  # noqa: BLE001 - the batch is stored, and there will be another sweep
                await self._connections.clear(connection, exc)
