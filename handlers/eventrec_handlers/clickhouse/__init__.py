"""Stores records in tables of ClickHouse, over HTTP, through clickhouse-connect's asynchronous client.

Effectively once, within the window of tokens that a table keeps: a batch that comes again has the same tokens, and
ClickHouse drops the blocks that it has, also from views that are fed with them. A table has the columns id, type,
timestamp (DateTime64(9), UTC), payload (JSON text) and, where there is any, context (JSON text), then the extra ones:
`types.py` has the table of types. What else a table is, `ClickHouseTable` says.

Under trio as under asyncio. Needs the extra `clickhouse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from anyio import CancelScope, sleep

from eventrec import EventHandler, HandlerURLError, LayoutError
from eventrec_handlers._sql import Refusals, SchemaMode
from eventrec_handlers._sql.refresher import Refresher
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.ddl import Ddl
from eventrec_handlers.clickhouse.errors import UnknownCodeError
from eventrec_handlers.clickhouse.inserting import Inserter
from eventrec_handlers.clickhouse.layouts import Layouts
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.options import MAX_CHUNK_ROWS, NAMES, Options, options_of
from eventrec_handlers.clickhouse.reader import ClickHouseReader
from eventrec_handlers.clickhouse.rollup_store import ClickHouseRollups
from eventrec_handlers.clickhouse.rows import parts_of
from eventrec_handlers.clickhouse.table import ClickHouseIndex, ClickHouseTable
from eventrec_handlers.clickhouse.tables import Tables
from eventrec_handlers.clickhouse.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Batch, Layout
    from eventrec.analytics import Catalogue, MigrationTarget
    from eventrec_handlers.clickhouse.rows import Part

__all__ = [
    "ClickHouseHandler",
    "ClickHouseIndex",
    "ClickHouseReader",
    "ClickHouseRollups",
    "ClickHouseTable",
    "SchemaMode",
    "UnknownCodeError",
    "from_url",
]


SENT_FIRST: Final = 0.003
"""Seconds between two looks whether the batch under way is sent: the next is made ready while the server works."""


def from_url(url: str) -> ClickHouseHandler:
    """The handler for `clickhouse://user:password@host:port,host:port/database?option=value`.

    `clickhouses://` is TLS. Options are the keyword arguments of `ClickHouseHandler`, but for `tables`.

    Raises:
        HandlerURLError: An option is unknown, or a value is not allowed.
    """
    options = options_of(Target(url, others=NAMES).url)
    return ClickHouseHandler(url.partition("?")[0], **{name: getattr(options, name) for name in NAMES})


class ClickHouseHandler(EventHandler):
    """Stores batches in the database that `url` names, through one of its nodes at a time.

    A batch is inserted in chunks of `chunk_rows` rows (else as many as the relay says that it is part of, else 1,000)
    or `chunk_bytes` bytes, `concurrency` of them at once. Of a batch that fails in part only what is missing is sent
    again. The server remembers `dedup_window` blocks a table; where another program made a table, or one that a view
    feeds, with a window of less than 1,000 blocks, it is given a larger one, or the `remarks` say so; a view that is
    made while events are written is looked at within a second.
    A batch that was being written when the process ended comes again in chunks: with other chunk sizes than before,
    part of it may double.

    `schema="evolve"` makes tables and missing columns, up to `max_columns` a table, with `cluster` on that cluster;
    `"strict"` makes none. Nothing is ever dropped or retyped. `tables` says for each table what ClickHouse alone knows:
    engine, order, codecs. A table that it makes, or that has none, gets a TTL of `ttl` seconds, else the recorder's; a
    layout's own retention comes first. With `unique_ids` a record that came with an id is stored once: its id is looked
    up first, and the tables that it makes drop what two writers store at one time (ReplacingMergeTree).

    Several nodes take turns. One that cannot be reached is left out for five seconds, and another one is asked; so it
    is where a node fails for now, unless its tables are not replicated: then it alone knows what it may have stored,
    and is asked again.

    `refresh`: while it is open, the handler makes the views that keep the rollups of `catalogue`, and counts in the
    events from before, as `eventrec refresh` does; inserts keep them up to date after that. `catalogue` is one, or
    `module:object`; None: EVENTREC_CATALOGUE, else `[tool.eventrec]` of pyproject.toml.

    A call may take `timeout` seconds, `connect_timeout` of them for connecting. `compression` is that of inserts.
    `tls_ca` is a file with the certificates to trust, `tls_cert` and `tls_key` are files with the client's own.

    Raises:
        HandlerURLError: `url` is not a URL of ClickHouse.
        LayoutError: `tables` names tables that cannot be.
        ValueError: An argument is not one of those allowed.
    """

    dedupes_by_token = True
    takes_unique_ids = True

    def __init__(
        self,
        url: str,
        *,
        tables: Mapping[str, ClickHouseTable] | None = None,
        schema: SchemaMode = "evolve",
        max_columns: int = 1_000,
        chunk_rows: int | None = None,
        chunk_bytes: int = 16 << 20,
        concurrency: int = 5,
        ttl: float | None = None,
        unique_ids: bool = False,
        dedup_window: int = 10_000,
        cluster: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        compression: str = "lz4",
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        refresh: bool = False,
        catalogue: Catalogue | str | None = None,
    ) -> None:
        self._target = Target(url)
        self._options = Options(
            schema=schema,
            max_columns=max_columns,
            chunk_rows=chunk_rows,
            chunk_bytes=chunk_bytes,
            concurrency=concurrency,
            ttl=ttl,
            unique_ids=unique_ids,
            dedup_window=dedup_window,
            cluster=cluster,
            timeout=timeout,
            connect_timeout=connect_timeout,
            compression=compression,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            refresh=refresh,
            catalogue=catalogue if isinstance(catalogue, str) else None,
        )
        if not self._target.is_secure and (tls_ca or tls_cert or tls_key):
            raise HandlerURLError("certificates are for clickhouses:// URLs")
        self._given = dict(tables or {})
        for name, table in self._given.items():
            given: object = table
            if not isinstance(given, ClickHouseTable):
                raise LayoutError(f"tables map names to ClickHouseTables, got {given!r:.60} for {name!r}")
        self._ddl = Ddl(self._options, self._given, ttl=ttl)
        self._layouts = Layouts()
        self._nodes = Nodes(self._target, self._options)
        self._tables = Tables(self._options, self._ddl, nodes=len(self._nodes))
        self._inserter = Inserter(self._nodes, self._tables, self._options)
        self._refresher = Refresher(catalogue, self._rollups_of, database="clickhouse") if refresh else None
        self._calls = Calls()
        self._prepared: _Prepared | None = None

    def __repr__(self) -> str:
        return f"<ClickHouseHandler '{self._target}' {'open' if self._nodes.is_open else 'closed'}>"

    def inherit_ttl(self, seconds: float) -> None:
        if self._options.ttl is None:
            self._ddl.ttl = seconds

    def inherit_chunk_rows(self, rows: int) -> None:
        if self._options.chunk_rows is None:
            self._inserter.chunk_rows = min(rows, MAX_CHUNK_ROWS)

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._check(layouts)
        self._layouts.known.declare(layouts)

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._check(layouts)
        self._layouts.known.assume(layouts)

    def _check(self, layouts: Mapping[str, Layout]) -> None:
        for layout in layouts.values():
            if layout.table in self._given:
                self._given[layout.table].check(layout)

    @property
    def remarks(self) -> Sequence[str]:
        refresher = () if self._refresher is None else self._refresher.remarks
        return (*self._tables.remarks, *self._layouts.remarks, *refresher)

    def reader(self) -> ClickHouseReader:
        return ClickHouseReader(self._target, self._options, layouts=self._layouts.known.declared)

    def rollups(self) -> ClickHouseRollups:
        return ClickHouseRollups(self._target, self._options, layouts=self._layouts.known.declared)

    def migrations(self) -> MigrationTarget:
        from eventrec_handlers.clickhouse.migrations import ClickHouseMigrations  # noqa: PLC0415 - for those who migrate

        return ClickHouseMigrations(self._target, self._options, self._ddl)

    def _rollups_of(self, catalogue: Catalogue) -> ClickHouseRollups:
        """What makes the rollups of `catalogue`, already on asyncio."""
        layouts = {layout.table: layout for layout in catalogue.layouts}
        return ClickHouseRollups(self._target, self._options, layouts={**layouts, **self._layouts.known.declared})

    async def open(self) -> None:
        """Connect to a node, and read the layouts that it keeps.

        Raises:
            PauseError: Credentials or rights are refused, there is no such database, or TLS cannot be had.
            TransientError: No node can be reached.
        """
        self._calls.start()
        self._layouts.forget()
        try:
            await self._calls.run(lambda: self._layouts.among(self._nodes, ()))
            self._nodes.is_open = True
            if self._refresher is not None:
                await self._calls.run(self._refresher.start)
        except BaseException:
            await self.close()
            raise

    async def prepare(self, batch: Batch) -> None:
        await sleep(SENT_FIRST)
        while self._nodes.is_sending:  # noqa: ASYNC110 - under trio, that is on another loop
            await sleep(SENT_FIRST)
        known = self._layouts.known
        self._prepared = _Prepared.of(batch, known.among(batch.tables) if known.has_any else {})

    async def handle(self, batch: Batch) -> None:
        if not self._nodes.is_open:
            raise RuntimeError(f"{self!r} is not open")
        await self._calls.run(lambda: self._handle(batch))

    async def close(self) -> None:
        self._prepared = None
        with CancelScope(shield=True):
            if self._calls.can_run:
                if self._refresher is not None and self._refresher.is_started:
                    await self._calls.run(self._refresher.stop)
                await self._calls.run(self._nodes.close)
            await self._calls.stop()

    async def _handle(self, batch: Batch) -> None:
        layouts = await self._layouts.among(self._nodes, batch.tables)
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared.batch is not batch or prepared.layouts != layouts:
            prepared = _Prepared.of(batch, layouts)
        for layout in layouts.values():
            await self._layouts.keep(self._nodes, layout, self._ddl, may_make=self._options.schema == "evolve")
        await self._inserter.store(batch, prepared.parts, prepared.refusals.reasons)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch as rows of its tables, by the layouts that these had."""

    batch: Batch
    layouts: Mapping[str, Layout]
    parts: Sequence[Part]
    refusals: Refusals

    @classmethod
    def of(cls, batch: Batch, layouts: Mapping[str, Layout]) -> _Prepared:
        refusals = Refusals()
        return cls(batch, layouts, parts_of(batch, layouts, refusals), refusals)
