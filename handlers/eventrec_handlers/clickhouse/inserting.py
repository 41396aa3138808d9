"""One batch into the tables: chunks in parallel, each under a token of its own, so that none is there twice.

    a chunk that              leads to
    is stored                 it is never sent again for this batch, by this process
    fails for now             TransientError, once the others have ended: the same batch comes again, with the same
                              tokens, and only what is missing is sent
    holds a bad record        it is divided until that record stands alone; PartialError names it, all others are stored
    fails for each record     nothing is told of the records: the failure is the server's

The tokens of a batch are made of its own token, the table, and the rows of the chunk. So a process that has forgotten
what it stored sends all of it again, and the server drops what it has. A chunk is divided only where the server has
answered that it refused it: one that may come through later keeps its token.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import anyio

from eventrec import ID, DeliveryError, PartialError, PauseError, PermanentError, TransientError
from eventrec_handlers.clickhouse.errors import Failure, UnknownCodeError
from eventrec_handlers.clickhouse.nodes import literal, quoted
from eventrec_handlers.clickhouse.rows import Chunk, chunks_of
from eventrec_handlers.clickhouse.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import Batch
    from eventrec_handlers.clickhouse.nodes import Node, Nodes
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.rows import Part
    from eventrec_handlers.clickhouse.tables import Ready, Tables

REMEMBERED: Final = 64
"""Batches of which is known what they have stored: those of several subscriptions at once."""

LONE_FAILURES: Final = 8
"""Records that fail alone, one after the other, before a code that is not known is taken for the server's failure."""

LOOKED_UP: Final = 4_000
"""Ids in one statement, which has at most 256 KiB."""


