"""One chunk to the nodes, one after the other, until one of them has it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import anyio

from eventrec import ID, PauseError, TransientError
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.sql import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Batch
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.nodes import Nodes
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.progress import Progress
    from eventrec_handlers.clickhouse.ready import Ready
    from eventrec_handlers.clickhouse.rows import Chunk, Part
    from eventrec_handlers.clickhouse.tables import Tables

LOOKED_UP: Final = 4_000
"""Ids in one statement, which has at most 256 KiB."""


class Sender:
    """Sends chunks of `batch`, `concurrency` of them at once, each under the token that it always has."""

    def __init__(self, batch: Batch, progress: Progress, nodes: Nodes, tables: Tables, options: Options) -> None:
        self._batch = batch
        self._progress = progress
        self._nodes = nodes
        self._tables = tables
        self._options = options
        self._turns = anyio.Semaphore(options.concurrency)
        self._ready: dict[tuple[str, str], Ready] = {}
        self._repeated: dict[str, Mapping[int, int | None]] = {}

    async def send(self, chunk: Chunk) -> None:
        """Store `chunk`, but for its bad records.

        Raises:
            Failure: It is not stored, as far as is known. `row` is one of the chunk's, from 0 on.
            DeliveryError: Its table is not what it was.
        """
        async with self._turns:
            await self._send(chunk)

    async def refused_of(self, part: Part) -> Mapping[int, str]:
        """The records of `part` that its table does not take, found before anything is sent.

        Raises:
            DeliveryError: No node tells.
        """

        async def ask(node: Node) -> Ready:
            was_known = part.table in node.tables
            ready = await self._ready_on(node, part)
            if ready.refused and was_known:  # the table may be another one by now
                node.forget(part.table)
                ready = await self._ready_on(node, part)
            return ready

        try:
            return (await self._nodes.call(ask)).refused
        except Failure as exc:
            raise exc.as_delivery_error() from exc

    def refuse_repeated(self) -> None:
        """Note as bad what was left out for a record that is not stored either."""
        for repeated in self._repeated.values():
            for offset, first in repeated.items():
                if first in self._progress.bad:
                    self._progress.refuse({offset: f"its id is that of a record that was refused, {first}"})

    async def _send(self, chunk: Chunk) -> None:
        left_out = self._progress.bad_rows(chunk)
        token = f"{self._batch.token}/{chunk.key}{_mark(left_out)}"
        held = self._progress.sent_to.get(chunk.key)
        failures: list[Failure] = []
        for node in [held] if held is not None else self._nodes.order_for(token):
            try:
                await self._send_to(node, chunk, token, left_out)
            except Failure as exc:
                failures.append(exc)
                if self._nodes.passes_over(node, exc):
                    continue
                if exc.kind != "transient":
                    raise
                if exc.is_uncertain and self._is_held(node, chunk):
                    raise
            except BaseException:  # cancelled: what was sent is on its way
                self._is_held(node, chunk)
                raise
            else:
                return
        raise self._nodes.foremost(failures)

    def _is_held(self, node: Node, chunk: Chunk) -> bool:
        """Note that `node` may have `chunk`. Whether no other node knows its token, so that it is asked again."""
        self._progress.may_be_stored = True
        state = node.tables.get(chunk.part.table)
        if len(self._nodes) == 1 or (state is not None and state.is_shared):
            return False
        self._progress.sent_to[chunk.key] = node
        return True

    async def _send_to(self, node: Node, chunk: Chunk, token: str, left_out: frozenset[int]) -> None:
        part = chunk.part
        for is_again in (False, True):
            ready = await self._ready_on(node, part)
            if any(offset not in self._progress.bad for offset in ready.refused):
                if len(self._nodes) == 1:
                    raise TransientError(f"{node.where}: table {part.table!r} was changed meanwhile")
                raise PauseError(f"{node.where}: table {part.table!r} is not as it is on the other nodes")
            repeated = await self._repeated_on(node, part)
            rows, columns = _sent(chunk, ready, left_out, repeated)
            if not rows:
                return
            try:
                await node.insert(part.table, ready.names, ready.types, columns, token=token)
            except Failure as exc:
                if exc.row is not None:
                    exc.row = rows[exc.row] - chunk.start if exc.row < len(rows) else None
                if exc.kind != "schema":
                    raise
                self._ready.pop((node.name, part.table), None)
                node.forget(part.table)
                if is_again:
                    raise TransientError(str(exc)) from exc
            else:
                return

    async def _ready_on(self, node: Node, part: Part) -> Ready:
        key = node.name, part.table
        if key not in self._ready or part.table not in node.tables:
            self._ready[key] = await self._tables.ready(node, part)
        return self._ready[key]

    # -- records that are to be stored once

    async def _repeated_on(self, node: Node, part: Part) -> Mapping[int, int | None]:
        """Records whose id the table has: to None; or that came before in this batch: to where."""
        if not self._options.unique_ids or not part.explicit_ids:
            return {}
        found = self._repeated.get(part.table)
        if found is None:
            found = self._repeated[part.table] = await _repeated(node, part)
        return found


def _sent(
    chunk: Chunk, ready: Ready, left_out: frozenset[int], repeated: Mapping[int, int | None]
) -> tuple[Sequence[int], list[Sequence[Any]]]:
    """The rows of the part that are sent for `chunk`, and their columns."""
    if not left_out and not repeated:
        return range(chunk.start, chunk.end), [values[chunk.start : chunk.end] for values in ready.values]
    offsets = chunk.part.offsets
    rows = [row for row in range(chunk.start, chunk.end) if row not in left_out and offsets[row] not in repeated]
    return rows, [[values[row] for row in rows] for values in ready.values]


async def _repeated(node: Node, part: Part) -> Mapping[int, int | None]:
    first: dict[bytes, int] = {}
    repeated: dict[int, int | None] = {}
    for id_, offset in zip(part.explicit_ids, part.offsets, strict=True):
        if id_ is not None and (before := first.setdefault(id_, offset)) != offset:
            repeated[offset] = before
    column = part.layout.column_of(ID)
    if column is None:
        return repeated
    name = quoted(column.name)
    ids = list(first)
    for at in range(0, len(ids), LOOKED_UP):
        listed = ", ".join(literal(str(UUID(bytes=id_))) for id_ in ids[at : at + LOOKED_UP])
        rows = await node.query(
            f"SELECT DISTINCT toString({name}) FROM {quoted(part.table)} WHERE {name} IN ({listed})"  # noqa: S608 - literals
        )
        stored = {first[UUID(said).bytes] for (said,) in rows}
        repeated = {offset: None if before in stored else before for offset, before in repeated.items()}
        repeated |= dict.fromkeys(stored)
    return repeated


def _mark(left_out: frozenset[int]) -> str:
    """What tells a chunk without some of its rows from the whole one."""
    return "" if not left_out else f"!{zlib.crc32(','.join(map(str, sorted(left_out))).encode()):08x}"
