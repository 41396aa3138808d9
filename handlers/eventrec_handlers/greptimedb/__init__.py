"""Stores records in tables of a GreptimeDB, by gRPC row inserts.

At least once: after a failure a row may arrive again, under the same `id`, which lets a reader drop repeats; with
`append_mode=False` the database does so itself. A batch is one call for each table and set of columns, all at once;
what went through is not sent again because another part failed. Tables and columns are made by the database, from the
request and its hints. A table has the columns id, type (a tag), timestamp (the time index), payload and, where there is
any, context, both JSON, then the extra ones: `columns.py` has the table of types.

Under trio as under asyncio. Needs the extra `greptimedb`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import anyio

from eventrec import (
    BatchTooLargeError,
    DeliveryError,
    EventHandler,
    PartialError,
    PauseError,
    TransientError,
)
from eventrec_handlers.greptimedb.columns import JsonForm
from eventrec_handlers.greptimedb.errors import UnknownStatusError, meaning_of_status
from eventrec_handlers.greptimedb.frontends import FrontEnds
from eventrec_handlers.greptimedb.options import (
    CONNECT_TIMEOUT,
    MAX_REQUEST_BYTES,
    NAMES,
    TIMEOUT,
    CallOptions,
    EventHandlerOptions,
    GreptimeDBCompression,
    hints_header,
    options_of,
)
from eventrec_handlers.greptimedb.protocol import IllegalResponseError, affected_rows, header, request
from eventrec_handlers.greptimedb.rows import Insert, RowEncoder
from eventrec_handlers.greptimedb.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Batch, Layout

__all__ = [
    "EventHandlerOptions",
    "GreptimeDBCompression",
    "GreptimeDBHandler",
    "JsonForm",
    "UnknownStatusError",
    "from_url",
]

AT_ONCE: Final = 4
"""Tables of one batch that are written to at the same time."""


def from_url(url: str) -> GreptimeDBHandler:
    """The handler for `greptimedb://user:password@host:port,host:port/database?option=value`.

    Options are `ttl`, `append_mode` and `time_window` of `EventHandlerOptions`, and the keyword arguments of
    `GreptimeDBHandler`.

    Raises:
        HandlerURLError: An option is unknown, or a value is not allowed.
    """
    options, calls = options_of(Target(url, others=NAMES).url)
    return GreptimeDBHandler(url.partition("?")[0], options=options, **asdict(calls))


class GreptimeDBHandler(EventHandler):
    """Stores batches in the database that `url` names, at least once, through one of its front ends at a time.

    `options` are what the database is told about tables that it makes. `json="text"` leaves it to the database to
    encode JSON, as its official client does: that takes two thirds off the encoding here, and the database refuses what
    it cannot encode, where "binary" names such a record before it is sent.

    A call may take `timeout` seconds, `connect_timeout` of them for connecting; more than `max_request_bytes` are
    split. With `tls` the front ends must prove who they are, by a certificate that `tls_ca` (a file; None: gRPC's own
    list) vouches for; `tls_cert` and `tls_key` are files with the client's own. Without it a password crosses the
    network in the clear.

    Raises:
        HandlerURLError: `url` is not a URL of GreptimeDB.
        ValueError: An argument is not one of those allowed.
    """

    def __init__(
        self,
        url: str,
        *,
        options: EventHandlerOptions | None = None,
        json: JsonForm = "binary",
        compression: GreptimeDBCompression = "none",
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        self._target = target = Target(url)
        self._calls = CallOptions(
            json=json,
            compression=compression,
            timeout=timeout,
            connect_timeout=connect_timeout,
            max_request_bytes=max_request_bytes,
            tls=tls,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        self._where = str(target)
        self._options = options or EventHandlerOptions()
        self._metadata = hints_header(self._options.to_hints())
        self._header = header(
            target.database, catalog=target.catalog, schema=target.schema, user=target.user, password=target.password
        )
        self._rows = RowEncoder(id_is_tag=not self._options.append_mode, json=json)
        self._front_ends = FrontEnds(target.addresses, self._calls, where=self._where)
        self._prepared: tuple[Batch, Sequence[Insert]] | None = None
        self._laid_out: frozenset[str] = frozenset()
        """Tables that have a layout, which is not used here."""
        self._made_otherwise: frozenset[str] = frozenset()
        """Those of them that were written."""

    def __repr__(self) -> str:
        return f"<GreptimeDBHandler '{self._target}' {'open' if self._front_ends.is_open else 'closed'}>"

    def inherit_ttl(self, seconds: float) -> None:
        self._options = self._options.with_ttl(seconds)
        self._metadata = hints_header(self._options.to_hints())

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        """Remember them: tables are made from the records' columns here, and `remarks` tells for which."""
        self._laid_out |= layouts.keys()

    assume_layouts = use_layouts

    @property
    def remarks(self) -> Sequence[str]:
        if not self._made_otherwise:
            return ()
        tables = ", ".join(map(repr, sorted(self._made_otherwise)))
        return (f"layouts are not used by GreptimeDB's handler: it makes {tables} of the records' own columns",)

    async def open(self) -> None:
        """Get ready. Front ends are connected to by the first batch.

        Raises:
            PauseError: A certificate or a key cannot be used.
        """
        await self._front_ends.open()

    async def prepare(self, batch: Batch) -> None:
        self._prepared = (batch, await self._rows.inserts(batch))

    async def handle(self, batch: Batch) -> None:
        prepared, self._prepared = self._prepared, None
        inserts = prepared[1] if prepared is not None and prepared[0] is batch else await self._rows.inserts(batch)
        if self._laid_out:
            self._made_otherwise |= self._laid_out.intersection(batch.tables)
        failures: dict[int, Exception] = {}
        waiting: dict[str, list[int]] = {}
        for number, insert in enumerate(inserts):
            waiting.setdefault(insert.table, []).append(number)

        async def work() -> None:
            while waiting:
                # One after the other into one table: the first of them may have to make it.
                for number in waiting.pop(next(iter(waiting))):
                    if (failure := await self._failure_of(inserts[number])) is not None:
                        failures[number] = failure

        if len(waiting) > 1:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(AT_ONCE, len(waiting))):
                    tasks.start_soon(work)
        else:
            await work()
        if failures:
            raise _what_follows(inserts, failures)

    async def close(self) -> None:
        self._prepared = None
        self._rows.close()
        await self._front_ends.close()

    async def _failure_of(self, insert: Insert) -> Exception | None:
        try:
            await self._send(insert)
        except (DeliveryError, UnknownStatusError) as exc:
            return exc
        return None

    async def _send(self, insert: Insert) -> None:
        size = insert.size
        if size > self._calls.max_request_bytes:
            raise BatchTooLargeError(
                f"{self._where}: {size} bytes for table {insert.table!r} are more than max_request_bytes"
            )
        message = request(self._header, insert.table, insert.schema, insert.rows)
        answer = await self._front_ends.call(message, self._metadata)
        try:
            code, said, written = affected_rows(answer)
        except IllegalResponseError as exc:
            raise TransientError(f"{self._where}: {exc}") from None
        if code:
            raise meaning_of_status(code, said, where=self._where)
        if written < len(insert.offsets):
            rows = f"{written} of {len(insert.offsets)} rows"
            raise UnknownStatusError(f"{self._where}: table {insert.table!r} took {rows}, and no reason", code=code)


def _what_follows(inserts: Sequence[Insert], failures: Mapping[int, Exception]) -> Exception:
    """What to raise when some calls of a batch failed.

    Where nothing was written, the failure that concerns the most. Else the rest waits, and is told apart when it comes
    back alone: no word of the others says that part of a batch was written.
    """
    first = min(failures.values(), key=_rank)
    written = {offset for number, insert in enumerate(inserts) if number not in failures for offset in insert.offsets}
    if not written:
        return first
    waits: DeliveryError = (
        first
        if isinstance(first, (PauseError, TransientError))
        else TransientError(f"part of a batch was not stored, the rest was: {first}")
    )
    return PartialError({offset: waits for number in failures for offset in inserts[number].offsets})


def _rank(failure: Exception) -> int:
    """An operator first, then what will pass by itself: after that, the others are tried again by themselves."""
    for rank, kind in enumerate((PauseError, TransientError, UnknownStatusError, BatchTooLargeError)):
        if isinstance(failure, kind):
            return rank
    return 4