@dataclass(slots=True)
class Progress:
    """What is known of one batch.

    Attributes:
        stored: Keys of the chunks that are stored.
        divided: Chunks that were refused, and what they were divided into.
        bad: Records that the tables do not take: offset to reason.
        sent_to: Chunks of which a node, the only one that knows their tokens, may have the rows.
    """

    stored: set[str] = field(default_factory=set)
    divided: dict[str, list[Chunk]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    sent_to: dict[str, Node] = field(default_factory=dict)
    may_be_stored: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing of the batch was stored, as far as this process knows."""
        return not self.stored and not self.may_be_stored


class Inserter:
    """Stores batches; remembers what it stored of those that have to come again."""

    def __init__(self, nodes: Nodes, tables: Tables, options: Options) -> None:
        self._nodes = nodes
        self._tables = tables
        self._options = options
        self._progress: dict[str, Progress] = {}

    async def store(self, batch: Batch, parts: Sequence[Part], refused: Mapping[int, str]) -> None:
        """Store all rows of `parts`, but for the records that are `refused` already.

        Raises:
            DeliveryError: See above. PermanentError: nothing is stored, and it names the records at fault.
            UnknownCodeError: Nothing is stored, and the code does not tell why.
        """
        progress = self._progress.pop(batch.token, None) or Progress()
        delivery = _Delivery(batch, progress, self._nodes, self._tables, self._options)
        try:
            failure = await delivery.run(parts, refused)
        except BaseException:
            self._remember(batch.token, progress)
            raise
        if failure is not None:
            self._remember(batch.token, progress)
            raise failure
        if progress.bad:
            delivered = [offset for offset in batch.offsets if offset not in progress.bad]
            if not delivered:
                raise _permanent(progress.bad, len(batch))
            raise PartialError({offset: PermanentError(why) for offset, why in progress.bad.items()})

    def _remember(self, token: str, progress: Progress) -> None:
        self._progress[token] = progress
        while len(self._progress) > REMEMBERED:
            del self._progress[next(iter(self._progress))]


class _Delivery:
    """One attempt of one batch."""

    def __init__(self, batch: Batch, progress: Progress, nodes: Nodes, tables: Tables, options: Options) -> None:
        self._batch = batch
        self._progress = progress
        self._nodes = nodes
        self._tables = tables
        self._options = options
        self._ready: dict[tuple[str, str], Ready] = {}
        self._repeated: dict[str, Mapping[int, int | None]] = {}
        self._failures: list[Exception] = []

    async def run(self, parts: Sequence[Part], refused: Mapping[int, str]) -> Exception | None:
        """Store what is missing. What came in the way; None: all is stored, but for the bad records."""
        found = dict(refused)
        for part in parts:
            found |= await self._refused_of(part)
        if found and self._progress.is_clean:
            raise _permanent(found, len(self._batch))
        for offset, why in found.items():
            self._progress.bad.setdefault(offset, why)
        chunks = [
            chunk
            for part in parts
            for chunk in chunks_of(part, rows=self._options.chunk_rows, size=self._options.chunk_bytes)
        ]
        waiting = iter(chunks)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._options.concurrency, len(chunks))):
                tasks.start_soon(self._work, waiting)
        for repeated in self._repeated.values():
            for offset, first in repeated.items():
                if first in self._progress.bad:  # left out for one that is not stored either
                    self._progress.bad.setdefault(offset, f"its id is that of a record that was refused, {first}")
        return min(self._failures, key=_rank) if self._failures else None

    async def _refused_of(self, part: Part) -> Mapping[int, str]:
        """The records of `part` that its table does not take, found before anything is sent."""

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

    async def _work(self, waiting: Iterator[Chunk]) -> None:
        """The first failure does not end the others: what they store need not be sent again."""
        for chunk in waiting:
            try:
                await self._deliver_whole(chunk)
            except Failure as exc:
                self._failures.append(self._raised(exc))
            except (DeliveryError, UnknownCodeError) as exc:
                self._failures.append(exc)

    def _raised(self, failure: Failure) -> Exception:
        error = failure.as_delivery_error()
        if not self._progress.is_clean and not isinstance(error, (PauseError, TransientError)):
            # No word of the others leaves the batch, and its tokens, as they are.
            error = TransientError(f"part of a batch was not stored, the rest was: {failure}")
        error.__cause__ = failure
        return error

    async def _deliver_whole(self, chunk: Chunk) -> None:
        tried = _Tried()
        await self._deliver(chunk, tried)
        if tried.lone and not tried.has_stored and all(failure.kind == "unknown" for _, failure in tried.lone):
            raise tried.lone[0][1]
        for piece, failure in tried.lone:
            self._progress.bad.setdefault(piece.offsets[0], str(failure))

    async def _deliver(self, chunk: Chunk, tried: _Tried) -> None:
        """Store a chunk; where it is refused, its pieces. Records that fail alone are noted in `tried`."""
        progress = self._progress
        if chunk.key in progress.stored:
            tried.has_stored = True
            return
        pieces = progress.divided.get(chunk.key)
        if pieces is None:
            try:
                await self._send(chunk)
            except Failure as exc:
                if exc.kind not in {"data", "unknown", "too_large"}:
                    raise
                await self._check_absent(chunk, exc)
                if chunk.is_one_record:
                    tried.fail(chunk, exc)
                    return
                pieces = progress.divided[chunk.key] = chunk.divided(exc.row)
            else:
                tried.has_stored = True
                progress.stored.add(chunk.key)
                return
        for piece in pieces:
            await self._deliver(piece, tried)

    async def _check_absent(self, chunk: Chunk, failure: Failure) -> None:
        """Hold where rows of `chunk` may have been stored before what failed: divided, they would be there twice.

        Raises:
            PauseError: They are there and views are fed with them, or nothing tells.
            TransientError: They are there, by a failure that may be of any kind: under its token they are dropped.
        """
        part = chunk.part

        async def is_there(node: Node) -> bool:
            state = await read_table(node, part.table)  # the view may be new
            if state is None or not (state.views or failure.kind == "unknown"):
                return False
            column = part.layout.column_of(ID)
            values = next((each.values for each in part.columns if column and each.name == column.name), None)
            if column is None or values is None:
                return bool(state.views)
            ids = values[chunk.start : min(chunk.end, chunk.start + LOOKED_UP)]
            listed = ", ".join(literal(str(UUID(bytes=id_)) if isinstance(id_, bytes) else str(id_)) for id_ in ids)
            found = await node.query(
                f"SELECT count() FROM {quoted(part.table)} WHERE {quoted(column.name)} IN ({listed})"  # noqa: S608 - literals
            )
            has_views.update({node.name} if state.views else ())
            return bool(found[0][0])

        has_views: set[str] = set()
        if await self._nodes.call(is_there):
            if has_views or failure.kind != "unknown":
                raise PauseError(
                    f"a view on table {part.table!r} may have failed, not its rows: {failure}"
                ) from failure
            self._progress.may_be_stored = True
            raise TransientError(f"table {part.table!r} has rows of a failed insert: {failure}") from failure

    # -- one chunk, one node after the other

    async def _send(self, chunk: Chunk) -> None:
        left_out = self._left_out(chunk)
        token = f"{self._batch.token}/{chunk.key}{_mark(left_out)}"
        held = self._progress.sent_to.get(chunk.key)
        failure: Failure | None = None
        for node in [held] if held is not None else self._nodes.order_for(token):
            try:
                await self._send_to(node, chunk, token, left_out)
            except Failure as exc:
                failure = exc
                if exc.kind == "down":
                    self._nodes.leave_out(node)
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
        assert failure is not None  # noqa: S101 - there is a node
        raise failure

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
            columns: list[Sequence[Any]]
            if not left_out and not repeated:
                columns = [values[chunk.start : chunk.end] for values in ready.values]
            else:
                rows = [
                    row
                    for row in range(chunk.start, chunk.end)
                    if row not in left_out and part.offsets[row] not in repeated
                ]
                if not rows:
                    return
                columns = [[values[row] for row in rows] for values in ready.values]
            try:
                await node.insert(part.table, ready.names, ready.types, columns, token=token)
            except Failure as exc:
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

    def _left_out(self, chunk: Chunk) -> frozenset[int]:
        """The rows of `chunk` whose records are bad."""
        bad = self._progress.bad
        if not bad:
            return frozenset()
        return frozenset(row for row in range(chunk.start, chunk.end) if chunk.part.offsets[row] in bad)

    # -- records that are to be stored once

    async def _repeated_on(self, node: Node, part: Part) -> Mapping[int, int | None]:
        """Records whose id the table has: to None; or that came before in this batch: to where."""
        if not self._options.unique_ids or not part.explicit_ids:
            return {}
        found = self._repeated.get(part.table)
        if found is None:
            found = self._repeated[part.table] = await _repeated(node, part)
        return found


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


def _permanent(bad: Mapping[int, str], records: int) -> PermanentError:
    offset, why = next(iter(bad.items()))
    return PermanentError(f"{len(bad)} of {records} records cannot be stored; at offset {offset}: {why}", records=bad)


def _rank(failure: Exception) -> int:
    """An operator first, then what will pass by itself: after that, the others are tried again by themselves."""
    for rank, kind in enumerate((PauseError, TransientError, UnknownCodeError)):
        if isinstance(failure, kind):
            return rank
    return 3
