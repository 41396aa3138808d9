"""A chunk that a server refuses: divided until each record that is at fault stands alone, and all others are stored.

    the server names a row     that record is bad; what is before it, and the halves of what is behind it, are sent
    it names none              the halves are sent
    one record fails alone     it is bad

So of n bad records each costs one request at most, and these are sent beside one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

import anyio

from eventrec import ID, DeliveryError, PauseError, TransientError
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.sending import LOOKED_UP
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.tables import read_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.nodes import Nodes
    from eventrec_handlers.clickhouse.progress import Progress
    from eventrec_handlers.clickhouse.rows import Chunk
    from eventrec_handlers.clickhouse.sending import Sender

LONE_FAILURES: Final = 8
"""Records that fail alone, one after the other, before a code that is not known is taken for the server's failure."""


class Divider:
    """Stores chunks through `sender`, divided where that is needed."""

    def __init__(self, progress: Progress, nodes: Nodes, sender: Sender) -> None:
        self._progress = progress
        self._nodes = nodes
        self._sender = sender

    async def deliver(self, chunk: Chunk) -> None:
        """Store `chunk`, but for the records that are noted as bad.

        Raises:
            Failure, DeliveryError: Part of it is not stored.
        """
        tried = _Tried()
        await self._deliver(chunk, tried)
        if tried.lone and not tried.has_stored and all(failure.kind == "unknown" for _, failure in tried.lone):
            raise tried.lone[0][1]
        for piece, failure in tried.lone:
            self._progress.refuse({piece.offsets[0]: str(failure)})

    async def _deliver(self, chunk: Chunk, tried: _Tried) -> None:
        progress = self._progress
        if chunk.key in progress.stored:
            tried.has_stored = True
            return
        pieces = progress.divided.get(chunk.key)
        side_by_side = True
        if pieces is None:
            try:
                await self._sender.send(chunk)
            except Failure as exc:
                if exc.kind not in {"data", "unknown", "too_large"}:
                    raise
                await self._check_absent(chunk, exc)
                if chunk.is_one_record:
                    tried.fail(chunk, exc)
                    return
                pieces = chunk.divided(exc.row)
                if exc.row is not None:
                    named = chunk.record_at(exc.row)
                    progress.refuse({named.offsets[0]: str(exc)})
                    pieces = [piece for piece in pieces if piece.key != named.key]
                progress.divided[chunk.key] = pieces
                # Of a code that tells nothing, it counts whether several in a row fail.
                side_by_side = exc.kind != "unknown"
            else:
                tried.has_stored = True
                progress.stored.add(chunk.key)
                return
        await self._deliver_all(pieces, tried, side_by_side=side_by_side)

    async def _deliver_all(self, pieces: Sequence[Chunk], tried: _Tried, *, side_by_side: bool) -> None:
        if not side_by_side or len(pieces) == 1:
            for piece in pieces:
                await self._deliver(piece, tried)
            return
        failures: list[Failure | DeliveryError] = []

        async def deliver(piece: Chunk) -> None:
            try:
                await self._deliver(piece, tried)
            except (Failure, DeliveryError) as exc:
                failures.append(exc)

        async with anyio.create_task_group() as tasks:
            for piece in pieces:
                tasks.start_soon(deliver, piece)
        if failures:
            raise next((exc for exc in failures if isinstance(exc, DeliveryError)), failures[0])

    async def _check_absent(self, chunk: Chunk, failure: Failure) -> None:
        """Hold where rows of `chunk` may have been stored before what failed: divided, they would be there twice.

        Raises:
            PauseError: They are there and views are fed with them, or nothing tells.
            TransientError: They are there, by a failure that may be of any kind: under its token they are dropped.
        """
        part = chunk.part

        async def is_there(node: Node) -> bool:
            views = await read_views(node, part.table)  # one may be new
            if not views and failure.kind != "unknown":
                return False
            column = part.layout.column_of(ID)
            values = next((each.values for each in part.columns if column and each.name == column.name), None)
            if column is None or values is None:
                return bool(views)
            ids = values[chunk.start : min(chunk.end, chunk.start + LOOKED_UP)]
            listed = ", ".join(literal(str(UUID(bytes=id_)) if isinstance(id_, bytes) else str(id_)) for id_ in ids)
            found = await node.query(
                f"SELECT count() FROM {quoted(part.table)} WHERE {quoted(column.name)} IN ({listed})"  # noqa: S608 - literals
            )
            has_views.update({node.name} if views else ())
            return bool(found[0][0])

        has_views: set[str] = set()
        if await self._nodes.call(is_there):
            if has_views or failure.kind != "unknown":
                raise PauseError(
                    f"a view on table {part.table!r} may have failed, not its rows: {failure}"
                ) from failure
            self._progress.may_be_stored = True
            raise TransientError(f"table {part.table!r} has rows of a failed insert: {failure}") from failure


class _Tried:
    """What came of a chunk and its pieces."""

    def __init__(self) -> None:
        self.has_stored = False
        self.lone: list[tuple[Chunk, Failure]] = []

    def fail(self, chunk: Chunk, failure: Failure) -> None:
        """A record fails alone.

        Raises:
            Failure: So did those before it, and the code tells nothing.
        """
        self.lone.append((chunk, failure))
        if not self.has_stored and failure.kind == "unknown" and len(self.lone) >= LONE_FAILURES:
            raise failure
