"""What one `handle` call is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventrec.records.context import merged_context
from eventrec.records.entry import SHAPE, Record
from eventrec.records.extra_rows import decode_rows
from eventrec.records.ids import Ids
from eventrec.records.layout_rows import lay_out
from eventrec.records.rows import IdForm, RowInsertRequest, build_row_inserts_request, group_events_by_type

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry
    from eventrec.records.layout import Layout
    from eventrec.records.layout_rows import LayoutRows


class Batch:
    """Records of the scanned range `[start, end)`: immutable, never empty, in offset order.

    It may hold fewer records than the range has offsets: the others were filtered, dead, forfeited, or never there.
    `start` is what the destination acknowledged last, so a transaction may end with: set the checkpoint to `end` where
    it is `start`. `token` names the attempt: equal tokens carry equal records.
    """

    __slots__ = (
        "_end",
        "_entries",
        "_generation",
        "_log_id",
        "_offsets",
        "_start",
        "_static_context",
        "_subscription",
    )

    def __init__(
        self,
        *,
        log_id: UUID,
        subscription: str,
        start: int,
        end: int,
        offsets: Sequence[int],
        entries: Sequence[Entry],
        generation: int = 0,
        static_context: bytes | None = None,
    ) -> None:
        self._log_id = log_id
        self._subscription = subscription
        self._start = start
        self._end = end
        self._offsets = offsets
        self._generation = generation
        self._entries = entries
        self._static_context = static_context

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Batch {self.token} records={len(self)}>"

    @property
    def log_id(self) -> UUID:
        """The log that they are of."""
        return self._log_id

    @property
    def subscription(self) -> str:
        """The name under which the handler gets them."""
        return self._subscription

    @property
    def start(self) -> int:
        """Where the scanned range begins."""
        return self._start

    @property
    def end(self) -> int:
        """Where it ends: the next offset."""
        return self._end

    @property
    def offsets(self) -> Sequence[int]:
        """Where each record stands in the log."""
        return self._offsets

    @property
    def generation(self) -> int:
        """Counts what else changes a batch of the same range."""
        return self._generation

    @property
    def token(self) -> str:
        """`log-id:subscription:start-end:generation`."""
        return f"{self.log_id}:{self.subscription}:{self.start}-{self.end}:{self.generation}"

    @property
    def entries(self) -> Sequence[tuple[Any, ...]]:
        """The records as they wait, one for each of `offsets`, each an `eventrec.bus.Entry`: to pass them on."""
        return self._entries

    @property
    def static_context(self) -> bytes | None:
        """What is true of all of them, a JSON object: `Record.context` is that and the context of the call."""
        return self._static_context

    @property
    def records(self) -> list[Record]:
        """The records, decoded: for handlers that do not write rows. Built at each call."""
        ids = Ids(self.log_id)
        return [
            Record(
                offset=offset,
                id=ids.as_text(offset, 0, explicit),
                type=shape.type,
                table=shape.table,
                timestamp=timestamp,
                payload=payload,
                context=merged_context(self._static_context, of_call),
                columns=shape.columns,
                rows=tuple(tuple(row) for row in decode_rows(extras)) if extras is not None else ((),),
            )
            for offset, (shape, timestamp, payload, of_call, extras, explicit, _) in zip(
                self.offsets, self._entries, strict=True
            )
        ]

    @property
    def tables(self) -> set[str]:
        """The tables that its records are for."""
        shapes = {id(entry[SHAPE]): entry[SHAPE] for entry in self._entries}
        return {shape.table for shape in shapes.values()}

    def row_inserts(self, *, id_form: IdForm = "text", excluding: Collection[str] = ()) -> list[RowInsertRequest]:
        """One request per table and shape, in the order of their first record; none for the tables `excluding`."""
        ids = Ids(self.log_id)
        return [
            build_row_inserts_request(group, ids, static_context=self._static_context, id_form=id_form)
            for group in group_events_by_type(self.offsets, self._entries)
            if group.shape.table not in excluding
        ]

    def slices(self, records: int) -> Iterator[Batch]:
        """Its records, so many at a time, each time as a batch of the same range.

        To make rows of one after the other, where those of all would hold up a loop.
        """
        for start in range(0, len(self), records):
            yield Batch(
                log_id=self.log_id,
                subscription=self.subscription,
                start=self.start,
                end=self.end,
                offsets=self.offsets[start : start + records],
                entries=self._entries[start : start + records],
                generation=self.generation,
                static_context=self._static_context,
            )

    def layout_rows(self, layouts: Mapping[str, Layout]) -> list[LayoutRows]:
        """The rows of the records for the tables in `layouts`, by these; one part for each, in the order of first ones.

        Values that a record has and its layout cannot take are not an error here: see `LayoutRows.refused`.
        """
        parts: dict[str, tuple[list[int], list[Entry]]] = {}
        for offset, entry in zip(self.offsets, self._entries, strict=True):
            table = entry[SHAPE].table
            if table in layouts:
                offsets, entries = parts.setdefault(table, ([], []))
                offsets.append(offset)
                entries.append(entry)
        ids = Ids(self.log_id)
        return [
            lay_out(layouts[table], offsets, entries, ids, static_context=self._static_context)
            for table, (offsets, entries) in parts.items()
        ]
